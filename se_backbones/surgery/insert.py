"""``insert_se``: a trained plain network becomes its SE twin and goes on computing what it computed."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from se_backbones.backbone import Backbone, SESite, find_network, sites_of
from se_backbones.registry import twin_name
from se_backbones.se import SEConfig


def insert_se(model: nn.Module, se_config: SEConfig | None = None) -> nn.Module:
    """Puts SE into a trained plain network without changing what it computes.

    A fresh gate is near 0.5 and halves every residual branch; what the weights behind it have learned no longer fits.
    Here every gate starts as one constant (``fc2`` zero), and the layers that can take up a constant (the site's
    ``absorbers``) take up its inverse:

    ========= =================== =============================================================================
    gate      placement           how
    ========= =================== =============================================================================
    sigmoid   standard            sigmoid(0) = 0.5, and the weight and bias of the layer before the gate are
                                  doubled (in a ResNet the branch's last normalisation; through a ReLU too)
    sigmoid   pre                 sigmoid(0) = 0.5, and the weight of the branch's first convolution is doubled
    sigmoid   inside              sigmoid(0) = 0.5, and the weight and bias of the normalisation before the ReLU are
                                  doubled
    relu      all                 relu(1) = 1, and no weight changes
    ========= =================== =============================================================================

    Doubling and halving are exact in binary floating point: in float32 the outputs are equal bit for bit, in training
    (with the running statistics of BatchNorm) and in eval mode, under bf16 autocast too; fp16 has less room, and a
    normalised value above 32752 would overflow. Sigmoid with ``standard`` is the paper's form (equation 3), which
    every other program that knows SE reads.

    Why not sigmoid with ``identity`` or ``post``: the gate there scales the bare shortcut, or the unit's output behind
    the addition, and no weight in front of it could be doubled; and a sigmoid is below 1 wherever it still has a
    gradient. Behind a ReLU6 (MobileNet) no factor can be taken up before the gate, and the next convolution takes it
    up for its input: the logits stay the same, the maps handed out are halved, so that a network without a classifier
    is refused. Why not tanh: the bias atanh(0.5) is rounded, so that outputs differ by about 1e-7, and weight decay
    moves it.

    Learning: ``fc2`` has a gradient at the first step, ``fc1`` from the second on, when ``fc2`` is no longer zero.

    Weight decay: at 0 the sigmoid's ``fc2`` stays where it is. A relu gate's bias of 1 decays, by the same rate as
    every weight: keep decay off biases (``SOLVER.WEIGHT_DECAY_BIAS 0``). Decay of the doubled weights changes them in
    the same proportion as before. Their learning does change: the gradient of a doubled weight is half of what it
    was, so plain SGD moves what the weight does (its half) a quarter as far, and Adam half as far; of a weight ahead
    of a normalisation (``pre``) its length does not count, and its direction turns a quarter as fast under SGD.

    Args:
        model: a backbone, or one model that contains one (a classifier, a detector; a stage that a detector keeps in
            its heads included). It is changed in place: its parameters stay the same objects, so that an optimizer goes
            on holding them, with momentum from before; the gates are new and in no optimizer yet (build it
            afterwards, or use ``add_param_group``), and averaged copies (EMA) are to be made anew. ``fc1`` takes
            random numbers from torch's generator. In a block that is frozen the gate is frozen too, as
            create_backbone has it.
        se_config: the settings, SEConfig() by default; its ``init`` is ``neutral`` afterwards, whatever it says.

    Returns:
        the model. The network's ``spec`` tells its SE settings, and the name of its row with SE where there is one
        (``resnet50`` is ``se_resnet50`` now).

    Raises:
        ValueError: SE with these settings cannot leave the function as it is (the message says which can), the model
            has SE already, holds no backbone or several, or is wrapped in DistributedDataParallel. Nothing has been
            changed then.
    """
    se = neutral_config(SEConfig() if se_config is None else se_config)
    for module in model.modules():
        if isinstance(module, nn.parallel.DistributedDataParallel | nn.DataParallel):
            raise ValueError("the model is wrapped in DistributedDataParallel, which would not see the new gates: "
                             "insert SE first, then wrap")  # fmt: skip
    network = find_network(model)
    sites = sites_of(model)
    if gated := [site.path for site in sites if site.gate is not None]:
        raise ValueError(f"the network has squeeze-and-excitation already, in {len(gated)} units ({gated[0]} …)")
    spec = network.spec.with_se(se)
    chosen = [site for site in sites if spec.se.at(site.path, site.stage)]
    if se.gate == "sigmoid":
        for site in chosen:
            check_absorbers(site, se.placement)
    for site in chosen:
        learns = _learns(network, site)
        site.attach(spec.se).requires_grad_(learns).train(site.owner.training)
        make_neutral(site)
    network.spec = replace(spec, name=twin_name(spec, se=True) or spec.name)
    return model


def _learns(network: Backbone, site: SESite) -> bool:
    """Whether the weights around a site are trained: those of its owner, or, where that has none, of its stage."""
    parameters = list(site.owner.parameters())
    if not parameters:
        parameters = [p for path in network.stage_paths[site.stage] for p in network.get_submodule(path).parameters()]
    return any(parameter.requires_grad for parameter in parameters)


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
            f"gradient left. Use the placement 'standard', 'pre' or 'inside', or gate='relu', which starts at exactly 1"
        )
    return replace(se, init="neutral")


def check_absorbers(site: SESite, placement: str) -> None:
    """Raises ValueError where a sigmoid gate at this placement has no layer that could make up for its 0.5."""
    absorbers = site.absorbers(placement)
    if isinstance(absorbers, str):
        raise ValueError(
            f"a sigmoid gate cannot be inserted exactly at {site.path}: it {absorbers}. Use gate='relu', which starts "
            "at exactly 1"
        )


@torch.no_grad()
def make_neutral(site: SESite) -> None:
    """Makes the gate of a site one constant, and the layers that can take it up the constant's inverse times larger.

    Once only, on a site whose gate is fresh and whose other weights are those of a network without SE. The settings
    must have passed ``neutral_config``, and a sigmoid's site ``check_absorbers``.
    """
    constant = site.gate.make_constant()
    if constant != 1:
        factor = torch.full((site.gate.fc2.out_channels,), 1 / constant)
        for absorber in site.absorbers():
            absorber.multiply(factor)
