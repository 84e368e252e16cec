"""A small set in which nothing is wrong, and how it is broken, each way by itself."""

import copy
import math

from PIL import Image

from tests.detection.changes import set_at

SQUARE = [[2.0, 2.0, 12.0, 2.0, 12.0, 12.0, 2.0, 12.0]]


def good():
    """Six images, two categories with gapped ids, four annotations; nothing wrong."""
    names = ("a.jpg", "b.png", "c.bmp", "d.webp", "e.tif", "f.gif")

    def annotation(identity, image_id, category_id, **more):
        box = [2.0, 2.0, 10.0, 10.0]
        record = {
            "id": identity,
            "image_id": image_id,
            "category_id": category_id,
            "bbox": box,
            "area": 100.0,
        }
        return {**record, "iscrowd": 0, "segmentation": copy.deepcopy(SQUARE), **more}

    return {
        "images": [
            {"id": 10 + index, "file_name": name, "width": 40, "height": 30} for index, name in enumerate(names)
        ],
        "annotations": [
            annotation(1, 10, 3),
            annotation(2, 10, 8),
            annotation(3, 11, 8),
            annotation(4, 12, 3, iscrowd=1, segmentation={"size": [30, 40], "counts": [100, 50, 1050]}),
        ],
        "categories": [{"id": 8, "name": "dog"}, {"id": 3, "name": "cat"}],
    }


def set_value(*path, value):
    return lambda coco, root: set_at(coco, path, value)


def box(*numbers):
    return set_value("annotations", 2, "bbox", value=list(numbers))


def shape(value):
    return set_value("annotations", 2, "segmentation", value=value)


def append(section, **changes):
    def change(coco, root):
        coco[section].append({**coco[section][1], **changes})

    return change


def cut_off(name, keep=0.6):
    def change(coco, root):
        content = (root / name).read_bytes()
        (root / name).write_bytes(content[: int(len(content) * keep)])

    return change


def overwrite(name, content):
    return lambda coco, root: (root / name).write_bytes(content)


def turned(name, orientation):
    """Saves a picture with an EXIF orientation."""

    def change(coco, root):
        exif = Image.Exif()
        exif[274] = orientation
        with Image.open(root / name) as image:
            image.load()
        image.save(root / name, exif=exif)

    return change


BROKEN = {
    # what is broken: (change, kind, what its line says, id of the image, id of the annotation)
    "image without id": (
        set_value("images", 3, "id", value=KeyError),
        "image_record",
        "`id` is missing",
        None,
        None,
    ),
    "image without size": (
        set_value("images", 3, "width", value=KeyError),
        "image_record",
        "`width` is",
        13,
        None,
    ),
    "image of no size": (
        set_value("images", 3, "height", value=0),
        "image_record",
        "`height` is 0",
        13,
        None,
    ),
    "size as text": (
        set_value("images", 3, "height", value="30"),
        "image_record",
        "`height` is '30'",
        13,
        None,
    ),
    "image no object": (set_value("images", 3, value=7), "image_record", "7 is not an object", None, None),
    "file as number": (
        set_value("images", 3, "file_name", value=7),
        "image_record",
        "`file_name` is 7",
        13,
        None,
    ),
    "image id as text": (
        set_value("images", 3, "id", value="13"),
        "image_record",
        "`id` is '13': some ids are numbers",
        "13",
        None,
    ),
    "image without file": (
        set_value("images", 3, "file_name", value=""),
        "image_record",
        "`file_name` is ''",
        13,
        None,
    ),
    "same image id": (
        append("images", file_name="d.webp", id=10),
        "duplicate_image_id",
        "id 10 is taken by a.jpg",
        10,
        None,
    ),
    "same file": (append("images", id=99), "duplicate_file_name", "is image 11 as well", 99, None),
    "missing file": (
        lambda coco, root: (root / "d.webp").unlink(),
        "missing_image",
        "there is no file",
        13,
        None,
    ),
    "empty file": (overwrite("d.webp", b""), "unreadable_image", "the file is empty", 13, None),
    "no picture": (
        overwrite("d.webp", b"<html>404</html>"),
        "unreadable_image",
        "not an image in a format",
        13,
        None,
    ),
    "cut-off webp": (cut_off("d.webp"), "unreadable_image", "", 13, None),
    "cut-off tiff": (cut_off("e.tif"), "unreadable_image", "", 14, None),
    "cut-off gif": (cut_off("f.gif"), "unreadable_image", "", 15, None),
    "other width": (
        set_value("images", 3, "width", value=41),
        "image_size",
        "41 x 30, the file is 40 x 30",
        13,
        None,
    ),
    "other height": (
        set_value("images", 4, "height", value=29),
        "image_size",
        "40 x 29, the file is 40 x 30",
        14,
        None,
    ),
    "turned picture": (
        turned("d.webp", 6),
        "image_size",
        "30 x 40 after the quarter turn .*remove that tag",
        13,
        None,
    ),
    "category without name": (
        lambda coco, root: coco["categories"].append({"id": 9}),
        "category_record",
        "`name` is missing",
        None,
        None,
    ),
    "category id as list": (
        lambda coco, root: coco["categories"].append({"id": [9], "name": "cup"}),
        "category_record",
        r"`id` is \[9\]",
        None,
        None,
    ),
    "category id as text": (
        lambda coco, root: coco["categories"].append({"id": "9", "name": "cup"}),
        "category_record",
        "`id` is '9': some ids are numbers",
        None,
        None,
    ),
    "same category id": (
        append("categories", name="cup"),
        "duplicate_category_id",
        "id 3 .*'cup'.* is taken",
        None,
        None,
    ),
    "same category name": (
        append("categories", id=9),
        "duplicate_category_name",
        "'cat' .*earlier one's",
        None,
        None,
    ),
    "annotation without box": (
        set_value("annotations", 2, "bbox", value=KeyError),
        "annotation_record",
        "`bbox` is missing",
        11,
        3,
    ),
    "annotation without id": (
        set_value("annotations", 2, "id", value=KeyError),
        "annotation_record",
        "`id` is missing",
        11,
        None,
    ),
    "annotation no object": (
        set_value("annotations", 2, value=None),
        "annotation_record",
        "not an object",
        None,
        None,
    ),
    "category as text list": (
        set_value("annotations", 2, "category_id", value=["cat"]),
        "annotation_record",
        "`category_id` is",
        11,
        3,
    ),
    "same annotation id": (append("annotations"), "duplicate_annotation_id", "id 2 is taken", 10, 2),
    "unknown image": (
        set_value("annotations", 2, "image_id", value=77),
        "unknown_image",
        "has the id 77",
        77,
        3,
    ),
    "unknown category": (
        set_value("annotations", 2, "category_id", value=4),
        "unknown_category",
        "has the id 4",
        11,
        3,
    ),
    "box of three": (box(1, 2, 3), "box_format", r"\[1, 2, 3\] is not four numbers", 11, 3),
    "box with text": (box(1, 2, "3", 4), "box_format", "is not four numbers", 11, 3),
    "box as text": (
        set_value("annotations", 2, "bbox", value="1 23"),
        "box_format",
        "is not four numbers",
        11,
        3,
    ),
    "box with nothing": (box(1, 2, None, 4), "box_format", "is not four numbers", 11, 3),
    "box with NaN": (box(1, 2, math.nan, 4), "box_not_finite", "nan", 11, 3),
    "box with infinity": (box(1, math.inf, 3, 4), "box_not_finite", "inf", 11, 3),
    "box of no width": (box(5, 5, 0, 4), "box_without_area", r"\[5, 5, 0, 4\]", 11, 3),
    "box of no height": (box(5, 5, 4, 0.0), "box_without_area", "", 11, 3),
    "box of corners": (box(15, 15, -4, 5), "box_without_area", "is it x1, y1, x2, y2", 11, 3),
    "box over the left edge": (box(-1.5, 5, 10, 10), "box_over_the_edge", "1.5 px outside of 40 x 30", 11, 3),
    "box over the upper edge": (box(5, -3, 10, 10), "box_over_the_edge", "3 px outside", 11, 3),
    "box over the right edge": (box(35, 5, 7, 10), "box_over_the_edge", "2 px outside", 11, 3),
    "box over the lower edge": (box(5, 25, 7, 10), "box_over_the_edge", "5 px outside", 11, 3),
    "box left of its image": (box(-10, 5, 10, 10), "box_outside_image", "lies outside of 40 x 30", 11, 3),
    "box below its image": (box(5, 30, 4, 4), "box_outside_image", "lies outside", 11, 3),
    "box in fractions": (box(0.7, 0.3, 0.5, 0.9), "box_fraction", "fractions of 40 x 30", 11, 3),
    "crowd as word": (
        set_value("annotations", 2, "iscrowd", value="yes"),
        "crowd_flag",
        "`iscrowd` is 'yes', neither 0",
        11,
        3,
    ),
    "crowd as list": (set_value("annotations", 2, "iscrowd", value=[0]), "crowd_flag", r"is \[0\]", 11, 3),
    "ignored object": (set_value("annotations", 2, "ignore", value=1), "ignore_flag", "`ignore` is 1", 11, 3),
    "area as text": (set_value("annotations", 2, "area", value="100"), "area", "`area` is '100'", 11, 3),
    "area with NaN": (set_value("annotations", 2, "area", value=math.nan), "area", "`area` is nan", 11, 3),
    "area below nothing": (set_value("annotations", 2, "area", value=-1.0), "area", "`area` is -1.0", 11, 3),
    "area of 400 digits": (set_value("annotations", 2, "area", value=10**400), "area", "`area` is 1000", 11, 3),
    "box of 400 digits": (box(1, 2, 10**400, 4), "box_not_finite", "1000", 11, 3),
    "box of 30 digits": (box(1, 2, 10**30, 4), "box_too_large", "over 2147483648", 11, 3),
    "box far to the left": (box(-(2**63), 2, 3, 4), "box_too_large", "over 2147483648", 11, 3),
    "box of a large float": (box(1, 1e300, 3, 4), "box_too_large", "over 2147483648", 11, 3),
    "width of 30 digits": (set_value("images", 3, "width", value=10**30), "image_record", "`width` is", 13, None),
    "width of 400 digits": (set_value("images", 3, "width", value=10**400), "image_record", "`width` is", 13, None),
    "image id as half": (set_value("images", 3, "id", value=13.5), "image_record", "`id` is 13.5", "13.5", None),
    "file of no name": (
        set_value("images", 3, "file_name", value="\ud800.png"),
        "unreadable_image",
        "a name that no file can have",
        13,
        None,
    ),
    "file with a zero": (
        set_value("images", 3, "file_name", value="a\0.png"),
        "unreadable_image",
        "a name that no file can have",
        13,
        None,
    ),
    "file with backslashes": (
        set_value("images", 3, "file_name", value="train\\d.webp"),
        "missing_image",
        "write /",
        13,
        None,
    ),
    "category as number": (
        lambda coco, root: coco["categories"].append({"id": 9, "name": 9}),
        "category_record",
        "`name` is 9, not a text",
        None,
        None,
    ),
    "category of blanks": (
        lambda coco, root: coco["categories"].append({"id": 9, "name": " \n"}),
        "category_record",
        "without a letter",
        None,
        None,
    ),
    "category in two lines": (
        lambda coco, root: coco["categories"].append({"id": 9, "name": "two\nlines"}),
        "category_record",
        r"'two\\nlines', with a line break",
        None,
        None,
    ),
    "half of a category": (
        lambda coco, root: coco["categories"].append({"id": 9, "name": "x\ud800"}),
        "category_record",
        r"'x\\ud800', with",
        None,
        None,
    ),
    "category name once more but for a line break": (
        append("categories", id=9, name="cat\r\n"),
        "duplicate_category_name",
        "'cat' .*earlier one's",
        None,
        None,
    ),
    "image as text": (
        set_value("annotations", 2, "image_id", value="11"),
        "unknown_image",
        "'11': it is a text here, and the number 11 there",
        "11",
        3,
    ),
    "category as text": (
        set_value("annotations", 2, "category_id", value="8"),
        "unknown_category",
        "'8': it is a text here, and the number 8 there",
        11,
        3,
    ),
    "no mask": (
        set_value("annotations", 2, "segmentation", value=KeyError),
        "missing_mask",
        "missing or empty",
        11,
        3,
    ),
    "empty mask": (shape([]), "missing_mask", "missing or empty", 11, 3),
    "polygon of four": (shape([[1, 1, 5, 5]]), "bad_mask", "a polygon of 4 numbers", 11, 3),
    "odd polygon": (shape([[1, 1, 5, 5, 9, 1, 7]]), "bad_mask", "a polygon of 7 numbers", 11, 3),
    "flat polygon": (shape([1, 1, 5, 5, 9, 1]), "bad_mask", "is not a list of polygons", 11, 3),
    "polygon with NaN": (shape([[1, 1, 5, math.nan, 9, 1]]), "bad_mask", "not a finite number", 11, 3),
    "polygon with text": (shape([[1, 1, 5, "5", 9, 1]]), "bad_mask", "not a finite number", 11, 3),
    "one bad polygon": (shape([*SQUARE, [1, 1, 5, 5]]), "bad_polygon", "a polygon of 4 numbers", 11, 3),
    "runs without counts": (shape({"size": [30, 40]}), "bad_mask", "without `counts`", 11, 3),
    "runs of another size": (
        shape({"size": [40, 30], "counts": "abc"}),
        "bad_mask",
        r"size \[40, 30\], image",
        11,
        3,
    ),
    "runs too short": (
        shape({"size": [30, 40], "counts": [5, 5]}),
        "bad_mask",
        "of 10 pixels, image 1200",
        11,
        3,
    ),
    "runs of text": (shape({"size": [30, 40], "counts": ["a"]}), "bad_mask", "not whole numbers of pixels", 11, 3),
    "runs below nothing": (shape({"size": [30, 40], "counts": [-5, 1205]}), "bad_mask", "not whole numbers", 11, 3),
    "runs cut off": (shape({"size": [30, 40], "counts": "`U"}), "bad_mask", "damaged run lengths", 11, 3),
    "runs of no size": (shape({"size": "30x40", "counts": [1200]}), "bad_mask", "which is not .height, width", 11, 3),
    "seven numbers beside": (shape([[1, 2, 3, 4, 5, 6, 7], *SQUARE]), "bad_polygon", "of 7 numbers", 11, 3),
    "nothing beside": (shape([*SQUARE, []]), "bad_polygon", "of 0 numbers", 11, 3),
    "polygon of 400 digits": (shape([[1, 1, 5, 10**400, 9, 1]]), "bad_mask", "not a finite number", 11, 3),
    "polygon far away": (shape([[1, 1, 5, 1e9, 9, 1]]), "bad_mask", "1e.06 pixels outside", 11, 3),
}
