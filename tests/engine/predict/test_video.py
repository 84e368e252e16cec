"""Videos as people have them."""

import errno
import os

import numpy as np
import pytest

from engine.predict.video import UnreadableVideo, Video, video_writer
from tests.full_disk import largest_file


@pytest.mark.parametrize("size", [(48, 64), (49, 65)])
def test_a_video_comes_back(tmp_path, size):
    frames = [np.full((*size, 3), (20 + 20 * i, 200 - 20 * i, 90), np.uint8) for i in range(6)]
    with video_writer(tmp_path / "a.mp4", 12.5) as append:
        for frame in frames:
            append(frame)
    video = Video(tmp_path / "a.mp4")
    assert video.frames_per_second == pytest.approx(12.5) and video.frame_count == 6
    back = list(video)
    assert len(back) == 6
    for read, written in zip(back, frames, strict=True):
        assert abs(read.shape[0] - size[0]) <= 1 and abs(read.shape[1] - size[1]) <= 1  # odd sides lose a row
        assert np.abs(read.astype(int).mean((0, 1)) - written.mean((0, 1))).max() < 6


def test_an_interrupted_video_keeps_its_frames(tmp_path):
    with pytest.raises(KeyboardInterrupt), video_writer(tmp_path / "a.mp4", 10) as append:
        append(np.zeros((32, 32, 3), np.uint8))
        append(np.zeros((40, 32, 3), np.uint8))  # another size is fitted to the first
        raise KeyboardInterrupt
    assert [frame.shape for frame in Video(tmp_path / "a.mp4")] == [(32, 32, 3)] * 2
    with video_writer(tmp_path / "none.mp4", 10):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_what_is_no_video_is_named(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video" * 100)
    with pytest.raises(UnreadableVideo, match="a.mp4"):
        list(Video(tmp_path / "a.mp4"))


def test_a_name_that_is_not_utf8_is_read_and_written(tmp_path):
    """OpenCV 5.0.0 dies of it, with a segmentation fault."""
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    path = folder / os.fsdecode(b"l\xe9.mp4")
    with video_writer(path, 10) as append:
        append(np.zeros((32, 48, 3), np.uint8))
    assert os.listdir(os.fsencode(folder)) == [b"l\xe9.mp4"] and not path.is_symlink()
    assert [frame.shape for frame in Video(path)] == [(32, 48, 3)]


def test_a_colon_in_a_name_is_no_protocol(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with video_writer("12:30.mp4", 10) as append:
        append(np.zeros((32, 48, 3), np.uint8))
    assert len(list(Video("12:30.mp4"))) == 1


def test_a_video_without_room_is_an_error_and_nothing_torn(tmp_path):
    """OpenCV says nothing of it."""
    noise = np.random.default_rng(0).integers(0, 255, (20, 64, 64, 3), np.uint8)
    with largest_file(8000), pytest.raises(OSError) as raised, video_writer(tmp_path / "a.mp4", 10) as append:
        for frame in noise:
            append(frame)
    assert raised.value.errno == errno.EFBIG and raised.value.filename == str(tmp_path / "a.mp4")
    assert not list(tmp_path.iterdir())
