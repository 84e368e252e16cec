"""Runs that an earlier version left: configs and checkpoints are read, evaluated, gone on from and predicted with.

data/old_runs holds a run of each task as an earlier version left it after two of four steps, and in expected.json what
that version itself made of it afterwards; its README says how they were made.
"""

import json
import lzma
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import detection.backbone  # noqa: F401  (whose import sets an environment variable, by Detectron2's)
from se_backbones import create_backbone
from se_backbones.weights import DETECTOR_PARTS, load_weights

OLD_RUNS = Path(__file__).parent / "data" / "old_runs"
TOOLS = {"detection": "train_net", "scenes": "train_places365"}
CHECKPOINT = "checkpoint_0000002.pth"
CLASSES = ("beach", "bedroom", "forest_path", "kitchen", "street", "swamp")
# Processors round differently: from AVX-512 to SSE, and from one thread to two, losses and weights differ by up to 6e-6
# of themselves, and probabilities by 2e-5.
CLOSE, NEAR = {"rel": 1e-4, "abs": 1e-12}, {"rel": 1e-4, "abs": 1e-4}


def picture(number, kind, side):
    """Noise around a colour of its kind, (side, side, 3) uint8: whole numbers alone, alike on all machines."""
    place = np.arange(side * side * 3, dtype=np.uint64) + np.uint64(number * 1_000_003)
    noise = (place * place * np.uint64(2_862_933_555_777_941_757) + place * np.uint64(3_037_000_493)) >> np.uint64(57)
    colour = np.array([kind * 37, kind * 59, kind * 83]) % 128
    return (noise.reshape(side, side, 3).astype(np.int64) + colour).astype(np.uint8)


def save(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def make_scenes(folder):
    """Class folders. The images are as large as the config wants them: resizing is rounded differently, too."""
    for split, count in (("train", 2), ("val", 3)):
        for kind, name in enumerate(CLASSES):
            for index in range(count):
                number = 100 * (split == "val") + 10 * kind + index
                save(picture(number, kind, 40), folder / split / name / f"{index}.png")


def make_objects(folder):
    """Rectangles of two classes in COCO's format, with a gap in the category ids."""
    for split, count in (("train", 4), ("val", 3)):
        images, annotations = [], []
        for index in range(count):
            number = 100 * (split == "val") + index
            image = picture(number, 1, 64)
            for kind in range(2):
                x, y = (7 + 11 * number + 29 * kind) % 32, (3 + 17 * number + 23 * kind) % 36
                width, height = 18 + (5 * number + 7 * kind) % 13, 16 + (3 * number + 5 * kind) % 12
                image[y : y + height, x : x + width] = picture(number, 2 + kind, 64)[:height, :width]
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": index + 1, "category_id": (3, 7)[kind], "iscrowd": 0}
                    | {"bbox": [x, y, width, height], "area": width * height}
                )
            save(image, folder / split / f"{index}.png")
            images.append({"id": index + 1, "file_name": f"{index}.png", "height": 64, "width": 64})
        categories = [{"id": 3, "name": "square"}, {"id": 7, "name": "oblong"}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / f"{split}.json").write_text(json.dumps(content))


DATA = {"detection": ("objects", make_objects), "scenes": ("scenes", make_scenes)}  # the folder that a config names


def losses(run):
    """What a run logged of the steps behind its checkpoint, learning rates too: {"3 total_loss": value, …}."""
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return {
        f"{row['iteration']} {key}": value
        for row in rows
        if row["iteration"] > 2
        for key, value in row.items()
        if "loss" in key.partition("/")[0] or key == "lr"  # not validation/total_loss, which came later
    }


def figures(folder):
    """An evaluation's figures, and numbers of the answers they were taken from."""
    result = json.loads((folder / "result.json").read_text())
    task = "bbox" if "bbox" in result else "places365"
    found = {key: value for key, value in result[task].items() if value is not None}
    if task == "bbox":
        records = json.loads((folder / "coco_instances_results.json").read_text())
        sums = {"scores": sum(r["score"] for r in records), "sides": sum(sum(r["bbox"][2:]) for r in records)}
        return found | {"detections": len(records)} | sums
    records = json.loads((folder / "scene_predictions.json").read_text())
    return found | {f"{r['file']} {name}": share for r in records for name, share in r["top"][:2]}


def fingerprint(path):
    """A checkpoint's tensors: {name: (mean of the absolute values, that of every fifth of them)}."""
    state = torch.load(path, map_location="cpu", weights_only=True)["model"]
    magnitudes = {name: tensor.double().abs().flatten() for name, tensor in state.items()}
    return {name: [float(values.mean()), float(values[::5].mean())] for name, values in magnitudes.items()}


@pytest.fixture(scope="module")
def expected():
    return json.loads((OLD_RUNS / "expected.json").read_text())


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """{task: its checkpoint, unpacked}."""
    folder = tmp_path_factory.mktemp("old_runs")
    for task in TOOLS:
        packed = (OLD_RUNS / f"{task}.pth.xz.xz").read_bytes()
        (folder / f"{task}.pth").write_bytes(lzma.decompress(lzma.decompress(packed)))
    yield {task: folder / f"{task}.pth" for task in TOOLS}
    remove_checkpoints(folder)


@pytest.fixture(params=TOOLS)
def task(request):
    return request.param


@pytest.fixture
def old_run(task, checkpoints, tmp_path):
    """A run's folder as a kill behind step 2 left it, with the data beside it."""
    folder, make = DATA[task]
    make(tmp_path / folder)
    run = tmp_path / "run"
    run.mkdir()
    os.link(checkpoints[task], run / CHECKPOINT)  # not copied: a checkpoint is never written to, but replaced
    shutil.copy(OLD_RUNS / f"{task}.yaml", run / "config.yaml")
    shutil.copy(OLD_RUNS / f"{task}.metrics.jsonl", run / "metrics.jsonl")
    yield run
    remove_checkpoints(run)


def remove_checkpoints(folder):
    """A gigabyte together, which pytest would keep with the folders of its last three runs."""
    for path in folder.glob("*.pth"):
        path.unlink()


@pytest.fixture
def call(load_tool, runs_in_this_process, tmp_path, monkeypatch):
    """(tool, *words): a command line in this process, started in the folder that the runs' relative paths begin at."""
    monkeypatch.chdir(tmp_path)

    def call(tool, *words):
        monkeypatch.setattr(sys, "argv", [f"{tool}.py", *map(str, words)])
        assert load_tool(tool).main() == 0

    return call


def test_an_old_checkpoint_is_evaluated(task, old_run, call, expected):
    call(TOOLS[task], "--config", old_run / "config.yaml", "--eval-only", "OUTPUT_DIR", old_run)
    assert figures(old_run / "evaluation") == pytest.approx(expected[task]["evaluation"], **NEAR)
    summary = (old_run / "evaluation" / "summary.html").read_text(encoding="utf-8")
    assert f"tools/{TOOLS[task]}.py --config" in summary and "se_resnet18 on" in summary


def test_an_old_run_goes_on_to_where_the_old_version_came(task, old_run, call, expected):
    call(TOOLS[task], "--config", old_run / "config.yaml", "--resume", "OUTPUT_DIR", old_run)
    rows = map(json.loads, (old_run / "metrics.jsonl").read_text().splitlines())
    assert list(dict.fromkeys(row["iteration"] for row in rows)) == [1, 2, 3, 4]
    assert losses(old_run) == pytest.approx(expected[task]["losses"], **CLOSE)
    found, wanted = fingerprint(old_run / "model_final.pth"), expected[task]["weights"]
    assert list(found) == list(wanted)
    for name, numbers in wanted.items():
        assert found[name] == pytest.approx(numbers, **CLOSE), name
    assert figures(old_run) == pytest.approx(expected[task]["final"], **NEAR)


@pytest.mark.parametrize("task", ["scenes"], indirect=True)
def test_an_old_checkpoint_predicts(old_run, call, expected, tmp_path):
    picture, output = tmp_path / "scenes" / "val" / "kitchen" / "1.png", tmp_path / "predicted"
    call("predict_scene", "--weights", old_run / CHECKPOINT, "--output", output, "--device", "cpu", picture)
    (record,) = json.loads((output / "scene_predictions.json").read_text())
    wanted = expected["scenes"]["prediction"]
    assert [guess["class"] for guess in record["top"]] == list(wanted)
    assert [guess["probability"] for guess in record["top"]] == pytest.approx(list(wanted.values()), **NEAR)


@pytest.mark.parametrize("part", ["", "#model"])
def test_an_old_checkpoint_gives_a_network_its_weights(task, part, checkpoints):
    """The averaged ones, unless the others are asked for."""
    path, detector = checkpoints[task], task == "detection"
    network = create_backbone("se_resnet18", 0 if detector else len(CLASSES), norm="GN" if detector else "BN")
    heads = [f"unexpected:{name}" for name in DETECTOR_PARTS] if detector else []
    report = load_weights(network, f"{path}{part}", allow=heads)
    ours = network.state_dict()
    assert set(report.loaded) | set(report.derived) == set(ours) and not report.unaccounted
    stored = torch.load(path, map_location="cpu", weights_only=True)["model" if part else "ema"]
    prefix = ("" if part else "module.") + ("backbone.bottom_up.net." if detector else "")
    assert [name for name in report.loaded if not torch.equal(ours[name], stored[prefix + name])] == []
