"""Accidents depend on the seed alone, and leave no file as it was."""

import copy
import json

import numpy as np

from soak.mutation import mutate_bytes, mutate_json

COCO = {
    "images": [{"id": number, "file_name": f"{number}.jpg", "width": 4, "height": 3} for number in (1, 2)],
    "annotations": [{"id": 1, "image_id": 2, "category_id": 7, "bbox": [0, 0, 2, 2], "iscrowd": 0}],
    "categories": [{"id": 7, "name": "cat"}],
}


def test_bytes_are_changed_as_the_seed_has_it():
    data = bytes(range(256)) * 16
    found = [mutate_bytes(data, np.random.default_rng(seed)) for seed in range(300)]
    assert found == [mutate_bytes(data, np.random.default_rng(seed)) for seed in range(300)]
    assert {kind for _, kind in found} == {"flipped", "cut", "overwritten", "inserted", "appended"}
    assert sum(changed == data for changed, _ in found) < 3  # two flips of one bit, or zeros on a zero
    assert all(len(changed) < len(data) for changed, kind in found if kind == "cut")
    assert all(len(changed) == len(data) for changed, kind in found if kind == "flipped")


def test_values_are_changed_as_the_seed_has_it():
    texts = [mutate_json(copy.deepcopy(COCO), np.random.default_rng(seed)) for seed in range(400)]
    assert texts == [mutate_json(copy.deepcopy(COCO), np.random.default_rng(seed)) for seed in range(400)]
    same = json.dumps(COCO).encode()
    assert sum(text == same for text in texts) < 80  # exchanged with themselves, zeros made negative
    assert len(set(texts)) > 250
    for word in (b"null", b"NaN", b"Infinity", b"true", b'"2"', b"2.0", b"-7"):  # other types, other numbers
        assert any(word in text for text in texts), word
