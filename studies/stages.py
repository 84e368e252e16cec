"""SE at single stages: table 13, and without the last stage (section 4 of the paper)."""

from studies.bases import ABLATION
from studies.lab.paper import paper_row
from studies.lab.study import Row, Study, plain, stages_of

TABLE = "table13_stages"


def _rows(base, scale):
    """Table 13 has the stages but the last, one at a time; the first of another network stands beside the first."""
    *before, last = stages_of(base)
    published = iter([(paper_row(TABLE, f"SE Stage {number}"),) for number in (2, 3, 4)])
    return (
        Row("no SE", plain(base), (paper_row(TABLE, "ResNet-50"),)),
        *(Row(f"{stage} alone", _at(stage), next(published, ())) for stage in before),
        Row("all stages", (), (paper_row(TABLE, "SE All"),)),
        Row(f"without {last}", _at(*before)),
    )


def _at(*stages):
    return ("MODEL.SE.STAGES", str(list(stages)))


STUDY = Study(
    name="stages",
    title="Stages",
    compares="SE at one stage, at all, and at all but the last",
    tables=(TABLE,),
    bases=ABLATION,
    rows=_rows,
    reference="all stages",
)
