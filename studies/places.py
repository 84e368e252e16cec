"""Places365, plain and with SE: table 6."""

from studies.lab.paper import paper_row
from studies.lab.study import Base, Study, pair_of

TABLE = "table6_places365"

STUDY = Study(
    name="places",
    title="Scene classification",
    compares="a network with its twin that has SE",
    tables=(TABLE,),
    bases={
        "cpu": Base("places365", "configs/miniplaces_se_resnet18.yaml"),
        "paper": Base("places365", "configs/places365_se_resnet152.yaml"),
    },
    rows=lambda base, scale: pair_of(
        base, ((paper_row(TABLE, "ResNet-152 (ours)"),), (paper_row(TABLE, "SE-ResNet-152"),))
    ),
    beside=(TABLE,),
)
