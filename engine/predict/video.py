"""Videos read frame by frame, and written."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from engine.errors import UserError
from se_backbones.files import atomic_path, probe_disk
from se_backbones.text import writable


class UnreadableVideo(UserError):
    """A file that is no video, or a damaged one; the message names it."""


class Video:
    """A video file to read frame by frame: `frames_per_second` (25 where the file does not say),
    `frame_count` (by the file's own account, perhaps wrong, 0 if unknown); iterate for (H, W, 3) RGB uint8
    frames, upright.

    Raises UnreadableVideo, on opening or iterating, if there is no frame to read.
    """

    def __init__(self, path):
        self.path = Path(path)
        with _name_for_opencv(self.path) as name:
            self._capture = cv2.VideoCapture(name)
        rate, count = self._capture.get(cv2.CAP_PROP_FPS), self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        if not self._capture.isOpened():
            raise UnreadableVideo(f"{path}: cannot be read as a video")
        self.frames_per_second = float(rate) if 0 < rate <= 1000 else 25.0
        self.frame_count = int(count) if 0 < count < 1e9 else 0

    def __iter__(self) -> Iterator[np.ndarray]:
        read = 0
        try:
            while True:
                ok, frame = self._capture.read()
                if not ok:
                    break
                read += 1
                yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        finally:
            self._capture.release()
        if not read:
            raise UnreadableVideo(f"{self.path}: cannot be read as a video (no frame in it)")


@contextlib.contextmanager
def video_writer(path, frames_per_second):
    """Yield a function that appends one (H, W, 3) RGB uint8 frame to the mp4 file `path`; a frame of another
    size than the first is resized to it. However the body ends, what was appended becomes a playable file;
    without a frame there is none. Raises UserError if this OpenCV cannot write mp4."""
    writer = size = None

    def append(frame):
        nonlocal writer, size
        if writer is None:
            size = (frame.shape[1], frame.shape[0])
            with _name_for_opencv(temporary) as name:
                writer = cv2.VideoWriter(name, cv2.VideoWriter_fourcc(*"mp4v"), frames_per_second, size)
            if not writer.isOpened():
                writer = None
                temporary.unlink(missing_ok=True)
                raise UserError(
                    f"{path}: the OpenCV installed here ({cv2.__version__}) cannot write an mp4 file of "
                    f"{size[0]} x {size[1]} pixels there"
                )
        frame = frame if (frame.shape[1], frame.shape[0]) == size else cv2.resize(frame, size)
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    interruption = None
    with contextlib.suppress(FileNotFoundError), atomic_path(path) as temporary:
        try:
            yield append
        except BaseException as error:  # Ctrl-C too: the frames so far are worth keeping
            interruption = error
        if writer is not None:
            writer.release()
            probe_disk(temporary)  # OpenCV says nothing of frames that found no room
    if interruption is not None:
        raise interruption


@contextlib.contextmanager
def _name_for_opencv(path):
    """A name under which OpenCV can open the file `path`, there or yet to be made: absolute, or a colon in it would
    name a protocol; and where it is not UTF-8, of which OpenCV dies, that of a link. Raises UserError where no link
    can be made."""
    absolute = os.path.abspath(path)
    if writable(absolute) == absolute:
        yield absolute
        return
    with tempfile.TemporaryDirectory() as folder:
        link = os.path.join(folder, f"video{path.suffix if path.suffix.isascii() else ''}")
        try:
            if writable(link) != link:
                raise OSError(f"nor is {folder}")
            os.symlink(absolute, link)
        except OSError as error:
            raise UnreadableVideo(f"{path}: its name is not UTF-8, as OpenCV wants it ({error}); rename it") from error
        yield link
