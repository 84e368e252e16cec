"""What the squeeze is for: table 16."""

from studies.bases import ABLATION
from studies.lab.paper import paper_row
from studies.lab.study import Row, Study, plain

TABLE = "table16_nosqueeze"

STUDY = Study(
    name="nosqueeze",
    title="Without the squeeze",
    compares="the plain network, one whose gates see their own place alone (two 1×1 convolutions), and SE",
    tables=(TABLE,),
    bases=ABLATION,
    rows=lambda base, scale: (
        Row("no SE", plain(base), (paper_row(TABLE, "ResNet-50"),)),
        Row("NoSqueeze", ("MODEL.SE.SQUEEZE", "none"), (paper_row(TABLE, "NoSqueeze"),)),
        Row("SE", (), (paper_row(TABLE, "SE"),)),
    ),
    reference="SE",
)
