"""SE backbones in other people's Detectron2 projects: the page's own blocks, a LazyConfig, and weights both ways."""

import json
import re
import shutil
import types
from pathlib import Path

import pytest
import torch

from detection import SEBackbone, add_se_config, build_detector, load_config, load_weights
from detection.model import with_classes
from detection.train import Options, run_detection
from engine.errors import UserError
from engine.run import initial_weights
from se_backbones import create_backbone
from se_backbones.weights import IMAGENET_RGB, WeightsError, read_state_dict
from se_backbones.weights.formats.own_format import CHECKPOINT_FORMAT

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig, get_cfg, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import SimpleTrainer, hooks
from detectron2.modeling import build_backbone, build_model

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "in_your_detectron2_project.md").read_text(encoding="utf-8")
LAZY = ROOT / "configs" / "lazy" / "faster_rcnn_se_r50.py"
BLOCKS = re.findall(r"^```(yaml|python)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
CONFIG, TRAIN, PREDICT, LAZY_BACKBONE = (text for _, text in BLOCKS)
# The page's example, of a size that a step takes a tenth of a second.
TINY = [
    "MODEL.DEVICE", "cpu", "MODEL.BACKBONE.ARCHITECTURE", "se_resnet18", "INPUT.MIN_SIZE_TRAIN", "(64,)",
    "INPUT.MIN_SIZE_TEST", "64", "MODEL.FPN.OUT_CHANNELS", "16", "MODEL.ROI_BOX_HEAD.FC_DIM", "32",
    "SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "3", "SOLVER.CHECKPOINT_PERIOD", "2", "SOLVER.WARMUP_ITERS", "0",
    "DATALOADER.NUM_WORKERS", "0",
]  # fmt: skip


class Killed(Exception):
    pass


def copied(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def block(text):
    """A block of the page as a module."""
    module = types.ModuleType("page")
    exec(compile(text, "page.py", "exec", dont_inherit=True), vars(module))
    return module


def forget(*names):
    for name in names:
        if name in DatasetCatalog:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


@pytest.fixture(scope="module")
def project(shapes, tmp_path_factory, runs_in_this_process):
    """Somebody's folder, with the page's config, pictures and weights in it; and its config under their hands."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "my").mkdir()
    for split in ("train", "val"):
        (folder / "my" / split).symlink_to(getattr(shapes, f"{split}_images"))
        shutil.copy(getattr(shapes, f"{split}_json"), folder / "my" / f"{split}.json")
    shutil.copy(sorted(shapes.val_images.iterdir())[0], folder / "my" / "picture.png")
    (folder / "faster_rcnn_fpn.yaml").write_text(CONFIG, encoding="utf-8")
    torch.save(create_backbone("se_resnet18").state_dict(), folder / "weights.pth")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        monkeypatch.setenv("PYTHONHASHSEED", "0")  # upstream's seeding sets it
        # It asks the compiler and setuptools, which a process with another distutils cannot.
        monkeypatch.setattr("detectron2.engine.defaults.collect_env_info", lambda: "")
        yield folder
    forget("mine_train", "mine_val")


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
    state = create_backbone("se_resnet18").state_dict()
    stated = {"format": CHECKPOINT_FORMAT, "backbone": "se_resnet18", "preprocessing": IMAGENET_RGB.as_dict()}
    torch.save({**stated, "model": state}, project / "stated.pth")
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


def lazy(*overrides):
    """The LazyConfig that comes with the project, at the size of TINY."""
    words = [
        "model.backbone.bottom_up.net.name=se_resnet18", "model.backbone.bottom_up.weights=weights.pth",
        "model.backbone.out_channels=16", "model.roi_heads.box_head.fc_dims=[32,32]", "model.roi_heads.num_classes=5",
        "dataloader.train.dataset.names=lazy_train", "dataloader.train.total_batch_size=2",
        "dataloader.train.num_workers=0", "dataloader.train.mapper.augmentations.0.short_edge_length=[64]",
        "train.device=cpu", *overrides,
    ]  # fmt: skip
    return LazyConfig.apply_overrides(LazyConfig.load(str(LAZY)), words)


def lazy_train(cfg, folder, *, until, resume=False):
    """What Detectron2's tools/lazyconfig_train_net.py does. The weights that the training began with, and the model."""
    model = instantiate(cfg.model)
    cfg.optimizer.params.model = model
    trainer = SimpleTrainer(model, instantiate(cfg.dataloader.train), instantiate(cfg.optimizer))
    checkpointer = DetectionCheckpointer(model, str(folder), optimizer=trainer.optimizer, trainer=trainer)
    trainer.register_hooks(
        [
            hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
            hooks.PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer),
        ]
    )
    checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=resume)
    begin = trainer.iter + 1 if resume and checkpointer.has_checkpoint() else 0
    first = copied(model)
    trainer.train(begin, until)
    return begin, first, model


@pytest.fixture
def lazy_data(project):
    register_coco_instances("lazy_train", {}, "my/train.json", "my/train")
    yield
    forget("lazy_train")


def test_the_lazy_config_trains_and_resumes(lazy_data, project, tmp_path):
    cfg = lazy("train.checkpointer.period=1")
    begin, first, model = lazy_train(cfg, tmp_path, until=1)
    published = torch.load(project / "weights.pth")
    assert begin == 0 and torch.equal(first["backbone.bottom_up.net.conv1.weight"], published["conv1.weight"])
    trained = copied(model)
    assert not equal(first, trained)
    begin, again, _ = lazy_train(lazy("train.checkpointer.period=1"), tmp_path, until=2, resume=True)
    assert begin == 1 and equal(again, trained)


def test_a_saved_lazy_config_describes_the_same_detector(project, tmp_path):
    LazyConfig.save(lazy(), str(tmp_path / "config.yaml"))
    one, other = (instantiate(cfg.model) for cfg in (lazy(), LazyConfig.load(str(tmp_path / "config.yaml"))))
    assert {name: tensor.shape for name, tensor in one.state_dict().items()} == {
        name: tensor.shape for name, tensor in other.state_dict().items()
    }
    assert equal(one.backbone.bottom_up.state_dict(), other.backbone.bottom_up.state_dict())


def test_the_lazy_config_describes_the_detector_of_the_yaml_of_its_name(monkeypatch):
    cfg = LazyConfig.load(str(LAZY))
    assert cfg.model.backbone.bottom_up.weights == "pretrained"
    cfg.model.backbone.bottom_up.weights = ""
    monkeypatch.setattr("detection.model.choose_device", lambda _: torch.device("meta"))
    with torch.device("meta"):
        own = build_detector(with_classes(load_config(ROOT / "configs" / "faster_rcnn_se_r50.yaml"), 80, "COCO"))
        lazily = instantiate(cfg.model)
    shapes = [
        {name: (tensor.shape, tensor.requires_grad) for name, tensor in model.state_dict(keep_vars=True).items()}
        for model in (own, lazily)
    ]
    assert shapes[0] == shapes[1]
    for name in (
        "input_format",
        "backbone.size_divisibility",
        "proposal_generator.nms_thresh",
        "roi_heads.box_in_features",
    ):
        values = []
        for model in (own, lazily):
            for part in name.split("."):
                model = getattr(model, part)
            values.append(model if isinstance(model, str | int | float) else list(model))
        assert values[0] == values[1], name
    assert (cfg.dataloader.train.mapper.image_format, cfg.dataloader.test.mapper.image_format) == ("RGB", "RGB")


def test_the_lazy_weights_are_held_against_the_models_input(project):
    state = create_backbone("se_resnet18").state_dict()
    stated = {"format": CHECKPOINT_FORMAT, "backbone": "se_resnet18", "preprocessing": IMAGENET_RGB.as_dict()}
    torch.save({**stated, "model": state}, "stated.pth")
    words = ["model.backbone.bottom_up.weights=stated.pth"]
    instantiate(lazy(*words).model.backbone.bottom_up)
    with pytest.raises(WeightsError, match="the config gives BGR"):
        instantiate(lazy(*words, "model.input_format=BGR").model.backbone.bottom_up)


def test_the_pages_lazy_backbone_has_the_gates_that_it_names():
    bottom_up = block(LAZY_BACKBONE).bottom_up
    bottom_up.weights = ""
    bottom_up.net.name = "se_resnet18"
    bottom_up.net.se.reduction = [4, 8, 8, 8]  # a list in such a config is none of Python's
    net = instantiate(bottom_up).net
    gates = {site.stage for site in net.se_sites() if site.gate is not None}
    assert gates == {"res4", "res5"}
    assert [net.spec.se.reduction_of(stage) for stage in ("res2", "res5")] == [4, 8]
