"""Every form in which Places365 lies on people's disks, made up in a temporary folder."""

import io
import os

import pytest
from PIL import Image

from classification.index import folders
from classification.index.class_folders import ClassFolders
from classification.index.index import open_index
from classification.index.split import SplitNotFound, UnsortedImages
from engine.errors import UserError
from places365.categories import PLACES365
from places365.layout import find_split
from places365.nested_folders import find_classes, nesting
from places365.official_list import OfficialList
from places365.task import PLACES365_TASK
from tests.classification.index.archives import make_tar, make_zip

find = PLACES365_TASK.find_split

TRAIN = {
    "a/airfield/00000001.jpg": 0,
    "a/apartment_building/outdoor/00000001.jpg": 8,
    "d/desert_road/00000007.jpg": 118,
    "d/desert/sand/00000002.jpg": 116,
    "z/zen_garden/00000001.jpg": 364,
}
VAL = {"Places365_val_00000001.jpg": 165, "Places365_val_00000002.jpg": 358, "Places365_val_00000003.jpg": 93}
TEST = ["Places365_test_00000001.jpg", "Places365_test_00000002.jpg"]


def jpeg():
    data = io.BytesIO()
    Image.new("RGB", (4, 3), (200, 100, 50)).save(data, "JPEG")
    return data.getvalue()


JPEG = jpeg()


def put(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(JPEG)


def write_list(folder, name, entries):
    folder.mkdir(parents=True, exist_ok=True)
    leading = "/" if "train" in name else ""
    lines = [f"{leading}{e} {entries[e]}" if isinstance(entries, dict) else f"{leading}{e}" for e in entries]
    (folder / name).write_text("".join(f"{line}\n" for line in lines))


def lists(folder, kinds=("train_standard", "val", "test")):
    contents = {"train_standard": TRAIN, "train_challenge": TRAIN, "val": VAL, "test": TEST}
    for kind in kinds:
        write_list(folder, f"places365_{kind}.txt", contents[kind])


def read(split, tmp_path):
    index = open_index(split, tmp_path / "cache")
    for i in range(len(index)):
        assert index.path(i).is_file()
        assert index.path(i) == split.image_root / index.name(i)
    return {index.name(i): index.label(i) for i in range(len(index))}


# (split, where the images lie, for images=…) under the names of the archives, of torchvision, and of one level more
SCHEMES = [
    ("train-standard", "data_256", "256"),
    ("train-standard", "data_large", "large"),
    ("train-standard", "data_256_standard", "256"),
    ("train-standard", "data_large_standard", "large"),
    ("train-standard", "train_256_places365standard/data_256", "256"),
    ("train-standard", "train_large_places365standard/data_large", "large"),
    ("train-standard", "train_256", "256"),
    ("train-standard", "train", "auto"),
    ("train-standard", ".", "auto"),
    ("train-challenge", "data_256", "256"),
    ("train-challenge", "data_large", "large"),
    ("train-challenge", "data_256_challenge", "256"),
    ("train-challenge", "data_large_challenge", "large"),
    ("train-challenge", "train_256_places365challenge/data_256", "256"),
    ("train-challenge", "train_large_places365challenge/data_large", "large"),
    ("val", "val_256", "256"),
    ("val", "val_large", "large"),
    ("val", "val_256/val_256", "256"),
    ("val", "val", "auto"),
    ("test", "test_256", "256"),
    ("test", "test_large", "large"),
]
WANTED = {"train-standard": TRAIN, "train-challenge": TRAIN, "val": VAL, "test": dict.fromkeys(TEST, -1)}


@pytest.mark.parametrize("list_folder", [".", "filelist_places365-standard", "meta"])
@pytest.mark.parametrize(("split", "folder", "images"), SCHEMES)
def test_official_layouts(tmp_path, split, folder, images, list_folder):
    root = tmp_path / "places365"
    lists(root / list_folder, [split.replace("-", "_")])
    put(root / folder, WANTED[split])
    for asked in {images, "auto"}:
        found = find_split(root, split, asked)
        assert found.image_root.resolve() == (root / folder).resolve()
        assert found.classes == list(PLACES365)
        assert isinstance(found, OfficialList) and found.labelled == (split != "test")
        assert found.name == split
        assert read(found, tmp_path) == WANTED[split]
    if images != "auto":
        with pytest.raises(SplitNotFound, match="the images of .* are not there"):
            find_split(root, split, {"256": "large", "large": "256"}[images])


def test_the_folder_above_is_good_enough(tmp_path):
    """One level up: datasets/places365/{lists, data_256} where datasets is named."""
    lists(tmp_path / "places365")
    put(tmp_path / "places365" / "data_256", TRAIN)
    put(tmp_path / "places365" / "val_256", VAL)
    assert find_split(tmp_path, "train").image_root == tmp_path / "places365" / "data_256"
    assert read(find_split(tmp_path, "val"), tmp_path) == VAL


def test_a_relative_folder_stays_relative_and_shares_the_cache(tmp_path, monkeypatch):
    """What a result names as its data set can be typed again elsewhere."""
    lists(tmp_path / "places365")
    put(tmp_path / "places365" / "val_256", VAL)
    read(find_split(tmp_path / "places365", "val"), tmp_path)
    monkeypatch.chdir(tmp_path)
    split = find_split("places365", "val")
    assert (split.source, str(split.image_root)) == ("places365/places365_val.txt", "places365/val_256")
    assert read(split, tmp_path) == VAL
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_auto_takes_the_small_images(tmp_path):
    lists(tmp_path)
    put(tmp_path / "data_large", TRAIN)
    put(tmp_path / "data_256", TRAIN)
    assert find_split(tmp_path, "train").image_root.name == "data_256"
    assert find_split(tmp_path, "train", "large").image_root.name == "data_large"


def test_the_folder_with_the_files_is_taken(tmp_path):
    """data_256 may be of either set, and may have been unpacked in part."""
    lists(tmp_path)
    put(tmp_path / "data_256_standard", list(TRAIN)[:1])
    put(tmp_path / "data_256", TRAIN)
    assert find_split(tmp_path, "train").image_root.name == "data_256"


def test_train_is_the_standard_set_where_its_images_are(tmp_path):
    lists(tmp_path, ["train_standard", "train_challenge"])
    put(tmp_path / "data_large_challenge", TRAIN)
    assert find_split(tmp_path, "train").name == "train-challenge"
    put(tmp_path / "data_large", TRAIN)
    assert find_split(tmp_path, "train").name == "train-standard"
    assert find_split(tmp_path, "train-challenge").image_root.name == "data_large_challenge"


def test_images_of_another_set_are_an_error(tmp_path):
    lists(tmp_path)
    put(tmp_path / "data_256", ["a/airfield/99999999.jpg"])
    with pytest.raises(UserError, match=r"data_256 has none of the 5 files looked up from .*airfield/00000001.jpg"):
        find_split(tmp_path, "train")


@pytest.mark.parametrize("name", ["x" * 300, "x/" * 3000, "x" * 100_000, "\0", "\udcff" * 300])
def test_a_name_longer_than_any_files_is_an_image_that_is_not_there(tmp_path, name):
    put(tmp_path / "val_256", VAL)
    write_list(tmp_path, "places365_val.txt", VAL)
    rest = (tmp_path / "places365_val.txt").read_bytes()
    long = os.fsencode(name) + b".jpg 5\n"
    (tmp_path / "places365_val.txt").write_bytes(long + rest)
    assert find_split(tmp_path, "val").image_root == tmp_path / "val_256"
    (tmp_path / "places365_val.txt").write_bytes(long)
    with pytest.raises(UserError, match=r"val_256 has none of the 1 files looked up from") as refused:
        find_split(tmp_path, "val")
    assert len(str(refused.value)) < 1000


def test_what_was_looked_for_and_what_is_there(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(SplitNotFound) as error:
        find_split(tmp_path, "train")
    for part in (
        "places365_train_standard.txt",
        "places365_train_challenge.txt",
        "train/<class>",
        "notes.txt, pictures",
    ):
        assert part in str(error.value)
    with pytest.raises(SplitNotFound, match="does not exist"):
        find_split(tmp_path / "absent", "train")
    with pytest.raises(UserError, match="unknown split 'training': one of train, "):
        find_split(tmp_path, "training")
    with pytest.raises(UserError, match="unknown image size"):
        find_split(tmp_path, "train", "512")


def test_the_sets_own_class_list_is_compared(tmp_path):
    lists(tmp_path)
    put(tmp_path / "data_256", TRAIN)
    lines = [f"/{name[0]}/{name} {index}" for index, name in enumerate(PLACES365)]
    path = tmp_path / "categories_places365.txt"
    path.write_text("\n".join(lines))
    assert find_split(tmp_path, "train").classes == list(PLACES365)
    path.write_text("\n".join([*lines[:116], "/d/desert_road 116", *lines[117:]]))
    with pytest.raises(
        UserError, match=r"categories_places365.txt, line 117: '/d/desert_road 116'.*'/d/desert/sand 116'"
    ):
        find_split(tmp_path, "train")
    path.write_text("\n".join(lines[:300]))
    with pytest.raises(UserError, match="has 300 classes"):
        find_split(tmp_path, "train")


def test_an_empty_list_is_an_error(tmp_path):
    lists(tmp_path)
    (tmp_path / "places365_val.txt").write_text("\n")
    put(tmp_path / "val_256", VAL)
    with pytest.raises(UserError, match="places365_val.txt is empty"):
        find_split(tmp_path, "val")


# Class folders


def test_class_folders_of_any_set(tmp_path):
    put(tmp_path / "train", ["kitchen/b.JPG", "kitchen/a.png", "attic/1.jpeg", "zoo/2.webp", "attic/.hidden.jpg"])
    put(tmp_path / "train", [".thumbs/1.jpg"])
    (tmp_path / "train" / "attic" / "notes.txt").write_text("")
    (tmp_path / "train" / "empty").mkdir()
    put(tmp_path / "val", ["zoo/1.jpg", "attic/7.jpg"])
    train, val = find_split(tmp_path, "train"), find_split(tmp_path, "val")
    assert train.classes == val.classes == ["attic", "empty", "kitchen", "zoo"]
    assert read(train, tmp_path) == {"attic/1.jpeg": 0, "kitchen/a.png": 2, "kitchen/b.JPG": 2, "zoo/2.webp": 3}
    assert read(val, tmp_path) == {"attic/7.jpg": 0, "zoo/1.jpg": 3}
    assert isinstance(train, ClassFolders)
    with pytest.raises(SplitNotFound, match="only for 'auto'"):
        find_split(tmp_path, "train", "large")


def test_images_below_a_class_folder_are_of_the_class(tmp_path):
    put(tmp_path / "train", ["kitchen/day/1.jpg", "kitchen/night/1.jpg", "robot/1.jpg"])
    assert read(find_split(tmp_path, "train"), tmp_path) == {
        "kitchen/day/1.jpg": 0,
        "kitchen/night/1.jpg": 0,
        "robot/1.jpg": 1,
    }


@pytest.mark.parametrize(
    "spelling",
    [
        lambda name: f"{name[0]}/{name}",
        lambda name: name,
        lambda name: name.replace("/", "-"),
        lambda name: name.replace("/", "_"),
    ],
    ids=["nested", "without letters", "easy directory structure", "joined"],
)
def test_all_365_as_class_folders_are_in_the_official_order(tmp_path, spelling):
    """Sorted folder names would move five classes."""
    put(tmp_path / "places365_standard" / "train", [f"{spelling(name)}/00000001.jpg" for name in PLACES365])
    put(tmp_path / "places365_standard" / "val", ["desert_road/3.jpg"])
    train = find_split(tmp_path, "train")
    assert train.classes == list(PLACES365)
    found = read(train, tmp_path)
    assert found == {f"{spelling(name)}/00000001.jpg": index for index, name in enumerate(PLACES365)}
    val = find_split(tmp_path, "val")
    assert val.classes == list(PLACES365)
    assert read(val, tmp_path) == {"desert_road/3.jpg": 118}


def test_some_of_the_nested_folders(tmp_path):
    put(tmp_path / "train", TRAIN)
    split = find_split(tmp_path, "train")
    assert split.classes == ["airfield", "apartment_building/outdoor", "desert/sand", "desert_road", "zen_garden"]
    assert read(split, tmp_path)["d/desert_road/00000007.jpg"] == 3


def test_nested_folders_of_another_set(tmp_path):
    """SUN397 nests like Places365 and has classes that are not in it."""
    put(tmp_path / "train", ["a/abbey/1.jpg", "a/apse/indoor/1.jpg", "b/bakery/kitchen/1.jpg"])
    assert find_split(tmp_path, "train").classes == ["abbey", "apse/indoor", "bakery/kitchen"]


def test_folders_of_letters_are_classes_of_their_own(tmp_path):
    put(tmp_path / "train", ["a/1.jpg", "b/1.jpg"])
    assert find_split(tmp_path, "train").classes == ["a", "b"]


@pytest.mark.parametrize(
    "names, classes",
    [
        (["A/anna_A/1.jpg", "A/ben_A/1.jpg", "B/anna_B/1.jpg"], ["A", "B"]),
        (["a/anna_a/1.jpg", "a/ben_a/1.jpg", "b/anna_b/1.jpg"], ["a", "b"]),
        (["a/a_anna/1.jpg", "b/b_anna/1.jpg"], ["a", "b"]),
        (["0/0_left/1.jpg", "1/1_left/1.jpg"], ["0", "1"]),
        (["a/abbey/1.jpg", "a/2.jpg", "b/bakery/1.jpg"], ["a", "b"]),
        (["a/abbey/1.jpg", "b/bakery/1.jpg", "c/abbey/1.jpg"], ["a", "b", "c"]),
        (["a/abbey/1.jpg", "b/bakery/1.jpg", "other/1.jpg"], ["a", "b", "other"]),
    ],
    ids=["capitals", "others' names", "letter and number", "digits", "images of its own", "another letter", "one more"],
)
def test_letters_that_are_not_the_first_ones_of_their_classes_are_classes(tmp_path, names, classes):
    put(tmp_path / "train", names)
    split = find_split(tmp_path, "train")
    assert split.classes == classes
    labels = {name: classes.index(name.partition("/")[0]) for name in names}
    assert read(split, tmp_path) == labels and nesting(split) == ""


def test_a_letter_without_images_does_not_undo_the_others(tmp_path):
    put(tmp_path / "train", TRAIN)
    (tmp_path / "train" / "x").mkdir()
    assert find_split(tmp_path, "train").classes[0] == "airfield" and len(find_split(tmp_path, "train").classes) == 5


def test_letters_beside_other_classes_are_an_error(tmp_path):
    put(tmp_path / "train", [*TRAIN, "misc/1.jpg"])
    with pytest.raises(UserError, match="folders a, d, z are Places365's letters.* these are not: misc"):
        find_split(tmp_path, "train")


def test_nesting_that_no_name_confirms_is_told_of(tmp_path):
    put(tmp_path / "train", ["a/anna/1.jpg", "b/ben/1.jpg"])
    split = find_split(tmp_path, "train")
    assert split.classes == ["anna", "ben"]
    assert nesting(split).endswith("a/anna is the class anna, not a")


def test_a_split_of_images_in_no_class_folder_is_wrong_rather_than_absent(tmp_path):
    put(tmp_path, ["train/kitchen/1.jpg", "train/attic/1.jpg", "val/1.jpg", "val/2.jpg"])
    with pytest.raises(UnsortedImages, match="val has 2 images and no class folders"):
        find_split(tmp_path, "val")


def test_a_class_of_val_that_train_lacks_is_an_error(tmp_path):
    put(tmp_path / "train", ["kitchen/1.jpg", "attic/1.jpg"])
    put(tmp_path / "val", ["kitchens/1.jpg", "attic/1.jpg"])
    with pytest.raises(UserError, match=r"that .*train lacks: kitchens\. val in turn has no folder for: kitchen\."):
        find_split(tmp_path, "val")


def test_two_folders_for_one_class_are_an_error(tmp_path):
    put(tmp_path / "train", ["desert-sand/1.jpg", "desert_sand/1.jpg"])
    with pytest.raises(UserError, match="desert-sand and desert_sand are both the class"):
        find_split(tmp_path, "train")


def test_two_sets_below_one_folder_are_an_error(tmp_path):
    put(tmp_path, ["one/train/kitchen/1.jpg", "two/train/kitchen/1.jpg", "three/train/1.jpg"])
    with pytest.raises(UserError, match="one/|one, .*two each have a folder 'train'"):
        find_split(tmp_path, "train")


def test_class_folders_stand_in_where_the_lists_images_are_not_there(tmp_path):
    """The archive with easy directory structure, with the lists beside it."""
    lists(tmp_path)
    put(tmp_path / "train", ["airfield/1.jpg", "zen_garden/1.jpg"])
    assert isinstance(find_split(tmp_path, "train"), ClassFolders)


def test_a_class_folder_is_not_read_through_to_be_found(tmp_path, monkeypatch):
    put(tmp_path, [f"kitchen/{number}.jpg" for number in range(50)])
    looked_at = []
    plain = folders.is_picture
    monkeypatch.setattr(folders, "is_picture", lambda path: looked_at.append(path) or plain(path))
    assert find_classes(tmp_path) == [("kitchen", "kitchen")]
    assert len(looked_at) == 1


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_an_archive_of_class_folders_is_the_folder(tmp_path, make, monkeypatch):
    """By Places365's own rules: nested below letters, in any spelling; also in $PLACES365_DATASETS."""
    put(tmp_path / "nested", [f"{split}/{name}" for split in ("train", "val") for name in TRAIN])
    put(tmp_path / "spelled", ["train/desert-sand/1.jpg", "train/desert_road/1.jpg", "val/desert_sand/1.jpg"])
    monkeypatch.setenv("PLACES365_DATASETS", str(tmp_path))
    for name in ("nested", "spelled"):
        make(tmp_path / name, tmp_path / f"{name}.archive", top="scenes/")
        for split in ("train", "val"):
            on_disk, archived = (find(root, split, "auto") for root in (name, f"{name}.archive"))
            assert archived.classes == on_disk.classes and archived.folders == on_disk.folders
            assert str(archived.image_root) == str(tmp_path / f"{name}.archive" / "scenes" / split)
            index = open_index(archived, tmp_path / "cache")
            assert {index.name(i): index.label(i) for i in range(len(index))} == read(on_disk, tmp_path)
            assert index.read(0).shape == (3, 4, 3)
    with pytest.raises(SplitNotFound, match=r"no class folders test/<class> in .*nested\.archive"):
        find("nested.archive", "test", "auto")
