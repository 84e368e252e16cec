"""Larger images at evaluation: table 8."""

from studies.bases import TINY_IMAGENET
from studies.lab.paper import paper_row
from studies.lab.study import Base, Row, Study

TABLE = "table8_sota"
# scale → (name, INPUT.TEST_RESIZE, INPUT.TEST_SIZE, the table's columns)
SIZES = {
    "paper": (("224 pixels", 256, 224, "224"), ("320 pixels", 320, 320, "320")),
    "cpu": (("64 pixels", 64, 64, "224"), ("96 pixels", 96, 96, "320")),
}


def _rows(base, scale):
    for name, resize, size, column in SIZES[scale]:
        changes = ("INPUT.TEST_RESIZE", str(resize), "INPUT.TEST_SIZE", str(size))
        published = paper_row(TABLE, "SENet-154", {f"top1_{column}": "top1", f"top5_{column}": "top5"})
        yield Row(name, changes, (published,), evaluates=True)


STUDY = Study(
    name="crops",
    title="Larger crops",
    compares="the same weights, evaluated at the size of training and larger",
    tables=(TABLE,),
    bases={"cpu": TINY_IMAGENET, "paper": Base("classification", "configs/imagenet/senet154.yaml")},
    rows=_rows,
    reference={"paper": "224 pixels", "cpu": "64 pixels"},
    beside=(TABLE, "soeaver_retest"),
)
