"""The excitation's non-linearity: table 12."""

from studies.bases import ABLATION
from studies.lab.paper import paper_row
from studies.lab.study import Row, Study

TABLE = "table12_excitation"

STUDY = Study(
    name="excitation",
    title="Excitation operator",
    compares="ReLU, tanh and sigmoid behind the gate's second layer",
    tables=(TABLE,),
    bases=ABLATION,
    rows=lambda base, scale: tuple(
        Row(gate, ("MODEL.SE.GATE", gate.lower()), (paper_row(TABLE, gate),)) for gate in ("ReLU", "Tanh", "Sigmoid")
    ),
    reference="Sigmoid",
)
