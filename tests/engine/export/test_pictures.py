"""Files and folders to compare on."""

import numpy as np
import pytest
from PIL import Image

from engine.errors import UserError
from engine.export.pictures import pictures_in


def test_files_are_taken_as_they_are_and_of_folders_some_pictures(tmp_path):
    for number in range(9):
        path = tmp_path / "photos" / f"part{number // 5}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path)
    for name in ("notes.txt", "film.mp4", ".hidden.png"):
        (tmp_path / "photos" / name).touch()
    one, gone = tmp_path / "photos" / "part0" / "3.png", tmp_path / "gone.png"
    assert pictures_in([one, gone], 3) == [one, gone]
    assert [path.name for path in pictures_in([tmp_path / "photos", one], 3)] == ["0.png", "3.png", "6.png", "3.png"]
    assert len(pictures_in([tmp_path / "photos"], 100)) == 9


def test_a_folder_without_pictures_is_named(tmp_path):
    with pytest.raises(UserError, match=f"--images {tmp_path}: there are no pictures"):
        pictures_in([tmp_path], 3)
