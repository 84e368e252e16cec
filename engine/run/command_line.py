"""What the command lines of both tasks have in common: their arguments, and how they start."""

from __future__ import annotations

import argparse
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

# Imports nothing heavy at the top: --help and a wrong argument should be answered at once.


def training_parser(description: str, epilog: str) -> argparse.ArgumentParser:
    """A parser with the arguments of every training command but ``KEY VALUE``, which ``parse_training`` adds."""
    parser = argparse.ArgumentParser(
        description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", "--config-file", metavar="FILE", required=True, help="what to train; see configs/")
    parser.add_argument("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS or the run in OUTPUT_DIR")
    parser.add_argument("--resume", action="store_true", help="go on from the newest whole checkpoint in OUTPUT_DIR")
    parser.add_argument("--overwrite", action="store_true", help="begin again where OUTPUT_DIR already holds a run")
    parser.add_argument("--num-gpus", type=int, default=1, metavar="N", help="processes on this machine (torchrun)")
    parser.add_argument("--device", default=None, metavar="D", help="auto, cpu, cuda or cuda:N")
    return parser


def parse_training(parser: argparse.ArgumentParser, keys: Mapping[str, str]) -> tuple[argparse.Namespace, dict]:
    """Parses the command line.

    Args:
        keys: config key → the argument that stands for it.

    Returns:
        the arguments, and from them what ``engine.run.experiment.Options`` takes.
    """
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="config keys to change")
    args = parser.parse_intermixed_args()  # flags may stand behind KEY VALUE too
    flags = {key: getattr(args, name) for key, name in {**keys, "MODEL.DEVICE": "device"}.items()}
    overrides = args.overrides + [word for key, value in flags.items() if value for word in (key, value)]
    options = {name: getattr(args, name) for name in ("config", "eval_only", "resume", "overwrite")}
    return args, {**options, "overrides": overrides}


def run_training(args: argparse.Namespace, run: Callable[[], object]) -> int:
    """Calls ``run`` in as many processes as were asked for. Returns the exit code."""
    from engine.device import choose_device
    from engine.train.launch import relaunch

    code = relaunch(args.num_gpus, choose_device(args.device or "auto"))
    if code is not None:
        return code
    run()
    return 0


def prediction_parser(description: str) -> argparse.ArgumentParser:
    """A parser with the arguments of every prediction command."""
    parser = argparse.ArgumentParser(
        description=description,
        epilog="Exit code: 0 all well, 1 some inputs skipped or incomplete, 2 wrong usage, 130 interrupted.",
    )
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="picture, video, or folder to search through")
    parser.add_argument("--weights", required=True, metavar="FILE", help="checkpoint, such as RUN/model_final.pth")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the results")
    parser.add_argument("--config", metavar="FILE", help="YAML to use instead of the config inside the checkpoint")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    parser.add_argument(
        "--precision", default="fp32", metavar="P", help="fp32 (default), bf16, fp16 or auto: what is fast"
    )
    parser.add_argument("--batch-size", type=int, metavar="N", help="pictures at a time (8 on a GPU, 1 on a CPU)")
    parser.add_argument("--max-images", type=int, metavar="N", help="stop after N pictures and video frames")
    parser.add_argument("--max-pixels", type=int, metavar="N", help="width x height allowed (INPUT.MAX_PIXELS); 0: any")
    return parser


def keep_work_when_killed() -> None:
    """SIGTERM keeps what was done, as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def print_report(report, found: str) -> int:
    """Prints the last line of a prediction and returns the exit code.

    Args:
        report: ``engine.predict.files.PredictionReport``.
        found: what to say before "pictures", as in "12 objects in 3".
    """
    ending = "interrupted after" if report.interrupted else "done:"
    trouble = f", {len(report.problems)} inputs with problems" if report.problems else ""
    print(f"{ending} {found} pictures{trouble}: {report.records_path}")
    return report.exit_code


def run_demo_command(
    description: str,
    config: str,
    train_images: int,
    val_images: int,
    run_demo: Callable[[int, int, Sequence[str]], Path],
    each: str = "",
) -> int:
    """The command of a demonstration.

    Args:
        config: the file whose keys can be changed.
        train_images, val_images: how many pictures it draws by default.
        run_demo: (training pictures, evaluation pictures, KEY VALUE pairs) → the run folder.
        each: what the numbers are of, as in "of each class ".
    """
    parser = argparse.ArgumentParser(description=description)
    for split, count, use in (("train", train_images, "training"), ("val", val_images, "evaluation")):
        text = f"pictures to draw {each}for {use} ({count})"
        parser.add_argument(f"--{split}-images", type=int, default=count, metavar="N", help=text)
    parser.add_argument("--device", default="auto", metavar="D", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help=f"keys of {config} to change")
    args = parser.parse_intermixed_args()
    begin = time.perf_counter()
    run = run_demo(args.train_images, args.val_images, ["MODEL.DEVICE", args.device, *args.overrides])
    print(f"\ndone in {time.perf_counter() - begin:.0f} s. Open {(Path(run) / 'summary.html').resolve()}")
    return 0
