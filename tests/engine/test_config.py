"""The config dialect: what is merged, and what is refused with which words."""

import pytest
from fvcore.common.config import CfgNode

from engine.config import config_from_text, load_config, read_yaml
from engine.errors import UserError


@pytest.fixture
def defaults():
    return CfgNode(
        {
            "SOLVER": {"BASE_LR": 0.02, "MAX_ITER": 100, "STEPS": (60, 80)},
            "NAME": "a",
            "ON": False,
            "SIZES": [[32]],
        }
    )


def write(folder, name, text):
    (folder / name).write_text(text)
    return folder / name


def test_a_file_overlays_its_base_and_the_command_line_overlays_both(defaults, tmp_path):
    write(tmp_path, "base.yaml", "SOLVER: {MAX_ITER: 5, BASE_LR: 0.5}\nNAME: base\n")
    child = write(tmp_path, "child.yaml", "_BASE_: base.yaml\nSOLVER: {BASE_LR: 1}\n")
    cfg = load_config(defaults, child, ["NAME", "cli", "ON", "true"])
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR, cfg.NAME, cfg.ON) == (5, 1.0, "cli", True)
    assert type(cfg.SOLVER.BASE_LR) is float
    assert cfg.is_frozen() and defaults.NAME == "a"


def test_an_unknown_key_names_the_nearest_known_one(defaults):
    with pytest.raises(UserError, match=r"SOLVER\.BASE_RL.*SOLVER\.BASE_LR"):
        load_config(defaults, overrides=["SOLVER.BASE_RL", "1"])
    with pytest.raises(UserError, match=r"no key MAX_ITERS.*SOLVER\.MAX_ITER"):
        load_config(defaults, overrides=["MAX_ITERS", "1"])


@pytest.mark.parametrize(
    "key, value",
    [("SOLVER.MAX_ITER", "1.5"), ("SOLVER.BASE_LR", "fast"), ("ON", "1"), ("NAME", "3"), ("SOLVER", "3")],
)
def test_a_changed_type_is_refused(defaults, key, value):
    with pytest.raises(UserError, match=key):
        load_config(defaults, overrides=[key, value])


def test_everything_wrong_is_listed_at_once(defaults):
    with pytest.raises(UserError) as error:
        load_config(defaults, overrides=["NAMES", "x", "SOLVER.MAX_ITER", "x"])
    assert "NAMES" in str(error.value) and "SOLVER.MAX_ITER" in str(error.value)


def test_numbers_without_a_dot_and_single_values_mean_what_a_person_means(defaults, tmp_path):
    cfg = load_config(defaults, write(tmp_path, "c.yaml", "SOLVER: {BASE_LR: 1e-4, STEPS: 70}\n"))
    assert cfg.SOLVER.BASE_LR == 1e-4 and cfg.SOLVER.STEPS == (70,)


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system ['touch {}']", "!!python/name:os.system", "!ours 1"])
def test_a_tag_runs_nothing(defaults, tmp_path, tag):
    trace = tmp_path / "trace"
    path = write(tmp_path, "c.yaml", f"NAME: {tag.format(trace)}\n")
    with pytest.raises(UserError, match=r"c\.yaml.*line 1"):
        load_config(defaults, path)
    with pytest.raises(UserError):
        config_from_text(defaults, path.read_text(), "a checkpoint")
    assert not trace.exists()


@pytest.mark.parametrize(
    "text, word",
    [("a: [1", "line"), ("- 1", "mapping"), ("_BASE_: c.yaml", "itself"), ("_BASE_: no.yaml", "no.yaml")],
)
def test_a_broken_file_is_named(tmp_path, text, word):
    with pytest.raises(UserError, match=word):
        read_yaml(write(tmp_path, "c.yaml", text))


def test_a_dumped_config_loads_as_itself(defaults):
    cfg = load_config(defaults, overrides=["SOLVER.BASE_LR", "1e-5"])
    assert config_from_text(defaults, cfg.dump(), "a dump") == cfg
