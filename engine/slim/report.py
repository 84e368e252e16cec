"""What was made of a network, as a report: beside the checkpoint, and for people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from engine.device import hardware
from engine.json_files import write_json
from engine.run.folder import command, versions
from engine.slim.subject import Score, Subject, costs


def report_of(subject: Subject, method: str, before: Score, after: Score, rounds: int, **found) -> dict:
    """The report of a change that was made to a subject's model.

    Args:
        method: what was done, a word.
        before, after: how good the model was, and is.
        rounds: of the times that are measured, see ``costs``.
        found: what the method adds, plain values.
    """
    return {
        "method": method,
        "weights": str(subject.weights),
        "task": subject.info.name,
        "architecture": subject.network.spec.name,
        "figure": before.name,
        "before": before.as_dict(),
        "after": after.as_dict(),
        **found,
        "costs": costs(subject, rounds),
        "command": command(),
        "hardware": hardware(subject.device),
        "versions": versions(),
    }


def write_result(subject: Subject, output: Path, report: dict, draw: Callable[[Path], object] | None = None) -> None:
    """Writes NAME.json, the report; NAME.png; and NAME.pth with NAME.yaml, the checkpoint, which comes last: where it
    is, everything is.

    Args:
        draw: writes the picture.

    Raises:
        UserError, OSError: as ``Subject.write``.
    """
    output = Path(output)
    subject.check_output(output)
    write_json(output.with_suffix(".json"), report)
    if draw is not None:
        draw(output.with_suffix(".png"))
    subject.write(output, {key: report[key] for key in ("method", "weights", "command")})


def train_on(subject: Subject, output: Path, words: Sequence[str]) -> dict:
    """Trains a written result on, in the run NAME, and takes the weights that come of it. A run that was cut off
    goes on.

    Args:
        output: the checkpoint, NAME.pth. words: KEY VALUE words of the run.

    Returns:
        what a report says of it: "fine_tuned", the figure, "fine_tuning", the words, and "fine_tuned_weights".
    """
    final = subject.fine_tune(output, words, output.with_suffix(""))
    subject.take(final)
    return {
        "fine_tuned": subject.evaluate().as_dict(),
        "fine_tuning": [str(word) for word in words],
        "fine_tuned_weights": str(final),
    }


def describe_change(report: dict, label: str) -> str:
    """Parameters, multiply-adds, time and figure of the two models, in lines.

    Args:
        label: what the figure is called.
    """
    found, size = report["costs"], " x ".join(map(str, report["costs"]["image_size"]))
    lines = [f"{'':8}{'parameters':>14}{'of gates':>12}{'multiply-adds':>18}{'ms an image':>13}  {label}, %"]
    for name in ("before", "after"):
        cost, score = found[name], report[name]
        lines.append(
            f"{name:8}{cost['parameters']:14,}{cost['se_parameters']:12,}{cost['multiply_adds']:18,}"
            f"{cost['milliseconds']:13.2f}  {score['value']:.2f} ± {score['standard_error']:.2f}"
        )
    speed = found["times_as_fast"]
    lines.append(
        f"at {size} pixels; {speed['median']:.3f} times as fast, quartiles {speed['quartiles'][0]:.3f} and "
        f"{speed['quartiles'][1]:.3f}; ± is one standard error, by the images evaluated on"
    )
    return "\n".join(lines)
