"""Where in a residual unit the gate acts: tables 14 and 15."""

from studies.bases import ABLATION
from studies.lab.paper import paper_row
from studies.lab.study import Row, Study

UNIT, INSIDE = "table14_placement", "table15_se3x3"

STUDY = Study(
    name="placement",
    title="Placement",
    compares="the gate on the residual branch, before it, behind the sum, on the shortcut, and behind the 3×3",
    tables=(UNIT, INSIDE),
    bases=ABLATION,
    rows=lambda base, scale: tuple(
        Row(placement, ("MODEL.SE.PLACEMENT", placement), tuple(paper_row(*row) for row in published))
        for placement, published in (
            ("standard", [(UNIT, "SE"), (INSIDE, "SE")]),
            ("pre", [(UNIT, "SE-PRE")]),
            ("post", [(UNIT, "SE-POST")]),
            ("identity", [(UNIT, "SE-Identity")]),
            ("inside", [(INSIDE, "SE_3x3")]),
        )
    ),
    reference="standard",
)
