"""The LazyConfig that comes with the project, as Detectron2's own tool takes it."""

import pytest
import torch

from detection import build_detector, load_config
from detection.model import with_classes
from se_backbones.weights import WeightsError
from tests.detection.others import LAZY_BACKBONE, LAZY_CONFIG, ROOT, block, copied, equal, forget, save_stated

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig, instantiate
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import SimpleTrainer, hooks

LAZY = ROOT / "configs" / "lazy" / "faster_rcnn_se_r50.py"


def lazy(*overrides):
    """The LazyConfig that comes with the project, of a size that a step takes a tenth of a second."""
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
    save_stated("stated.pth")
    words = ["model.backbone.bottom_up.weights=stated.pth"]
    instantiate(lazy(*words).model.backbone.bottom_up)
    with pytest.raises(WeightsError, match="the config gives BGR"):
        instantiate(lazy(*words, "model.input_format=BGR").model.backbone.bottom_up)


def test_the_pages_own_config_is_the_one_that_comes_with_the_project_on_ones_own_sets(project):
    pytest.importorskip("se_configs", reason="the project is not installed")
    (project / "mine.py").write_text(LAZY_CONFIG, encoding="utf-8")
    try:
        cfg, shipped = LazyConfig.load("mine.py"), LazyConfig.load(str(LAZY))
        assert [len(instantiate(cfg.dataloader[part].dataset)) for part in ("train", "test")] == [12, 7]
        assert set(cfg) == set(shipped) and cfg.dataloader.evaluator.dataset_name == "mine_val"
        assert cfg.model.roi_heads.box_predictor.num_classes == 5 and cfg.train.output_dir == "output/mine"
    finally:
        forget("mine_train", "mine_val")


def test_the_pages_lazy_backbone_has_the_gates_that_it_names():
    bottom_up = block(LAZY_BACKBONE).bottom_up
    bottom_up.weights = ""
    bottom_up.net.name = "se_resnet18"
    bottom_up.net.se.reduction = [4, 8, 8, 8]  # a list in such a config is none of Python's
    net = instantiate(bottom_up).net
    gates = {site.stage for site in net.se_sites() if site.gate is not None}
    assert gates == {"res4", "res5"}
    assert [net.spec.se.reduction_of(stage) for stage in ("res2", "res5")] == [4, 8]
