"""Pictures and videos that a person hands over to predict on, and where their results go."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from engine.errors import UserError
from engine.predict.image_files import describe_passed_over, is_clutter, is_picture, kind_passed_over
from engine.predict.result_names import ResultNames, picture_name

VIDEO_SUFFIXES = frozenset(".mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .wmv .flv".split())


@dataclass(frozen=True)
class InputFile:
    """One picture or video to read: its path, whether it is a video, and where its result goes below an
    output folder (unique among the inputs)."""

    path: Path
    is_video: bool
    result: Path


def find_media(inputs, output, passed_over: Counter[str] | None = None, reserved=()) -> list[InputFile]:
    """The pictures and videos in `inputs`: files as they are, folders searched through (see
    `engine.predict.image_files`). What else is in these is counted in `passed_over`, by its kind.

    A folder's results keep its structure; names that would coincide, also with those `reserved` in the output
    folder, or that are too long are changed, see `ResultNames`. Files below `output` are earlier results, not
    inputs, unless named themselves. Hidden files are passed over. Order: as given, folders sorted; a file met
    twice counts once. Raises UserError if an input does not exist, if nothing is found, if the output is a file
    or an input folder, or if a result would be written over an input.
    """
    output = _real(output)
    if output.exists() and not output.is_dir():
        raise UserError(f"the output {output} is a file; name a folder")
    passed_over = Counter() if passed_over is None else passed_over
    found, seen, names = [], set(), ResultNames(output, reserved)
    for given in inputs:
        given = Path(os.path.expanduser(given))
        if not os.path.exists(given):  # False for names that no file system takes, too
            raise UserError(f"no such file or folder: {given}")
        if _real(given) == output:
            raise UserError(f"{given} is both input and output; choose another output folder")
        # Next to another input a folder's name tells its results apart; alone, it would only be one level
        # more.
        prefix = Path(_real(given).name) if len(inputs) > 1 else Path()
        files = (
            [(given, Path(given.name))]
            if not given.is_dir()
            else [(path, prefix / path.relative_to(given)) for path in _walk(given, output, passed_over)]
        )
        for path, name in files:
            if _real(path) in seen:
                continue
            seen.add(_real(path))
            is_video = _is_video(path)
            found.append(InputFile(path, is_video, names.unused(_video_name(name) if is_video else picture_name(name))))
    if not found:
        among = f"; passed over: {describe_passed_over(passed_over)}" if passed_over else ""
        raise UserError(f"no pictures or videos in {', '.join(map(str, inputs))}{among}")
    for file in found:
        if _real(output / file.result) in seen:
            raise UserError(f"the result {output / file.result} would replace an input; choose another output folder")
    return found


def pictures_below(folder) -> list[Path]:
    """The pictures of a folder, searched through as by `find_media`."""
    return [path for path in _walk(folder, None, Counter()) if not _is_video(path)]


def _real(path) -> Path:
    """Without links; unlike `Path.resolve` it takes links that go round in a circle."""
    return Path(os.path.realpath(os.path.expanduser(path)))


def _walk(folder, output, passed_over):
    """The pictures and videos below `folder`, through links too, sorted, without hidden ones, pipes and devices, and
    without those below `output`; other files and folders that cannot be read are counted in `passed_over`."""

    def unreadable(error):
        passed_over["folders that cannot be read"] += 1

    entered = {_real(folder)}  # a link may point back up
    for root, folders, files in os.walk(folder, onerror=unreadable, followlinks=True):
        here, inside = Path(root), []
        for name in sorted(folders):
            target = _real(here / name)
            if not is_clutter(name) and target != output and target not in entered:
                entered.add(target)
                inside.append(name)
        folders[:] = inside
        for name in sorted(files):
            if is_clutter(name) or _is_special(here / name):
                continue
            if _is_video(here / name) or is_picture(here / name):
                yield here / name
            else:
                passed_over[kind_passed_over(name)] += 1


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


def _is_special(path):
    return os.path.exists(path) and not os.path.isfile(path)


def _video_name(name):
    return name if name.suffix.lower() == ".mp4" else name.with_name(f"{name.name}.mp4")
