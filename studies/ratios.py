"""A reduction ratio for every gate, chosen by what its hidden units are worth, beside one for all gates.

Every row trains on from the same network, trained at r = 4, for as many steps. For each r of the uniform ones its two
rows have as many parameters of SE, to less than those of one hidden unit: one has C / r units in every gate, the other
one has them where they are worth most. Which units of a gate are kept is chosen alike in both, by the loss that
dropping costs, so that what the pair tells apart is the spread over the gates alone.
"""

from studies.bases import GOING_ON, trained_with
from studies.lab.study import Row, Study, Surgery

RATIOS = (8, 16, 32)
TRAINED = 4  # the ratio that all begin with
# A fifteenth of the training's epochs, from a fifth of its learning rate on, falling to 0; the classifier stays.
LENGTH = {
    "cpu": ("SOLVER.EPOCHS", "1", "SOLVER.BASE_LR", "0.02"),
    "paper": ("SOLVER.EPOCHS", "7", "SOLVER.BASE_LR", "0.12"),
}
WORDS = ("MODEL.SE.REDUCTION", f"[{TRAINED}]")


def _rows(base, scale):
    recipe = (*GOING_ON, *LENGTH[scale])
    yield Row(f"r = {TRAINED}, trained on", recipe, goes_on=True)
    for r in RATIOS:
        for name, uniform in ((f"r = {r} in every gate", True), (f"as many as r = {r}, by worth", False)):
            surgery = Surgery("ratios", (("reduction", r), ("uniform", uniform)))
            yield Row(name, recipe, pair=f"r = {r}", surgery=surgery)


STUDY = Study(
    name="ratios",
    title="Reduction ratio under a budget",
    compares="a network trained at r = 4 whose hidden units are dropped to those of r = 8, 16 and 32, either to one "
    "ratio in all gates or wherever they are worth least, each trained on for the same steps",
    tables=(),
    bases=trained_with(*WORDS),
    rows=_rows,
    one_source=True,
)
