"""The config of a changed network builds that network again."""

from dataclasses import replace
from pathlib import Path

import pytest

from classification.config import load_config
from classification.model import build_network
from engine.slim.config import config_of
from se_backbones import SEConfig, create_backbone

WEIGHTS = Path("runs/mine/model_final_small.pth")
EVERYWHERE = tuple(f"layer{stage}.{unit}" for stage in (1, 2, 3, 4) for unit in (0, 1))
SPECS = {
    "as it is": ("se_resnet18", {}),
    "sites": ("se_resnet18", {"without": ("layer4.1", "layer1.0")}),
    "all settings": (
        "se_resnet18",
        {"reduction": (4, 8, 8, 8), "placement": "inside", "stages": ("res3", "res5"), "gate": "tanh", "bias": False},
    ),
    "hidden": ("se_resnet18", {"hidden": (("layer4.0", 3),), "without": ("layer4.1",)}),
    "inserted": ("se_resnet18", {"init": "neutral"}),
    "squeeze": ("se_resnet18_caffe", {"squeeze": "max", "without": EVERYWHERE[:3]}),
}


def run_config(*overrides):
    words = ["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.ARCHITECTURE", "se_resnet18", *overrides]
    return load_config(None, words)


def checked(cfg, tmp_path):
    (tmp_path / "config.yaml").write_text(cfg.dump())
    return load_config(tmp_path / "config.yaml")


@pytest.mark.parametrize(("name", "se"), SPECS.values(), ids=SPECS)
def test_what_the_network_is_stands_in_the_config(name, se, tmp_path):
    spec = create_backbone(name, 3, se=SEConfig(**se)).spec
    cfg = checked(config_of(run_config("MODEL.SE.REDUCTION", "8"), spec, WEIGHTS), tmp_path)
    assert build_network(cfg, 3).spec == spec


def test_a_network_whose_gates_are_all_gone_is_its_plain_twin(tmp_path):
    spec = create_backbone("resnet18", 3).spec
    cfg = config_of(run_config("MODEL.SE.WITHOUT", "['layer1.0']", "MODEL.SE.GATE", "relu"), spec, WEIGHTS)
    cfg = checked(cfg, tmp_path)
    assert cfg.MODEL.BACKBONE.ARCHITECTURE == "resnet18" and build_network(cfg, 3).spec == spec


def test_a_network_that_has_no_plain_twin_names_all_sites(tmp_path):
    spec = replace(create_backbone("se_resnet18_caffe", 3).spec, se=None)
    network = build_network(checked(config_of(run_config(), spec, WEIGHTS), tmp_path), 3)
    assert network.spec.se.without == EVERYWHERE and not [s for s in network.se_sites() if s.gate is not None]


def test_gates_that_were_put_into_a_plain_row_stay_in_it(tmp_path):
    words = ["MODEL.BACKBONE.ARCHITECTURE", "resnet50_msra", "MODEL.SE.INSERT", "True"]
    cfg = run_config(*words, "MODEL.WEIGHTS", "a.pth")
    spec = build_network(cfg, 3).spec
    assert spec.se is not None
    spec = replace(spec, se=replace(spec.se, without=("layer4.2",)))
    assert build_network(checked(config_of(cfg, spec, WEIGHTS), tmp_path), 3).spec == spec


def test_narrow_layers_stand_in_it(tmp_path):
    widths = (("layer1.0.bn1", 30, 30), ("layer1.0.conv1", 30, 64), ("layer1.0.conv2", 64, 30))
    spec = create_backbone("se_resnet18", 3, widths=widths).spec
    assert build_network(checked(config_of(run_config(), spec, WEIGHTS), tmp_path), 3).spec == spec
    plain = config_of(config_of(run_config(), spec, WEIGHTS), create_backbone("resnet18", 3).spec, WEIGHTS)
    assert plain.MODEL.BACKBONE.WIDTHS == []


def test_it_trains_on_from_the_weights_into_a_folder_of_their_name():
    cfg = run_config("MODEL.ALLOW", "['fc.*']", "MODEL.WEIGHTS_NETWORK", "resnet18", "OUTPUT_DIR", "runs/mine")
    found = config_of(cfg, create_backbone("se_resnet18", 3).spec, WEIGHTS)
    model = found.MODEL
    assert (model.WEIGHTS, model.HEAD, model.ALLOW, model.WEIGHTS_NETWORK) == (str(WEIGHTS), "keep", [], "")
    assert found.OUTPUT_DIR == "runs/mine/model_final_small" and cfg.OUTPUT_DIR == "runs/mine"
