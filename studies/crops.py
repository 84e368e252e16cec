"""Larger images: tables 8 and 9."""

from studies.bases import TINY_IMAGENET
from studies.lab.paper import paper_row
from studies.lab.study import Base, Row, Study

TABLE, LARGER = "table8_sota", "table9_larger"
# scale → (name, INPUT.TEST_RESIZE, INPUT.TEST_SIZE, the table's columns)
SIZES = {
    "paper": (("224 pixels", 256, 224, "224"), ("320 pixels", 320, 320, "320")),
    "cpu": (("64 pixels", 64, 64, "224"), ("96 pixels", 96, 96, "320")),
}


def _sizes(resize, size):
    return ("INPUT.TEST_RESIZE", str(resize), "INPUT.TEST_SIZE", str(size))


def _rows(base, scale):
    for name, resize, size, column in SIZES[scale]:
        published = paper_row(TABLE, "SENet-154", {f"top1_{column}": "top1", f"top5_{column}": "top5"})
        yield Row(name, _sizes(resize, size), (published,), evaluates=True)
    published = (paper_row(LARGER, "SENet-154, trained at 320"),)
    if scale == "paper":
        how = {"config": "configs/imagenet/senet154_320.yaml"}
    else:
        recipe = ("MODEL.HEAD", "keep", "INPUT.TRAIN_SIZE", str(size), "SOLVER.BASE_LR", "0.005", "SOLVER.EPOCHS", "5")
        how = {"changes": (*recipe, *_sizes(resize, size))}
    yield Row(f"{name}, trained on so", paper=published, goes_on=True, **how)


STUDY = Study(
    name="crops",
    title="Larger crops",
    compares="the same weights, evaluated at the size of training, larger, and larger after more training at that size",
    tables=(TABLE, LARGER),
    bases={"cpu": TINY_IMAGENET, "paper": Base("classification", "configs/imagenet/senet154.yaml")},
    rows=_rows,
    reference={"paper": "224 pixels", "cpu": "64 pixels"},
    beside=(TABLE, LARGER, "soeaver_retest"),
)
