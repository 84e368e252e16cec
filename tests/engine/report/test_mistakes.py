"""Which mistakes have a picture, and what is left where some have none."""

import json

import numpy as np
import pytest

from engine.images.reading import UnreadableImage
from engine.report.mistakes import LISTED_EACH, SHOWN, SHOWN_EACH, Mistake, read_mistakes, shown, write_mistakes


def mistake(group, score, image=0, kind="wrong"):
    return Mistake(group, kind, f"{image}.jpg", image, group, score, None)


def test_the_worst_of_each_class_come_before_any_second_one():
    mistakes = {f"class {c}": [mistake(f"class {c}", 0.9 - c / 100 - n / 10, n) for n in range(5)] for c in range(25)}
    found = list(shown(mistakes))
    assert len(found) == SHOWN and all(one.score == mistakes[one.group][one.image_id].score for one in found)
    places = [mistakes[one.group].index(one) for one in found]
    assert places == sorted(places) and places.count(0) == places.count(1) == 25 and places.count(2) == 10
    assert {one.group for one in found[50:]} == {f"class {c}" for c in range(10)}  # the surest of the thirds
    assert len(list(shown({"a": mistakes["class 0"], "b": [], "c": mistakes["class 1"][:1]}))) == SHOWN_EACH + 1


def test_a_class_shows_different_images_where_it_can():
    group = [mistake("a", 0.9, 1), mistake("a", 0.8, 1), mistake("a", 0.7, 2), mistake("a", None, 3)]
    assert [one.image_id for one in shown({"a": group})] == [1, 2, 3]
    assert [one.score for one in shown({"a": group[:2]})] == [0.9, 0.8]


def test_all_are_counted_a_hundred_listed_and_those_without_an_image_have_no_picture(tmp_path):
    def draw(one):
        if one.image_id == 1:
            raise UnreadableImage("1.jpg is not there")
        return np.zeros((900, 300, 3), np.uint8)

    (tmp_path / "mistakes").mkdir()
    (tmp_path / "mistakes" / "old.jpg").touch()
    group = [mistake("a", 1 - n / 1000, n) for n in range(150)]
    write_mistakes(tmp_path, "a rule", {"a": group, "b": []}, {"a": 1500, "b": 0}, draw)
    content = json.loads((tmp_path / "mistakes.json").read_text())
    assert (content["found"], content["listed"], content["pictures"]) == (1500, LISTED_EACH, 2)
    assert [one["picture"] for one in content["mistakes"]][:4] == ["mistakes/01.jpg", None, "mistakes/02.jpg", None]
    assert sorted(path.name for path in (tmp_path / "mistakes").iterdir()) == ["01.jpg", "02.jpg"]
    write_mistakes(tmp_path, "a rule", {"a": group}, {"a": 150}, None)
    assert not (tmp_path / "mistakes").exists() and read_mistakes(tmp_path)["found"] == 150


@pytest.mark.parametrize(
    "text", ["", "[]", '{"found": 3}', '{"found": null, "mistakes": []}', '{"found":1,"mistakes":[3]}']
)
def test_a_damaged_list_is_none(tmp_path, text):
    assert read_mistakes(tmp_path) == {}
    (tmp_path / "mistakes.json").write_text(text)
    assert read_mistakes(tmp_path) == {}
