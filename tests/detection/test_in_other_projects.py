"""SE backbones in other people's Detectron2 projects: the page's own blocks, and weights both ways."""

import json

import pytest
import torch

from detection import SEBackbone, add_se_config, build_detector, load_config, load_weights
from detection.model import with_classes
from detection.train import Options, run_detection
from engine.errors import UserError
from engine.run import initial_weights
from se_backbones import create_backbone
from se_backbones.weights import WeightsError, read_state_dict
from tests.detection.others import PAGE, PREDICT, TRAIN, block, copied, equal, forget, save_stated

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone, build_model

# The page's example, of a size that a step takes a tenth of a second.
TINY = [
    "MODEL.DEVICE", "cpu", "MODEL.BACKBONE.ARCHITECTURE", "se_resnet18", "INPUT.MIN_SIZE_TRAIN", "(64,)",
    "INPUT.MIN_SIZE_TEST", "64", "MODEL.FPN.OUT_CHANNELS", "16", "MODEL.ROI_BOX_HEAD.FC_DIM", "32",
    "SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "3", "SOLVER.CHECKPOINT_PERIOD", "2", "SOLVER.WARMUP_ITERS", "0",
    "DATALOADER.NUM_WORKERS", "0",
]  # fmt: skip


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def trained(project):
    """The page's script: killed in the third step, and resumed. What each step began with, and the AP in the end."""
    page = block(TRAIN)
    run_step, steps = page.Trainer.run_step, []

    def recorded(self):
        steps.append((self.iter, copied(self.model)))
        if len(steps) == 3:
            raise Killed
        run_step(self)

    page.Trainer.run_step = recorded
    words = ["--config-file", "faster_rcnn_fpn.yaml", "--num-gpus", "0", "--weights", "weights.pth"]
    with pytest.raises(Killed):
        page.main(page.parse([*words, *TINY]))
    forget("mine_train", "mine_val")
    page.main(page.parse([*words, "--resume", *TINY]))
    lines = (project / "output" / "metrics.json").read_text(encoding="utf-8").splitlines()
    return steps, [line["bbox/AP"] for line in map(json.loads, lines) if "bbox/AP" in line][-1]


@pytest.fixture
def theirs(project):
    """(*overrides) → their config: Detectron2's keys and ours."""

    def make(*overrides):
        cfg = get_cfg()
        add_se_config(cfg)
        cfg.merge_from_file(str(project / "faster_rcnn_fpn.yaml"))
        cfg.merge_from_list(["MODEL.BACKBONE.NAME", "build_se_fpn_backbone", "INPUT.FORMAT", "RGB", *TINY, *overrides])
        cfg.MODEL.PIXEL_MEAN = [123.675, 116.28, 103.53]
        cfg.MODEL.PIXEL_STD = [58.395, 57.12, 57.375]
        return cfg

    return make


def test_their_script_starts_from_our_weights_and_resumes_where_it_was_killed(trained, project):
    steps, average_precision = trained
    assert [step for step, _ in steps] == [0, 1, 2, 2]
    published = torch.load(project / "weights.pth")
    place = "backbone.bottom_up.net."
    first = {name.removeprefix(place): tensor for name, tensor in steps[0][1].items() if name.startswith(place)}
    assert len(first) > 100 and all(torch.equal(tensor, published[name]) for name, tensor in first.items())
    assert not equal(steps[0][1], steps[2][1]), "two steps changed nothing"
    assert equal(steps[2][1], steps[3][1]), "it goes on with other weights than it had"
    final = torch.load(project / "output" / "model_final.pth")
    assert final["iteration"] == 2 and final["trainer"]["hooks"]["LRScheduler"]["last_epoch"] == 3
    assert average_precision >= 0


def test_their_checkpoint_predicts_the_same_in_their_hands_and_in_ours(trained, project):
    page = block(PREDICT)
    found = page.found
    assert len(found) and found.image_size == (64, 64)

    weights = read_state_dict(project / "output" / "model_final.pth")
    assert (weights.layout, weights.shape.has_se) == ("ours-detection", True)
    cfg = load_config(project / "output" / "config.yaml", ["SEED", "1", "CHANNELS_LAST", "False"])
    ours = build_detector(with_classes(cfg, 5, "theirs")).eval()
    report = load_weights(ours, project / "output" / "model_final.pth")
    assert not (report.missing or report.unexpected or report.warnings)
    page.predictor.model = ours
    again = page.predictor(page.cv2.imread("my/picture.png"))["instances"]
    assert torch.equal(again.pred_boxes.tensor, found.pred_boxes.tensor) and torch.equal(again.scores, found.scores)


def test_our_command_evaluates_their_run(trained, project):
    words = PAGE.partition("python tools/train_net.py --config output/config.yaml --eval-only ")[2].partition("```")[0]
    words = [*words.replace("\\\n", " ").split(), "CHANNELS_LAST", "False"]
    result = run_detection(Options(config="output/config.yaml", overrides=words, eval_only=True))
    assert result["bbox"]["AP"] == pytest.approx(trained[1], abs=1e-9)


def test_a_checkpoint_of_ours_is_their_weights(project, theirs):
    data = [f"DATA.{own}.{key}" for own in ("TRAIN", "VAL") for key in ("JSON", "IMAGES")]
    paths = ["my/train.json", "my/train", "my/val.json", "my/val"]
    words = [word for pair in zip(data, paths, strict=True) for word in pair]
    words += ["MODEL.BACKBONE.NAME", "build_se_fpn_backbone", *TINY, "SOLVER.MAX_ITER", "1", "OUTPUT_DIR", "ours"]
    run_detection(Options(config="faster_rcnn_fpn.yaml", overrides=words))
    model = build_model(theirs())
    DetectionCheckpointer(model).load("ours/model_final.pth")
    assert equal(model.state_dict(), torch.load("ours/model_final.pth")["model"])


@pytest.mark.parametrize("name", ["build_se_backbone", "build_se_fpn_backbone", "build_retinanet_se_fpn_backbone"])
def test_a_config_without_our_keys_is_told_what_to_do(name):
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = name
    with pytest.raises(UserError, match=r"ARCHITECTURE.*MODEL\.SE\..*import add_se_config; add_se_config\(cfg\)"):
        build_backbone(cfg)
    cfg.MODEL.ROI_HEADS.NAME = "SERes5ROIHeads"
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    with pytest.raises(UserError, match=r"import add_se_config"), torch.device("meta"):
        build_model(cfg)
    add_se_config(cfg)
    cfg.MODEL.BACKBONE.NAME = name
    with torch.device("meta"):
        backbone = build_backbone(cfg)
    assert isinstance(getattr(backbone, "bottom_up", backbone), SEBackbone)


def test_stages_of_another_network_are_named_with_those_that_fit(theirs):
    """A config of Detectron2's names its own ResNet's."""
    cfg = theirs("MODEL.BACKBONE.ARCHITECTURE", "se_mobilenet_v1_050")
    with pytest.raises(UserError, match=r"se_mobilenet_v1_050 has no res2, res3, res4, res5\. .* stage2, .* stage5"):
        build_backbone(cfg)
    cfg.MODEL.FPN.IN_FEATURES = []
    with torch.device("meta"):
        assert list(build_backbone(cfg).output_shape()) == ["p2", "p3", "p4", "p5", "p6"]


def test_add_se_config_leaves_detectron2s_keys_alone():
    cfg, before = get_cfg(), get_cfg()
    add_se_config(cfg)
    del cfg.MODEL["SE"]
    for key in ("ARCHITECTURE", "RECOMPUTE", "WIDTHS"):
        del cfg.MODEL.BACKBONE[key]
    assert cfg == before


def test_their_files_may_have_our_keys(project, theirs):
    cfg = theirs("MODEL.SE.REDUCTION", "[8]", "MODEL.SE.STAGES", "['res4', 5]")
    (project / "with_se.yaml").write_text(cfg.dump(), encoding="utf-8")
    again = theirs()
    again.merge_from_file(str(project / "with_se.yaml"))
    assert again.MODEL.SE == cfg.MODEL.SE and again.MODEL.SE.REDUCTION == [8]


def test_the_models_own_input_is_held_against_what_the_weights_want(theirs, project):
    save_stated(project / "stated.pth")
    load_weights(build_model(theirs()), project / "stated.pth")
    model = build_model(theirs("INPUT.FORMAT", "BGR"))
    before = copied(model)
    with pytest.raises(WeightsError, match="want images as RGB.*the config gives BGR"):
        load_weights(model, project / "stated.pth")
    assert equal(before, copied(model))


def test_insert_puts_se_into_a_plain_detector(theirs, project):
    plain = build_model(theirs("MODEL.BACKBONE.ARCHITECTURE", "resnet18")).eval()
    DetectionCheckpointer(plain, str(project)).save("plain")
    model = build_model(theirs("MODEL.SE.INSERT", "True")).eval()
    report = load_weights(model, project / "plain.pth")
    assert report.derived and not report.missing
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert equal(plain.backbone(images), model.backbone(images))
    with pytest.raises(WeightsError, match="the model has squeeze-and-excitation and the file's network has none"):
        load_weights(build_model(theirs()), project / "plain.pth")


@pytest.mark.parametrize("insert", [False, True])
def test_pretrained_is_what_is_published_for_the_network(insert, theirs, project, monkeypatch):
    asked = []
    plain = project / "published.pth"
    torch.save(create_backbone("resnet18").state_dict(), plain)
    monkeypatch.setattr(
        initial_weights, "published_for", lambda *of: asked.append(of) or (plain if insert else "weights.pth")
    )
    load_weights(build_model(theirs("MODEL.SE.INSERT", str(insert))), "pretrained")
    assert asked == [("se_resnet18", insert)]
