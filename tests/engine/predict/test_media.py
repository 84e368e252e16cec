"""Finding pictures and videos as people have them, and where their results go."""

from collections import Counter

import numpy as np
import pytest

from engine.errors import UserError
from engine.images.writing import write_image
from engine.predict.media import find_media


def tree(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def test_folders_are_searched_and_keep_their_structure(tmp_path):
    tree(
        tmp_path / "in",
        "b.JPG",
        "a.png",
        "sub/a.png",
        "clip.mov",
        "scan.tif",
        "notes.txt",
        ".hidden.jpg",
        ".git/x.jpg",
    )
    found = find_media([tmp_path / "in"], tmp_path / "out")
    results = {str(m.path.relative_to(tmp_path / "in")): m.result.as_posix() for m in found}
    assert results == {
        "a.png": "a.png",
        "b.JPG": "b.JPG",
        "clip.mov": "clip.mov.mp4",
        "scan.tif": "scan.tif.jpg",
        "sub/a.png": "sub/a.png",
    }
    assert [m.path.name for m in found if m.is_video] == ["clip.mov"]


def test_equal_names_get_different_results(tmp_path):
    tree(tmp_path, "x/p/a.jpg", "y/p/a.jpg", "z/A.jpg", "a.jpg")
    inputs = [
        tmp_path / "x/p",
        tmp_path / "y/p",
        tmp_path / "z/A.jpg",
        tmp_path / "a.jpg",
        tmp_path / "a.jpg",
    ]
    results = [m.result.as_posix() for m in find_media(inputs, tmp_path / "out")]
    assert results == ["p/a.jpg", "p/a-2.jpg", "A.jpg", "a-2.jpg"]


def test_earlier_results_below_an_input_folder_are_no_inputs(tmp_path):
    tree(tmp_path / "in", "a.jpg", "out/a.jpg", "out/deep/b.jpg")
    assert [m.path.name for m in find_media([tmp_path / "in"], tmp_path / "in" / "out")] == ["a.jpg"]


def test_inputs_are_never_replaced(tmp_path):
    tree(tmp_path / "in", "a.jpg", "sub/b.jpg")
    with pytest.raises(UserError, match="both input and output"):
        find_media([tmp_path / "in"], tmp_path / "in")
    with pytest.raises(UserError, match="would replace an input"):
        find_media([tmp_path / "in" / "a.jpg"], tmp_path / "in")
    with pytest.raises(UserError, match="would replace an input"):
        find_media([tmp_path / "in" / "sub" / "b.jpg"], tmp_path / "in" / ".." / "in" / "sub")


def test_nothing_to_read_is_a_clear_mistake(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        find_media([tmp_path / "absent"], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no pictures or videos"):
        find_media([tmp_path / "empty"], tmp_path / "out")
    tree(tmp_path, "a.jpg", "file")
    with pytest.raises(UserError, match="is a file"):
        find_media([tmp_path / "a.jpg"], tmp_path / "file")


def test_what_a_folder_has_besides_is_counted_and_links_are_followed(tmp_path):
    inside, elsewhere = tmp_path / "in", tmp_path / "elsewhere"
    for folder in (inside, elsewhere):
        folder.mkdir()
    write_image(elsewhere / "b.png", np.zeros((4, 4, 3), np.uint8))
    write_image(inside / "a.png", np.zeros((4, 4, 3), np.uint8))
    (inside / "a.png").rename(inside / "a")
    for name in ("1.heic", "2.HEIC", "notes.txt", ".DS_Store", "Thumbs.db"):
        (inside / name).write_bytes(b"")
    (inside / "link").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(inside)
    counted = Counter()
    found = find_media([inside], tmp_path / "out", counted)
    assert [str(file.path.relative_to(inside)) for file in found] == ["a", "link/b.png"]
    assert counted == {".heic": 2, ".txt": 1}
    (inside / "a").unlink()
    (inside / "link").unlink()
    with pytest.raises(UserError, match=r"no pictures or videos in .*in; passed over: 2 \.heic, 1 \.txt"):
        find_media([inside], tmp_path / "out")
