"""Scene classification through the real command line: a run, kill and resume, two processes, broken files."""

import json
import os
import shutil
import signal
import time

import pytest
import torch

from engine.train.checkpoint import load_checkpoint

CLASSES = ("beach", "bedroom", "street")
STEPS = 8
TINY = [
    "MODEL.BACKBONE.ARCHITECTURE", "se_resnet18", "INPUT.TRAIN_SIZE", "32", "INPUT.TEST_RESIZE", "36",
    "INPUT.TEST_SIZE", "32", "SOLVER.IMS_PER_BATCH", "6", "SOLVER.BASE_LR", "0.01", "SOLVER.MAX_ITER", str(STEPS),
    "SOLVER.CHECKPOINT_EPOCHS", "0.5", "LOG_PERIOD", "2", "TEST.EVAL_EPOCHS", "2", "DATALOADER.NUM_WORKERS", "2",
    "SOLVER.EMA.ENABLED", "True", "INPUT.MIXUP", "0.2", "INPUT.CUTMIX", "1.0", "INPUT.RAND_AUGMENT.OPS", "1",
    "TEST.IMS_PER_BATCH", "4",
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory, write_scenes):
    return write_scenes(tmp_path_factory.mktemp("data") / "scenes", {"train": 8, "val": 5}, CLASSES)


def train(data, folder, *words):
    return [
        "tools/train_places365.py", "--config", "configs/_base_places365.yaml", "--data", data,
        "--device", "cpu", *words, "OUTPUT_DIR", folder, "DATA.CACHE", folder.parent / "cache",
        "SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.STEP_EPOCHS", "[]", *TINY,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def whole(run, data, tmp_path_factory):
    """An uninterrupted run, with two worker processes."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, run(*train(data, folder))


def test_a_run_leaves_everything_a_person_needs(whole):
    folder, output = whole
    names = "config.yaml metrics.jsonl result.json model_final.pth summary.html scene_predictions.json log.txt".split()
    for name in names:
        assert (folder / name).is_file(), name
    assert list(folder.glob("events.out.tfevents*")) and (folder / "plots" / "confusion.png").is_file()
    assert len(list((folder / "predictions").glob("*.jpg"))) == 8
    assert [p.name for p in sorted(folder.glob("checkpoint_*"))] == ["checkpoint_0000006.pth", "checkpoint_0000008.pth"]
    result = json.loads((folder / "result.json").read_text())
    assert set(result["places365"]) >= {"top1", "top5", "top1_error", "top5_error", "ece", "indoor_outdoor"}
    assert set(result["per_category"]["places365"]) == set(CLASSES) and result["images"] == 15
    assert result["command"].startswith("python tools/train_places365.py") and result["iteration"] == STEPS
    for word in (f"step {STEPS}/{STEPS}", "img/s", "data ", "eta", "device cpu", str(folder / "summary.html")):
        assert word in output, word
    assert not [p for p in folder.rglob("*") if ".part" in p.name]
    checkpoint = load_checkpoint(folder / "model_final.pth")
    assert checkpoint["classes"] == list(CLASSES) and checkpoint["task"] == "places365"


def test_a_killed_run_goes_on_as_if_nothing_had_happened(start, run, whole, data, tmp_path):
    folder = tmp_path / "killed"
    process = start(*train(data, folder), start_new_session=True)
    deadline = time.time() + 200
    while not (folder / "checkpoint_0000004.pth").exists():
        assert process.poll() is None and time.time() < deadline, "no checkpoint was written"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (folder / "model_final.pth").exists(), "the run was over before it was killed"
    assert "going on after step" in run(*train(data, folder, "--resume"))
    ours, theirs = (load_checkpoint(f / "model_final.pth")["model"] for f in (folder, whole[0]))
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    predictions = [(f / "scene_predictions.json").read_bytes() for f in (folder, whole[0])]
    assert predictions[0] == predictions[1]


def test_sigterm_saves_and_says_how_to_go_on(start, data, tmp_path):
    folder = tmp_path / "stopped"
    words = ["SOLVER.MAX_ITER", "100000", "SOLVER.CHECKPOINT_EPOCHS", "0"]
    process = start(*train(data, folder), *words, start_new_session=True)
    deadline = time.time() + 200
    while not (folder / "metrics.jsonl").exists() or not (folder / "metrics.jsonl").read_text():
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)  # the workers too, as torchrun and schedulers do
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 2 and "error: stopped by SIGTERM" in output and "--resume" in output
    assert "Traceback" not in output and len(list(folder.glob("checkpoint_*.pth"))) == 1


def test_two_processes_evaluate_as_one_and_ten_crops_are_a_setting(run, whole, data, tmp_path):
    figures = []
    for words in (("--num-gpus", 1), ("--num-gpus", 2), ("TEST.CROPS", 10)):
        folder = tmp_path / "".join(map(str, words))
        output = run(*train(data, folder, "--eval-only", *words, "MODEL.WEIGHTS", whole[0] / "model_final.pth"))
        assert ("2 processes" in output) == (words == ("--num-gpus", 2))
        figures.append(json.loads((folder / "evaluation" / "scene_predictions.json").read_text()))
    assert figures[0] == figures[1] == json.loads((whole[0] / "scene_predictions.json").read_text())
    assert len(figures[0]) == 15 == len({record["file"] for record in figures[0]})
    assert figures[2] != figures[0]


def test_a_runs_own_config_evaluates_its_own_weights_whatever_it_started_from(run, whole, data, tmp_path):
    folder = tmp_path / "tuned"
    words = ["MODEL.WEIGHTS", whole[0] / "model_final.pth", "MODEL.HEAD", "keep", "SOLVER.MAX_ITER", "2"]
    run(*train(data, folder, "TEST.EVAL_EPOCHS", "0"), *words, "SOLVER.BASE_LR", "0.5")
    stale = folder / "evaluation" / "predictions" / "of_an_earlier_evaluation.jpg"
    stale.parent.mkdir(parents=True)
    stale.touch()
    run("tools/train_places365.py", "--config", folder / "config.yaml", "--eval-only")
    ours, evaluated = (json.loads((f / "result.json").read_text()) for f in (folder, folder / "evaluation"))
    assert evaluated["iteration"] == 2 and evaluated["weights"] == str(folder / "model_final.pth")
    assert evaluated["places365"] == ours["places365"]
    assert not stale.exists() and len(list(stale.parent.glob("*.jpg"))) == 8
    page = (folder / "evaluation" / "summary.html").read_text()
    assert f"--weights {folder}/model_final.pth" in page and f"OUTPUT_DIR {folder}<" in page and "--resume" not in page
    assert "Not in this run" not in page


def test_a_run_is_overwritten_only_when_the_new_one_can_start(run, whole, data, tmp_path):
    folder = tmp_path / "kept"
    shutil.copytree(whole[0], folder)
    before = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for words in (
        ["--overwrite", "MODEL.WEIGHTS", folder / "model_final.pth"],
        ["--overwrite", "MODEL.WEIGHTS", tmp_path / "no_such.pth"],
        ["--overwrite", "DATA.TRAIN", "no_such_split"],
    ):
        output = run(*train(data, folder), *words, code=2)
        assert "Traceback" not in output
        assert {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    run(*train(data, folder, "--overwrite"), "SOLVER.MAX_ITER", "1", "TEST.EVAL_EPOCHS", "0")
    assert [path.name for path in folder.glob("checkpoint_*")] == ["checkpoint_0000001.pth"]
    assert not (folder / ".overwritten").exists()


def test_two_processes_and_accumulation_train_as_one_batch_does(run, data, tmp_path):
    """Where nothing depends on which images are computed together: no BatchNorm, no mixing."""
    plain = [
        "MODEL.BACKBONE.NORM", "GN", "INPUT.MIXUP", "0", "INPUT.CUTMIX", "0", "SOLVER.PRECISION", "fp32",
        "SOLVER.MAX_ITER", "3", "SOLVER.EMA.ENABLED", "False", "TEST.EVAL_EPOCHS", "0",
    ]  # fmt: skip
    weights = []
    for words in ([], ["--num-gpus", 2], ["SOLVER.ACCUMULATE", 3]):
        folder = tmp_path / str(len(weights))
        assert "UserWarning" not in run(*train(data, folder, *words), *plain)  # PyTorch's own of several processes too
        weights.append(load_checkpoint(folder / "model_final.pth")["model"])
    untrained = load_checkpoint(next((tmp_path / "0").glob("checkpoint_*2.pth")))["model"]
    for other in weights[1:]:
        for name, tensor in weights[0].items():
            moved = (tensor - untrained[name]).abs().max()
            assert (tensor - other[name]).abs().max() <= 1e-3 * moved + 1e-7, name


def test_broken_files_are_named_and_too_many_stop_the_run(run, write_scenes, tmp_path):
    data = write_scenes(tmp_path / "scenes", {"train": 8, "val": 5}, CLASSES)
    broken = data / "train" / "beach" / "003.jpg"
    broken.write_bytes(broken.read_bytes()[:300])
    output = run(*train(data, tmp_path / "some", "DATA.MAX_BROKEN_SHARE", 0.1))
    assert "beach/003.jpg" in output
    (listed,) = map(json.loads, (tmp_path / "some" / "broken_files.jsonl").read_text().splitlines())
    assert listed["file"] == "beach/003.jpg"
    for path in list((data / "train" / "street").iterdir()):
        path.write_bytes(b"no image")
    output = run(*train(data, tmp_path / "many", "DATA.MAX_BROKEN_SHARE", 0.1), code=2)
    assert "DATA.MAX_BROKEN_SHARE" in output and "Traceback" not in output


def test_a_loss_that_is_not_finite_names_the_files(run, data, tmp_path):
    output = run(*train(data, tmp_path / "nan"), "SOLVER.BASE_LR", "1e30", code=2)
    assert "not finite" in output and ".jpg" in output and "Traceback" not in output


def test_weights_of_other_classes_are_refused_with_the_difference(run, write_scenes, whole, tmp_path):
    data = write_scenes(tmp_path / "scenes", {"train": 2, "val": 1}, CLASSES)
    for split in ("train", "val"):
        (data / split / "street").rename(data / split / "volcano")
    words = ["--eval-only", "MODEL.WEIGHTS", whole[0] / "model_final.pth"]
    output = run(*train(data, tmp_path / "out", *words), code=2)
    assert "street" in output and "volcano" in output and "Traceback" not in output
    words = ["MODEL.WEIGHTS", whole[0] / "model_final.pth", "MODEL.HEAD", "keep"]
    output = run(*train(data, tmp_path / "keep", *words), code=2)
    assert "street" in output and "volcano" in output and "MODEL.HEAD new" in output


def test_missing_data_is_an_error_that_says_where_it_was_looked_for(run, tmp_path):
    output = run(*train(tmp_path / "nowhere", tmp_path / "out"), code=2)
    assert "nowhere" in output and "Traceback" not in output


def test_a_mistake_that_the_first_process_finds_ends_both_with_one_message(run, data, write_scenes, tmp_path):
    held = tmp_path / "held"
    held.mkdir()
    (held / "model_final.pth").touch()
    scenes = write_scenes(tmp_path / "scenes", {"data_256": 4}, CLASSES[:1])
    lines = [f"/beach/{i:03}.jpg {48 if i < 3 else 365}\n" for i in range(4)]
    (scenes / "places365_train_standard.txt").write_text("".join(lines))
    for folder, images, words in ((held, data, "already holds a run"), (tmp_path / "out", scenes, "not in 0..364")):
        output = run(*train(images, folder, "--num-gpus", 2), code=2)
        assert words in output and output.count("error:") == 1 and "Traceback" not in output, output
