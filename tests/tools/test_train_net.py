"""Training through the real command line: the demo, kill and resume, evaluation by one and by two processes."""

import json
import os
import shutil
import signal
import time

import pytest
import torch

from engine.train.checkpoint import load_checkpoint
from synthetic.shapes import generate_shapes

STEPS = 8
TINY = [
    "INPUT.MIN_SIZE_TRAIN", "64", "INPUT.MIN_SIZE_TEST", "64", "SOLVER.IMS_PER_BATCH", "4", "SOLVER.BASE_LR", "0.01",
    "MODEL.FPN.OUT_CHANNELS", "16", "MODEL.ROI_BOX_HEAD.FC_DIM", "32", "SOLVER.MAX_ITER", str(STEPS), "LOG_PERIOD", "2",
    "SOLVER.CHECKPOINT_PERIOD", "2", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.01", "SOLVER.EMA.ENABLED", "True",
    "TEST.LOSS", "True", "TEST.EVAL_PERIOD", "4",
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    shapes = generate_shapes(tmp_path_factory.mktemp("data") / "shapes", train=12, val=7, size=64)
    return [
        "--train-json",
        shapes.train_json,
        "--train-images",
        shapes.train_images,
        "--val-json",
        shapes.val_json,
        "--val-images",
        shapes.val_images,
    ]


def train(data, folder, *words):
    return [
        "tools/train_net.py",
        "--config",
        "configs/demo.yaml",
        *data,
        "--device",
        "cpu",
        *words,
        "OUTPUT_DIR",
        folder,
        *TINY,
    ]


@pytest.fixture(scope="module")
def whole(run, data, tmp_path_factory):
    """An uninterrupted run, with a worker process."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    output = run(*train(data, folder))
    return folder, output


def test_a_run_leaves_everything_a_person_needs(whole):
    folder, output = whole
    for name in (
        "config.yaml",
        "metrics.jsonl",
        "result.json",
        "model_final.pth",
        "summary.html",
        "coco_instances_results.json",
        "log.txt",
    ):
        assert (folder / name).is_file(), name
    assert list(folder.glob("events.out.tfevents*")) and list((folder / "plots").glob("*.png"))
    assert len(list((folder / "predictions").glob("*.jpg"))) == 7
    assert sorted(p.name for p in folder.glob("checkpoint_*")) == [
        "checkpoint_0000006.pth",
        "checkpoint_0000008.pth",
    ]
    result = json.loads((folder / "result.json").read_text())
    assert set(result["bbox"]) >= {"AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100"}
    assert result["command"].startswith("python tools/train_net.py") and result["iteration"] == STEPS
    assert result["best"]["figure"] == "bbox/AP" and result["best"]["iteration"] in (4, 8)
    best = load_checkpoint(folder / "model_best.pth")
    assert best["best"] == result["best"]
    assert result["validation"].keys() >= {"total_loss", "loss_cls", "loss_rpn_cls"} and result["ended"]
    for word in (f"step {STEPS}/{STEPS}", "img/s", "eta", "device cpu", "AP50", str(folder / "summary.html")):
        assert word in output, word
    assert not [p for p in folder.rglob("*") if ".part" in p.name]
    thresholds = json.loads((folder / "analysis" / "thresholds.json").read_text())
    assert load_checkpoint(folder / "model_final.pth")["thresholds"] == thresholds
    assert best["thresholds"].keys() == thresholds.keys() and best["thresholds"]["data"] == thresholds["data"]
    assert best["thresholds"] == thresholds or result["best"]["iteration"] != STEPS
    for name in (
        "analysis/mistakes.json",
        "analysis/confusion.json",
        "plots/confusion.png",
        "plots/precision_recall.png",
    ):
        assert (folder / name).is_file(), name
    assert "Worst mistakes" in (folder / "summary.html").read_text(encoding="utf-8")


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
    output = run(*train(data, folder, "--resume"))
    assert "going on after step" in output
    ours, theirs = (load_checkpoint(f / "model_final.pth")["model"] for f in (folder, whole[0]))
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    best, other = (load_checkpoint(f / "model_best.pth") for f in (folder, whole[0]))
    assert best["best"] == other["best"] and all(torch.equal(best["model"][n], other["model"][n]) for n in theirs)
    figures = [json.loads((f / "result.json").read_text()) for f in (folder, whole[0])]
    assert figures[0]["validation"] == figures[1]["validation"]
    assert (folder / "coco_instances_results.json").read_bytes() == (
        whole[0] / "coco_instances_results.json"
    ).read_bytes()
    logged = [json.loads(line)["iteration"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert logged == sorted(logged)


def test_sigterm_saves_and_says_how_to_go_on(start, data, tmp_path):
    folder = tmp_path / "stopped"
    words = ["SOLVER.MAX_ITER", "100000", "SOLVER.CHECKPOINT_PERIOD", "0", "DATALOADER.NUM_WORKERS", "1"]
    process = start(*train(data, folder), *words, start_new_session=True)
    deadline = time.time() + 200
    while not (folder / "metrics.jsonl").exists() or not (folder / "metrics.jsonl").read_text():
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)  # the workers too, as torchrun and schedulers do
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 2 and "error: stopped by SIGTERM" in output and "--resume" in output
    assert "Traceback" not in output
    assert len(list(folder.glob("checkpoint_*.pth"))) == 1


def test_two_processes_give_the_ap_of_one(run, whole, data, tmp_path):
    folders = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        words = ["--eval-only", "--num-gpus", processes, "MODEL.WEIGHTS", whole[0] / "model_final.pth"]
        output = run(*train(data, folder, *words))
        assert ("2 processes" in output) == (processes == 2)
        folders.append(folder)
    results = [json.loads((folder / "evaluation" / "result.json").read_text()) for folder in folders]
    assert results[0]["bbox"] == results[1]["bbox"] and results[0]["per_category"] == results[1]["per_category"]
    assert results[0]["stats"] == json.loads((whole[0] / "result.json").read_text())["stats"]


def test_two_processes_train_what_one_evaluates(run, data, tmp_path):
    folder = tmp_path / "two"
    output = run(*train(data, folder, "--num-gpus", 2))
    assert "2 processes" in output
    trained = json.loads((folder / "result.json").read_text())
    run(*train(data, folder, "--eval-only"))
    evaluated = json.loads((folder / "evaluation" / "result.json").read_text())
    assert trained["stats"] == evaluated["stats"] and trained["detections"] == evaluated["detections"] > 0


def test_a_folder_with_a_run_is_not_overwritten_by_mistake(run, whole, data):
    before = (whole[0] / "result.json").read_bytes()
    output = run(*train(data, whole[0]), code=2)
    assert "--resume" in output and "--overwrite" in output and "Traceback" not in output
    assert (whole[0] / "result.json").read_bytes() == before


def test_missing_coco_is_an_error_that_shows_the_ways_on(run, tmp_path):
    output = run(
        "tools/train_net.py",
        "--config",
        "configs/faster_rcnn_se_r50.yaml",
        "OUTPUT_DIR",
        tmp_path / "o",
        code=2,
    )
    for word in ("instances_train2017.json", "cocodataset.org", "--train-json", "make demo"):
        assert word in output
    assert "Traceback" not in output


def test_bad_annotations_stop_the_run_and_can_be_dropped(run, data, tmp_path):
    coco = json.loads(data[1].read_text())
    coco["annotations"][0]["bbox"][2] = 0
    coco["images"][1]["file_name"] = "none.png"
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps(coco))
    words = [broken if word == data[1] else word for word in data]
    output = run(*train(words, tmp_path / "a"), code=2)
    assert "none.png" in output and "--drop-bad-records" in output and "Traceback" not in output
    assert "none.png" in (tmp_path / "a" / "annotation_problems_train.json").read_text()
    output = run(*train(words, tmp_path / "b", "--drop-bad-records"), "SOLVER.MAX_ITER", "1")
    assert (tmp_path / "b" / "result.json").is_file() and "11 images" in output


def test_a_loss_that_is_not_finite_names_the_images(run, data, tmp_path):
    output = run(
        *train(data, tmp_path / "nan"),
        "SOLVER.OPTIMIZER",
        "SGD",
        "SOLVER.BASE_LR",
        "1e30",
        "SOLVER.CLIP_GRADIENTS.ENABLED",
        "False",
        "SOLVER.WARMUP_ITERS",
        "0",
        code=2,
    )
    assert "not finite" in output and ".png" in output and "Traceback" not in output


def test_the_demo_and_its_predictions(run, tmp_path):
    folder = tmp_path / "demo"
    output = run(
        "tools/demo.py",
        "--train-images",
        8,
        "--val-images",
        4,
        "OUTPUT_DIR",
        folder,
        *TINY[:-2],
        "SOLVER.MAX_ITER",
        "2",
    )
    assert "summary.html" in output and "AP50" in output
    shutil.copytree(folder / "shapes" / "val", tmp_path / "pictures")
    (tmp_path / "pictures" / "broken.png").write_bytes(b"not a picture")
    output = run(
        "tools/predict.py",
        "--weights",
        folder / "model_final.pth",
        "--output",
        tmp_path / "out",
        "--threshold",
        "0.0",
        tmp_path / "pictures",
        code=1,
    )
    assert "broken.png" in output
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())) == 4
