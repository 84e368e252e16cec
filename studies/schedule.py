"""A longer schedule of fixed length, plain and with SE: footnote 2."""

from studies.bases import CIFAR10
from studies.lab.paper import paper_row
from studies.lab.study import Base, Study, pair_of

TABLE = "text_270_epochs"

STUDY = Study(
    name="schedule",
    title="A longer schedule",
    compares="a network with its twin that has SE, both trained for longer and without plateaus",
    tables=(TABLE,),
    bases={
        "cpu": Base(CIFAR10.task, CIFAR10.config, words=("SOLVER.EPOCHS", "30")),  # twice the other studies'
        "paper": Base("classification", "configs/ablations/se_resnet50_270_epochs.yaml"),
    },
    rows=lambda base, scale: pair_of(base, ((paper_row(TABLE, "ResNet-50"),), (paper_row(TABLE, "SE-ResNet-50"),))),
)
