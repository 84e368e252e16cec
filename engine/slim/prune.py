"""Channels cut out of a trained network, fine-tuned: what ``tools/slim.py prune`` and a study's rows do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engine.errors import UserError
from engine.json_files import write_json
from engine.slim.picture import draw_figures
from engine.slim.report import describe_change, report_of, train_on, write_result
from engine.slim.subject import Subject
from se_backbones.surgery import prune as surgery

IMAGES = 256


def pruned(subject: Subject, seed: int = 0, *, ratio: float, importance: str, images: int = IMAGES) -> dict:
    """Cuts channels out of a subject's network, in place (``se_backbones.surgery.prune``).

    Args:
        seed: of the importance ``random``.
        images: of the training split, that gates and gradients are seen on.

    Returns:
        the report as plain values.

    Raises:
        UserError: the network cannot be pruned so, or torch-pruning is not installed.
    """
    by_gates = importance in ("gate", "gate_bn")
    try:
        report = surgery.prune(
            subject.model,
            ratio,
            importance,
            subject.images(images) if by_gates else (),
            subject.losses(images) if importance == "taylor" else (),
            seed,
        )
    except (ValueError, ModuleNotFoundError) as error:
        raise UserError(f"{subject.weights}: {error}") from error
    return report.as_dict()


def prune_and_train(
    subject: Subject,
    output: Path,
    ratio: float,
    importance: str,
    images: int = IMAGES,
    seed: int = 0,
    fine_tune: Sequence[str] | None = None,
    from_scratch: bool = False,
    rounds: int = 15,
) -> dict:
    """Prunes a subject's network, writes it, and trains it on where that is asked for.

    Killed and called again, the cut is made anew, the same, and a training goes on where it was.

    Args:
        output: of the cut checkpoint, NAME.pth; beside it NAME.yaml, NAME.json and NAME.png; NAME, the run in which it
            is trained on, and NAME_from_scratch.
        ratio, importance, images, seed: as ``pruned`` takes them.
        fine_tune: KEY VALUE words of that run; None: it is not trained on.
        from_scratch: the same widths are trained from random weights too, with the same words.
        rounds: of the times that are measured, see ``costs``.

    Returns:
        the report, which is NAME.json: "before", "after" the cut, and with runs "fine_tuned" and "from_scratch".

    Raises:
        UserError: as ``pruned``, and as every training. Nothing is written where the network cannot be cut.
    """
    if from_scratch and fine_tune is None:
        raise UserError(
            "--from-scratch trains with the words of --fine-tune: give that too, without words for the run's own recipe"
        )
    subject.check_output(output)
    told = pruned(subject, seed, ratio=ratio, importance=importance, images=images)
    narrow, subject.model = subject.model, subject.whole
    before = subject.evaluate()
    subject.model = narrow
    report = report_of(subject, "prune", before, subject.evaluate(), rounds, pruned=told)
    label = subject.info.label(before.name)

    def draw(path: Path) -> None:
        draw_figures(report, label, path)

    write_result(subject, output, report, draw)
    if fine_tune is None:
        return report
    report |= train_on(subject, output, fine_tune)
    if from_scratch:
        folder = output.with_name(f"{output.stem}_from_scratch")
        subject.take(_from_scratch(subject, output, fine_tune, folder))
        report["from_scratch"] = subject.evaluate().as_dict()
    draw(output.with_suffix(".png"))
    write_json(output.with_suffix(".json"), report)
    return report


def _from_scratch(subject: Subject, cut: Path, words: Sequence[str], folder: Path) -> Path:
    """Trains the cut network's widths from random weights; the final checkpoint."""
    here = ["MODEL.DEVICE", str(subject.device), "MODEL.WEIGHTS", "", "OUTPUT_DIR", str(folder)]
    subject.train(str(cut.with_suffix(".yaml")), [*words, *here])
    return folder / "model_final.pth"


def describe(report: dict, label: str) -> str:
    """The report in lines. ``label``: what the figure is called."""
    told, groups = report["pruned"], report["pruned"]["groups"]
    cut, of = (sum(group[key] for group in groups) for key in ("kept", "channels"))
    lines = [
        f"{of - cut:,} of {of:,} inner channels cut by {told['importance']}, {told['ratio']:g} of each of "
        f"{len(groups)} layers; {sum(bool(group['site']) for group in groups)} of them are scaled by a gate",
        describe_change(report, label),
    ]
    for key, name in (("fine_tuned", "fine-tuned"), ("from_scratch", "the same widths from random weights")):
        if key in report:
            lines.append(f"{name}: {label} {report[key]['value']:.2f} ± {report[key]['standard_error']:.2f}")
    return "\n".join(lines)
