"""The evaluation of a small exact model: by hand, by one process and by two, with broken images and with none."""

import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import classification.evaluation.evaluate as module
from classification.config import get_cfg
from classification.evaluation.evaluate import class_probabilities, evaluate_classifier, format_table, predict_set
from classification.groups import ClassGroups
from classification.index.index import make_index
from classification.model import ImageClassifier
from classification.task import ClassificationTask
from classification.task_info import classification_info
from engine.errors import UserError
from engine.train.launch import leave_processes
from se_backbones import Backbone, FusedBackbone, create_backbone
from tests.processes import in_two_processes
from tests.se_backbones.networks import randomised

SIZE, IMAGES = 32, 23
CLASSES = ["bedroom", "beach", "kitchen", "desert/sand", "swamp", "made_up", "attic"]
ROW = {"model": "SE-ResNet-152", "top1": 59.63, "top5": 88.99, "top1_error": 40.37, "top5_error": 11.01}
ROW |= {"crops": 1, "trained_on": "Places365-Challenge", "source": "a paper"}
GROUPS = ClassGroups("even_or_odd", ("even", "odd"), (0, 1, 0, 1, 0, 1, 0))
TASK = ClassificationTask(
    classification_info("pets", "Pets", "Accuracy", "pet_predictions.json", "train.py", "predict.py"),
    groups=lambda classes: GROUPS,
    published=lambda classes, labels: [ROW] * (len(labels) == 6),
)


class Exact(nn.Module):
    """Logits that are sums of whole numbers below 2²⁴ over a power of two: the same bits in whatever batches."""

    def __init__(self, classes=7):
        super().__init__()
        weight = torch.randint(-2, 3, (classes, 3 * SIZE * SIZE), generator=torch.Generator().manual_seed(0))
        self.weight = nn.Parameter(weight.float(), requires_grad=False)
        self.seen = []  # images in each forward pass

    def forward(self, images):
        assert images.dtype == torch.uint8 and images.shape[1:] == (3, SIZE, SIZE)
        self.seen.append(len(images))
        return (images.float() - 128).flatten(1) @ self.weight.T / 2**12


def make_images(folder, images=IMAGES, broken=()):
    """An index of noisy pictures, some of them no pictures, with labels that the model gets partly right."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    pixels = random.integers(0, 256, (images, SIZE, SIZE, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        path = folder / f"{number:02}.png"
        path.write_bytes(b"no picture") if number in broken else Image.fromarray(image).save(path)
    with torch.inference_mode():
        guesses = Exact()(as_batch(pixels)).argmax(1).numpy()
    labels = np.where(random.random(images) < 0.4, guesses, random.integers(0, len(CLASSES), images))
    names = [f"{number:02}.png" for number in range(images)]
    return make_index(names, labels.tolist(), CLASSES, folder), pixels


def as_batch(pixels):
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2)


def config(**keys):
    cfg = get_cfg()
    cfg.merge_from_list(
        [
            "INPUT.TEST_RESIZE", SIZE, "INPUT.TEST_SIZE", SIZE, "TEST.IMS_PER_BATCH", 4, "DATALOADER.NUM_WORKERS", 0,
            *[word for key, value in keys.items() for word in (key.replace("__", "."), value)],
        ]
    )  # fmt: skip
    return cfg


def without_speed(figures):
    return {key: value for key, value in figures.items() if key != "images_per_second"}


def test_the_figures_are_those_of_the_model_on_each_image(tmp_path):
    index, pixels = make_images(tmp_path / "images")
    model = Exact()
    figures = evaluate_classifier(model, index, config(), tmp_path / "run", TASK)
    assert model.seen == [4, 4, 4, 4, 4, 3]
    with torch.inference_mode():
        logits = Exact()(as_batch(pixels))
    probabilities, labels = logits.double().softmax(1), torch.tensor(np.asarray(index.labels).astype(int))
    right = logits.argmax(1) == labels
    assert 0.3 < right.float().mean() < 0.9
    assert figures["pets"]["top1"] == pytest.approx(100 * right.float().mean().item(), abs=1e-4)
    top = probabilities.topk(5)
    assert figures["pets"]["top5"] == pytest.approx(
        100 * (top.indices == labels[:, None]).any(1).float().mean().item(), abs=1e-4
    )
    assert figures["images"] == IMAGES and figures["broken"] == 0 and figures["crops"] == 1
    assert figures["images_per_second"] > 0 and "published" not in figures
    assert 0 < figures["pets"]["even_or_odd"] <= 100
    records = json.loads((tmp_path / "run" / "pet_predictions.json").read_text())
    assert [record["file"] for record in records] == [f"{number:02}.png" for number in range(IMAGES)]
    for row, record in enumerate(records):
        assert set(record) == {"file", "label", "top"} and record["label"] == CLASSES[labels[row]]
        assert [name for name, _ in record["top"]] == [CLASSES[c] for c in top.indices[row]]
        assert [p for _, p in record["top"]] == pytest.approx(top.values[row].tolist(), abs=6e-6)
    assert (tmp_path / "run" / "plots" / "confusion.png").is_file()
    assert not [path for path in (tmp_path / "run").rglob("*") if ".part" in path.name]


def test_ten_crops_are_averaged_as_probabilities():
    random = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (3, 10, SIZE, SIZE, 3), dtype=torch.uint8, generator=random).movedim(-1, -3)
    model = Exact()
    expected = [model(crops).double().softmax(1).mean(0).numpy() for crops in images]
    np.testing.assert_allclose(class_probabilities(model, images), expected, rtol=1e-12)
    single = class_probabilities(model, images[:, 4])
    np.testing.assert_allclose(single, model(images[:, 4]).double().softmax(1).numpy(), rtol=1e-12)


def test_ten_crops_of_a_set(tmp_path):
    index, pixels = make_images(tmp_path / "images", 5)
    model = Exact()
    figures = evaluate_classifier(model, index, config(TEST__CROPS=10, TEST__IMS_PER_BATCH=20), tmp_path / "run", TASK)
    assert figures["crops"] == 10 and figures["images"] == 5 and model.seen == [20, 20, 10]
    # The crops of an image of the crop's own size are the image and its mirror image.
    with torch.inference_mode():
        both = [model(as_batch(p)).double().softmax(1) for p in (pixels, pixels[:, :, ::-1])]
    records = json.loads((tmp_path / "run" / "pet_predictions.json").read_text())
    highest = ((both[0] + both[1]) / 2).amax(1).tolist()
    assert [record["top"][0][1] for record in records] == pytest.approx(highest, abs=6e-6)


def test_a_broken_image_is_named_and_counts_as_wrong(tmp_path, caplog):
    index, _ = make_images(tmp_path / "images", broken=(5, 22))
    with caplog.at_level(logging.WARNING):
        figures = evaluate_classifier(Exact(), index, config(DATA__MAX_BROKEN_SHARE=0.2), tmp_path / "run", TASK)
    assert figures["broken"] == 2 and figures["images"] == IMAGES
    warnings = [record.getMessage() for record in caplog.records if "counts as wrong" in record.getMessage()]
    assert len(warnings) == 2 and "05.png" in warnings[0] and "22.png" in warnings[1]
    records = json.loads((tmp_path / "run" / "pet_predictions.json").read_text())
    assert [row for row, record in enumerate(records) if record.get("broken")] == [5, 22]
    assert records[5]["top"] == [] and len(records[4]["top"]) == 5
    right = sum(record["top"][0][0] == record["label"] for record in records if record["top"])
    assert figures["pets"]["top1"] == pytest.approx(100 * right / IMAGES)


def test_too_many_broken_images_end_the_evaluation(tmp_path):
    index, _ = make_images(tmp_path / "images", broken=(5, 22))
    with pytest.raises(UserError, match=r"2 of the 23 images .* allows 1: .*05\.png.*22\.png"):
        evaluate_classifier(Exact(), index, config(), tmp_path / "run", TASK)
    assert not (tmp_path / "run" / "pet_predictions.json").exists()


def test_what_cannot_be_evaluated_says_why(tmp_path, monkeypatch):
    index, _ = make_images(tmp_path / "images", 6)
    unlabelled = make_index(["00.png", "01.png"], [0, -1], CLASSES, tmp_path / "images")
    with pytest.raises(UserError, match=r"1 of 2 images have no label.*predict.py"):
        evaluate_classifier(Exact(), unlabelled, config(), tmp_path, TASK)
    with pytest.raises(UserError, match="0 images"):
        evaluate_classifier(Exact(), make_index([], [], CLASSES, tmp_path), config(), tmp_path, TASK)
    with pytest.raises(UserError, match="tells 9 classes apart.* has 7"):
        evaluate_classifier(Exact(classes=9), index, config(), tmp_path, TASK)
    diverged = Exact()
    diverged.weight.data[2, 7] = float("nan")
    with pytest.raises(UserError, match=r"not finite for 4 images.*00\.png.*, …\)"):
        evaluate_classifier(diverged, index, config(), tmp_path, TASK)
    batches = module.test_batches
    monkeypatch.setattr(module, "test_batches", lambda index, mine, cfg: list(batches(index, mine, cfg))[:-1])
    with pytest.raises(RuntimeError, match="exactly once"):
        evaluate_classifier(Exact(), index, config(), tmp_path, TASK)


def test_the_published_figures_stand_beside_where_they_apply(tmp_path):
    index, _ = make_images(tmp_path / "images", 5)
    figures = evaluate_classifier(Exact(), index, config(), tmp_path, TASK)
    assert "published" not in figures and "as published" not in format_table(figures, "pets", GROUPS)
    index, _ = make_images(tmp_path / "images", 6)
    figures = evaluate_classifier(Exact(), index, config(), tmp_path, TASK)
    assert figures["published"] == [ROW]
    table = format_table(figures, "pets", GROUPS).splitlines()
    assert table[1].startswith("this model") and table[2].startswith("SE-ResNet-152, trained on Places365-Challenge")
    assert table[2].split()[-5:] == ["59.63", "88.99", "40.37", "11.01", "1"]
    assert any("even or odd" in line for line in table)


def test_without_a_task_of_its_own_a_set_is_class_folders(tmp_path):
    index, _ = make_images(tmp_path / "images", 6)
    figures = evaluate_classifier(Exact(), index, config(), tmp_path / "run")
    assert "even_or_odd" not in figures["classification"] and "published" not in figures
    assert len(json.loads((tmp_path / "run" / "class_predictions.json").read_text())) == 6
    assert "odd" not in format_table(figures, "classification")


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """What two processes make of the sets, a JSON object each."""
    folder = tmp_path_factory.mktemp("two")
    in_two_processes(work, 2, folder)
    return folder, [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_two_processes_give_the_figures_of_one_each_image_once(two_processes, tmp_path):
    folder, (first, second) = two_processes
    index, _ = make_images(tmp_path / "images", broken=(20,))
    one = evaluate_classifier(Exact(), index, config(DATA__MAX_BROKEN_SHARE=0.2), tmp_path / "run", TASK)
    assert without_speed(first["figures"]) == without_speed(one) and one["broken"] == 1
    assert second["figures"] == {}
    assert (sum(first["seen"]), sum(second["seen"])) == (11, 12)  # 23 images, none of them twice
    for name in ("pet_predictions.json", "plots/confusion.png"):
        assert (folder / "run" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()


def test_a_process_without_images_takes_part(two_processes):
    _, (first, second) = two_processes
    assert first["single"]["images"] == 1 and second["single"] == {}


def test_trouble_in_one_process_ends_all(two_processes):
    _, outcomes = two_processes
    for outcome in outcomes:
        assert "not finite" in outcome["trouble"] and "11.png" in outcome["trouble"]


def work(rank, processes, folder):
    """One process of several."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=processes
    )
    cfg = config(DATA__MAX_BROKEN_SHARE=0.2)
    index, _ = make_images(folder / f"images{rank}", broken=(20,))
    model, outcome = Exact(), {}
    outcome["figures"] = evaluate_classifier(model, index, cfg, folder / "run", TASK)
    outcome["seen"] = list(model.seen)
    single = make_index(["00.png"], [0], CLASSES, folder / f"images{rank}")
    outcome["single"] = evaluate_classifier(model, single, cfg, folder / "single", TASK)
    if rank == 1:
        model.weight.data[:] = float("inf")
    try:
        evaluate_classifier(model, index, cfg, folder / "trouble", TASK)
    except UserError as error:
        outcome["trouble"] = str(error)
    (folder / f"{rank}.json").write_text(json.dumps(outcome))
    leave_processes()


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_evaluation_is_fused_and_in_a_precision_where_it_is_asked_for(tmp_path, fused, precision):
    index, _ = make_images(tmp_path / "images", 8)
    cfg = config(TEST__FUSE=fused, TEST__PRECISION=precision)
    network = randomised(create_backbone("se_resnet18", len(CLASSES))).eval()
    seen = []

    def look(module, inputs, logits):
        seen.append((isinstance(module, FusedBackbone), logits.dtype))

    hook = nn.modules.module.register_module_forward_hook(
        lambda module, *rest: look(module, *rest) if isinstance(module, Backbone) else None
    )
    try:
        predictions, _ = predict_set(ImageClassifier(network, cfg), index, cfg)
    finally:
        hook.remove()
    assert set(seen) == {(fused, torch.bfloat16 if precision == "bf16" else torch.float32)}
    exact, _ = predict_set(ImageClassifier(network, config()), index, config())
    difference = np.abs(np.sort(predictions.top5_probabilities) - np.sort(exact.top5_probabilities)).max()
    assert len(predictions) == 8 and difference < (1e-5 if precision == "fp32" else 0.05)
    assert (difference == 0) == (precision == "fp32" and not fused)
