"""A detector as something to be made smaller, and its gates dropped."""

import pytest
import torch

from detection.model import build_detector, with_classes
from detection.predict.predictor import Predictor
from detection.slim import moved, open_detector
from detection.task_info import DETECTION
from detection.train import Options, run_detection
from detection.trained import load_detector
from engine.errors import UserError
from engine.run.experiment import description
from engine.slim.drop import drop_gates
from engine.train.checkpoint import load_checkpoint, save_checkpoint
from se_backbones import find_network
from tests.detection.test_predict import picture
from tests.se_backbones.networks import randomised

EVERYWHERE = [f"layer{stage}.{unit}" for stage in (1, 2, 3, 4) for unit in (0, 1)]
SMALL = ["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.ARCHITECTURE", "se_resnet18", "MODEL.WEIGHTS", ""]
C4 = [
    "MODEL.RPN.PRE_NMS_TOPK_TEST", "20", "MODEL.RPN.POST_NMS_TOPK_TEST", "4", "SOLVER.STEPS", "()",
    "MODEL.RPN.POST_NMS_TOPK_TRAIN", "8", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "4",
]  # fmt: skip

pytestmark = pytest.mark.usefixtures("runs_in_this_process", "rough_figures")


@pytest.fixture(scope="module")
def save(tiny, val_data, tmp_path_factory):
    """(*overrides, config) → a checkpoint of random weights that finds some of everything."""

    def save(*overrides, config="demo.yaml"):
        folder = tmp_path_factory.mktemp("run")
        words = [*SMALL, "OUTPUT_DIR", str(folder), "SOLVER.MAX_ITER", "1", "TEST.EVAL_PERIOD", "0", "LOG_PERIOD", "1"]
        cfg = with_classes(tiny(*words, *overrides, config=config), len(val_data.class_names), "a test")
        model = build_detector(cfg)
        randomised(find_network(model))
        about = {**description(DETECTION, cfg, val_data.class_names), "category_ids": val_data.category_ids}
        return save_checkpoint(folder / "model_final.pth", {**about, "iteration": 1, "model": model.state_dict()})

    return save


@pytest.fixture(scope="module")
def checkpoint(save):
    return save()


@pytest.fixture(scope="module")
def c4(save):
    return save(*C4, config="faster_rcnn_se_r50_c4.yaml")


def test_its_images_are_normalised_one_at_a_time(checkpoint):
    subject = open_detector(checkpoint, "cpu")
    images = subject.images(3)
    assert [tuple(image.shape) for image in images] == [(1, 3, 64, 64)] * 3 and len(subject.images(99)) == 12
    raw = next(iter(subject._entries(1)))["image"]
    torch.testing.assert_close(images[0][0], (raw - subject.model.pixel_mean) / subject.model.pixel_std)


def test_a_loss_is_the_same_again_and_again_and_has_gradients_everywhere(checkpoint, c4):
    for path in (checkpoint, c4):
        subject = open_detector(path, "cpu")
        before = {name: tensor.clone() for name, tensor in subject.model.state_dict().items()}
        random = torch.get_rng_state()
        calls = list(subject.losses(2))
        first, second = calls[0](), calls[1]()
        assert calls[0]().item() == first.item() != second.item()
        first.backward()
        gates = [site.gate for site in subject.network.se_sites()]
        assert all(gate.fc2.bias.grad.abs().sum() > 0 for gate in gates), [
            float(g.fc2.bias.grad.abs().sum()) for g in gates
        ]
        assert all(parameter.grad is not None for parameter in subject.network.parameters())
        assert not any(module.training for module in subject.model.modules())
        assert all(torch.equal(tensor, before[name]) for name, tensor in subject.model.state_dict().items())
        assert torch.equal(torch.get_rng_state(), random)


@pytest.fixture(scope="module")
def dropped(checkpoint, tmp_path_factory):
    subject = open_detector(checkpoint, "cpu")
    output = tmp_path_factory.mktemp("small") / "small.pth"
    return subject, output, drop_gates(subject, output, calibration=4, fall=100, rounds=2)


def test_all_gates_go_and_the_checkpoint_is_the_model_everywhere(dropped, tmp_path):
    subject, output, report = dropped
    assert sorted(gate["name"] for gate in report["gates"] if gate["folded"]) == EVERYWHERE
    assert report["figure"] == "AP" and report["after"]["standard_error"] >= 0
    assert report["costs"]["after"]["multiply_adds"] < report["costs"]["before"]["multiply_adds"]
    assert find_network(subject.model).spec.name == "resnet18"
    model, _, classes, ids = load_detector(output, None, "cpu")
    theirs = subject.model.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in model.state_dict().items())
    image = {"image": torch.from_numpy(picture(64, 80).transpose(2, 0, 1).copy())}
    with torch.no_grad():
        ours, expected = (one([image])[0]["instances"] for one in (model, subject.model))
    assert len(ours) and torch.equal(ours.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert torch.equal(ours.scores, expected.scores)
    words = ["TEST.FUSE", "False", "OUTPUT_DIR", str(tmp_path / "evaluated")]
    evaluated = run_detection(Options(str(output.with_suffix(".yaml")), words, eval_only=True))
    assert evaluated["bbox"] == report["after"]["figures"] and evaluated["bbox"]["AR100"] > 0
    found = Predictor.from_checkpoint(output, device="cpu", threshold=0.05).predict([picture(64, 80)])[0]
    assert len(found) and load_checkpoint(output)["category_ids"] == ids and len(classes) == 5


def test_it_is_trained_on(dropped, tmp_path):
    subject, output, _ = dropped
    words = ["SOLVER.BASE_LR", "0.0", "SOLVER.WEIGHT_DECAY", "0.0", "SOLVER.MAX_ITER", "1"]
    tuned = load_checkpoint(subject.fine_tune(output, words, tmp_path / "tuned"))
    before = load_checkpoint(output)["model"]
    moving = ("running_mean", "running_var", "num_batches_tracked")
    assert [n for n in before if not n.endswith(moving) and not torch.equal(before[n], tuned["model"][n])] == []


def test_the_gates_that_see_regions_stay_with_the_reason(c4, tmp_path):
    subject = open_detector(c4, "cpu")
    output = tmp_path / "small.pth"
    report = drop_gates(subject, output, calibration=3, fall=100, rounds=2)
    kept = {gate["name"]: gate for gate in report["gates"] if not gate["folded"]}
    assert list(kept) == EVERYWHERE[6:] and all("sees regions" in gate["reason"] for gate in kept.values())
    assert kept["layer4.0"]["deviation"] is None
    model, cfg, *_ = load_detector(output, None, "cpu")
    assert cfg.MODEL.SE.WITHOUT == EVERYWHERE[:6] and find_network(model).spec.se == subject.network.spec.se
    theirs = subject.model.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in model.state_dict().items())


def test_data_that_were_moved_are_found_by_the_ends_of_their_paths(tiny, shapes, tmp_path):
    folder = shapes.train_json.parents[1]
    words = ["DATA.TRAIN.JSON", "/gone/old/annotations/instances_train.json", "DATA.VAL.IMAGES", "old/val"]
    (tmp_path / "annotations").mkdir()
    for name in ("annotations/instances_train.json", "annotations/instances_val.json"):
        (tmp_path / name).write_text("{}")
    for name in (shapes.train_images.name, shapes.val_images.name, "val"):
        (tmp_path / name).mkdir(exist_ok=True)
    cfg = tiny(*words)
    found = dict(zip(*[iter(moved(cfg, tmp_path))] * 2, strict=True))
    assert found["DATA.TRAIN.JSON"] == str(tmp_path / "annotations/instances_train.json")
    assert found["DATA.VAL.IMAGES"] == str(tmp_path / "val")
    with pytest.raises(UserError, match="it has no instances_train.json"):
        moved(cfg, folder / "nowhere")
