"""The squeeze operator: table 11."""

from studies.bases import ABLATION
from studies.lab.paper import paper_row
from studies.lab.study import Row, Study

TABLE = "table11_squeeze"

STUDY = Study(
    name="squeeze",
    title="Squeeze operator",
    compares="the maximum and the mean over the map as what the gate is computed from",
    tables=(TABLE,),
    bases=ABLATION,
    rows=lambda base, scale: (
        Row("max pooling", ("MODEL.SE.SQUEEZE", "max"), (paper_row(TABLE, "Max"),)),
        Row("mean pooling", ("MODEL.SE.SQUEEZE", "avg"), (paper_row(TABLE, "Avg"),)),
    ),
    reference="mean pooling",
)
