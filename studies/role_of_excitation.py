"""What the gates do, by class and by depth: figures 6 and 7, section 7.2."""

from studies.bases import IMAGENET, TINY_IMAGENET
from studies.lab.study import Row, Study

STUDY = Study(
    name="role_of_excitation",
    title="Role of excitation",
    compares="the gates of one trained network over classes and over depth",
    tables=("text_role_of_excitation",),
    bases={"cpu": TINY_IMAGENET, "paper": IMAGENET},
    rows=lambda base, scale: (Row(base.name, evaluates=True),),
    gates=True,
)
