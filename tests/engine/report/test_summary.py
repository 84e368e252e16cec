"""The summary page: whole, self-contained, escaped, whatever is missing."""

import json
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from detection.task_info import DETECTION
from engine.errors import UserError
from engine.report.page import duration, number
from engine.report.summary import write_summary
from places365.task import PLACES365_TASK

SCENES = PLACES365_TASK.info
VOID = {"meta", "img", "br", "hr", "link", "input"}
TWELVE = "AP AP50 AP75 APs APm APl AR1 AR10 AR100 ARs ARm ARl".split()


class Page(HTMLParser):
    """Parses strictly: every tag is closed in order. Collects text, tags, and what would be loaded."""

    def __init__(self, path):
        super().__init__()
        self.open, self.tags, self.text, self.loads, self.styles = [], [], [], [], []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert not self.open, f"left open: {self.open}"
        self.words = " ".join(" ".join(self.text).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.loads += [value for name, value in attributes if name in ("src", "href", "data", "srcset", "action")]
        assert not any(name.startswith("on") for name, _ in attributes)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"unexpected </{tag}>"

    def handle_data(self, data):
        (self.styles if self.open and self.open[-1] == "style" else self.text).append(data)


def check(path):
    page = Page(path)
    assert all(source.startswith("data:image/") for source in page.loads)
    assert "script" not in page.tags and "link" not in page.tags
    assert "url(" not in "".join(page.styles) and "@import" not in "".join(page.styles)
    assert path.stat().st_size < 5_000_000
    return page


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "bccd_se"
    (folder / "predictions").mkdir(parents=True)
    (folder / "config.yaml").write_text(
        "SEED: 1\nMODEL:\n  META_ARCHITECTURE: GeneralizedRCNN\n  MASK_ON: false\n  BACKBONE:\n"
        "    ARCHITECTURE: se_resnet50\n  SE:\n    REDUCTION: [16]\n    GATE: sigmoid\n"
        "DATA:\n  VAL:\n    JSON: bccd/annotations/instances_val.json\n"
    )
    lines = [{"iteration": i, "total_loss": 3 - i / 50, "lr": 0.01, "time": 0.5} for i in range(1, 101)]
    lines.append({"iteration": 100, "bbox/AP": 57.3})
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    figures = dict(zip(TWELVE, [57.31, 91.2, 63.1, -1, 41.2, 60.3, 28.0, 49.0, 62.1, None, 50.1, 64.9], strict=True))
    (folder / "result.json").write_text(
        json.dumps(
            {
                "bbox": figures,
                "per_category": {"bbox": {"RBC": 58.0, "WBC": float("nan"), "Platelets": None}},
                "iteration": 100,
                "images": 73,
                "training_seconds": 754.0,
                "versions": {"torch": "2.14.1"},
                "hardware": "2 cores",
                "evaluator": "pycocotools 2.0.11",
            }
        )
    )
    (folder / "model_final.pth").touch()
    for index in range(3):
        Image.fromarray(np.full((40, 80, 3), 80 * index, np.uint8)).save(folder / "predictions" / f"{index}.jpg")
    return folder


def test_a_whole_run(run):
    path = write_summary(run, DETECTION)
    assert path == run / "summary.html"
    page = check(path)
    for words in (
        "Faster R-CNN with se_resnet50 on bccd/val",
        "57.3",
        "91.2",
        "13 min",
        "reduction 16",
        "RBC",
        "torch 2.14.1",
        "pycocotools 2.0.11",
        "tools/predict.py --weights",
        "--eval-only",
        "--resume",
        "ARCHITECTURE: se_resnet50",
    ):
        assert words in page.words, words
    assert all(name in page.words for name in TWELVE)
    assert "Not in this run" not in page.words
    assert page.tags.count("img") == 3 + 3  # three pictures; losses, evaluation, learning rate
    assert (run / "plots" / "losses.png").exists()


@pytest.mark.parametrize(
    "architecture, insert, words",
    [
        ("senet154", False, "reduction 16, gate sigmoid"),
        ("se_vgg16", False, "reduction 16, gate sigmoid"),
        ("resnet50", False, "none, the plain network"),
        ("shufflenet_v1_g3", False, "none, the plain network"),
        ("resnet50_msra", True, "reduction 16, gate sigmoid"),  # no row of its own has SE: it was inserted
        ("seresnext26_of_another_package", False, None),
    ],
)
def test_whether_a_network_is_plain_is_asked_of_the_table(run, architecture, insert, words):
    config = (run / "config.yaml").read_text()
    config = config.replace("se_resnet50", architecture).replace("REDUCTION", f"INSERT: {insert}\n    REDUCTION")
    (run / "config.yaml").write_text(config)
    page = check(write_summary(run, DETECTION))
    assert ("none, the plain network" in page.words) == (words == "none, the plain network")
    assert ("reduction 16, gate sigmoid" in page.words) == (words == "reduction 16, gate sigmoid")


def test_an_empty_folder_says_what_is_missing(tmp_path):
    page = check(write_summary(tmp_path, DETECTION))
    for name in ("config.yaml", "result.json", "metrics.jsonl", "predictions/", "model_final.pth"):
        assert name in page.words
    with pytest.raises(UserError, match="no run folder"):
        write_summary(tmp_path / "absent", DETECTION)


@pytest.mark.parametrize("name", ["config.yaml", "result.json", "metrics.jsonl", "model_final.pth"])
def test_any_file_may_be_missing_or_damaged(run, name):
    (run / name).unlink()
    page = check(write_summary(run, DETECTION))
    assert f"{name}:" in page.words
    if name != "model_final.pth":
        (run / name).write_bytes(b'{"bbox": {"AP": [\xff')
        check(write_summary(run, DETECTION))
        (run / name).write_text('{"bbox": 3, "per_category": [], "MODEL": 1, "iteration": "x", "versions": [1]}')
        check(write_summary(run, DETECTION))


def test_a_damaged_picture_is_named_and_the_others_shown(run):
    (run / "predictions" / "1.jpg").write_bytes(b"broken")
    page = check(write_summary(run, DETECTION))
    assert "predictions/1.jpg" in page.words and page.tags.count("img") == 2 + 3


def test_an_unfinished_run_names_its_newest_checkpoint(run):
    for name in ("model_final.pth", "result.json"):
        (run / name).unlink()
    (run / "checkpoint_0000050.pth").touch()
    (run / "checkpoint_0000100.pth").touch()
    page = check(write_summary(run, DETECTION))
    assert "checkpoint_0000100.pth PICTURES" in page.words and "AP at iteration 100" in page.words
    (run / "metrics.jsonl").write_text('{"iteration": 10, "total_loss": 1.5}')
    assert "1.500 last loss" in check(write_summary(run, DETECTION)).words


def test_everything_is_escaped(run):
    nasty = "</style><script>alert(1)</script>&\"'"
    result = json.loads((run / "result.json").read_text())
    result["per_category"]["bbox"] = {nasty: 10.0, "<b>": None}
    result |= {"hardware": nasty, "versions": {nasty: nasty}, "notes": [nasty]}
    result["bbox"][nasty] = 3.0
    (run / "result.json").write_text(json.dumps(result))
    (run / "config.yaml").write_text(f"MODEL:\n  BACKBONE:\n    ARCHITECTURE: {json.dumps(nasty)}\n")
    (run / "predictions" / "0.jpg").rename(run / "predictions" / "<img onerror=x>'\".jpg")
    page = check(write_summary(run, DETECTION))
    assert nasty in page.words
    assert "<script" not in page.source


def test_names_that_no_page_can_hold_are_escaped(run):
    result = json.loads((run / "result.json").read_text())
    result["per_category"]["bbox"] = {"half \ud800": 10.0, "caf\udce9": 20.0, "\x00\x1b[31m": None, "line\nbreak": 1.0}
    (run / "result.json").write_text(json.dumps(result))
    (run / "predictions" / "0.jpg").rename(run / "predictions" / "l\udce9.jpg")
    page = check(write_summary(run, DETECTION))
    assert not any(ord(sign) < 32 and sign != "\n" or 0xD800 <= ord(sign) < 0xE000 for sign in page.source)
    assert "caf\\xe9" in page.words and "l\\xe9.jpg" in page.words and "\\x00\\x1b[31m" in page.words


@pytest.fixture
def scene_run(tmp_path):
    """A scene classifier's folder, as places365 leaves it."""
    folder = tmp_path / "scenes"
    (folder / "predictions").mkdir(parents=True)
    (folder / "plots").mkdir()
    (folder / "config.yaml").write_text(
        "MODEL:\n  BACKBONE:\n    ARCHITECTURE: se_resnet18\nDATA:\n  ROOT: ../data/miniplaces20/\n  TRAIN: train\n"
        "  VAL: val\nINPUT:\n  TRAIN_SIZE: 112\n  TEST_RESIZE: 128\n  TEST_SIZE: 112\nTEST:\n  CROPS: 10\n"
        "SOLVER:\n  EPOCHS: 30.0\n  MAX_ITER: 0\n"
    )
    figures = {"top1": 54.71, "top5": 85.12, "top1_error": 45.29, "top5_error": 14.88}
    figures |= {"mean_class_top1": 53.21, "indoor_outdoor": 96.44, "ece": 7.03}
    source = "a paper, table 7"
    published = [
        {"model": "SE-ResNet-152", "top1_error": 40.37, "top5_error": 11.01, "crops": 1, "trained_on": "Challenge"},
        {"model": "ResNet-152", "top1_error": 45.26, "top5_error": 14.92, "crops": 10, "trained_on": "Standard"},
    ]
    result = {
        "task": "places365",
        "places365": figures,
        "per_category": {"places365": {f"scene {i}": float(i % 100) for i in range(364)} | {"scene 364": None}},
        "confused_pairs": [
            {"truth": "bedroom", "predicted": "hotel <room>", "count": 31, "share": 62.0},
            {"truth": "hotel <room>", "predicted": "bedroom", "count": 17, "share": 17.5},
        ],
        "published": [row | {"source": source} for row in published],
        "images": 36500,
        "broken": 3,
        "crops": 10,
        "iteration": 900,
    }
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "metrics.jsonl").write_text('{"iteration": 900, "total_loss": 1.5, "places365/top1": 54.71}\n')
    (folder / "model_final.pth").touch()
    for place in ("plots/confusion.png", "predictions/0.jpg"):
        Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(folder / place)
    return folder


def test_a_scene_classifier(scene_run):
    page = check(write_summary(scene_run, SCENES))
    for words in (
        "se_resnet18 on miniplaces20/val",
        "54.7 top-1 accuracy 85.1 top-5 accuracy",
        "top-1 error 100 less top-1 accuracy 45.29",
        "14.88",
        "53.21",
        "indoor or outdoor told right 96.44",
        "calibration error expected difference of confidence and accuracy, 15 bins 7.03",
        "All 365 categories",
        "scene 99",
        "no image of it in the data (1)",
        "bedroom hotel <room> 31 62.0",
        "This run 45.29 14.88 10",
        "SE-ResNet-152 40.37 11.01 1 Challenge",
        "ResNet-152 45.26 14.92 10 Standard",
        "From a paper, table 7.",
        "training 112 pixels; evaluation shorter side 128 pixels, the mean of 10 crops of 112",
        "Training data miniplaces20/train Evaluation data miniplaces20/val",
        "Images evaluated 36500 Images that could not be read 3",
        "Epochs planned 30.0",
        f"python tools/predict_scene.py --weights {scene_run}/model_final.pth PICTURES --output OUTPUT",
        f"python tools/train_places365.py --config {scene_run}/config.yaml --eval-only",
        f"python tools/train_places365.py --config {scene_run}/config.yaml --resume",
    ):
        assert words in page.words, words
    assert "Not in this run" not in page.words and "Iterations planned" not in page.words
    assert page.words.count("bedroom hotel <room> 31") == 1  # and not among the plots of "Curves" too:
    assert page.tags.count("img") == 4  # the confusion, a prediction, the evaluation, the losses


def test_images_that_could_not_be_read_in_training_are_pointed_at(scene_run):
    assert "broken_files.jsonl" not in check(write_summary(scene_run, SCENES)).words
    (scene_run / "broken_files.jsonl").write_text("{}")
    assert "Some images could not be read: see broken_files.jsonl" in check(write_summary(scene_run, SCENES)).words


def test_a_scene_classifier_without_published_figures_or_config(scene_run):
    result = json.loads((scene_run / "result.json").read_text())
    del result["published"], result["confused_pairs"]
    (scene_run / "result.json").write_text(json.dumps(result))
    (scene_run / "plots" / "confusion.png").unlink()
    (scene_run / "config.yaml").unlink()
    (scene_run / "metrics.jsonl").unlink()  # drawing its curves takes most of the time
    page = check(write_summary(scene_run, SCENES))
    assert "published" not in page.words and "Confusion" not in page.words and "Image size" not in page.words
    assert "tools/predict_scene.py" in page.words
    for value in (3, [], [3, None], {"a": 1}, [{}], [{"model": [1], "truth": {"<b>": 1}, "source": 5}]):
        (scene_run / "result.json").write_text(json.dumps(result | {"published": value, "confused_pairs": value}))
        check(write_summary(scene_run, SCENES))
    (scene_run / "plots" / "confusion.png").write_bytes(b"broken")
    assert "plots/confusion.png: cannot be read" in check(write_summary(scene_run, SCENES)).words


def test_the_worst_mistakes_are_shown_with_what_they_are(run):
    folder = run / "analysis"
    (folder / "mistakes").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (320, 320, 3), dtype=np.uint8)
    mistakes = [
        {"group": "WBC", "kind": "wrong class", "predicted": "WBC", "score": 0.934, "truth": "<b>RBC", "picture": "x"},
        {"group": "RBC", "kind": "missed", "predicted": None, "score": None, "truth": "RBC", "picture": "x"},
        {"group": "RBC", "kind": "nothing there", "predicted": "RBC", "score": 0.5, "truth": None, "picture": None},
    ]
    mistakes += [{**mistakes[1], "group": f"class {index}"} for index in range(58)]
    for index, mistake in enumerate(mistakes):
        if mistake["picture"]:
            mistake["picture"] = f"mistakes/{index:02d}.jpg"
            Image.fromarray(np.roll(noise, index)).save(folder / mistake["picture"], quality=95)
    (folder / "mistakes.json").write_text(json.dumps({"found": 1060, "mistakes": mistakes}))
    page = check(write_summary(run, DETECTION))
    assert "WBC WBC 0.93 · wrong class: <b>RBC" in page.words and "RBC missed: RBC" in page.words
    pictures = page.tags.count("img") - 6  # those that are there without mistakes
    assert 5 < pictures < 60 and f"{1060 - pictures} others are not shown: analysis/mistakes.json" in page.words
    (folder / "mistakes" / "00.jpg").write_bytes(b"broken")
    (run / "metrics.jsonl").unlink()  # drawing its curves takes most of the time
    page = check(write_summary(run, DETECTION))
    assert "mistakes/00.jpg: cannot be read" in page.words
    (folder / "mistakes.json").write_text('{"found": 0, "mistakes": []}')
    assert "Worst mistakes" not in check(write_summary(run, DETECTION)).words


def test_boxes_and_masks_each_have_their_table(run):
    result = json.loads((run / "result.json").read_text())
    result["segm"] = {**result["bbox"], "AP": 33.25}
    result["per_category"]["segm"] = {"RBC": 33.25}
    (run / "result.json").write_text(json.dumps(result))
    page = check(write_summary(run, DETECTION))
    assert "Box AP, percent" in page.words and "Mask AP, percent" in page.words and "33.25" in page.words


def test_many_large_pictures_stay_below_the_limit(run):
    noise = np.random.default_rng(0).integers(0, 256, (500, 1400, 3), dtype=np.uint8)
    for index in range(26):
        Image.fromarray(np.roll(noise, index)).save(run / "predictions" / f"big{index}.jpg", quality=95)
    page = check(write_summary(run, DETECTION))
    assert "of 29" in page.words and page.tags.count("img") > 5


def test_numbers_as_people_write_them():
    assert [number(v) for v in (57.31, 3, None, float("nan"), -1, -1.0, True, "x")] == ["57.3", "3"] + ["–"] * 6
    assert [duration(s) for s in (0.4, 89, 91, 754, 12_000)] == [
        "0 s",
        "89 s",
        "2 min",
        "13 min",
        "3 h 20 min",
    ]
