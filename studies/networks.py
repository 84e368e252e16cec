"""Every family of networks, plain and with SE: tables 2 and 3."""

from studies.bases import IMAGENET, TINY_IMAGENET
from studies.lab.paper import paper_row
from studies.lab.study import Row, Study, network

LARGE, SMALL = "table2_imagenet", "table3_mobile"
PLAIN = {"reimpl_top1": "top1", "reimpl_top5": "top5", "gflops": "gflops", "mflops": "mflops", "params_m": "params_m"}
# (the paper's name, our plain network, its table, the config of both twins where it is not the base)
NETWORKS = (
    ("ResNet-50", "resnet50", LARGE, ""),
    ("ResNet-101", "resnet101", LARGE, ""),
    ("ResNet-152", "resnet152", LARGE, ""),
    ("ResNeXt-50 32x4d", "resnext50_32x4d", LARGE, ""),
    ("ResNeXt-101 32x4d", "resnext101_32x4d", LARGE, ""),
    ("VGG-16 (with BN)", "vgg16", LARGE, ""),
    ("BN-Inception", "bn_inception", LARGE, ""),
    ("Inception-ResNet-v2", "inception_resnet_v2", LARGE, "configs/imagenet/inception_resnet_v2.yaml"),
    ("MobileNet 1.0/224", "mobilenet_v1", SMALL, "configs/imagenet/mobilenet.yaml"),
    ("ShuffleNet 1x g=3", "shufflenet_v1_g3", SMALL, "configs/imagenet/shufflenet.yaml"),
)
ON_CPU = ("MobileNet 1.0/224",)  # on small images, in place of STL-10


def _rows(base, scale):
    for name, plain, table, config in NETWORKS:
        if scale == "cpu" and name not in ON_CPU:
            continue
        for row, own, published in (
            (name, plain, paper_row(table, name, PLAIN)),
            (f"SE-{name}", f"se_{plain}", paper_row(table, name, prefix="se_")),
        ):
            yield Row(row, network(own), (published,), pair=name, config=config if scale == "paper" else "")


STUDY = Study(
    name="networks",
    title="Networks with and without SE",
    compares="each network with its twin that has SE",
    tables=(LARGE, SMALL),
    bases={"cpu": TINY_IMAGENET, "paper": IMAGENET},
    rows=_rows,
)
