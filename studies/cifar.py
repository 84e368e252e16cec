"""Networks for CIFAR-10 and CIFAR-100, plain and with SE: tables 4 and 5."""

from studies.bases import CIFAR10
from studies.lab.paper import paper_row
from studies.lab.study import Base, Row, Study, network, pair_of

TEN, HUNDRED = "table4_cifar10", "table5_cifar100"
RESNET_110 = "ResNet-110 (pre-activation, [14])"

# (the paper's name, our plain network without its end _cifar)
NETWORKS = (
    (RESNET_110, "preresnet110"),
    ("ResNet-164 (pre-activation bottleneck, [14])", "preresnet164"),
    ("WRN-16-8", "wrn16_8"),
)
SHAKES = {
    TEN: ("Shake-Shake 26 2x96d + Cutout", "shakeshake26_2x96d"),
    HUNDRED: ("Shake-Even 29 2x4x64d + Cutout", "shakeeven29_2x4x64d"),
}


def _published(table, model):
    return (paper_row(table, model, {"original": "top1"}),), (paper_row(table, model, {"se": "top1"}),)


def _rows(table, folder):
    def rows(base, scale):
        if scale == "cpu":  # a small network, beside the paper's smallest
            yield from pair_of(base, _published(table, RESNET_110))
            return
        for name, plain in (*NETWORKS, SHAKES[table]):
            own, with_se = _published(table, name)
            config = f"configs/{folder}/{plain}.yaml"
            yield Row(name, network(f"{plain}_cifar"), own, pair=name, config=config)
            yield Row(f"SE-{name}", network(f"se_{plain}_cifar"), with_se, pair=name, config=config)

    return rows


STUDY = Study(
    name="cifar",
    title="CIFAR-10",
    compares="each network with its twin that has SE",
    tables=(TEN,),
    bases={"cpu": CIFAR10, "paper": Base("classification", "configs/cifar10/preresnet110.yaml")},
    rows=_rows(TEN, "cifar10"),
)
CIFAR100 = Study(
    name="cifar100",
    title="CIFAR-100",
    compares=STUDY.compares,
    tables=(HUNDRED,),
    bases={"cpu": CIFAR10, "paper": Base("classification", "configs/cifar100/preresnet110.yaml")},
    rows=_rows(HUNDRED, "cifar100"),
)
