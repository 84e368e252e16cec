"""Biases of the gate's two layers. The paper's section 3.2 and its ablations have none, the released networks have."""

from studies.bases import ABLATION
from studies.lab.study import Row, Study

STUDY = Study(
    name="bias",
    title="Biases of the gate",
    compares="the gate's two layers with biases and without",
    tables=(),
    bases=ABLATION,
    rows=lambda base, scale: (
        Row("with biases", ("MODEL.SE.BIAS", "True")),
        Row("without biases", ("MODEL.SE.BIAS", "False")),
    ),
    reference={"cpu": "with biases", "paper": "without biases"},  # as the base has them
)
