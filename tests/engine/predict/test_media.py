"""Finding pictures and videos as people have them, and where their results go."""

from collections import Counter

import pytest

from engine.errors import UserError
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
