"""The configs that come with the project are found from any folder; a person's own file of the name comes first."""

from pathlib import Path

import pytest

from engine.config import shipped
from engine.config.dialect import read_yaml
from engine.config.shipped import find_config, shipped_config
from engine.errors import UserError

CONFIGS = Path(__file__).resolve().parents[3] / "configs"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_shipped_config_is_found_from_any_folder():
    assert shipped_config("demo.yaml") == CONFIGS / "demo.yaml"
    assert find_config("configs/demo.yaml") == CONFIGS / "demo.yaml"
    assert read_yaml("configs/faster_rcnn_se_r50.yaml") == read_yaml(CONFIGS / "faster_rcnn_se_r50.yaml")


def test_a_file_of_the_same_name_comes_first_and_may_go_on_from_a_shipped_one(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "demo.yaml").write_text("_BASE_: faster_rcnn_se_r50.yaml\nSEED: 5\n")
    assert read_yaml("configs/demo.yaml") == {**read_yaml(CONFIGS / "faster_rcnn_se_r50.yaml"), "SEED": 5}


def test_any_other_path_is_the_file_itself(tmp_path):
    for path in ("demo.yaml", "mine/configs/demo.yaml", tmp_path / "configs" / "demo.yaml", "configs/absent.yaml"):
        assert find_config(path) == Path(path)
        with pytest.raises(UserError, match=f"config {path} cannot be read"):
            read_yaml(path)


def test_installed_they_lie_in_a_package_of_their_own(tmp_path, monkeypatch):
    (tmp_path / "se_configs").mkdir()
    (tmp_path / "se_configs" / "demo.yaml").write_text("SEED: 5\n")
    monkeypatch.setattr(shipped, "_BESIDE", tmp_path)
    assert read_yaml("configs/demo.yaml") == {"SEED": 5} == read_yaml(shipped_config("demo.yaml"))
