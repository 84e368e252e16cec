"""What a file of Pascal VOC says, and what is said of one that is damaged."""

import re

import pytest

from detection.annotations.check import check_annotations
from detection.annotations.mend import mend
from detection.formats.read import read_annotations
from engine.errors import UserError
from tests.detection.formats.conftest import SIZE, picture, write, xml


def of_one(forms, *objects, **more):
    """The set whose one image has these objects."""
    write(forms.voc / "Annotations" / "d.xml", xml(*objects, **more))
    return read_annotations(forms.voc, split="val")


def report_of(found, **more):
    return check_annotations(found.coco, found.images, origin=found.origin, for_evaluation=True, **more)


def test_pixels_are_counted_from_1_and_belong_to_the_box(forms):
    """An object of BCCD as published: BloodImage_00002.xml says 385, 98, 523, 198, its COCO json 384, 97, 139, 101."""
    found = of_one(forms, ("RBC", 384, 97, 523, 198), size=(640, 480))
    (record,) = found.coco["annotations"]
    assert record["bbox"] == [384, 97, 139, 101] and record["area"] == 139 * 101
    whole = of_one(forms, ("cat", 0, 0, *SIZE))
    assert whole.coco["annotations"][0]["bbox"] == [0, 0, *SIZE] and report_of(whole).problems == []


def test_fractions_are_kept(forms):
    (record,) = of_one(forms, ("cat", 3.25, 4.5, 17.75, 29)).coco["annotations"]
    assert record["bbox"] == [3.25, 4.5, 14.5, 24.5]


def test_parts_of_an_object_are_none(forms):
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    found = of_one(forms, ("cat", 3, 4, 17, 29, part))
    assert [record["bbox"] for record in found.coco["annotations"]] == [[3, 4, 14, 25]]
    assert [one["name"] for one in found.coco["categories"]] == ["cat", "dog"]


@pytest.mark.parametrize(("text", "difficult"), [("1", 1), ("0", 0), ("true", 1), ("", 0), ("Unspecified", 0)])
def test_difficult_objects_are_crowds_that_keep_their_flag(forms, text, difficult):
    (record,) = of_one(forms, ("cat", 3, 4, 17, 29, f"<difficult>{text}</difficult>")).coco["annotations"]
    assert (record["iscrowd"], record.get("difficult", 0)) == (difficult, difficult)


@pytest.mark.parametrize("size", [None, (0, 0), (40, 0)])
def test_a_size_that_is_not_stated_is_the_files(forms, size):
    found = of_one(forms, ("cat", 3, 4, 17, 29), size=size)
    assert [(one["width"], one["height"]) for one in found.coco["images"]] == [SIZE]
    assert report_of(found).ok


def test_another_size_than_the_files_is_found(forms):
    report = report_of(of_one(forms, ("cat", 3, 4, 17, 29), size=(80, 60)))
    assert report.counts == {"image_size": 1}
    assert "Annotations/d.xml, d.jpg: the annotations say 80 x 60, the file is 40 x 30" in report.format()


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (
            "<annotation><object>",
            "label_file",
            r"xml, d\.jpg: it is not valid XML: no element found, line 1, column 20",
        ),
        ("", "label_file", "it is not valid XML"),
        ("<html></html>", "label_file", "it holds <html>, not <annotation>"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>', "label_file", "it defines entities"),
        (xml(("cat", 1, 1, 9, 9), ("", 1, 1, 9, 9)), "label_record", "xml, object 2, d.jpg: it has no <name>"),
        (xml(("cat", 1, 1, "nan", 9)), "label_record", "xml, object 1, d.jpg: its <xmax> is 'nan', not a number"),
        (xml(("cat", 1, 1, "9px", 9)), "label_record", "its <xmax> is '9px'"),
        (xml(more="<object><name>cat</name></object>"), "label_record", "object 1, d.jpg: it has no <bndbox>"),
        (xml(more="<object><name>a</name><bndbox/></object>"), "label_record", "its <bndbox> has no <xmin>"),
        (xml(("cat", 1, 1, 9, 9, "<difficult>7</difficult>")), "label_record", "its <difficult> is '7', neither"),
        (xml(("cat", 9, 1, 9, 9)), "box_without_area", "xml, object 1, d.jpg: bbox"),
        (xml(("cat", 0, 0, 9, 9), ("cat", 50, 1, 60, 9)), "box_outside_image", "xml, object 2, d.jpg: bbox"),
        (xml(("cat", 0, 0, 46, 9)), "box_over_the_edge", "xml, object 1, d.jpg: bbox .* reaches 6 px outside"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_object(forms, content, kind, message):
    write(forms.voc / "Annotations" / "d.xml", content)
    report = report_of(read_annotations(forms.voc, split="val"))
    assert report.counts == {kind: 1}, report.format()
    assert re.search(message, report.format()), report.format()


def test_a_missing_picture_and_a_missing_file_are_one_problem_each(forms):
    (forms.voc / "JPEGImages" / "a.jpg").unlink()
    (forms.voc / "Annotations" / "b.xml").unlink()
    write(forms.voc / "Annotations" / "c.xml", xml(("cat", 1, 1, 9, 9), size=None))
    (forms.voc / "JPEGImages" / "c.jpg").unlink()
    report = report_of(read_annotations(forms.voc, split="train"))
    assert report.counts == {"missing_image": 2, "label_file": 1}, report.format()


def test_a_picture_goes_by_its_files_name_or_else_by_the_stated_one(forms):
    write(forms.voc / "Annotations" / "x.1.xml", xml(filename="C:\\pictures\\other.png"))
    write(forms.voc / "Annotations" / "y.xml", xml(filename="wrong.jpg"))
    picture(forms.voc / "JPEGImages" / "other.png")
    picture(forms.voc / "JPEGImages" / "y.png")
    for suffix in ("jpg", "png"):  # two pictures of one name: the stated one is meant
        picture(forms.voc / "JPEGImages" / f"z.{suffix}")
    write(forms.voc / "Annotations" / "z.xml", xml(filename="z.png"))
    found = read_annotations(forms.voc)
    assert [one["file_name"] for one in found.coco["images"]][4:] == ["other.png", "y.png", "z.png"]
    write(forms.voc / "Annotations" / "z.xml", xml(filename="z.jpg"))
    assert read_annotations(forms.voc).coco["images"][-1]["file_name"] == "z.jpg"


def test_pictures_that_no_file_is_of_are_named_unless_a_list_says_which_are_meant(forms):
    for name in ("e.jpg", "f.png"):
        picture(forms.voc / "JPEGImages" / name)
    assert report_of(read_annotations(forms.voc, split="train")).problems == []
    found = read_annotations(forms.voc)
    report = report_of(found)
    assert report.ok and report.counts == {"unlisted_picture": 2} and report.images == 4
    assert [str(one) for one in report.problems] == [
        "JPEGImages/e.jpg: there is no Annotations/e.xml",
        "JPEGImages/f.png: there is no Annotations/f.xml",
    ]
    mended = mend(found.coco, report, lambda coco: check_annotations(coco, found.images))
    assert mended.coco == found.coco and not mended.changes


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1", "windows-1251", "gbk", "Shift_JIS"])
def test_a_file_is_read_in_the_encoding_that_it_states(forms, encoding):
    name = {"latin-1": "Käse", "windows-1251": "кот"}.get(encoding, "猫")
    text = f'<?xml version="1.0" encoding="{encoding.removesuffix("-sig")}"?>\n{xml((name, 1, 1, 9, 9))}'
    (forms.voc / "Annotations" / "d.xml").write_bytes(text.encode(encoding))
    found = read_annotations(forms.voc, split="val")
    assert report_of(found).problems == [] and name in [one["name"] for one in found.coco["categories"]]


@pytest.mark.parametrize("stated", ["gbk", "utf-7", "utf-16", "no-such", "zip", "undefined"])
def test_bytes_of_another_encoding_than_the_stated_one_are_said_and_hide_no_entity(forms, stated):
    for text in (xml(("猫é", 1, 1, 9, 9)), '<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;é</annotation>'):
        content = f'<?xml version="1.0" encoding="{stated}"?>{text}'.encode()
        (forms.voc / "Annotations" / "d.xml").write_bytes(content)
        assert report_of(read_annotations(forms.voc, split="val")).counts == {"label_file": 1}


@pytest.mark.parametrize("text", ["d\nb\n", "d.jpg\n\nb.jpg", " d  1\nb -1\n", "\ufeffd\r\nb\r\n"])
def test_a_list_names_images(forms, text):
    chosen = forms.voc / "ImageSets" / "Main" / "cat_val.txt"
    chosen.write_bytes(text.encode())
    found = read_annotations(chosen)
    assert [one["file_name"] for one in found.coco["images"]] == ["d.jpg", "b.jpg"]
    assert report_of(found).ok


def test_classes_are_those_of_all_splits_or_of_a_list(forms):
    write(forms.voc / "Annotations" / "a.xml", xml(("zebra ", 0, 0, 9, 9), ("ant", 0, 0, 9, 9)))
    val = read_annotations(forms.voc, split="val")
    assert [(one["id"], one["name"]) for one in val.coco["categories"]] == [
        (1, "ant"), (2, "cat"), (3, "dog"), (4, "zebra"),
    ]  # fmt: skip
    write(forms.voc / "classes.txt", "zebra\ncat\ndog\n")
    train = read_annotations(forms.voc, split="train")
    assert [one["name"] for one in train.coco["categories"]] == ["zebra", "cat", "dog"]
    report = report_of(train)
    assert report.counts == {"unknown_category": 1}
    assert "Annotations/a.xml, object 2, a.jpg: its class 'ant' is not among" in report.format()


def test_a_list_that_is_not_there_names_those_that_are(forms):
    (forms.voc / "ImageSets" / "Main" / "val.txt").unlink()
    with pytest.raises(UserError, match=r"has no val\.txt; name one that is there \(train\.txt\)"):
        read_annotations(forms.voc, split="val")


def test_files_beside_their_pictures_are_a_set(forms, tmp_path):
    for name in "ab":
        picture(tmp_path / "flat" / f"{name}.jpg")
        write(tmp_path / "flat" / f"{name}.xml", xml(("cat", 1, 1, 9, 9)))
    found = read_annotations(tmp_path / "flat", split="train")
    assert len(found.coco["images"]) == len(found.coco["annotations"]) == 2 and report_of(found).problems == []
