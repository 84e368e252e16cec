"""The config dialect: what is merged, and what is refused with which words."""

import pytest
from fvcore.common.config import CfgNode

from engine.config.defaults import add_engine_defaults, check_engine_settings
from engine.config.dialect import config_from_text, load_config, read_yaml
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
    [
        ("SOLVER.MAX_ITER", "1.5"),
        ("SOLVER.BASE_LR", "fast"),
        ("ON", "1"),
        ("NAME", "1.50"),
        ("NAME", "True"),
        ("SOLVER", "3"),
    ],
)
def test_a_changed_type_is_refused(defaults, key, value):
    with pytest.raises(UserError, match=key):
        load_config(defaults, overrides=[key, value])


def test_a_key_without_its_value_is_said(defaults):
    with pytest.raises(UserError, match=r"SOLVER\.BASE_LR=0\.1: write a space for the =, as in SOLVER\.BASE_LR 0\.1$"):
        load_config(defaults, overrides=["SOLVER.BASE_LR=0.1"])
    with pytest.raises(UserError, match=r"write a space"):
        load_config(defaults, overrides=["ON", "True", "SOLVER.BASE_LR=0.1", "NAME", "b"])
    with pytest.raises(UserError, match=r"NAME is left alone"):
        load_config(defaults, overrides=["ON", "True", "NAME"])
    assert load_config(defaults, overrides=["NAME", "run=3"]).NAME == "run=3"


@pytest.mark.parametrize("base", ["3", "[a.yaml]", "{a: b}", "''"])
def test_a_base_that_is_no_path_is_said(tmp_path, base):
    with pytest.raises(UserError, match=r"c\.yaml: _BASE_ must be the path of a config"):
        read_yaml(write(tmp_path, "c.yaml", f"_BASE_: {base}\n"))


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xd8\xff\xe0 a picture",
        b"SOLVER:\n\tBASE_LR: 1\n",
        b"A: 1\nA: 2\n",
        b"- 1\n",
        b"a\0b",
        b"{",
        b"? [a]\n: 1\n",
    ],
)
def test_a_file_that_is_no_config_is_said(tmp_path, content):
    (tmp_path / "c.yaml").write_bytes(content)
    with pytest.raises(UserError, match=r"c\.yaml"):
        read_yaml(tmp_path / "c.yaml")


def test_a_config_that_is_not_there_or_a_folder_is_said(tmp_path):
    write(tmp_path, "c.yaml", "_BASE_: none.yaml\n")
    for name in (".", "none.yaml", "c.yaml"):
        with pytest.raises(UserError, match="cannot be read: (No such file|Is a directory)"):
            read_yaml(tmp_path / name)


def test_everything_wrong_is_listed_at_once(defaults):
    with pytest.raises(UserError) as error:
        load_config(defaults, overrides=["NAMES", "x", "SOLVER.MAX_ITER", "x"])
    assert "NAMES" in str(error.value) and "SOLVER.MAX_ITER" in str(error.value)


def test_numbers_without_a_dot_and_single_values_mean_what_a_person_means(defaults, tmp_path):
    cfg = load_config(defaults, write(tmp_path, "c.yaml", "SOLVER: {BASE_LR: 1e-4, STEPS: 70}\n"))
    assert cfg.SOLVER.BASE_LR == 1e-4 and cfg.SOLVER.STEPS == (70,)


def test_the_types_are_those_of_the_defaults_whatever_a_file_has_put_in_their_place(defaults, tmp_path):
    defaults.WEIGHTS, defaults.DECAY = [], None
    for text in ("WEIGHTS: balanced", "WEIGHTS: [1, 2]", "WEIGHTS: [0.5, 2]\nDECAY: 1"):
        file = write(tmp_path, "c.yaml", text)
        for words, wanted in (("[1, 2.5]", [1, 2.5]), ("[3, 4]", [3, 4]), ("balanced", ["balanced"]), ("[]", [])):
            cfg = load_config(defaults, file, ["WEIGHTS", words, "DECAY", "0.5"])
            assert (list(cfg.WEIGHTS), cfg.DECAY) == (wanted, 0.5)


def test_an_integer_for_a_text_is_that_text(defaults, tmp_path):
    assert load_config(defaults, overrides=["NAME", "256"]).NAME == "256"
    cfg = load_config(defaults, write(tmp_path, "c.yaml", "NAME: 2024\n"))
    assert cfg.NAME == "2024" and config_from_text(defaults, cfg.dump(), "a dump") == cfg


@pytest.fixture
def checked():
    """(*overrides) → what of every task's keys is checked, with these changed."""
    solver = {"IMS_PER_BATCH": 8, "BASE_LR": 0.1, "MOMENTUM": 0.9, "NESTEROV": False, "WEIGHT_DECAY": 1e-4}
    cfg = add_engine_defaults(CfgNode({"SOLVER": {**solver, "WEIGHT_DECAY_NORM": 0.0}, "INPUT": {}, "TEST": {}}))
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupCosineLR"
    cfg.MODEL = CfgNode(
        {"PIXEL_MEAN": [0.0] * 3, "PIXEL_STD": [1.0] * 3, "BACKBONE": {"RECOMPUTE": False}, "WEIGHTS_NETWORK": ""}
    )
    cfg.TEST, cfg.DATALOADER = CfgNode({"IMS_PER_BATCH": 1}), CfgNode({"NUM_WORKERS": 0})
    cfg.SEED, cfg.OUTPUT_DIR = 0, "output"
    return lambda *overrides: check_engine_settings(load_config(cfg, None, overrides))


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("SEED", "-1", "0 or more"),
        ("DATALOADER.NUM_WORKERS", "-1", "must be 0, .* or up to 1024"),
        ("SOLVER.IMS_PER_BATCH", "0", "1 or more"),
        ("SOLVER.IMS_PER_BATCH", "-8", "1 or more"),
        ("SOLVER.ACCUMULATE", "0", "must be 1, .* or more"),
        ("SOLVER.ACCUMULATE", "-1", "must be 1, .* or more"),
        ("TEST.IMS_PER_BATCH", "0", "1 or more"),
        ("TEST.IMS_PER_BATCH", "-3", "1 or more"),
        ("SOLVER.LR_SCHEDULER_NAME", "foo", "WarmupCosineLR or Plateau; got 'foo'"),
        ("SOLVER.BASE_LR", "-1", "0 or more"),
        ("SOLVER.BASE_LR", "nan", "0 or more"),
        ("SOLVER.BASE_LR", "inf", "finite"),
        ("SOLVER.MOMENTUM", "-0.1", r"0\.\.1"),
        ("SOLVER.MOMENTUM", "1.0", "below 1"),
        ("SOLVER.WEIGHT_DECAY", "-1e-4", "0 or more"),
        ("SOLVER.WEIGHT_DECAY_NORM", "inf", "finite"),
        ("SOLVER.EMA.DECAY", "2.0", r"0\.\.1"),
        ("SOLVER.EMA.DECAY", "-0.1", r"0\.\.1"),
        ("MODEL.PIXEL_MEAN", "[1.0]", "3 numbers"),
        ("MODEL.PIXEL_STD", "[1.0]", "3 numbers, .* above 0"),
        ("MODEL.PIXEL_STD", "[1.0, 0.0, 1.0]", "3 numbers, .* above 0"),
        ("OUTPUT_DIR", "", "the name of the run's folder"),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_key(checked, key, value, words):
    checked()
    with pytest.raises(UserError, match=f"^{key} .*{words}"):
        checked(key, value)


def test_nesterov_needs_momentum(checked):
    checked("SOLVER.NESTEROV", "True")
    with pytest.raises(UserError, match="^SOLVER.MOMENTUM .*NESTEROV"):
        checked("SOLVER.NESTEROV", "True", "SOLVER.MOMENTUM", "0.0")


def test_compiling_and_recomputing_do_not_go_together(checked):
    with pytest.raises(UserError, match="COMPILE and MODEL.BACKBONE.RECOMPUTE"):
        checked("COMPILE", "True", "MODEL.BACKBONE.RECOMPUTE", "True")


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
