"""The check by itself: what is wrong, the exit code, and a set that is sound afterwards."""

import json
import re

import pytest

from engine.errors import main_guard
from tests.detection.formats.conftest import forms, write, xml  # noqa: F401  (a fixture)


@pytest.fixture
def tool(load_tool, capsys):
    """(*words) → exit code, output and errors of the tool."""
    module = load_tool("check_annotations")

    def run(*words):
        code = main_guard(lambda: module.main([str(one) for one in words]))
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def damage(forms, form):  # noqa: F811
    """Breaks the training images' annotations in three ways: a box over the edge, one without area, a missing image."""
    if form == "voc":
        write(forms.voc / "Annotations" / "a.xml", xml(("dog", -5, 0, 9, 9), ("cat", 4, 4, 4, 9), ("cat", 1, 1, 9, 9)))
        (forms.voc / "JPEGImages" / "c.jpg").unlink()
    elif form == "yolo":
        write(forms.yolo / "labels" / "train" / "a.txt", "1 0.05 0.2 0.35 0.3\n0 0.5 0.5 0 0.1\n0 0.5 0.5 0.2 0.2\n")
        (forms.yolo / "images" / "train" / "c.jpg").write_bytes(b"")
    else:
        coco = json.loads(forms.json_of("train").read_text())
        coco["annotations"][0]["bbox"] = [-5, 0, 14, 9]
        coco["annotations"][1]["bbox"] = [4, 4, 0, 5]
        coco["annotations"].append({**coco["annotations"][1], "id": 9, "bbox": [1, 1, 8, 8]})
        write(forms.json_of("train"), json.dumps(coco))
        (forms.coco / "c.jpg").unlink()


PLACES = {
    "voc": (r"Annotations/a\.xml, object 1, a\.jpg", r"Annotations/a\.xml, object 2, a\.jpg", "Annotations/c.xml"),
    "yolo": (r"labels/train/a\.txt, line 1", r"labels/train/a\.txt, line 2", "labels/train/c.txt"),
    "coco": (r"annotations\[0\], id 1, image 1, a\.jpg", r"annotations\[1\], id 2", r"images\[2\]"),
}


def data_of(forms, form):  # noqa: F811
    return [forms.json_of("train")] if form == "coco" else [getattr(forms, form), "--split", "train"]


@pytest.mark.parametrize("form", ["voc", "yolo", "coco"])
def test_a_set_of_each_form_is_checked_and_mended(tool, forms, tmp_path, form):  # noqa: F811
    data = data_of(forms, form)
    assert tool(*data) == (0, f"{data[0]}: 0 errors and 0 warnings in 3 images, 3 annotations, 2 categories\n", "")
    damage(forms, form)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    report, out = tmp_path / "report.json", tmp_path / "new" / "fixed.json"
    code, said, _ = tool(*data, "--report", report, "--fix", out)
    assert code == 1
    for place, about in zip(PLACES[form], ("reaches 5 px outside", r"\(x, y, width, height\)", ""), strict=True):
        assert re.search(f"{place}.*: .*{about}", said), said
    assert "boxes that reach out of their image" in said and "boxes without area: 1" in said
    assert {path: path.read_bytes() for path in before} == before
    assert sum(json.loads(report.read_text())["counts"].values()) == 3
    assert re.search(f"mended: {PLACES[form][0]}.*: bbox .* clipped to", said), said
    assert re.search(f"dropped: {PLACES[form][1]}", said), said
    assert re.search(rf"written: {out} with 2 images, 2 annotations, 2 categories; its images are in (.*)\n", said)
    folder = said.strip().rpartition("its images are in ")[2]
    assert tool(out, "--images", folder)[0] == 0
    boxes = [one["bbox"] for one in json.loads(out.read_text())["annotations"]]
    assert boxes[0][:2] == pytest.approx([0, {"voc": 0, "yolo": 1.5, "coco": 0}[form]])


def test_nothing_is_ever_overwritten(tool, forms):  # noqa: F811
    path = forms.json_of("val")
    content = path.read_bytes()
    for words in ([path, "--fix", path], [path, "--report", path], [forms.voc, "--fix", path]):
        code, _, said = tool(*words)
        assert code == 2 and "overwritten" in said
    assert path.read_bytes() == content


def test_what_cannot_be_checked_is_said(tool, tmp_path):
    for name, message in (("nowhere.json", "there is no file"), ("", "is no detection set")):
        code, _, said = tool(tmp_path / name, "--fix", tmp_path / "out.json")
        assert code == 2 and said.startswith("error: ") and message in said
    assert not (tmp_path / "out.json").exists()


def test_what_is_one_set_has_no_splits(tool, forms):  # noqa: F811
    for data in (forms.json_of("val"), forms.voc / "ImageSets" / "Main" / "val.txt"):
        code, _, said = tool(data, "--split", "train")
        assert code == 2 and "--split train" in said and "is one set" in said
    code, _, said = tool(forms.voc / "Annotations" / "d.xml")
    assert code == 2 and "is the annotation of one image; give a COCO json; a folder of Pascal VOC" in said


def test_masks_and_pixels_are_looked_at_on_request(tool, forms):  # noqa: F811
    code, said, _ = tool(forms.json_of("val"), "--masks", "--shown", "1")
    assert code == 1 and "annotations without a mask: 2" in said and "... and 1 more" in said
    picture = forms.coco / "d.jpg"
    content = bytearray(picture.read_bytes())
    table = content.index(b"\xff\xc4") + 5
    content[table : table + 16] = b"\xff" * 16
    picture.write_bytes(content)
    assert tool(forms.json_of("val"))[0] == 0
    code, said, _ = tool(forms.json_of("val"), "--deep")
    assert code == 1 and "unreadable or cut-off image files: 1" in said
