"""Which measure tells a network's channels apart: pruned by the gates, and by controls, at equal widths.

Every row of a ratio has the same widths, and so the same parameters and multiply-adds, and trains for as many steps
with one recipe; what differs is which channels stayed, and for the row from scratch that none of their weights did. All
begin with one network, trained with its gates inside, behind the convolution whose channels are cut. The seeds are
those of the fine-tuning, and of what is drawn at random; the cut of a measure is one.

At scale cpu a row trains for one epoch: the 45 runs of three seeds take three quarters of an hour on two cores, two at
a time; `--resume` goes on where it was stopped.
"""

from studies.bases import GOING_ON, trained_with
from studies.lab.study import Row, Study, Surgery

RATIOS = (0.5, 0.7)
MEASURES = {
    "gate": "mean gate",
    "gate_bn": "mean gate times BatchNorm's scale",
    "bn": "BatchNorm's scale",
    "l1": "L1 of the filter",
    "taylor": "Taylor, first order",
    "random": "at random",
}
IMAGES = 1024  # of the training split, that gates and gradients are seen on
# From a fifth of the training's learning rate, falling to 0; the classifier stays.
LENGTH = {
    "cpu": ("SOLVER.EPOCHS", "1", "SOLVER.BASE_LR", "0.02"),
    "paper": ("SOLVER.EPOCHS", "14", "SOLVER.BASE_LR", "0.12"),
}
WORDS = ("MODEL.SE.PLACEMENT", "inside")


def _rows(base, scale):
    recipe = (*GOING_ON, *LENGTH[scale])
    yield Row("whole, trained on", recipe, goes_on=True)
    for ratio in RATIOS:
        for measure, name in MEASURES.items():
            settings = (("ratio", ratio), ("importance", measure), ("images", IMAGES))
            yield Row(f"{name}, {ratio:g} cut", recipe, pair=f"{ratio:g}", surgery=Surgery("prune", settings))
        # The widths are the same whatever the measure; the seed of the run draws the weights.
        widths = Surgery("prune", (("ratio", ratio), ("importance", "bn")), weights=False)
        yield Row(f"from scratch, {ratio:g} cut", recipe, pair=f"{ratio:g}", surgery=widths)


STUDY = Study(
    name="pruning",
    title="Pruning by the gates",
    compares="a network with its gates inside, pruned by its gates, by BatchNorm's scale, by filters, by gradients and "
    "at random to the same widths and trained on for the same steps, beside the same widths from scratch",
    tables=(),
    bases=trained_with(*WORDS),
    rows=_rows,
    one_source=True,
)
