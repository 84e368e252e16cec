"""Every config that comes with the project is read, describes a network that can be built, and says what to expect.

Where the paper's tables are in the package, the figures in the headers are theirs.
"""

import json
import re
from pathlib import Path

import pytest
import torch

from classification.config import in_steps
from classification.config import load_config as load_classification
from detection.config import load_config as load_detection
from detection.model import build_detector, with_classes
from engine.config.dialect import read_yaml
from engine.config.se import se_config
from engine.config.shipped import find_config
from se_backbones import create_backbone

FOLDER = Path(__file__).resolve().parents[1] / "configs"
FILES = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.yaml"))
TABLES = FOLDER.parent / "studies" / "paper_tables.json"
IMAGENET = {"top-1 error": "top1", "top-5 error": "top5"}


def text(name):
    return (FOLDER / name).read_text(encoding="utf-8")


def header(name):
    """The lines of comment at the beginning, without what makes them one."""
    lines = text(name).splitlines()
    end = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    return " ".join(line.removeprefix("#").strip() for line in lines[:end])


def is_detection(name):
    return "DATASETS" in read_yaml(FOLDER / name) or "META_ARCHITECTURE" in read_yaml(FOLDER / name).get("MODEL", {})


def distinct_models():
    """The configs, of those with the same keys MODEL one."""
    first = {}
    for name in FILES:
        if not Path(name).name.startswith("_"):
            first.setdefault(json.dumps(read_yaml(FOLDER / name).get("MODEL", {}), sort_keys=True), name)
    return sorted(first.values())


@pytest.mark.parametrize("name", distinct_models())
def test_a_config_describes_a_network_that_can_be_built(name, monkeypatch):
    if is_detection(name):
        monkeypatch.setattr("detection.model.choose_device", lambda _: torch.device("meta"))
        with torch.device("meta"):
            model = build_detector(with_classes(load_detection(FOLDER / name), 3, "here"))
        assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
        return
    cfg = load_classification(FOLDER / name)
    backbone = cfg.MODEL.BACKBONE
    with torch.device("meta"):
        network = create_backbone(
            backbone.ARCHITECTURE, se=se_config(cfg), norm=backbone.NORM, freeze_at=backbone.FREEZE_AT,
            dropout=backbone.DROPOUT,
        )  # fmt: skip
    gates = [site.gate for site in network.se_sites() if site.gate is not None]
    assert bool(gates) == (se_config(cfg) is not None)
    if backbone.DROPOUT:
        assert [layer.p for layer in network.modules() if isinstance(layer, torch.nn.Dropout)] == [backbone.DROPOUT]
    named = {parameter for gate in gates for parameter, _ in gate.named_parameters()}
    assert {parameter.endswith("bias") for parameter in named} <= {False, cfg.MODEL.SE.BIAS}


@pytest.mark.parametrize("name", FILES)
def test_a_config_is_read_and_says_what_it_is(name):
    (load_detection if is_detection(name) else load_classification)(FOLDER / name)
    assert text(name).startswith("# ")


@pytest.mark.parametrize("name", [name for name in FILES if not Path(name).name.startswith("_")])
def test_a_config_says_what_to_expect_and_how_to_run_it(name):
    said = header(name)
    assert "Expect" in said and ("ardware" in said or "make demo" in said)
    by_others = r"make demo|python tools/study\.py \w+"  # which name the config themselves
    command = re.search(rf"Command: (?:\w+=\S+ )?(python (tools/train_\w+\.py) --config (\S+)|{by_others})", said)
    assert command, said
    if command[2]:
        assert command[3] == f"configs/{name}" and (FOLDER.parent / command[2]).is_file()
        assert find_config(command[3]).is_file()


def test_no_two_configs_leave_their_runs_in_one_folder():
    folders = [read_yaml(FOLDER / name)["OUTPUT_DIR"] for name in FILES if not Path(name).name.startswith("_")]
    assert len(set(folders)) == len(folders) and all(folder.startswith("output/") for folder in folders)


@pytest.mark.parametrize("name", [name for name in FILES if Path(name).name.startswith("se_") and "/" in name])
def test_a_twin_differs_in_the_architecture_and_its_gates_alone(name):
    plain, se = (load_classification(FOLDER / file).clone() for file in (name.replace("/se_", "/"), name))
    assert se.MODEL.BACKBONE.ARCHITECTURE == f"se_{plain.MODEL.BACKBONE.ARCHITECTURE}"
    for cfg in (plain, se):
        cfg.defrost()
        cfg.MODEL.BACKBONE.ARCHITECTURE = cfg.OUTPUT_DIR = ""
        cfg.MODEL.SE.BIAS = True
    assert plain == se


def solver(name, images=1_281_167):
    return in_steps(load_classification(FOLDER / name), images).SOLVER


def test_the_recipes_are_those_of_the_texts():
    """Hu et al., arXiv 1709.01507v4, sections 5.1 and 6, footnote 2 and appendix."""
    for name in ("imagenet/se_resnet50.yaml", "imagenet/se_inception_resnet_v2.yaml"):
        recipe, epoch = solver(name), 1252
        assert (recipe.IMS_PER_BATCH, recipe.BASE_LR, recipe.MOMENTUM, recipe.WEIGHT_DECAY) == (1024, 0.6, 0.9, 1e-4)
        assert recipe.STEPS == (30 * epoch, 60 * epoch, 90 * epoch) and recipe.MAX_ITER == 100 * epoch
    given = load_classification(FOLDER / "imagenet/se_inception_resnet_v2.yaml").INPUT
    assert (given.TRAIN_SIZE, given.TEST_RESIZE, given.TEST_SIZE) == (299, 352, 299)
    mobile = solver("imagenet/se_mobilenet.yaml")
    assert (mobile.IMS_PER_BATCH, mobile.BASE_LR, mobile.WEIGHT_DECAY) == (256, 0.1, 4e-5)
    assert (mobile.LR_SCHEDULER_NAME, mobile.GAMMA, mobile.EPOCHS) == ("Plateau", 0.1, 400)
    ablation = load_classification(FOLDER / "ablations/se_resnet50.yaml")
    assert (ablation.SOLVER.BASE_LR, ablation.SOLVER.LR_SCHEDULER_NAME) == (0.1, "Plateau")
    assert ablation.SOLVER.PLATEAU.DROPS == 3 and ablation.SOLVER.LABEL_SMOOTHING == 0.1 and not ablation.MODEL.SE.BIAS
    fixed = load_classification(FOLDER / "ablations/se_resnet50_270_epochs.yaml")
    assert (fixed.SOLVER.STEP_EPOCHS, fixed.SOLVER.EPOCHS) == ([125, 200, 250], 270) and not fixed.MODEL.SE.BIAS
    deepest = load_classification(FOLDER / "imagenet/senet154.yaml")
    assert (deepest.SOLVER.IMS_PER_BATCH, deepest.SOLVER.BASE_LR) == (2048, 1.0)
    assert deepest.SOLVER.FREEZE_NORM_EPOCHS > 0 and deepest.SOLVER.LABEL_SMOOTHING > 0
    assert deepest.MODEL.BACKBONE.DROPOUT == 0.2


def test_cifars_recipes_are_those_of_each_networks_paper():
    for name in ("cifar10/se_resnet20.yaml", "cifar10/se_preresnet110.yaml", "cifar100/se_preresnet164.yaml"):
        recipe = solver(name, 50_000)
        assert (recipe.IMS_PER_BATCH, recipe.BASE_LR, recipe.WEIGHT_DECAY, recipe.NESTEROV) == (128, 0.1, 1e-4, False)
        for found, written in zip((*recipe.STEPS, recipe.MAX_ITER), (32_000, 48_000, 64_000), strict=True):
            assert 0 <= found - written < 391  # to the end of the epoch
    warm = solver("cifar10/preresnet110.yaml", 50_000)
    assert (warm.WARMUP_ITERS, warm.BASE_LR * warm.WARMUP_FACTOR, warm.WARMUP_METHOD) == (400, 0.1 * 0.1, "constant")
    wide = load_classification(FOLDER / "cifar100/se_wrn16_8.yaml").SOLVER
    assert (wide.STEP_EPOCHS, wide.EPOCHS, wide.GAMMA, wide.NESTEROV) == ([60, 120, 160], 200, 0.2, True)
    assert wide.WEIGHT_DECAY == wide.WEIGHT_DECAY_NORM == 5e-4
    for name, cutout, batch, rate, decay in (
        ("cifar10/se_shakeshake26_2x96d.yaml", 16, 128, 0.2, 1e-4),
        ("cifar100/se_shakeeven29_2x4x64d.yaml", 8, 32, 0.025, 5e-4),
    ):
        cfg = load_classification(FOLDER / name)
        found = cfg.SOLVER
        assert (found.IMS_PER_BATCH, found.BASE_LR, found.WEIGHT_DECAY) == (batch, rate, decay)
        assert (cfg.INPUT.CUTOUT, found.EPOCHS, found.LR_SCHEDULER_NAME) == (cutout, 1800, "WarmupCosineLR")
    for name in FILES:
        if name.startswith("cifar"):
            cfg = load_classification(FOLDER / name)
            assert (cfg.INPUT.TRAIN_CROP, cfg.INPUT.PAD, cfg.INPUT.TEST_SIZE) == ("pad", 4, 32)
            assert cfg.MODEL.PIXEL_MEAN[0] == (129.3 if "100/" in name else 125.3)
            assert cfg.SOLVER.WEIGHT_DECAY_NORM == cfg.SOLVER.WEIGHT_DECAY


def test_the_2x_schedule_is_detectrons():
    for name in ("r50", "se_r50", "r101", "se_r101"):
        cfg = load_detection(FOLDER / f"faster_rcnn_{name}_2x.yaml")
        assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER) == (16, 0.02, 180_000)
        assert tuple(cfg.SOLVER.STEPS) == (120_000, 160_000) and tuple(cfg.INPUT.MIN_SIZE_TRAIN) == (800,)
        shorter = load_detection(FOLDER / f"faster_rcnn_{name}.yaml")
        assert cfg.MODEL.BACKBONE == shorter.MODEL.BACKBONE


def _figures_of():
    """config → (table, row, {what the header calls a figure: its column})."""
    two = {"resnet50": "ResNet-50", "inception_resnet_v2": "Inception-ResNet-v2"}
    three = {"mobilenet": "MobileNet 1.0/224", "shufflenet": "ShuffleNet 1x g=3"}
    for table, rows in (("table2_imagenet", two), ("table3_mobile", three)):
        for name, row in rows.items():
            for prefix, column in (("", "reimpl"), ("se_", "se")):
                yield f"imagenet/{prefix}{name}", table, row, {k: f"{column}_{v}" for k, v in IMAGENET.items()}
    yield "imagenet/senet154", "table8_sota", "SENet-154", {k: f"{v}_224" for k, v in IMAGENET.items()}
    yield "imagenet/senet154_320", "table9_larger", "SENet-154, trained at 320", IMAGENET
    yield "ablations/resnet50", "table10_reduction", "original", IMAGENET
    yield "ablations/se_resnet50", "table10_reduction", "16", IMAGENET
    yield "ablations/resnet50_270_epochs", "text_270_epochs", "ResNet-50", IMAGENET
    yield "ablations/se_resnet50_270_epochs", "text_270_epochs", "SE-ResNet-50", IMAGENET
    pre = {"preresnet110": "ResNet-110 (pre-activation, [14])", "wrn16_8": "WRN-16-8"}
    pre["preresnet164"] = "ResNet-164 (pre-activation bottleneck, [14])"
    ten = {**pre, "shakeshake26_2x96d": "Shake-Shake 26 2x96d + Cutout"}
    hundred = {**pre, "shakeeven29_2x4x64d": "Shake-Even 29 2x4x64d + Cutout"}
    for folder, table, rows in (("cifar10", "table4_cifar10", ten), ("cifar100", "table5_cifar100", hundred)):
        for name, row in rows.items():
            yield f"{folder}/{name}", table, row, {"error": "original"}
            yield f"{folder}/se_{name}", table, row, {"error": "se"}
    coco = {"r50": "ResNet-50", "se_r50": "SE-ResNet-50", "r101": "ResNet-101", "se_r101": "SE-ResNet-101"}
    for name, row in coco.items():
        yield f"faster_rcnn_{name}_2x", "table7_coco", row, {"box AP": "ap", "AP50": "ap50"}


FIGURES = {f"{name}.yaml": rest for name, *rest in _figures_of()}


def test_every_config_that_names_a_figure_of_the_papers_tables_is_compared():
    named = {
        name for name in FILES if re.search(r"Expect: (\S+ )?(error|AP) \d+\.\d+.*?\(arXiv 1709\.01507v4", header(name))
    }
    assert named == set(FIGURES)


@pytest.mark.skipif(
    not TABLES.is_file(), reason="the paper's tables are not in this package (studies/paper_tables.json)"
)
@pytest.mark.parametrize("name", FIGURES)
def test_the_figures_are_the_papers(name):
    table, row, columns = FIGURES[name]
    content = json.loads(TABLES.read_text(encoding="utf-8"))["tables"][table]
    published = next(entry for entry in content["rows"] if entry["model"] == row)
    for label, column in columns.items():
        found = re.search(rf"Expect: .*?{label} (\d+\.\d+)", header(name))
        assert float(found[1]) == published[column], label
    number = re.match(r"table(\d+)_", table)
    assert (f"table {number[1]}" if number else "footnote 2") in header(name)
