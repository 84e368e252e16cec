"""``insert_se``: a trained plain network becomes its SE twin and goes on computing what it computed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import nn

from se_backbones.families.resnet.network import ResNet
from se_backbones.families.resnet.table import ARCHITECTURES, Architecture
from se_backbones.families.resnet.units import ResidualUnit
from se_backbones.se import SEConfig


def insert_se(model: nn.Module, se_config: SEConfig | None = None) -> nn.Module:
    """Puts SE into a trained plain network without changing what it computes.

    A fresh gate is near 0.5 and halves every residual branch; what the weights behind it have learned no longer fits.
    Here every gate starts as one constant (``fc2`` zero), and the weights in front of it take up the constant's
    inverse:

    ========= ================ ================================================================================
    gate      placement        how
    ========= ================ ================================================================================
    sigmoid   standard         sigmoid(0) = 0.5, and the weight and bias of the branch's last normalisation are
                               doubled
    sigmoid   pre              sigmoid(0) = 0.5, and the weight of the branch's first convolution is doubled
    relu      all four         relu(1) = 1, and no weight changes
    ========= ================ ================================================================================

    Doubling and halving are exact in binary floating point: in float32 the outputs are equal bit for bit, in training
    (with the running statistics of BatchNorm) and in eval mode, under bf16 autocast too; fp16 has less room, and a
    normalised value above 32752 would overflow. Sigmoid with ``standard`` is the paper's form (equation 3), which
    every other program that knows SE reads.

    Why not sigmoid with ``identity`` or ``post``: the gate there scales the bare shortcut, or the unit's output behind
    the addition, and no weight in front of it could be doubled; and a sigmoid is below 1 wherever it still has a
    gradient. Why not tanh: the bias atanh(0.5) is rounded, so that outputs differ by about 1e-7, and weight decay
    moves it.

    Learning: ``fc2`` has a gradient at the first step, ``fc1`` from the second on, when ``fc2`` is no longer zero.

    Weight decay: at 0 the sigmoid's ``fc2`` stays where it is. A relu gate's bias of 1 decays, by the same rate as
    every weight: keep decay off biases (``SOLVER.WEIGHT_DECAY_BIAS 0``). Decay of the doubled weights changes them in
    the same proportion as before. Their learning does change: the gradient of a doubled weight is half of what it
    was, so plain SGD moves what the weight does (its half) a quarter as far, and Adam half as far; of a weight ahead
    of a normalisation (``pre``) its length does not count, and its direction turns a quarter as fast under SGD.

    Args:
        model: a ResNet, or one model that contains one (a classifier, a detector; a C4 detector's last stage in its
            heads included). It is changed in place: its parameters stay the same objects, so that an optimizer goes
            on holding them, with momentum from before; the gates are new and in no optimizer yet (build it
            afterwards, or use ``add_param_group``), and averaged copies (EMA) are to be made anew. ``fc1`` takes
            random numbers from torch's generator. In a unit that is frozen the gate is frozen too, as
            create_backbone has it.
        se_config: the settings, SEConfig() by default; its ``init`` is ``neutral`` afterwards, whatever it says.

    Returns:
        the model. The network's ``config`` tells its SE settings, and the name of its row with SE where there is one
        (``resnet50`` is ``se_resnet50`` now).

    Raises:
        ValueError: SE with these settings cannot leave the function as it is (the message says which can), the model
            has SE already, holds no ResNet or several, or is wrapped in DistributedDataParallel. Nothing has been
            changed then.
    """
    se = neutral_config(SEConfig() if se_config is None else se_config)
    for module in model.modules():
        if isinstance(module, nn.parallel.DistributedDataParallel | nn.DataParallel):
            raise ValueError("the model is wrapped in DistributedDataParallel, which would not see the new gates: "
                             "insert SE first, then wrap")  # fmt: skip
    network = find_network(model)
    gated = [name for name, unit in residual_units(model) if hasattr(unit, "se")]
    if gated:
        raise ValueError(f"the network has squeeze-and-excitation already, in {len(gated)} units ({gated[0]} …)")
    config = network.config
    se.check_units(config.depths)
    network.config = replace(config, name=twin_name(config, se=True) or config.name, se=se)
    for name, unit in residual_units(model):
        stage, index = int(name[5]) + 1, int(name.partition(".")[2])
        if se.at(stage, index):
            learns = any(parameter.requires_grad for parameter in unit.parameters())
            unit.attach_se(se, se.reduction_of(stage))
            unit.se.requires_grad_(learns).train(unit.training)
            make_neutral(unit)
    return model


def neutral_config(se: SEConfig) -> SEConfig:
    """The settings with ``init`` neutral.

    Raises:
        ValueError: no gate with these settings can leave a trained network's function as it is; says why, and what
            can.
    """
    if se.gate == "tanh":
        raise ValueError(
            "a tanh gate cannot be inserted into a trained network exactly: the bias that gives 0.5 or 1 is rounded or "
            "infinite, and weight decay moves it. Use gate='sigmoid', or gate='relu'"
        )
    if se.gate == "relu" and not se.bias:
        raise ValueError("a relu gate without biases is 0 where its last layer is 0: it needs bias=True to start at 1")
    if se.gate == "sigmoid" and se.placement in ("identity", "post"):
        scaled = "the bare shortcut" if se.placement == "identity" else "the unit's output, behind the addition"
        raise ValueError(
            f"a sigmoid gate at the placement {se.placement!r} cannot leave a trained network as it is: it scales "
            f"{scaled}, where there is no weight to make up for the gate's 0.5, and a sigmoid that is 1 has no "
            f"gradient left. Use the placement 'standard' or 'pre', or gate='relu', which starts at exactly 1"
        )
    return replace(se, init="neutral")


@torch.no_grad()
def make_neutral(unit: ResidualUnit) -> None:
    """Makes the gate of a unit one constant, and the weights in front of it the constant's inverse times larger.

    Once only, on a unit whose gate is fresh and whose other weights are those of a network without SE. The settings
    must have passed ``neutral_config``.
    """
    gate = unit.se
    gate.fc2.weight.zero_()
    if gate.fc2.bias is not None:
        gate.fc2.bias.fill_(1.0 if gate.gate == "relu" else 0.0)
    if gate.gate == "relu":
        return
    norm = unit.last_norm
    for tensor in (unit.conv1.weight,) if unit.placement == "pre" else (norm.weight, norm.bias):
        tensor.mul_(2.0)


def find_network(model: nn.Module) -> ResNet:
    """The one ResNet in a model. Raises ValueError where there is none, or several."""
    networks = [module for module in model.modules() if isinstance(module, ResNet)]
    if len(networks) != 1:
        found = len(networks) or "none"
        raise ValueError(f"the model must contain one ResNet of this package; {type(model).__name__} has {found}")
    return networks[0]


def residual_units(model: nn.Module) -> Iterator[tuple[str, ResidualUnit]]:
    """The residual units of a model's network with their names in it, ``("layer1.0", unit)``, first to last.

    Those that lie outside the network are a C4 detector's last stage, in its heads: ``layer4``.
    """
    inside = list(find_network(model).named_units())
    yield from inside
    known = {unit for _, unit in inside}
    for path, module in model.named_modules():
        if isinstance(module, ResidualUnit) and module not in known:
            yield f"layer4.{path.rpartition('.')[2]}", module


def twin_name(config: Architecture, se: bool) -> str | None:
    """The name of the row that is the same network with SE, or without it; None where the table has none.

    ``se_resnet50`` is the twin of ``resnet50``; ``resnet50_msra`` and ``se_resnet50_caffe`` have none.
    """
    for row in ARCHITECTURES.values():
        if bool(row.se) == se and replace(row, name=config.name, se=config.se, dropout=config.dropout) == config:
            return row.name
    return None
