"""The class list is the official one, in the official order."""

import os
from pathlib import Path

import pytest

from places365.categories import PLACES365, class_index, indoor_flags, places365_classes

REAL = Path(os.environ.get("SE_DATA", Path(__file__).resolve().parents[3] / "shared" / "data")) / "places365_meta"
needs_real = pytest.mark.skipif(
    not REAL.is_dir(), reason=f"the official class list is not here ({REAL}); set SE_DATA to the folder that holds it"
)


def official(name):
    lines = (REAL / name).read_text().splitlines()
    return [(line.split()[0][3:], int(line.split()[1])) for line in lines]


@needs_real
def test_equals_the_official_list():
    assert [(name, index) for index, name in enumerate(PLACES365)] == official("categories_places365.txt")


@needs_real
def test_equals_the_official_indoor_labels():
    assert [(name, 1 if flag else 2) for name, flag in zip(PLACES365, indoor_flags(PLACES365), strict=True)] == (
        official("IO_places365.txt")
    )


def test_365_names_each_once():
    assert len(PLACES365) == len(set(PLACES365)) == 365
    assert places365_classes() == list(PLACES365)
    assert (PLACES365[0], PLACES365[8], PLACES365[364]) == ("airfield", "apartment_building/outdoor", "zen_garden")


def test_places_of_the_file_are_the_indices():
    lines = (Path(__file__).resolve().parents[2] / "places365" / "categories365.txt").read_text().splitlines()
    rows = [line.split() for line in lines if not line.startswith("#")]
    assert [int(row[0]) for row in rows] == list(range(365))
    assert {row[2] for row in rows} == {"indoor", "outdoor"}


def test_our_order_is_not_that_of_sorted_folder_names():
    joined = [name.replace("/", "_") for name in PLACES365]
    moved = [index for index, name in enumerate(sorted(joined)) if name != joined[index]]
    assert moved == [116, 117, 118, 141, 142]
    assert PLACES365[116:119] == ("desert/sand", "desert/vegetation", "desert_road")
    assert PLACES365[141:143] == ("field/wild", "field_road")


def test_every_spelling_of_every_class_is_known_and_means_it_alone():
    meanings = {}
    for index, name in enumerate(PLACES365):
        for separator in "/-_":
            spelling = name.replace("/", separator)
            for whole in (spelling, f"{name[0]}/{spelling}", f"/{name[0]}/{spelling}"):
                assert class_index(whole) == index
                assert meanings.setdefault(whole, index) == index


@pytest.mark.parametrize("name", ["", "kitchens", "a", "/b/airfield", "desert sand", "Airfield", "desert/", "0"])
def test_other_names_are_no_classes(name):
    assert class_index(name) is None
    assert indoor_flags([name]) == [None]


def test_indoor_flags():
    assert indoor_flags(["dining_room", "baseball_field", "robot", "/k/kitchen", "atrium-public"]) == [
        True, False, None, True, True,
    ]  # fmt: skip
    flags = indoor_flags(PLACES365)
    assert (flags.count(True), flags.count(False)) == (160, 205)


def test_the_list_cannot_be_changed_by_a_caller():
    places365_classes().clear()
    assert len(places365_classes()) == 365
