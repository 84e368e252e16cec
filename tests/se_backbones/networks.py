"""What tests of all families need: networks as after a training, images, counts, rows in place of a family's own."""

import math
from dataclasses import replace

import torch
from torch.utils.flop_counter import FlopCounterMode

from se_backbones import create_backbone, registry

# Largest difference from a peer, relative to the largest number, in float64: both do the same operations.
TOLERANCE = 1e-12


@torch.no_grad()
def randomised(model, seed=0, gain=2.0, scales=(0.5, 1.0)):
    """Every tensor away from its first value.

    ``gain``: a weight's variance times its fan-in; ``scales``: between which a normalisation's weights are.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            continue
        if tensor.dim() > 1:
            tensor.normal_(0, math.sqrt(gain / tensor[0].numel()), generator=generator)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 2, generator=generator)
        elif name.endswith("weight"):
            tensor.uniform_(*scales, generator=generator)
        else:
            tensor.uniform_(-0.4, 0.4, generator=generator)
    return model


def images(height=75, width=101, count=2, seed=1):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def parameters(name, classes=None, **overrides):
    """How many a network has; no memory is used."""
    with torch.device("meta"):
        return sum(p.numel() for p in create_backbone(name, classes, **overrides).parameters())


def multiply_adds(name, size):
    """Of convolutions and linear layers, for one image of ``size`` × ``size``; no memory is used."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        create_backbone(name).eval()(torch.empty(1, 3, size, size))
    return counter.get_total_flops() // 2


def replace_rows(monkeypatch, family, rows):
    """Gives a family other rows, by their own names, for the time of a test."""
    monkeypatch.setitem(registry._FAMILIES, family.name, replace(family, rows=tuple(rows)))
    for row in rows:
        monkeypatch.setitem(registry._SPECS, row.name, row)


# --- small networks, which are made of the same parts ---

# What of a family's settings a small network has at most.
NARROW = {
    "cifar_resnet": {"width": 2},
    "shake_shake": {"width": 8},
    "mobilenet_v1": {"width": 0.5},
}


def shallow(row):
    """The row with few units in each stage: one that changes the shape, and another behind it, in the last stages of
    a ResNet (most of its weights) none. A VGG, whose layers are all different, has a narrow classifier."""
    hyper = row.hyper
    if row.family == "vgg":
        return replace(row, hyper=replace(hyper, hidden=32))
    if not hasattr(hyper, "depths"):
        return row
    most = (2, 2, 2) if row.family == "inception_resnet" else (2, 2, 1, 1)  # its last unit of all is another
    return replace(row, hyper=replace(hyper, depths=tuple(map(min, hyper.depths, most))))


def small(row):
    """The row shallow, and with few channels: a tenth of the time."""
    hyper = shallow(row).hyper
    changes = {key: min(most, getattr(hyper, key)) for key, most in NARROW.get(row.family, {}).items()}
    if row.family == "resnet":
        changes |= {"groups": 4, "width_per_group": 4} if hyper.groups > 1 else {"width_per_group": 16}
    elif row.family == "vgg":
        changes["widths"] = tuple(tuple(width // 4 for width in stage) for stage in hyper.widths)
    return replace(row, hyper=replace(hyper, **changes))


def change_rows(monkeypatch, change):
    """Every name of the table is another network, ``change(row)``, for the time of a test."""
    for family in registry.families():
        replace_rows(monkeypatch, family, [change(row) for row in family.rows])


def distinct_rows():
    """The names of rows that differ in more than numbers of units, groups and channels from every row before them:
    what is shown on these, made small, is shown for all."""
    found = {}
    for name in registry.list_backbones():
        row = small(registry.find_spec(name))
        found.setdefault((row.family, row.hyper, row.se), name)
    return list(found.values())
