"""The three forms of one set are one set, told apart by what is there."""

import contextlib
import io
import json
import shutil

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detection.coco_ap.average_precision import evaluate_coco
from detection.config import load_config
from detection.data import make_data, training_batches
from detection.formats.read import read_annotations
from detection.locate import locate, read_split
from detection.train import Options, load_data, run_detection
from engine.errors import UserError
from engine.train.checkpoint import save_checkpoint
from se_backbones import create_backbone
from tests.detection.formats.conftest import OBJECTS, line, picture, write, xml

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.pascal_voc import register_pascal_voc


def records(found):
    content = make_data("set", found.path, found.images, found.coco).records()
    for record in content:
        record["file_name"] = record["file_name"].rpartition("/")[2]
        for one in record["annotations"]:
            one["bbox"] = [round(number, 9) for number in one["bbox"]]
    return content


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_three_forms_give_the_same_records(forms, split):
    expected = records(read_annotations(forms.json_of(split), forms.coco))
    assert [len(record["annotations"]) for record in expected] == [
        len(OBJECTS[record["file_name"][0]]) for record in expected
    ]
    assert records(read_annotations(forms.voc, split=split)) == expected
    assert records(read_annotations(forms.yolo, split=split)) == expected


@pytest.mark.parametrize(
    ("path", "images"),
    [
        ("voc", 4), ("voc/ImageSets/Main/train.txt", 3), ("yolo", 4), ("yolo/data.yaml", 4), ("coco/train.json", 3),
        ("roboflow", 3),
    ],
)  # fmt: skip
def test_a_form_is_told_by_what_is_there(forms, tmp_path, path, images):
    shutil.copytree(forms.coco, tmp_path / "roboflow")
    (tmp_path / "roboflow" / "train.json").rename(tmp_path / "roboflow" / "_annotations.coco.json")
    found = read_annotations(tmp_path / path)
    assert len(found.coco["images"]) == images
    assert all((found.images / image["file_name"]).is_file() for image in found.coco["images"])


def test_what_is_no_set_or_more_than_one_is_refused(forms, tmp_path):
    def refused(path, images=None):
        with pytest.raises(UserError) as error:
            read_annotations(path, images)
        return str(error.value)

    assert "is no detection set; there is one in voc, yolo" in refused(tmp_path)
    assert "there is no file" in refused(tmp_path / "nowhere")
    assert "is a list without Annotations/" in refused(write(tmp_path / "lists" / "a.txt", "a\n"))
    assert "leave the image folder" in refused(forms.yolo, forms.voc)
    write(forms.voc / "data.yaml", "names: [cat]\n")
    assert "looks like Pascal VOC and like YOLO" in refused(forms.voc)
    assert len(read_annotations(forms.voc / "ImageSets" / "Main" / "val.txt").coco["images"]) == 1
    (forms.voc / "data.yaml").unlink()
    shutil.move(forms.voc / "JPEGImages", tmp_path / "elsewhere")
    assert "name the image folder" in refused(forms.voc)
    assert read_annotations(forms.voc, tmp_path / "elsewhere").images == tmp_path / "elsewhere"


def pycocotools_figures(coco, detections):
    truth = COCO()
    truth.dataset = coco
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats * 100


@pytest.mark.parametrize("form", ["voc", "yolo"])
def test_ap_is_pycocotools(forms, form):
    """Of 12 images of random objects, some of them difficult, and detections near them."""
    random = np.random.default_rng(0)
    root = getattr(forms, form)
    for number in range(12):
        corners = np.sort(random.integers(0, 29, (5, 2, 2)), axis=1)
        objects = [
            (("cat", "dog")[random.integers(2)], int(low[0]), int(low[1]), int(high[0]) + 3, int(high[1]) + 1)
            for low, high in corners
        ]
        if form == "voc":
            objects = [(*one, f"<difficult>{random.integers(2)}</difficult>") for one in objects]
            picture(root / "JPEGImages" / f"{number}.png")
            write(root / "Annotations" / f"{number}.xml", xml(*objects))
        else:
            picture(root / "images" / "val" / f"{number}.png")
            write(root / "labels" / "val" / f"{number}.txt", "\n".join(line(*one) for one in objects))
    coco = read_annotations(root).coco
    assert (sum(one["iscrowd"] for one in coco["annotations"]) > 10) == (form == "voc")
    detections = [
        {
            "image_id": one["image_id"],
            "category_id": one["category_id"],
            "bbox": [float(side) for side in np.add(one["bbox"], random.uniform(-1, 1, 4)).clip(0.5)],
            "score": float(random.random()),
        }
        for one in coco["annotations"]
        for _ in range(2)
    ]
    ours = evaluate_coco(coco, detections, ("bbox",))
    theirs = pycocotools_figures(coco, detections)
    assert 5 < theirs[0] < 95
    assert list(ours.stats["bbox"]) == pytest.approx(list(theirs / 100), abs=1e-12)


def words(train, val):
    return ["DATA.TRAIN.JSON", str(train), "DATA.VAL.JSON", str(val), "DATALOADER.NUM_WORKERS", "0"]


def config(train, val, *more):
    return load_config(None, [*words(train, val), "SOLVER.IMS_PER_BATCH", "1", "INPUT.MIN_SIZE_TRAIN", "30", *more])


@pytest.mark.parametrize("form", ["voc", "yolo"])
def test_a_config_names_the_folder_and_each_split_is_found(forms, tmp_path, form):
    folder = getattr(forms, form)
    cfg = config(folder, folder)
    train, val = (load_data(cfg, split, tmp_path, drop_bad=False) for split in ("TRAIN", "VAL"))
    assert (len(train.coco["images"]), len(val.coco["images"])) == (3, 1)
    assert train.class_names == val.class_names == ["cat", "dog"] and train.category_ids == val.category_ids
    ((image,),) = [next(training_batches(train, cfg, 0, 0, 1))]
    assert len(image["instances"]) > 0
    json.dumps(train.coco), json.dumps(train.fingerprint())


def test_folders_of_voc_whose_classes_differ_may_state_them(tmp_path, runs_in_this_process):
    """As an export has them, a folder a split: the names that happen to be in it are its classes."""
    folders = [tmp_path / "train", tmp_path / "valid"]
    for folder, *objects in ((folders[0], ("cat", 1, 1, 9, 9), ("dog", 1, 1, 9, 9)), (folders[1], ("dog", 1, 1, 9, 9))):
        picture(folder / "a.jpg")
        write(folder / "a.xml", xml(*objects))
    with pytest.raises(UserError, match=r"only in the first: cat\n.*those of a classes\.txt in it"):
        run_detection(Options(overrides=[*words(*folders), "OUTPUT_DIR", str(tmp_path / "run")]))
    network = {
        f"backbone.bottom_up.net.{name}": value for name, value in create_backbone("resnet18").state_dict().items()
    }
    content = {"task": "detection", "backbone": "resnet18", "classes": ["cat", "dog"], "model": network}
    weights = save_checkpoint(tmp_path / "w.pth", content)
    with pytest.raises(UserError, match=r"only in the first: cat\n(.|\n)*those of a classes\.txt in it"):
        named = ["OUTPUT_DIR", str(tmp_path / "run"), "MODEL.WEIGHTS", str(weights)]
        run_detection(Options(overrides=[*words(*folders), *named], eval_only=True))
    for folder in folders:
        write(folder / "classes.txt", "cat\ndog\n")
    train, val = (load_data(config(*folders), split, tmp_path, drop_bad=False) for split in ("TRAIN", "VAL"))
    assert train.class_names == val.class_names == ["cat", "dog"] and train.category_ids == val.category_ids


def test_difficult_objects_are_trained_on_and_not_missed(forms, tmp_path):
    write(
        forms.voc / "Annotations" / "d.xml", xml(("cat", 1, 1, 9, 9, "<difficult>1</difficult>"), ("dog", 3, 3, 8, 8))
    )
    data = load_data(config(forms.voc, forms.voc), "VAL", tmp_path, drop_bad=False)
    (record,) = data.records()
    assert [one["iscrowd"] for one in record["annotations"]] == [0, 0]
    dog = {"image_id": 1, "category_id": 2, "bbox": [3, 3, 5, 5], "score": 0.5}
    assert evaluate_coco(data.coco, [dog], ("bbox",)).figures["bbox"]["AP"] == pytest.approx(100)


def test_bad_records_are_refused_by_file_and_dropped_on_request(forms, tmp_path, caplog):
    write(forms.yolo / "labels" / "train" / "c.txt", "9 0.5 0.5 0.1 0.1\n0 0.5 0.5 0.1 0.1\n")
    cfg = config(forms.yolo, forms.yolo)
    with pytest.raises(UserError, match="data.yaml|yolo has errors"):
        load_data(cfg, "TRAIN", tmp_path, drop_bad=False)
    assert "labels/train/c.txt, line 1, images/train/c.jpg: its class 9 is none of" in caplog.text
    data = load_data(cfg, "TRAIN", tmp_path, drop_bad=True)
    assert data.left_out == "dropped 0 of 3 images, 1 of 4 annotations"


def test_detectron2s_own_names_of_voc_are_read(forms):
    register_pascal_voc("mine_train", str(forms.voc), "train", 2007, ["cat", "dog"])
    try:
        cfg = load_config(None, ["DATASETS.TRAIN", "('mine_train',)"])
        assert locate(cfg, "TRAIN") == ("mine_train", forms.voc / "ImageSets" / "Main" / "train.txt", None)
        assert len(read_split(cfg, "TRAIN")[1].coco["images"]) == 3
        (forms.voc / "ImageSets" / "Main" / "train.txt").unlink()
        with pytest.raises(UserError, match="mine_train is not here"):
            locate(cfg, "TRAIN")
    finally:
        DatasetCatalog.remove("mine_train")
        MetadataCatalog.remove("mine_train")


def test_a_json_needs_its_image_folder(forms):
    with pytest.raises(UserError, match=r"DATA\.TRAIN\.IMAGES, its image folder, is not set"):
        locate(config(forms.json_of("train"), forms.voc), "TRAIN")
    assert locate(config(forms.json_of("train"), forms.voc), "VAL") == ("voc", forms.voc, None)
