"""A batch tried for its shapes alone, before a training: no memory, no computation, no change to the network."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from fvcore.common.config import CfgNode
from torch import nn

from engine import compat  # noqa: F401  (before detectron2)
from engine.errors import UserError

from detectron2.utils import comm

_BATCH_NORMS = nn.modules.batchnorm._BatchNorm


def check_training_shapes(network: nn.Module, cfg: CfgNode, sides: Sequence[int], key: str) -> None:
    """Refuses a training whose first batch would end in a layer's error.

    Args:
        network: takes images (N, 3, S, S). In several processes each has its share of SOLVER.IMS_PER_BATCH.
        sides: S of the training images in pixels, all that occur.
        key: of the config, that says them.

    Raises:
        UserError: the images are too small for the network, or a BatchNorm would have one value for each channel,
            which has no variance: one image in a part of a batch, and a map of 1×1.
    """
    share = cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size()
    images = max(share // cfg.SOLVER.ACCUMULATE, 1)
    side = min(sides)
    single = _single_value_norms(network, images, side, key)
    if not single:
        return
    processes = f" in {comm.get_world_size()} processes" if comm.get_world_size() > 1 else ""
    more = f" and {len(single) - 1} more" if len(single) > 1 else ""
    raise UserError(
        f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH}{processes} with SOLVER.ACCUMULATE {cfg.SOLVER.ACCUMULATE} is "
        f"one image at a time, and at {key} {side} the map in front of {single[0]}{more} of "
        f"{cfg.MODEL.BACKBONE.ARCHITECTURE} is 1x1: BatchNorm has one value for each channel, and no variance. Give a "
        f"larger SOLVER.IMS_PER_BATCH (2 images for each process and part at least), a smaller SOLVER.ACCUMULATE, a "
        f"larger {key}, or another normalisation: GN or FrozenBN"
    )


def check_test_shapes(network: nn.Module, side: int, key: str) -> None:
    """Refuses images of ``side`` × ``side`` that are too small for the network. Raises UserError."""
    _single_value_norms(network, 1, side, key)


def _single_value_norms(network: nn.Module, images: int, side: int, key: str) -> list[str]:
    """The names of the BatchNorms that would be trained on one value for each channel."""
    was_training = network.training
    single: list[str] = []
    network.train()
    trained = {name: module for name, module in network.named_modules() if isinstance(module, _BATCH_NORMS)}
    trained = {name: module for name, module in trained.items() if module.training}
    hooks = [module.register_forward_pre_hook(_noting(name, single)) for name, module in trained.items()]
    # Evaluated: in training a BatchNorm itself would raise, and one of several processes would wait for the others.
    network.eval()
    tensors = {
        name: torch.empty_like(tensor, device="meta")
        for name, tensor in itertools.chain(network.named_parameters(), network.named_buffers())
    }
    try:
        with torch.no_grad():
            batch = torch.empty(images, 3, side, side, device="meta")
            torch.func.functional_call(network, tensors, (batch,))
    except NotImplementedError:
        return []  # an operation of somebody else's network that has no shapes alone
    except (RuntimeError, ValueError) as error:  # a pooling or convolution without an output
        raise UserError(f"{key} {side} is too small for this network: {error}") from error
    finally:
        for hook in hooks:
            hook.remove()
        network.train(was_training)
    return single


def _noting(name: str, single: list[str]):
    def note(module: nn.Module, inputs: tuple) -> None:
        (maps,) = inputs
        processes = comm.get_world_size() if isinstance(module, nn.SyncBatchNorm) else 1
        if maps.shape[0] * maps.shape[2:].numel() * processes == 1:
            single.append(name)

    return note
