"""Pictures and videos that a person hands over to predict on: finding, reading and writing them."""

import contextlib
import os
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from engine.errors import UserError
from engine.predict.image_files import describe_passed_over, is_clutter, is_picture, kind_passed_over

VIDEO_SUFFIXES = frozenset(".mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .wmv .flv".split())
MAX_JPEG_SIDE = 65_500  # pixels a side, libjpeg's limit
WRITABLE_SUFFIXES = frozenset(".jpg .jpeg .png .bmp".split())


class UnreadableMedia(UserError):
    """A file that is no picture or video, or a damaged one; the message names it."""


@dataclass(frozen=True)
class InputFile:
    """One picture or video to read: its path, whether it is a video, and where its result goes below an
    output folder (unique among the inputs)."""

    path: Path
    is_video: bool
    result: Path


def find_media(inputs, output, passed_over: Counter[str] | None = None) -> list[InputFile]:
    """The pictures and videos in `inputs`: files as they are, folders searched through (see
    `engine.predict.image_files`). What else is in these is counted in `passed_over`, by its kind.

    A folder's results keep its structure; names that would coincide get -2, -3, … Files below `output` are
    earlier results, not inputs, unless named themselves. Hidden files are passed over. Order: as given,
    folders sorted; a file met twice counts once. Raises UserError if an input does not exist, if nothing is
    found, if the output is a file or an input folder, or if a result would be written over an input.
    """
    output = Path(output).expanduser().resolve()
    if output.exists() and not output.is_dir():
        raise UserError(f"the output {output} is a file; name a folder")
    passed_over = Counter() if passed_over is None else passed_over
    found, seen, used = [], set(), set()
    for given in map(Path, inputs):
        given = given.expanduser()
        if not given.exists():
            raise UserError(f"no such file or folder: {given}")
        if given.resolve() == output:
            raise UserError(f"{given} is both input and output; choose another output folder")
        # Next to another input a folder's name tells its results apart; alone, it would only be one level
        # more.
        prefix = Path(given.resolve().name) if len(inputs) > 1 else Path()
        files = (
            [(given, Path(given.name))]
            if not given.is_dir()
            else [(path, prefix / path.relative_to(given)) for path in _walk(given, output, passed_over)]
        )
        for path, name in files:
            if path.resolve() in seen:
                continue
            seen.add(path.resolve())
            is_video = path.suffix.lower() in VIDEO_SUFFIXES
            found.append(InputFile(path, is_video, _unused(_result_name(name, is_video), used)))
    if not found:
        among = f"; passed over: {describe_passed_over(passed_over)}" if passed_over else ""
        raise UserError(f"no pictures or videos in {', '.join(map(str, inputs))}{among}")
    for file in found:
        if (output / file.result).resolve() in seen:
            raise UserError(f"the result {output / file.result} would replace an input; choose another output folder")
    return found


def read_image(path) -> np.ndarray:
    """A picture file as (H, W, 3) RGB uint8, upright.

    An EXIF rotation is applied; grey, palette, CMYK and 16-bit pictures are converted, transparency is laid
    on white; of an animation the first picture is taken. Raises UnreadableMedia if it is missing, damaged,
    cut short or no picture.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata; a picture that is too large to be safe is an error below
            with Image.open(path) as image:
                image.load()
                image = ImageOps.exif_transpose(image)
        return np.array(_to_rgb(image))
    except Exception as error:  # a damaged file makes Pillow's readers raise almost anything, struct.error say
        raise UnreadableMedia(f"{path}: cannot be read as a picture ({str(error) or type(error).__name__})") from error


def write_image(path, image) -> Path:
    """Write (H, W, 3) RGB uint8 as the format that the suffix of `path` names (`WRITABLE_SUFFIXES`),
    atomically. A JPEG has at most 65,500 pixels a side; a larger picture is shrunk to them."""
    from se_backbones.files import atomic_path  # here: it imports torch, which finding and reading do not need

    is_jpeg = Path(path).suffix.lower() in (".jpg", ".jpeg")
    if is_jpeg and max(image.shape[:2]) > MAX_JPEG_SIDE:
        factor = MAX_JPEG_SIDE / max(image.shape[:2])
        sides = (max(int(side * factor), 1) for side in image.shape[1::-1])
        image = cv2.resize(image, tuple(sides), interpolation=cv2.INTER_AREA)
    options = {"quality": 92} if is_jpeg else {}
    with atomic_path(path) as temporary:
        Image.fromarray(image).save(temporary, **options)
    return Path(path)


class Video:
    """A video file to read frame by frame: `frames_per_second` (25 where the file does not say),
    `frame_count` (by the file's own account, perhaps wrong, 0 if unknown); iterate for (H, W, 3) RGB uint8
    frames, upright.

    Raises UnreadableMedia, on opening or iterating, if there is no frame to read.
    """

    def __init__(self, path):
        self.path = Path(path)
        self._capture = cv2.VideoCapture(str(path))
        rate, count = self._capture.get(cv2.CAP_PROP_FPS), self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        if not self._capture.isOpened():
            raise UnreadableMedia(f"{path}: cannot be read as a video")
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
            raise UnreadableMedia(f"{self.path}: cannot be read as a video (no frame in it)")


@contextlib.contextmanager
def video_writer(path, frames_per_second):
    """Yield a function that appends one (H, W, 3) RGB uint8 frame to the mp4 file `path`; a frame of another
    size than the first is resized to it. However the body ends, what was appended becomes a playable file;
    without a frame there is none. Raises UserError if this OpenCV cannot write mp4."""
    from se_backbones.files import atomic_path  # here: as in write_image

    writer = size = None

    def append(frame):
        nonlocal writer, size
        if writer is None:
            size = (frame.shape[1], frame.shape[0])
            writer = cv2.VideoWriter(str(temporary), cv2.VideoWriter_fourcc(*"mp4v"), frames_per_second, size)
            if not writer.isOpened():
                writer = None
                temporary.unlink(missing_ok=True)
                raise UserError(f"{path}: the OpenCV installed here ({cv2.__version__}) cannot write mp4 files")
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
    if interruption is not None:
        raise interruption


def _to_rgb(image):
    if image.mode.startswith("I"):
        # Pillow's own conversion cuts off at 255, which turns 16-bit pictures white.
        values = np.asarray(image).astype(np.int64)
        values = values if image.mode == "I" and values.max(initial=0) <= 255 else values >> 8
        return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("its values are 32-bit floats of unknown range; save it with 8 or 16 bits")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _walk(folder, output, passed_over):
    """The pictures and videos below `folder`, through links too, sorted, without hidden ones and without those below
    `output`; other files and folders that cannot be read are counted in `passed_over`."""

    def unreadable(error):
        passed_over["folders that cannot be read"] += 1

    entered = {Path(folder).resolve()}  # a link may point back up
    for root, folders, files in os.walk(folder, onerror=unreadable, followlinks=True):
        here, inside = Path(root), []
        for name in sorted(folders):
            target = (here / name).resolve()
            if not is_clutter(name) and target != output and target not in entered:
                entered.add(target)
                inside.append(name)
        folders[:] = inside
        for name in sorted(files):
            if is_clutter(name):
                continue
            if os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES or is_picture(here / name):
                yield here / name
            else:
                passed_over[kind_passed_over(name)] += 1


def _result_name(name, is_video):
    suffix = name.suffix.lower()
    if is_video:
        return name if suffix == ".mp4" else name.with_name(f"{name.name}.mp4")
    return name if suffix in WRITABLE_SUFFIXES else name.with_name(f"{name.name}.jpg")


def _unused(name, used):
    """`name`, or with -2, -3, … before its suffix, so that no two are the same, in upper or lower case."""
    candidate, number = name, 1
    while str(candidate).casefold() in used:
        number += 1
        candidate = name.with_name(f"{name.stem}-{number}{name.suffix}")
    used.add(str(candidate).casefold())
    return candidate
