"""The reduction ratio: table 10."""

from studies.bases import ABLATION
from studies.lab.paper import paper_row
from studies.lab.study import Row, Study, plain

TABLE = "table10_reduction"
RATIOS = (2, 4, 8, 16, 32)


def _rows(base, scale):
    rows = [Row(f"r = {r}", ("MODEL.SE.REDUCTION", f"[{r}]"), (paper_row(TABLE, str(r)),)) for r in RATIOS]
    return (*rows, Row("no SE", plain(base), (paper_row(TABLE, "original"),)))


STUDY = Study(
    name="reduction",
    title="Reduction ratio",
    compares="SE with bottlenecks of C/2 to C/32, and the plain network",
    tables=(TABLE,),
    bases=ABLATION,
    rows=_rows,
    reference="r = 16",
)
