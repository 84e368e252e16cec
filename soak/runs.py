"""Small training runs, started as the command lines start them, and compared bit for bit."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from engine.errors import UserError, main_guard
from engine.train.checkpoint import load_checkpoint, numbered_checkpoints
from soak.checkpoints import same
from soak.processes import descendants, wait_for
from synthetic.scenes import generate_scenes
from synthetic.shapes import generate_shapes

ROOT = Path(__file__).resolve().parents[1]
ENDS_LATEST = 240  # seconds
_COMMON = ["MODEL.DEVICE", "cpu", "LOG_PERIOD", "1"]
_CLASSIFICATION = [
    "MODEL.WEIGHTS", "", "MODEL.BACKBONE.ARCHITECTURE", "se_resnet20_cifar", "INPUT.TRAIN_SIZE", "32",
    "INPUT.TEST_RESIZE", "32", "INPUT.TEST_SIZE", "32", "SOLVER.IMS_PER_BATCH", "4", "SOLVER.BASE_LR", "0.01",
    "SOLVER.MAX_ITER", "16", "SOLVER.CHECKPOINT_EPOCHS", "0.5", "TEST.EVAL_EPOCHS", "4", "TEST.IMS_PER_BATCH", "4",
]  # fmt: skip
_DETECTION = [
    "MODEL.BACKBONE.ARCHITECTURE", "se_mobilenet_v1_050", "MODEL.FPN.IN_FEATURES", "[]", "MODEL.FPN.OUT_CHANNELS", "16",
    "MODEL.ROI_BOX_HEAD.FC_DIM", "32", "INPUT.MIN_SIZE_TRAIN", "64", "INPUT.MIN_SIZE_TEST", "64",
    "SOLVER.IMS_PER_BATCH", "2", "SOLVER.BASE_LR", "0.01", "SOLVER.MAX_ITER", "12", "SOLVER.CHECKPOINT_PERIOD", "2",
    "TEST.EVAL_PERIOD", "6",
]  # fmt: skip
# What of a checkpoint may differ between runs of the same steps: how long they took, and where they lie.
_OF_THE_RUN = ("seconds", "evaluation_seconds", "config", "versions")


@dataclass(frozen=True)
class Variant:
    """A kind of run.

    Attributes:
        task: "classification" or "detection".
        workers: data workers.
        processes: that train together.
        launched: as a person starts them, by the command with --num-gpus; else forked from this process, which has
            everything imported, as torchrun's launcher would set them up.
    """

    task: str
    workers: int = 0
    processes: int = 1
    launched: bool = False

    @property
    def name(self) -> str:
        workers = f", {self.workers} workers" if self.workers else ""
        processes = f", {self.processes} processes" if self.processes > 1 else ""
        return f"{self.task}{workers}{processes}{' of a launcher' if self.launched else ''}"

    @property
    def tool(self) -> str:
        return str(ROOT / "tools" / ("train_classifier.py" if self.task == "classification" else "train_net.py"))


class Data:
    """The drawn sets that all runs share, and the runs that nothing disturbed.

    Args:
        folder: made if missing; what it holds of these already is kept.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        generate_scenes(folder / "scenes", train=2, val=1, size=64)
        self.shapes = generate_shapes(folder / "shapes", train=8, val=4, size=64)

    def words(self, variant: Variant, run: Path) -> list[str]:
        """The command's words behind its name."""
        if variant.task == "classification":
            config = "class_folders_se_resnet50.yaml"
            data = ["DATA.ROOT", self.folder / "scenes", "DATA.CACHE", self.folder / "cache", *_CLASSIFICATION]
        else:
            config, shapes = "demo.yaml", self.shapes
            data = [
                "DATA.TRAIN.JSON", shapes.train_json, "DATA.TRAIN.IMAGES", shapes.train_images,
                "DATA.VAL.JSON", shapes.val_json, "DATA.VAL.IMAGES", shapes.val_images, *_DETECTION,
            ]  # fmt: skip
        words = ["--config", ROOT / "configs" / config, *data, *_COMMON, "DATALOADER.NUM_WORKERS", variant.workers]
        return [*map(str, words), "OUTPUT_DIR", str(run)]


class Running:
    """A command that runs; what it prints is in ``log``.

    Attributes:
        started: the processes that this one has started: one, or those that train together.
    """

    def __init__(self, tool: str, words: list[str], log: Path, variant: Variant | None = None):
        self.log = log
        self._codes: dict[int, int] = {}
        variant = variant or Variant("")
        self._launched = variant.launched
        if variant.launched:
            command = [sys.executable, tool, *words, "--num-gpus", str(variant.processes)]
            with open(log, "ab") as output:
                self.started = [subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output).pid]
        elif variant.processes == 1:
            self.started = [_fork(tool, words, log, {})]
        else:
            with closing(socket.socket()) as probe:
                probe.bind(("localhost", 0))
                port = probe.getsockname()[1]
            shared = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": str(variant.processes)}
            ranks = [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(variant.processes)]
            self.started = [_fork(tool, words, log, rank) for rank in ranks]

    def trainers(self) -> list[int]:
        """The processes that train; a launcher's may not have begun."""
        return descendants(self.started[0])[:2] if self._launched else self.started

    def wait(self, limit: float = ENDS_LATEST) -> list[int] | None:
        """The exit codes of ``started``; None where they have not ended after ``limit`` seconds."""
        return list(self._codes.values()) if wait_for(self.started, self._codes, limit) else None

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")


def _fork(tool: str, words: list[str], log: Path, environment: dict[str, str]) -> int:
    """Runs a tool in a copy of this process, which has imported what takes seconds."""
    pid = os.fork()
    if pid:
        return pid
    code: object = 1
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(output, stream)
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)
        logging.disable(logging.NOTSET)
        os.environ.update(environment)
        sys.argv = [tool, *words]
        spec = importlib.util.spec_from_file_location("tool", tool)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        code = main_guard(module.main)
    except SystemExit as ended:  # of the parser
        code = ended.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


@dataclass(frozen=True)
class Reference:
    """An uninterrupted run: its folder, and after how many seconds it had begun, had trained, and had ended."""

    run: Path
    began: float
    trained: float
    ended: float


def uninterrupted(data: Data, variant: Variant) -> Reference:
    """The uninterrupted run of a variant, made by the first process that asks for it.

    Raises:
        RuntimeError: it failed; with what it printed.
    """
    folder = data.folder / variant.name
    folder.mkdir(exist_ok=True)
    with open(folder / "times.json", "a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        if not (text := file.read()):
            text = json.dumps(_uninterrupted(data, variant, folder))
            file.write(text)
    return Reference(folder / "run", *json.loads(text))


def _uninterrupted(data: Data, variant: Variant, folder: Path) -> list[float]:
    run, begin, times = folder / "run", time.monotonic(), {}
    running = Running(variant.tool, data.words(variant, run), folder / "log.txt", variant)
    while (codes := running.wait(0)) is None and time.monotonic() - begin < ENDS_LATEST:
        for name in ("config.yaml", "model_final.pth"):
            if name not in times and (run / name).exists():
                times[name] = time.monotonic() - begin
        time.sleep(0.02)
    if codes is None or any(codes):
        raise RuntimeError(f"the uninterrupted run of {variant.name} ended with {codes}:\n{running.text[-1500:]}")
    ended = time.monotonic() - begin
    return [times.get("config.yaml", 0.0), times.get("model_final.pth", ended), ended]


def difference(run: Path, reference: Path) -> str:
    """In what a run differs from an uninterrupted one: weights, state or predictions; empty where in nothing."""
    for name in ("model_final.pth", numbered_checkpoints(reference)[0].name):
        try:
            ours, theirs = (load_checkpoint(folder / name) for folder in (run, reference))
        except UserError as error:
            return str(error)
        for key in theirs.keys() | ours.keys():
            if key not in _OF_THE_RUN and not same(ours.get(key), theirs.get(key)):
                return f"{name}: {key} differs from the uninterrupted run's"
    for path in reference.glob("*_predictions.json"):
        if (run / path.name).read_bytes() != path.read_bytes():
            return f"{path.name} differs from the uninterrupted run's"
    for path in reference.glob("coco_instances_results.json"):
        if (run / path.name).read_bytes() != path.read_bytes():
            return f"{path.name} differs from the uninterrupted run's"
    return ""


def torn(run: Path) -> str:
    """What in a run's folder is not whole; empty where all is."""
    if parts := [path.name for path in run.rglob("*") if ".part" in path.name]:
        return f"left behind: {', '.join(parts)}"
    for path in numbered_checkpoints(run):
        try:
            load_checkpoint(path)
        except UserError as error:
            return str(error)
    for path in run.rglob("*.json*"):
        texts = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        for number, text in enumerate(texts):
            try:
                json.loads(text)
            except ValueError as error:
                if path.suffix != ".jsonl" or number + 1 < len(texts):  # a last line may be cut off
                    return f"{path.name}, line {number + 1}: {error}"
    return ""
