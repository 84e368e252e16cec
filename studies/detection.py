"""Faster R-CNN on COCO, plain and with SE: table 7."""

from studies.lab.paper import paper_row
from studies.lab.study import Base, Row, Study, network, pair_of

TABLE = "table7_coco"


def _rows(base, scale):
    if scale == "cpu":
        yield from pair_of(base, ((paper_row(TABLE, "ResNet-50"),), (paper_row(TABLE, "SE-ResNet-50"),)))
        return
    for depth in (50, 101):
        name = f"ResNet-{depth}"
        for row, own in ((name, f"resnet{depth}"), (f"SE-{name}", f"se_resnet{depth}")):
            yield Row(row, network(own), (paper_row(TABLE, row),), pair=name)


STUDY = Study(
    name="detection",
    title="Object detection",
    compares="Faster R-CNN on a network and on its twin that has SE",
    tables=(TABLE,),
    bases={
        "cpu": Base("detection", "configs/bccd_se_r50.yaml"),
        "paper": Base("detection", "configs/faster_rcnn_se_r50_2x.yaml"),
    },
    rows=_rows,
    beside=("table7_coco_cvpr2018",),
)
