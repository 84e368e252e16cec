"""Classifiers' answers on the same images, for a comparison of their runs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from classification.config import load_config
from classification.evaluation.answers import GuessesOfImage, read_guesses
from classification.index.index import ImageIndex
from classification.task import ClassificationTask
from classification.train import load_index
from engine.compare.answers import Answers, PairTest, Panel
from engine.errors import UserError
from engine.images.reading import UnreadableImage
from engine.report.run_reader import Run
from engine.statistics import mcnemar

SHOWN_GUESSES = 3


class ClassifierAnswers(Answers):
    """The guesses of a run's last evaluation.

    Args:
        run: a finished one.
        task: what kind of data set it is.

    Raises:
        UserError: its predictions are missing or damaged.
    """

    def __init__(self, run: Run, task: ClassificationTask):
        self._run, self._task = run, task
        self.guesses: dict[str, GuessesOfImage] = read_guesses(run.folder / task.info.predictions_file)
        self.images = list(self.guesses)
        right = sum(guess.right for guess in self.guesses.values())
        self.main = 100 * right / len(self.guesses) if self.guesses else None

    def unlike(self, other: ClassifierAnswers) -> str:
        if self.guesses.keys() != other.guesses.keys():
            apart = len(self.guesses.keys() ^ other.guesses.keys())
            return f"it was evaluated on other images: {apart:,} were seen by one run alone"
        relabelled = sum(guess.label != other.guesses[name].label for name, guess in self.guesses.items())
        return f"{relabelled:,} images have another label" if relabelled else ""

    def test(self, other: ClassifierAnswers) -> PairTest:
        pairs = [(guess.right, other.guesses[name].right) for name, guess in self.guesses.items()]
        ours, theirs = pairs.count((True, False)), pairs.count((False, True))
        words = f"{{first}} alone is right on {ours:,} images, {{second}} alone on {theirs:,} (McNemar)"
        return PairTest(mcnemar(ours, theirs), words)

    def differing(self, others: Sequence[ClassifierAnswers]) -> list[str]:
        """By whether some are right and some wrong, then by how far apart their probabilities of the truth are."""
        apart = {}
        for name in self.images:
            guesses = [one.guesses[name] for one in (self, *others)]
            shares = [guess.of_truth for guess in guesses]
            mixed = len({guess.right for guess in guesses}) > 1
            if mixed or len({guess.first for guess in guesses}) > 1:
                apart[name] = (mixed, max(shares) - min(shares))
        return sorted(apart, key=lambda name: (not apart[name][0], -apart[name][1]))

    def truth(self, image: str) -> Panel:
        position = self._index.position(image)
        if position is None:
            raise UserError(f"{self._index.source} has no image {image} any more")
        try:
            pixels = self._index.read(position, self._cfg.INPUT.MAX_PIXELS)
        except UnreadableImage as error:
            return Panel(f"truth: {self.guesses[image].label}; it cannot be read ({error})")
        return Panel(f"truth: {self.guesses[image].label}", picture=pixels)

    def said(self, image: str) -> Panel:
        guess = self.guesses[image]
        if guess.first is None:
            return Panel("could not be read, and counts as wrong", right=False)
        return Panel(guess.first, guess.right, bars=[(name, 100 * share) for name, share in guess.top[:SHOWN_GUESSES]])

    @cached_property
    def _cfg(self):
        return load_config(str(self._run.folder / "config.yaml"))

    @cached_property
    def _index(self) -> ImageIndex:
        return load_index(self._task, self._cfg, self._cfg.DATA.VAL)
