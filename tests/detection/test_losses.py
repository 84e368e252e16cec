"""The losses of a detector's training on a validation set: of its weights and the set alone, and nothing is learned."""

import pytest
import torch
import torch.distributed as dist

from detection.data import TrainingSet
from detection.losses import losses_of, seen_as_evaluated, to_learn_from, validation_losses
from detection.model import build_detector, with_classes
from engine import compat  # noqa: F401  (before detectron2)
from engine.errors import UserError
from engine.train.launch import leave_processes
from engine.train.plain_numbers import PlainNumbers
from engine.train.sampling import derive_seed
from tests.processes import in_two_processes

from detectron2.utils.events import EventStorage

MAPS = "['p2', 'p3', 'p4', 'p5', 'p6']"
RETINANET = ["MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.RETINANET.IN_FEATURES", MAPS]
NETWORKS = {
    "faster_rcnn": ["MODEL.RESNETS.NORM", "BN"],
    "retinanet": ["MODEL.RESNETS.NORM", "BN", *RETINANET],
}


def detector(tiny, val_data, *words):
    cfg = with_classes(tiny("TEST.LOSS", "True", "MODEL.DEVICE", "cpu", *words), len(val_data.class_names), "shapes")
    return build_detector(cfg).eval(), cfg


@pytest.fixture(params=NETWORKS)
def network(request, tiny, val_data):
    return detector(tiny, val_data, *NETWORKS[request.param])


def test_the_figures_depend_on_weights_and_set_alone_and_nothing_is_learned(network, val_data):
    model, cfg = network
    before = {name: value.clone() for name, value in model.state_dict().items()}
    others, numbers = set(vars(model)), PlainNumbers(model)
    with EventStorage(3) as storage:
        first = validation_losses(model, val_data, cfg)
        assert not storage.latest()  # what the heads say of themselves is none of the training's figures
    torch.rand(9)  # another history of the global generator
    with EventStorage(0):  # a training step in between, as its state must not matter
        records = to_learn_from(val_data, cfg)
        model.train()([TrainingSet(records, seen_as_evaluated(cfg))[(0, 0)]])
        model.eval()
    model.load_state_dict(before)
    kept = numbers.state_dict()  # what a checkpoint must have besides
    assert kept.keys() == ({"loss_normalizer"} if cfg.MODEL.META_ARCHITECTURE == "RetinaNet" else set())
    assert validation_losses(model, val_data, cfg) == first and numbers.state_dict() == kept
    assert all(value > 0 for value in first.values())
    assert first["total_loss"] == pytest.approx(sum(value for name, value in first.items() if name != "total_loss"))
    assert [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])] == []
    assert not model.training and set(vars(model)) - {"loss_normalizer"} == others - {"loss_normalizer"}


def test_they_are_the_mean_of_the_images_losses(network, val_data, caplog):
    model, cfg = network
    with caplog.at_level("INFO"):
        found = validation_losses(model, val_data, cfg)
    assert "Augmentations used in training" not in caplog.text  # which these are not
    with torch.no_grad():
        entries = TrainingSet(to_learn_from(val_data, cfg), seen_as_evaluated(cfg))
        model.train()
        for module in model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.eval()
        model._ema_update = lambda name, value, *_: value
        names = None
        for index in range(len(entries)):  # by Detectron2's own forward pass, with the first anchors and regions drawn
            torch.manual_seed(derive_seed(cfg.SEED, "validation", index))
            with EventStorage(1):
                losses = {name: float(value) for name, value in model([entries[(0, index)]]).items()}
            names = {name: names[name] + value for name, value in losses.items()} if names else losses
    assert len(entries) == 7 and {name: value / 7 for name, value in names.items()} == pytest.approx(
        {name: value for name, value in found.items() if name != "total_loss"}
    )


def test_a_mask_head_has_its_loss_too_and_other_masks_are_refused_at_once(tiny, val_data):
    model, cfg = detector(tiny, val_data, "MODEL.MASK_ON", "True", "MODEL.ROI_MASK_HEAD.NUM_CONV", "1")
    assert validation_losses(model, val_data, cfg)["loss_mask"] > 0
    val_data.coco["annotations"], whole = [dict(a) for a in val_data.coco["annotations"]], val_data.coco["annotations"]
    val_data.coco["annotations"][0].pop("segmentation")
    try:
        with pytest.raises(UserError, match="MODEL.MASK_ON needs a segmentation in every annotation"):
            to_learn_from(val_data, cfg)
    finally:
        val_data.coco["annotations"] = whole


def test_weights_that_diverged_have_none(tiny, val_data):
    model, cfg = detector(tiny, val_data)
    with torch.no_grad():
        next(model.backbone.parameters()).fill_(float("nan"))
    assert set(validation_losses(model, val_data, cfg).values()) <= {None}


def _process(rank, folder, state, cfg, data):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    model = build_detector(cfg).eval()
    model.load_state_dict(state)
    torch.save(validation_losses(model, data, cfg), folder / f"{rank}.pth")
    leave_processes()


def test_two_processes_find_the_same_to_the_last_bit(tiny, val_data, tmp_path):
    """Each takes a share of the images."""
    model, cfg = detector(tiny, val_data)
    in_two_processes(_process, tmp_path, model.state_dict(), cfg, val_data)
    assert torch.load(tmp_path / "0.pth") == validation_losses(model, val_data, cfg)
    assert torch.load(tmp_path / "1.pth") == {}


def test_one_images_losses_have_gradients(tiny, val_data):
    model, cfg = detector(tiny, val_data)
    entry = TrainingSet(to_learn_from(val_data, cfg), seen_as_evaluated(cfg))[(0, 0)]
    sum(losses_of(model, entry, 3).values()).backward()
    assert not model.training and all(p.grad is not None for p in model.parameters() if p.requires_grad)
