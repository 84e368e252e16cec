"""A run on class folders from beginning to end: trained, gone on with, evaluated, predicted with."""

import json
import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from classification.config import load_config
from classification.index.index import open_index
from classification.sets.find import find_split
from classification.shards.make import Options as ShardOptions
from classification.shards.make import make_shards
from classification.task import CLASS_FOLDERS
from classification.train import Options, load_index, run_classification
from engine.errors import UserError
from engine.train.checkpoint import load_checkpoint
from places365.task import PLACES365_TASK
from tests.classification.index.archives import make_zip
from tests.classification.sets.official_files import CIFAR10, small_forms, write_set

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "class_folders_se_resnet50.yaml"
CLASSES = ("aster", "tulip", "zinnia")
TINY = [
    "MODEL.DEVICE", "cpu", "MODEL.BACKBONE.ARCHITECTURE", "resnet18", "INPUT.TRAIN_SIZE", "32",
    "INPUT.TEST_RESIZE", "36", "INPUT.TEST_SIZE", "32", "SOLVER.IMS_PER_BATCH", "6", "SOLVER.BASE_LR", "0.01",
    "SOLVER.MAX_ITER", "4", "SOLVER.CHECKPOINT_EPOCHS", "0.5", "TEST.EVAL_EPOCHS", "0", "DATALOADER.NUM_WORKERS", "0",
    "LOG_PERIOD", "1",
]  # fmt: skip


pytestmark = pytest.mark.usefixtures("runs_in_this_process", "small_networks", "rough_figures")


@pytest.fixture(scope="module")
def words(tmp_path_factory, write_scenes):
    """The KEY VALUE pairs of a tiny training, OUTPUT_DIR excepted."""
    folder = tmp_path_factory.mktemp("data")
    data = write_scenes(folder / "flowers", {"train": 8, "val": 3}, CLASSES)
    return [*TINY, "DATA.ROOT", str(data), "DATA.CACHE", str(folder / "cache")]


@pytest.fixture(scope="module")
def whole(runs_in_this_process, words, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, run_classification(Options(overrides=[*words, "OUTPUT_DIR", str(folder)]))


def test_a_run_leaves_what_a_person_needs_under_its_own_names(whole):
    folder, result = whole
    for name in "config.yaml metrics.jsonl result.json model_final.pth summary.html class_predictions.json".split():
        assert (folder / name).is_file(), name
    assert (folder / "plots" / "confusion.png").is_file() and len(list((folder / "predictions").glob("*.jpg"))) == 8
    assert result == json.loads((folder / "result.json").read_text())
    figures = {"top1", "top5", "top1_error", "top5_error", "mean_class_top1", "ece"}
    assert result["task"] == "classification" and set(result["classification"]) == figures
    assert list(result["per_category"]["classification"]) == list(CLASSES) and result["images"] == 9
    checkpoint = load_checkpoint(folder / "model_final.pth")
    assert checkpoint["task"] == "classification" and checkpoint["classes"] == list(CLASSES)
    assert checkpoint["thresholds"]["at_accuracy"] == result["abstention"]
    mistakes = json.loads((folder / "analysis" / "mistakes.json").read_text())
    wrong = round(9 * result["classification"]["top1_error"] / 100)
    assert mistakes["found"] == mistakes["pictures"] == wrong == len(list((folder / "analysis").glob("mistakes/*.jpg")))


def test_a_run_says_how_it_ended_and_its_best_weights_are_taken_everywhere(whole):
    folder, result = whole
    accuracy, loss = result["classification"]["top1"], result["validation"]["total_loss"]
    assert result["ended"] == "all steps were made"
    assert result["best"] == {"figure": "classification/top1", "value": accuracy, "iteration": 4}
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["validation/total_loss"] == loss > 0
    page = (folder / "summary.html").read_text()
    assert f"top-1 accuracy {accuracy:.1f} after step 4: model_best.pth" in page and f"{loss:.4f}" in page
    best = str(folder / "model_best.pth")
    assert load_checkpoint(best)["thresholds"] == load_checkpoint(folder / "model_final.pth")["thresholds"]
    words = ["MODEL.WEIGHTS", best, "OUTPUT_DIR", str(folder)]
    again = run_classification(Options(config=str(folder / "config.yaml"), overrides=words, eval_only=True))
    assert again["weights"] == best and again["classification"] == result["classification"]
    assert again["validation"] == result["validation"] and "ended" not in again


def test_a_resumed_run_comes_out_as_the_whole_one(whole, words, tmp_path):
    folder = tmp_path / "killed"
    folder.mkdir()
    for name in ("config.yaml", "checkpoint_0000002.pth"):
        (folder / name).write_bytes((whole[0] / name).read_bytes())
    result = run_classification(Options(overrides=[*words, "OUTPUT_DIR", str(folder)], resume=True))
    assert result["classification"] == whole[1]["classification"]
    ours, theirs = (load_checkpoint(f / "model_final.pth")["model"] for f in (folder, whole[0]))
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []


def test_a_run_whose_time_is_over_goes_on_as_if_it_had_had_no_limit(whole, words, tmp_path):
    words = [*words, "OUTPUT_DIR", str(tmp_path)]
    result = run_classification(Options(overrides=[*words, "SOLVER.TIME_LIMIT", "1e-6"]))
    assert result["ended"] == "the time limit of 1e-06 minutes (SOLVER.TIME_LIMIT)" and result["iteration"] == 1
    assert "top1" in result["classification"] and load_checkpoint(tmp_path / "model_final.pth")["iteration"] == 1
    result = run_classification(Options(overrides=words, resume=True))
    assert result["ended"] == "all steps were made" and result["classification"] == whole[1]["classification"]
    ours, theirs = (load_checkpoint(f / "model_final.pth")["model"] for f in (tmp_path, whole[0]))
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (["LOGGERS", "wandb"], "the package wandb is not installed"),
        (["SOLVER.IMS_PER_BATCH", "auto"], "on a CPU: give a number, such as SOLVER.IMS_PER_BATCH 6,"),
    ],
)
def test_what_cannot_be_had_here_is_refused_before_the_run_begins(words, tmp_path, monkeypatch, setting, said):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=said):
        run_classification(Options(overrides=[*words, *setting, "OUTPUT_DIR", str(tmp_path / "run")]))
    assert not (tmp_path / "run").exists()


RECIPE = [
    "INPUT.TRAIN_CROP", "pad", "INPUT.CUTOUT", "8", "SOLVER.LR_SCHEDULER_NAME", "Plateau", "SOLVER.MAX_ITER", "12",
    "SOLVER.PLATEAU.PATIENCE", "1", "SOLVER.PLATEAU.DROPS", "1", "SOLVER.PLATEAU.THRESHOLD", "1000",
    "TEST.EVAL_EPOCHS", "0.25", "SOLVER.CHECKPOINT_EPOCHS", "0.25", "SOLVER.KEEP_CHECKPOINTS", "9",
]  # fmt: skip


def test_a_run_that_gets_no_better_ends_early_and_is_whole(words, tmp_path):
    """The first evaluation is the best there is, at the second the rate drops, and the third is the end."""
    folder = tmp_path / "run"
    result = run_classification(Options(overrides=[*words, *RECIPE, "OUTPUT_DIR", str(folder)]))
    assert result["iteration"] == 3 and result == json.loads((folder / "result.json").read_text())
    log = (folder / "log.txt").read_text()
    assert "step 2: classification/top1 gets no better; lr 0.001 from here" in log
    assert "step 3: the training ends here: classification/top1 gets no better (SOLVER.PLATEAU)" in log
    assert result["ended"] == "classification/top1 gets no better (SOLVER.PLATEAU)"
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [round(row["lr"], 6) for row in rows] == [0.01, 0.01, 0.001]
    assert [row["classification/top1"] for row in rows][-1] == result["classification"]["top1"]
    final = load_checkpoint(folder / "model_final.pth")
    assert final["iteration"] == 3 and (folder / "summary.html").is_file()
    cut = tmp_path / "cut"  # before the evaluation at which the rate drops
    cut.mkdir()
    for name in ("config.yaml", "checkpoint_0000002.pth"):
        (cut / name).write_bytes((folder / name).read_bytes())
    again = run_classification(Options(overrides=[*words, *RECIPE, "OUTPUT_DIR", str(cut)], resume=True))
    assert (again["iteration"], again["classification"]) == (3, result["classification"])
    ours = load_checkpoint(cut / "model_final.pth")["model"]
    assert [name for name in ours if not torch.equal(ours[name], final["model"][name])] == []


def test_statistics_are_kept_in_the_last_epochs(words, tmp_path):
    given = [*words, "SOLVER.FREEZE_NORM_EPOCHS", "0.5", "OUTPUT_DIR", str(tmp_path)]
    run_classification(Options(overrides=given))
    half, final = (load_checkpoint(tmp_path / f"{name}.pth")["model"] for name in ("checkpoint_0000002", "model_final"))
    kept = [name for name in half if torch.equal(half[name], final[name])]
    assert sorted(kept) == sorted(name for name in half if "running_" in name or "num_batches" in name)


def test_a_runs_own_config_evaluates_it(whole):
    result = run_classification(Options(config=str(whole[0] / "config.yaml"), eval_only=True))
    assert result["classification"] == whole[1]["classification"]
    assert result["weights"] == str(whole[0] / "model_final.pth")


def test_the_command_line_takes_the_folder_and_a_config(words, load_tool, tmp_path, monkeypatch, capsys):
    place = words.index("DATA.ROOT")
    data, others = words[place + 1], words[:place] + words[place + 2 :]
    argv = ["train_classifier.py", "--config", CONFIG, "--data", data, "OUTPUT_DIR", tmp_path / "run", *others]
    monkeypatch.setattr("sys.argv", [*map(str, argv), "MODEL.WEIGHTS", "", "SOLVER.MAX_ITER", "1"])
    assert load_tool("train_classifier").main() == 0
    assert json.loads((tmp_path / "run" / "result.json").read_text())["iteration"] == 1
    monkeypatch.setattr("sys.argv", [*map(str, argv)])
    with pytest.raises(UserError, match="already holds a run"):
        load_tool("train_classifier").main()


def test_what_is_odd_about_a_split_is_said_in_the_log(write_scenes, tmp_path, monkeypatch):
    """In training and in evaluation: huggingface/pytorch-image-models#957, pytorch/vision#4925."""
    data = write_scenes(tmp_path / "set", {"train": 3, "val": 2}, CLASSES)
    for path in [*(data / "train" / "tulip").iterdir(), *(data / "val" / "zinnia").iterdir()]:
        path.rename(path.with_suffix(".heic"))
    told = []
    monkeypatch.setattr("classification.train.logger.warning", lambda text, *values: told.append(text % values))
    cfg = load_config(None, ["DATA.ROOT", str(data), "DATA.CACHE", str(tmp_path / "cache")])
    for split in ("train", "val"):
        load_index(CLASS_FOLDERS, cfg, split)
    assert told == [
        "train: passed over, as they are not read as pictures here: 3 .heic",
        "train: classes without images (nothing of them can be learnt): tulip",
        "val: passed over, as they are not read as pictures here: 2 .heic",
        "val: classes without images (they have no share in the figures): zinnia",
    ]


def test_a_run_of_another_task_is_not_gone_on_with(whole, words):
    options = Options(overrides=[*words, "OUTPUT_DIR", str(whole[0])], resume=True)
    with pytest.raises(UserError, match="is one of classification, not places365"):
        run_classification(options, PLACES365_TASK)


def test_places365s_checkpoints_start_and_evaluate_one_of_class_folders(whole, words, tmp_path):
    """A classifier is a classifier, whatever its data were."""
    checkpoint = load_checkpoint(whole[0] / "model_final.pth")
    torch.save({**checkpoint, "task": "places365"}, tmp_path / "scenes.pth")
    given = [*words, "MODEL.WEIGHTS", str(tmp_path / "scenes.pth"), "OUTPUT_DIR", str(tmp_path / "run")]
    result = run_classification(Options(overrides=given, eval_only=True))
    assert result["classification"] == whole[1]["classification"]
    result = run_classification(Options(overrides=[*given, "MODEL.HEAD", "keep", "SOLVER.BASE_LR", "0.0"]))
    assert result["task"] == "classification"


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def others(words, write_scenes, tmp_path):
    """The pairs of a set with as many classes, of other names."""
    data = write_scenes(tmp_path / "others", {"train": 2, "val": 1}, ("aster", "rose", "tulip"))
    return ["DATA.ROOT", str(data)]


@pytest.mark.parametrize(
    "options, overrides, words_of",
    [
        ({"resume": True}, ["SOLVER.IMS_PER_BATCH", "3"], "4 steps of 6 images each, 24 images"),
        ({"resume": True}, ["MODEL.BACKBONE.ARCHITECTURE", "se_resnet18"], "does not fit the config"),
        ({"resume": True}, ["INPUT.FORMAT", "BGR"], "want images as RGB"),
        ({"resume": True}, ["SOLVER.MAX_ITER", "2"], "nothing is left to train"),
        ({"resume": True}, ["SOLVER.OPTIMIZER", "AdamW"], "SOLVER.OPTIMIZER"),
        ({"resume": True}, "others", "only in the first: zinnia"),
        (
            {"overwrite": True},
            ["SOLVER.IMS_PER_BATCH", "10", "SOLVER.ACCUMULATE", "4"],
            "cannot be cut into SOLVER.ACCUMULATE 4",
        ),
        ({"overwrite": True}, ["MODEL.WEIGHTS", "no_such.pth"], "no_such.pth"),
        ({"overwrite": True}, ["DATA.TRAIN", "no_such_split"], "no_such_split"),
        ({}, [], "already holds a run"),
        ({"eval_only": True}, ["INPUT.FORMAT", "BGR"], "want images as RGB"),
        ({"eval_only": True}, "others", "only in the first: zinnia"),
    ],
)
def test_a_start_that_is_refused_changes_nothing(whole, words, request, options, overrides, words_of):
    overrides = request.getfixturevalue(overrides) if isinstance(overrides, str) else overrides
    before = content(whole[0])
    with pytest.raises(UserError, match=words_of):
        run_classification(Options(overrides=[*words, "OUTPUT_DIR", str(whole[0]), *overrides], **options))
    assert content(whole[0]) == before


def test_a_run_with_all_its_steps_made_says_so_and_evaluates(whole, words, tmp_path, capsys):
    folder = tmp_path / "done"
    folder.mkdir()
    (folder / "checkpoint_0000004.pth").write_bytes((whole[0] / "checkpoint_0000004.pth").read_bytes())
    result = run_classification(Options(overrides=[*words, "OUTPUT_DIR", str(folder)], resume=True))
    assert "all 4 steps were made before: nothing is left to train" in capsys.readouterr().out
    assert "nothing is left to train" in (folder / "log.txt").read_text()
    assert result["classification"] == whole[1]["classification"]


def test_pictures_that_cannot_be_drawn_cost_no_weights(words, tmp_path, monkeypatch):
    def fails(*_):
        raise UserError("no font")

    monkeypatch.setattr("classification.train.write_pictures", fails)
    with pytest.raises(
        UserError, match=r"(?s)no font\nAll 1 steps were made.*train_classifier.py --config .*--eval-only"
    ):
        run_classification(Options(overrides=[*words, "OUTPUT_DIR", str(tmp_path), "SOLVER.MAX_ITER", "1"]))
    assert (tmp_path / "model_final.pth").exists() and (tmp_path / "result.json").exists()


@pytest.mark.parametrize("tool, file", [("predict_image", "class_predictions"), ("predict_scene", "scene_predictions")])
def test_both_prediction_tools_take_it(whole, load_tool, tmp_path, tool, file):
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    cv2.imwrite(str(picture := tmp_path / "a.png"), image)
    words = ["--weights", whole[0] / "model_final.pth", "--output", tmp_path / "out", "--device", "cpu", picture]
    assert load_tool(tool).main(list(map(str, words))) == 0
    (record,) = json.loads((tmp_path / "out" / f"{file}.json").read_text())
    assert [guess["class"] for guess in record["top"]] != [] and record.get("indoor") is None


def test_names_of_any_bytes_are_trained_on_evaluated_and_shown_as_escapes(words, write_scenes, tmp_path, capfd):
    """NVIDIA/DIGITS#1100: names in another encoding, in classes and files; one of them broken."""
    folders = (os.fsdecode(b"caf\xe9"), "bed\nroom", "a$b$^")
    data = write_scenes(tmp_path / "set", {"train": 4, "val": 2}, CLASSES)
    for split in ("train", "val"):
        for name, folder in zip(CLASSES, folders, strict=True):  # OpenCV, which wrote them, dies of such names
            os.rename(data / split / name, data / split / folder)
        os.rename(data / split / folders[1] / "000.jpg", data / split / folders[1] / os.fsdecode(b"\xff\n.jpg"))
        (data / split / folders[0] / os.fsdecode(b"\xfe.jpg")).write_bytes(b"broken")
    given = [*words, "DATA.ROOT", str(data), "OUTPUT_DIR", str(tmp_path / "run"), "DATA.MAX_BROKEN_SHARE", "0.5"]
    result = run_classification(Options(overrides=given))
    classes = ["a$b$^", r"bed\nroom", r"caf\xe9"]
    assert list(result["per_category"]["classification"]) == classes and result["broken"] == 1
    assert load_checkpoint(tmp_path / "run" / "model_final.pth")["classes"] == classes
    again = run_classification(Options(overrides=given, resume=True))
    assert again["classification"] == result["classification"]
    assert run_classification(Options(overrides=given, eval_only=True))["classification"] == result["classification"]
    page = (tmp_path / "run" / "summary.html").read_text(encoding="utf-8")
    assert r"caf\xe9" in page and r"bed\nroom" in page
    shown = json.loads((tmp_path / "run" / "class_predictions.json").read_text())
    assert all((data / "val" / record["file"]).exists() for record in shown) and len(shown) == 7
    assert "Logging error" not in "".join(capfd.readouterr())


def _archived(data, tmp_path):
    return make_zip(data, tmp_path / "flowers.archive", top="flowers/")


def _sharded(data, tmp_path):
    for split in ("train", "val"):
        index = open_index(find_split(str(data), split), tmp_path / "cache")
        make_shards(index, tmp_path / "shards" / split, ShardOptions(5000, 0))
    assert len(list((tmp_path / "shards" / "train").glob("*.mds"))) > 2
    return tmp_path / "shards"


@pytest.mark.parametrize("elsewhere", [_archived, _sharded])
def test_a_run_on_an_archive_or_shards_is_the_run_on_the_folder(whole, words, tmp_path, elsewhere):
    """Bit for bit, resumption within an epoch included, with other numbers of workers; and images have the same
    names."""
    data = elsewhere(Path(words[words.index("DATA.ROOT") + 1]), tmp_path)
    given = [*words, "DATA.ROOT", str(data)]
    folder = tmp_path / "run"
    result = run_classification(Options(overrides=[*given, "OUTPUT_DIR", str(folder)]))
    assert result["classification"] == whole[1]["classification"]
    for file in ("class_predictions.json", "plots/confusion.png"):
        assert (folder / file).read_bytes() == (whole[0] / file).read_bytes()
    pictures = [path.name for path in (folder / "predictions").iterdir()]
    assert sorted(pictures) == sorted(path.name for path in (whole[0] / "predictions").iterdir())
    for later in ("checkpoint_0000004.pth", "model_final.pth"):
        (folder / later).unlink()
    more = ["DATALOADER.NUM_WORKERS", "2"] if elsewhere is _sharded else []
    run_classification(Options(config=str(folder / "config.yaml"), overrides=more, resume=True))
    ours, theirs = (load_checkpoint(f / "model_final.pth")["model"] for f in (folder, whole[0]))
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []
    assert result["dataset"] == f"{data} val"


@pytest.mark.parametrize("form", ["binary", "python"])
def test_a_run_on_the_official_files_of_cifar(tmp_path, monkeypatch, form):
    small_forms(monkeypatch)
    random = np.random.default_rng(0)
    pixels = {split: random.integers(0, 256, (n, 32, 32, 3), np.uint8) for split, n in (("train", 20), ("test", 4))}
    labels = {split: random.integers(0, 10, len(images)) for split, images in pixels.items()}
    root = write_set("CIFAR-10", form, tmp_path, pixels, labels)
    words = ["DATA.ROOT", str(root), "DATA.CACHE", str(tmp_path / "cache"), "OUTPUT_DIR", str(tmp_path / "run")]
    result = run_classification(Options(overrides=[*TINY, *words, "SOLVER.MAX_ITER", "1"]))
    assert result["images"] == 4 and list(result["per_category"]["classification"]) == CIFAR10
    records = json.loads((tmp_path / "run" / "class_predictions.json").read_text())
    expected = "test_batch/00003" if form == "binary" else "test_batch/photo_s_000003.png"
    assert records[3]["file"] == expected
    assert len(list((tmp_path / "run" / "predictions").glob("*.*"))) == 4
    assert "Accuracy" in (tmp_path / "run" / "summary.html").read_text()
