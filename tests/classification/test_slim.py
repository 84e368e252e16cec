"""A classifier as something to be made smaller, and its gates dropped."""

import json
import math

import pytest
import torch
import yaml
from torch.nn import functional as F

from classification.config import load_config
from classification.model import build_network
from classification.predict.predictor import Predictor
from classification.slim import open_classifier
from classification.task import CLASS_FOLDERS
from classification.train import Options, run_classification
from classification.trained import load_classifier
from engine.errors import UserError
from engine.export.options import Options as ExportOptions
from engine.run.experiment import description
from engine.slim.drop import describe, drop_gates
from engine.slim.subject import HISTORY, costs
from engine.train.checkpoint import load_checkpoint, save_checkpoint
from tests.classification.predict.test_predictor import picture
from tests.se_backbones.networks import randomised

CLASSES = ("aster", "tulip", "zinnia")
SITES = [f"stage{stage}.unit{unit}" for stage in (1, 2, 3) for unit in (1, 2, 3)]

pytestmark = pytest.mark.usefixtures("runs_in_this_process", "rough_figures")


@pytest.fixture(scope="module")
def data(tmp_path_factory, write_scenes):
    return write_scenes(tmp_path_factory.mktemp("data") / "flowers", {"train": 4, "val": 3}, CLASSES)


@pytest.fixture(scope="module")
def save(data, tmp_path_factory):
    """(*overrides) → a checkpoint of a network of random weights; the averaged ones count."""

    def save(*overrides):
        folder = tmp_path_factory.mktemp("run")
        words = [
            "MODEL.DEVICE", "cpu", "MODEL.BACKBONE.ARCHITECTURE", "se_resnet20_cifar", "INPUT.TRAIN_SIZE", "32",
            "INPUT.TEST_RESIZE", "36", "INPUT.TEST_SIZE", "32", "SOLVER.IMS_PER_BATCH", "6", "TEST.IMS_PER_BATCH", "5",
            "SOLVER.MAX_ITER", "2", "DATALOADER.NUM_WORKERS", "0", "DATA.ROOT", str(data), "INPUT.MIXUP", "1.0",
            "DATA.CACHE", str(folder / "cache"), "OUTPUT_DIR", str(folder), "LOG_PERIOD", "1",
        ]  # fmt: skip
        cfg = load_config(None, [*words, *overrides])
        network = randomised(build_network(cfg, len(CLASSES)))
        with torch.no_grad():
            network.fc.weight.mul_(3)
            average = {f"module.{name}": tensor.clone() for name, tensor in network.state_dict().items()}
            network.fc.bias[0] += 100
        about = {**description(CLASS_FOLDERS.info, cfg, CLASSES), "iteration": 2, "training_images": {"count": 12}}
        states = {"model": network.state_dict(), "ema": average, "optimizer": {"state": {}}}
        return save_checkpoint(folder / "checkpoint_0000002.pth", {**about, **states})

    return save


@pytest.fixture(scope="module")
def checkpoint(save):
    return save()


@pytest.fixture
def subject(checkpoint):
    return open_classifier(checkpoint, CLASS_FOLDERS, "cpu")


def pixels(count=4):
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


def test_its_images_are_the_training_splits_as_an_evaluation_sees_them(subject):
    batches = subject.images(6)
    assert [tuple(batch.shape) for batch in batches] == [(5, 3, 32, 32), (1, 3, 32, 32)]
    assert sum(map(len, subject.images(1000))) == 12
    whole = torch.cat(batches)
    # Every second one of the sorted images: two of each class, each around a colour of its own.
    assert whole.mean((2, 3)).argmax(1).tolist() == [2, 2, 1, 1, 0, 0]


def test_a_loss_is_that_of_the_images_as_they_are_again_and_again(subject):
    calls = list(subject.losses(6))
    images, labels = subject.images(6), torch.tensor([0, 0, 1, 1, 2, 2])
    for call, batch, truth in zip(calls, images, labels.split(5), strict=True):
        loss = call()
        assert loss.item() == call().item() == F.cross_entropy(subject.network(batch), truth).item()
        loss.backward()
    assert all(parameter.grad is not None for parameter in subject.model.parameters())
    assert not any(module.training for module in subject.model.modules())


def test_its_weights_are_the_averaged_ones_and_its_figure_has_the_error_of_a_share(subject, checkpoint):
    average = load_checkpoint(checkpoint)["ema"]
    assert all(torch.equal(average[f"module.{name}"], tensor) for name, tensor in subject.tensors().items())
    score = subject.evaluate()
    share = score.value / 100
    assert 0 < share < 1 and score.name == "top1" and score.figures["top1"] == score.value
    assert score.standard_error == pytest.approx(100 * math.sqrt(share * (1 - share) / 9))


def test_costs_are_of_before_and_after(subject):
    found = costs(subject, 2)
    assert found["image_size"] == [32, 32] and found["before"]["multiply_adds"] == found["after"]["multiply_adds"]
    parts = [f"{name}.{layer}" for name in SITES for layer in ("se.fc1", "se.fc2")]
    tensors = subject.tensors()
    assert found["after"]["se_parameters"] == sum(
        tensors[f"{part}.{kind}"].numel() for part in parts for kind in ("weight", "bias")
    )


@pytest.fixture(scope="module")
def dropped(checkpoint, tmp_path_factory):
    subject = open_classifier(checkpoint, CLASS_FOLDERS, "cpu")
    output = tmp_path_factory.mktemp("small") / "small.pth"
    return subject, output, drop_gates(subject, output, calibration=12, fall=100, rounds=2)


def test_everything_that_can_go_goes_where_the_figure_may_fall(dropped):
    subject, output, report = dropped
    assert sorted(step["gate"] for step in report["steps"]) == sorted(SITES)
    assert subject.network.spec.name == "resnet20_cifar" and subject.network.spec.se is None
    assert report["costs"]["after"]["se_parameters"] == 0 < report["costs"]["before"]["se_parameters"]
    assert (
        report["costs"]["before"]["parameters"] - report["costs"]["after"]["parameters"]
        == (report["costs"]["before"]["se_parameters"])
    )
    deviations = {gate["name"]: gate["deviation"] for gate in report["gates"]}
    tried = [deviations[step["gate"]] for step in report["steps"]]
    assert tried == sorted(tried)
    assert json.loads(output.with_suffix(".json").read_text()) == report and output.with_suffix(".png").is_file()
    assert "9 of 9 gates dropped" in describe(report, "top-1 accuracy")


def test_the_checkpoint_is_the_model_everywhere(dropped, tmp_path, save):
    subject, output, report = dropped
    with torch.no_grad():
        expected = subject.model(pixels())
        assert torch.equal(load_classifier(output)[0](pixels()), expected)
    assert not torch.equal(expected, subject.whole(pixels()))
    content = load_checkpoint(output)
    assert "ema" not in content and "optimizer" not in content and content["training_images"] == {"count": 12}
    assert [fact["method"] for fact in content[HISTORY]] == ["drop"] and content["iteration"] == 2
    config = output.with_suffix(".yaml")
    assert content["config"] == config.read_text() and yaml.safe_load(content["config"])["MODEL"]["HEAD"] == "keep"
    evaluated = run_classification(
        Options(str(config), ["TEST.FUSE", "False", "OUTPUT_DIR", str(tmp_path / "evaluated")], eval_only=True)
    )
    assert evaluated["classification"] == report["after"]["figures"]
    found = Predictor.from_checkpoint(output, device="cpu").predict([picture(40, 50)])
    assert found[0].classes.tolist() and len(found) == 1
    with pytest.raises(UserError, match="resnet20_cifar has no gates to drop"):
        drop_gates(open_classifier(output, CLASS_FOLDERS, "cpu"), tmp_path / "again.pth")
    assert not (tmp_path / "again.pth").exists()


def test_it_is_exported(dropped, tmp_path, data):
    from classification.export.export import export_classifier

    path = tmp_path / "small.pt2"
    found = export_classifier(ExportOptions(dropped[1], "torch-export", output=path, rounds=2), CLASS_FOLDERS)
    assert found["difference"]["largest_logit"] < 1e-3 and path.is_file()


def test_it_is_trained_on_and_gone_on_with(dropped, tmp_path):
    subject, output, _ = dropped
    run = tmp_path / "tuned"
    words = ["SOLVER.BASE_LR", "0.0", "SOLVER.FREEZE_NORM_EPOCHS", "1.0", "SOLVER.WEIGHT_DECAY", "0.0"]
    tuned = subject.fine_tune(output, words, run)
    assert tuned == run / "model_final.pth"
    ours, theirs = load_checkpoint(tuned)["model"], load_checkpoint(output)["model"]
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []
    longer = subject.fine_tune(output, [*words, "SOLVER.MAX_ITER", "3"], run)  # from where it was
    assert load_checkpoint(longer)["iteration"] == 3 and "going on after step 2" in (run / "log.txt").read_text()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("MODEL.BACKBONE.ARCHITECTURE", "resnet20_cifar"), "resnet20_cifar has no gates to drop"),
        (("MODEL.SE.PLACEMENT", "post"), r"none of its gates can be dropped: the gate of stage1.unit1, .* no weight"),
    ],
)
def test_what_has_nothing_to_drop_is_refused_with_the_reason(save, tmp_path, overrides, message):
    subject = open_classifier(save(*overrides), CLASS_FOLDERS, "cpu")
    with pytest.raises(UserError, match=message):
        drop_gates(subject, tmp_path / "small.pth")
    assert not list(tmp_path.iterdir())


def test_the_runs_own_weights_are_not_written_over(subject, checkpoint):
    before = checkpoint.read_bytes()
    with pytest.raises(UserError, match="name another"):
        drop_gates(subject, checkpoint, 12, 100)
    with pytest.raises(UserError, match="ends with .pth"):
        subject.write(checkpoint.with_suffix(".onnx"), {})
    assert checkpoint.read_bytes() == before


def test_images_that_cannot_be_read_are_left_out(checkpoint, write_scenes, tmp_path):
    data = write_scenes(tmp_path / "flowers", {"train": 2, "val": 1}, CLASSES)
    (data / "train" / "tulip" / "000.jpg").write_bytes(b"no picture")
    words = ["DATA.CACHE", str(tmp_path / "cache")]
    subject = open_classifier(checkpoint, CLASS_FOLDERS, "cpu", str(data), words)
    assert sum(map(len, subject.images(6))) == 5
    assert subject.stated.DATA.ROOT == str(data)
    for path in (data / "train").rglob("*.jpg"):
        path.write_bytes(b"no picture")
    with pytest.raises(UserError, match="none of 6 images can be read"):
        subject.images(6)
