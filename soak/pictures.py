"""Pictures of every format with an accident in them, through every function that reads one."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from detection.annotations.image_files import DamagedImage, inspect_image
from detection.config import load_config
from detection.data import TestSet
from engine.config.shipped import shipped_config
from engine.errors import UserError
from engine.images.reading import Box, open_image, read_image
from soak.mutation import mutate_bytes
from soak.pool import Outcome, Trial, last_traceback

SIDES = (61, 47)  # width and height in pixels
CHECKSUMS = ("png",)  # formats whose data have one: a picture that is read is the right one


def prepare_pictures(folder: Path) -> Trial:
    """A picture in each format and mode that people have, and the trials of them."""
    pictures, cfg = _pictures(), load_config(shipped_config("demo.yaml"), ["INPUT.MIN_SIZE_TEST", "0"])
    doors = {
        "the whole": read_image,
        "a crop": _crop,
        "a detector": lambda path: _of_detection(path, cfg),
    }
    names, whole = list(pictures), {}
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in pictures.items():
        (folder / name).write_bytes(data)
        whole[name] = {door: _pixels(folder / name, read) for door, read in doors.items()}

    def trial(seed: int, place: Path) -> Outcome:
        name, random = names[seed % len(names)], np.random.default_rng(seed)
        data, accident = mutate_bytes(pictures[name], random)
        path = place / name
        path.write_bytes(data)
        kind = f"{path.suffix[1:]}, {accident}"
        try:
            found = {door: _pixels(path, read) for door, read in doors.items()}
            _inspect(path)
        except Exception:
            return Outcome(kind, "traceback", f"{name}: {last_traceback()}")
        finally:
            changed = path.read_bytes() != data
            path.unlink()
        results = {door: _compared(pixels, whole[name][door]) for door, pixels in found.items()}
        fault = "the file was changed by reading it" if changed else ""
        if "differs" in results.values() and path.suffix[1:] in CHECKSUMS:
            fault = f"{name}: read with other pixels by {[d for d, result in results.items() if result == 'differs']}"
        words = sorted(set(results.values()))
        return Outcome(kind, words[0] if len(words) == 1 else f"{' or '.join(words)}, by the reader", fault)

    return trial


def _pixels(path: Path, read: Callable[[Path], np.ndarray]) -> np.ndarray | None:
    """(H, W, 3) by one of the readers; None where it refuses, with a message that names the file."""
    try:
        pixels = read(path)
    except UserError as error:
        assert str(path) in str(error), f"the message does not name the file: {error}"
        return None
    assert pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype == np.uint8, (pixels.shape, pixels.dtype)
    return pixels


def _compared(pixels: np.ndarray | None, whole: np.ndarray | None) -> str:
    if pixels is None:
        return "refused"
    return "equal" if whole is not None and np.array_equal(pixels, whole) else "differs"


def _crop(path: Path) -> np.ndarray:
    """What a classifier's training reads: a part, at half the size."""
    image = open_image(path)
    box = Box(image.height // 3, image.width // 3, max(image.height // 2, 1), max(image.width // 2, 1))
    return image.crop(image.aligned(box, 2), 2)


def _of_detection(path: Path, cfg) -> np.ndarray:
    """What a detector is evaluated on, where the json has the picture's size."""
    try:
        size = inspect_image(path)
    except DamagedImage as error:
        raise UserError(f"{path}: {error}") from error
    record = {"file_name": str(path), "image_id": 1, "height": size.height, "width": size.width}
    return TestSet([record], cfg)[0]["image"].numpy().transpose(1, 2, 0)


def _inspect(path: Path) -> None:
    for decode in (False, True):
        try:
            size = inspect_image(path, decode)
            assert size.width > 0 and size.height > 0
        except DamagedImage as error:
            assert str(error).strip()


def _pictures() -> dict[str, bytes]:
    """File name → content."""
    random = np.random.default_rng(0)
    width, height = SIDES
    coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), np.uint8)).resize(SIDES, Image.Resampling.BICUBIC)
    alpha = Image.fromarray(random.integers(0, 256, (height, width), np.uint8))
    deep = Image.fromarray(random.integers(0, 65536, (height, width), np.uint16))
    clear = coarse.copy()
    clear.putalpha(alpha)
    turned = Image.Exif()
    turned[274] = 6
    frames = [coarse.rotate(angle) for angle in (90, 180)]
    found = {}

    def add(name: str, image: Image.Image, **options) -> None:
        out = io.BytesIO()
        kind = {".jpg": "JPEG", ".png": "PNG", ".gif": "GIF", ".webp": "WEBP", ".tif": "TIFF", ".bmp": "BMP"}
        image.save(out, kind[Path(name).suffix], **options)
        found[name] = out.getvalue()

    add("rgb.png", coarse)
    add("rgba.png", clear)
    add("palette.png", coarse.quantize(16), transparency=3)
    add("grey.png", coarse.convert("L"))
    add("grey_alpha.png", clear.convert("LA"))
    add("deep.png", deep)
    add("bit.png", coarse.convert("1"))
    add("turned.png", coarse, exif=turned)
    add("rgb.jpg", coarse, quality=92)
    add("grey.jpg", coarse.convert("L"))
    add("cmyk.jpg", coarse.convert("CMYK"))
    add("progressive.jpg", coarse, progressive=True)
    add("turned.jpg", coarse, exif=turned)
    add("full_colour.jpg", coarse, subsampling=0, restart_marker_rows=1)
    add("one.gif", coarse.quantize(16))
    add("film.gif", coarse, save_all=True, append_images=frames)
    add("lossy.webp", coarse)
    add("lossless.webp", clear, lossless=True)
    add("film.webp", coarse, save_all=True, append_images=frames)
    add("raw.tif", coarse)
    add("lzw.tif", clear, compression="tiff_lzw")
    add("deflate.tif", coarse, compression="tiff_adobe_deflate")
    add("jpeg.tif", coarse, compression="jpeg")
    add("deep.tif", deep)
    add("float.tif", Image.fromarray(random.random((height, width), np.float32)))
    add("rgb.bmp", coarse)
    add("palette.bmp", coarse.quantize(16))
    add("bit.bmp", coarse.convert("1"))
    return found
