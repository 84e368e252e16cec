"""A trained network applied to picture and video files: annotated copies, and one JSON of what was found.

What it finds and how that is drawn is the task's: two functions.
"""

import contextlib
import errno
import itertools
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from engine.errors import UserError
from engine.images.reading import MAX_PIXELS, UnreadableImage, read_image
from engine.images.writing import write_image
from engine.predict.image_files import describe_passed_over, perhaps_pictures
from engine.predict.media import find_media
from engine.predict.video import UnreadableVideo, Video, video_writer
from engine.train.memory import keep_freed_memory
from se_backbones.files import write_atomically

SAVE_SECONDS = 60
OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)  # no other input could do better


@dataclass
class PredictionReport:
    """What `predict_files` did: where its JSON lies, how many pictures (or frames) are in it, what was wrong
    with which input, and whether Ctrl-C ended it."""

    records_path: Path
    pictures: int = 0
    problems: list[str] = field(default_factory=list)
    interrupted: bool = False

    @property
    def exit_code(self):
        """0 all well, 1 an input was skipped or incomplete, 130 interrupted."""
        return 130 if self.interrupted else int(bool(self.problems))


def predict_files(
    inputs,
    output,
    records_name: str,
    predict: Callable,
    present: Callable,
    batch_size: int,
    max_images: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> PredictionReport:
    """Predict on pictures, folders of them and videos; write what was found into the folder `output`.

    For each picture an annotated copy, for each video an annotated mp4, under the name and below the folders
    it came from; and a JSON file, a list of {"file", "picture" (the annotated copy, relative to `output`),
    "width", "height" (pixels), "frame" (videos, from 0), and the task's own fields}.

    Args:
        records_name: of the JSON file in `output`. It marks the folder as one that we may write to again.
        predict: a list of pictures, each (H, W, 3) RGB uint8 → a list with a result for each.
        present: a picture and its result → the annotated copy, (H', W', 3) RGB uint8, and the task's fields
            of the record, a dict that JSON can hold.
        batch_size: pictures computed together, at least 1; `default_batch_size` gives one.
        max_images: stop after so many pictures and frames.
        max_pixels: width times height that a picture may have; 0: any.

    An input that cannot be read, or that fails in any other way, is named on stderr, noted in the report and passed
    over, and so are files of a folder that may be pictures of a kind that is not read; others, such as texts, are
    counted on stderr alone. Only where all inputs fail is the first failure raised at the end. Ctrl-C ends the work
    with all files whole. Raises UserError for inputs that do not exist, for an output folder that holds files of the
    same names which no earlier prediction wrote, OSError where a result cannot be written.
    """
    keep_freed_memory()
    if batch_size < 1 or (max_images is not None and max_images < 1):
        raise UserError("batch size and number of images must be at least 1")
    passed_over: Counter[str] = Counter()
    media, output = find_media(inputs, output, passed_over, [records_name]), Path(os.path.expanduser(output))
    records_path = output / records_name
    for path in [records_path] if records_path.exists() else [output / file.result for file in media]:
        if path.exists() and not (path == records_path and _is_record_file(path)):
            raise UserError(
                f"{path} is already there, and nothing shows that an earlier prediction wrote it; "
                "choose another output folder"
            )
    report = PredictionReport(records_path)
    work = _Work(predict, present, output, batch_size, max_images or sys.maxsize, max_pixels, report)
    try:
        if passed_over:
            tell = work.note if perhaps_pictures(passed_over) else work.tell
            tell(f"passed over: {describe_passed_over(passed_over)}")
        work.save()  # at once: it marks the folder as ours, and fails early where that is read-only
        for is_video, group in itertools.groupby(media, key=lambda file: file.is_video):
            if is_video:
                for file in group:
                    work.predict_video(file)
            else:
                work.predict_images(list(group))
        work.save()
        if work.failure is not None and not report.pictures:
            raise work.failure
    except KeyboardInterrupt:
        report.interrupted = True
        work.save()
    except BaseException:
        with contextlib.suppress(OSError):
            work.save()
        raise
    return report


def default_batch_size(device) -> int:
    """Pictures computed together where nobody says how many: 8 on a GPU, 1 on a CPU, which gains nothing from
    more."""
    return 8 if device.type == "cuda" else 1


@dataclass
class _Work:
    """The records so far, and the steps that add to them."""

    predict: Callable
    present: Callable
    output: Path
    batch_size: int
    left: int  # pictures and frames still allowed
    max_pixels: int
    report: PredictionReport
    records: list[str] = field(default_factory=list)  # JSON texts
    failure: Exception | None = None  # the first that was not the input's own
    saved: float = 0.0  # time.monotonic() of the last save

    def predict_images(self, media):
        with tqdm(total=min(len(media), self.left), unit="image", desc="predict", disable=None) as bar:
            for start in range(0, len(media), self.batch_size):
                batch = []
                for file in media[start : start + self.batch_size]:
                    if len(batch) == self.left:
                        break
                    try:
                        batch.append((file, read_image(file.path, self.max_pixels)))
                    except UnreadableImage as error:
                        self.note(f"skipped {error}")
                    bar.update()
                for file, image, result in self.results(batch):
                    with self.passing_over(file):
                        picture, fields = self.present(image, result)
                        write_image(self.output / file.result, picture)
                        self.add(file, image, fields)
                if self.left == 0:
                    return

    def results(self, batch):
        """The pictures of a batch with what is predicted for each; where that fails, one by one, without those that
        fail alone."""
        if not batch:
            return []
        try:
            found = self.predict([image for _, image in batch])
        except Exception:
            if len(batch) > 1:
                return [entry for single in batch for entry in self.results([single])]
            with self.passing_over(batch[0][0]):
                raise
            return []
        return [(file, image, result) for (file, image), result in zip(batch, found, strict=True)]

    def predict_video(self, file):
        if self.left == 0:
            return
        read, video = 0, None
        with self.passing_over(file):
            video = Video(file.path)
            frames = iter(video)
            total = min(video.frame_count or self.left, self.left)
            with (
                video_writer(self.output / file.result, video.frames_per_second) as append,
                tqdm(
                    total=total if total < sys.maxsize else None,
                    unit="frame",
                    desc=file.path.name,
                    disable=None,
                ) as bar,
            ):
                while batch := list(itertools.islice(frames, min(self.batch_size, self.left))):
                    for image, result in zip(batch, self.predict(batch), strict=True):
                        picture, fields = self.present(image, result)
                        append(picture)
                        self.add(file, image, fields, read)
                        read += 1
                        bar.update()
            # The count in a video's header is an estimate; far fewer frames mean that the file is cut short.
            if self.left and read < 0.9 * video.frame_count:
                self.note(f"{file.path}: ends after {read} of {video.frame_count} frames; it may be damaged")

    @contextlib.contextmanager
    def passing_over(self, file):
        """Notes what fails in the body, unless the disk is full or broken."""
        try:
            yield
        except UnreadableVideo as error:
            self.note(f"skipped {error}")
        except Exception as error:
            if isinstance(error, OSError) and error.errno in OF_THE_DISK:
                raise
            self.failure = self.failure or error
            told = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            self.note(f"skipped {file.path}: {told}{error}")

    def add(self, file, image, fields, frame=None):
        record = {
            "file": str(file.path),
            "picture": file.result.as_posix(),
            "width": image.shape[1],
            "height": image.shape[0],
        }
        if frame is not None:
            record["frame"] = frame
        self.records.append(json.dumps({**record, **fields}))
        self.left -= 1
        self.report.pictures += 1
        if time.monotonic() - self.saved > SAVE_SECONDS:
            self.save()

    def note(self, problem):
        self.report.problems.append(problem)
        self.tell(problem)

    def tell(self, text):
        tqdm.write(text, file=sys.stderr)

    def save(self):
        body = ",\n".join(self.records)
        write_atomically(self.report.records_path, f"[\n{body}\n]\n" if body else "[]\n")
        self.saved = time.monotonic()


def _is_record_file(path):
    """Whether `path` is a list of records as we write it: the mark of a folder that we may write to again."""
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(records, list) and all(isinstance(record, dict) and "picture" in record for record in records[:1])
