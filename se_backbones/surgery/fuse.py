"""``fuse``: a network for inference that computes the same with less work."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from itertools import chain

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from se_backbones.backbone import Backbone, detached_stages, find_network
from se_backbones.layers.norm import BATCH_NORMS
from se_backbones.layers.precision import without_autocast
from se_backbones.se import SEGate
from se_backbones.surgery.fused_layers import FusedConv2d, GatedSum
from se_backbones.surgery.fused_pool import MaxPoolOfPositive

ADD = {operator.add, operator.iadd, torch.add, "add", "add_"}
ADDCMUL = {torch.addcmul}
MUL = {operator.mul, torch.mul, "mul"}
RELU = {torch.relu, torch.relu_, F.relu, "relu", "relu_"}
RELU6 = {F.relu6}


class FusedBackbone(Backbone):
    """What ``fuse`` makes of a network: the same maps and logits, for inference alone.

    Attributes:
        body: the stages, as one module.
    """

    def __init__(self, network: Backbone, dtype: torch.dtype | None):
        nn.Module.__init__(self)
        self.spec, self.num_classes, self.recompute = network.spec, network.num_classes, False
        self.stages, self.out_features = network.stages, network.out_features
        self.feature_info = dict(network.feature_info)
        self.stage_paths = dict.fromkeys(network.stages, ())  # no blocks, no sites: nothing can be put in or out
        self.body = fuse_graph(network, network.forward_features)
        # The classifier is the network's own, with all that belongs to it.
        self._family, self.head_path, self.head_paths = type(network), network.head_path, network.head_paths
        parts = {path.partition(".")[0] for paths in network.stage_paths.values() for path in paths}
        for name, module in network.named_children():
            if name not in parts or any(path.partition(".")[0] == name for path in self.head_paths):
                self.add_module(name, module)
        _settle(self.body, dtype)
        self.eval().requires_grad_(False)

    def forward_features(self, x: Tensor) -> dict[str, Tensor]:
        return _run(self.body, x)

    def pool(self, x: Tensor) -> Tensor:
        return self._family.pool(self, x)

    def classify(self, x: Tensor) -> Tensor:
        return self._family.classify(self, x.to(self.head.weight.dtype))

    def train(self, mode: bool = True):
        if mode:
            raise ValueError("a fused network is for inference: train the one that it was made of")
        return super().train(False)


def fuse(model: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    """A copy of a model for inference, which computes the same in less time.

    - Normalisation goes into the convolution before it.
    - A convolution with its ReLU, and with the sum that ends a residual unit, are one operation where oneDNN has it.
    - The gate of a branch that ends with a 1×1 convolution is computed from that convolution's input, before it runs;
      see ``GatedSum``.

    Equal to the model up to rounding: sums are taken in another order, and the gate goes into weights.

    Args:
        model: a network, or a model with one in it (a detector, with its stage in the head as well); in whatever mode,
            it is left alone. Normalisation by other means than BatchNorm's (GN) stays as it is.
        dtype: of the stages' weights and maps, ``torch.bfloat16`` say; None: the model's own. Images are taken in any
            type; the classifier stays as it is.

    Raises:
        ValueError: the model has no network of this package, several, or a fused one; or a number in it is not finite.
            (oneDNN's ReLU makes 0 of NaN: the outputs of such a network would look like others.)
    """
    if isinstance(find_network(model), FusedBackbone):
        raise ValueError("the network is fused already")
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"{name} holds numbers that are not finite: the weights are of a training that diverged")
    model = copy.deepcopy(model).eval()
    network = find_network(model)
    for _, stage in list(detached_stages(model)):
        _replace(model, stage, _FusedStage(stage, dtype))
    fused = FusedBackbone(network, dtype)
    if model is network:
        return fused
    _replace(model, network, fused)
    return model


class _FusedStage(nn.Module):
    """A stage kept outside its network."""

    def __init__(self, stage: nn.Module, dtype: torch.dtype | None):
        super().__init__()
        self.network_path, self.stage = stage.network_path, stage.stage
        self.body = fuse_graph(stage, stage.forward)
        _settle(self.body, dtype)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return _run(self.body, x)


def _settle(module: nn.Module, dtype: torch.dtype | None) -> None:
    for parent in module.modules():
        # Early gates are a few numbers, and normalisation without a convolution before it has variances: of few digits
        # they would tell.
        if dtype is not None and not isinstance(parent, (GatedSum, *BATCH_NORMS)):
            for tensor in chain(parent.parameters(recurse=False), parent.buffers(recurse=False)):
                tensor.data = tensor.to(dtype)
    module.to(memory_format=torch.channels_last).requires_grad_(False)


def _run(body: nn.Module, x: Tensor):
    """The body on a map of any type and memory format. Its own type holds, whatever autocast is on outside."""
    if x.requires_grad and torch.is_grad_enabled():
        raise ValueError("a fused network is for inference: gradients are for the one that it was made of")
    conv = next(one for one in body.modules() if isinstance(one, FusedConv2d))
    x = x.to(conv.weight.dtype).contiguous(memory_format=torch.channels_last)
    with without_autocast(x):
        return body(x)


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for parent in model.modules():
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new


# --- the graph ---


class _Tracer(fx.Tracer):
    """Follows calls down to gates and to modules without parts, which may ask for the size of a map."""

    def is_leaf_module(self, module: nn.Module, path: str) -> bool:
        return isinstance(module, SEGate) or not module._modules


def fuse_graph(root: nn.Module, function: Callable) -> fx.GraphModule:
    """A function of one map that runs a module's parts → the same function, fused. The module is left as it is."""
    tracer = _Tracer()
    tracer.traced_func_name = function.__name__
    graph = tracer.trace(root)
    module = fx.GraphModule(tracer.root, graph)
    for change in (_norms, _factors, _activations, _gated_sums, _gated_shortcuts, _sums, _scalings, _pools):
        change(module.graph)
    module.delete_all_unused_submodules()
    module.graph.lint()
    module.recompile()
    return module


def _module(node: fx.Node) -> nn.Module:
    return node.graph.owning_module.get_submodule(node.target)


def _is_module(node, *kinds: type) -> bool:
    return isinstance(node, fx.Node) and node.op == "call_module" and isinstance(_module(node), kinds)


def _calls(node, names: set) -> bool:
    return isinstance(node, fx.Node) and node.op in ("call_function", "call_method") and node.target in names


def _only_user(node: fx.Node, user: fx.Node) -> bool:
    return list(node.users) == [user]


def _bare_conv(node, user: fx.Node) -> bool:
    """Whether a node is a convolution with nothing behind it, whose map one other node alone sees."""
    return (
        _is_module(node, FusedConv2d)
        and _only_user(node, user)
        and len(node.args) == 1
        and not _module(node).activation
    )


def _activation(node: fx.Node) -> str:
    """Which activation a node is, by its name in ACTIVATIONS; "" for none."""
    if _calls(node, RELU) or _is_module(node, nn.ReLU):
        return "relu"
    return "relu6" if _calls(node, RELU6) or _is_module(node, nn.ReLU6) else ""


def _with_relu(node: fx.Node) -> tuple[fx.Node, bool]:
    """The ReLU behind a node, where nobody else sees what is before it; else the node itself."""
    user = next(iter(node.users), None)
    found = user is not None and _only_user(node, user) and _activation(user) == "relu"
    return (user, True) if found else (node, False)


def _operands(node: fx.Node, kinds: type | tuple = fx.Node) -> list | None:
    """The two operands of a sum or product of maps; None where it is something else."""
    two = len(node.args) == 2 and not node.kwargs and isinstance(node.args[0], fx.Node)
    return list(node.args) if two and isinstance(node.args[1], kinds) else None


def _put(node: fx.Node, module: nn.Module, *inputs: fx.Node) -> None:
    """A module's call in the place of a node."""
    owner = node.graph.owning_module
    number = len(owner._modules)
    while hasattr(owner, f"fused{number}"):
        number += 1
    owner.add_submodule(f"fused{number}", module)
    with node.graph.inserting_before(node):
        _exchange(node, node.graph.call_module(f"fused{number}", inputs))


def _exchange(old: fx.Node, new: fx.Node) -> None:
    """Another node in the place of one, which goes, with what only it used: what works in place must not stay."""
    old.replace_all_uses_with(new)
    waiting = [old]
    while waiting:
        node = waiting.pop()
        if not node.users and node.op != "placeholder" and not node._erased:
            waiting.extend(node.all_input_nodes)
            node.graph.erase_node(node)


def _may_overwrite(node: fx.Node, last: fx.Node, *read: fx.Node) -> bool:
    """Whether the memory of a node's map may hold the result of a later node, ``last``: it is its own, and nobody
    needs it afterwards. ``read``: what the later one reads besides, at the same time."""
    own = _is_module(node, FusedConv2d, GatedSum, nn.MaxPool2d) or _calls(node, MUL)
    return own and node not in read and all(user <= last for user in node.users)  # in the graph's order


def _norms(graph: fx.Graph) -> None:
    """Each convolution with the normalisation behind it."""
    for node in list(graph.nodes):
        if not _is_module(node, nn.Conv2d) or _module(node).padding_mode != "zeros":
            continue
        conv, last, norm = _module(node), node, None
        user = next(iter(node.users))
        if _only_user(node, user) and _is_module(user, *BATCH_NORMS) and _module(user).running_mean is not None:
            last, norm = user, _module(user)
        _put(last, fused_convolution(conv, norm), node.args[0])


def fused_convolution(conv: nn.Conv2d, norm: nn.Module | None = None) -> FusedConv2d:
    """A convolution, padded with zeros, and the normalisation behind it, one of BATCH_NORMS with running statistics."""
    weight = conv.weight.detach().double()
    bias = weight.new_zeros(len(weight)) if conv.bias is None else conv.bias.detach().double()
    if norm is not None:
        scale = (norm.running_var.double() + norm.eps).rsqrt()
        scale = scale if norm.weight is None else scale * norm.weight.detach().double()
        weight = weight * scale.view(-1, 1, 1, 1)
        bias = (bias - norm.running_mean.double()) * scale
        bias = bias if norm.bias is None else bias + norm.bias.detach().double()
    kind = conv.weight.dtype
    return FusedConv2d(weight.to(kind), bias.to(kind), conv)


def _factors(graph: fx.Graph) -> None:
    """A convolution times a number."""
    for node in list(graph.nodes):
        if _calls(node, MUL) and (found := _operands(node, (int, float))) and _bare_conv(found[0], node):
            conv = _module(found[0])
            conv.weight *= found[1]
            conv.bias *= found[1]
            _exchange(node, found[0])


def _activations(graph: fx.Graph) -> None:
    """A convolution and its activation."""
    for node in list(graph.nodes):
        name = _activation(node)
        if name and _bare_conv(node.args[0], node):
            _module(node.args[0]).activation = name
            _exchange(node, node.args[0])


def _gated_sums(graph: fx.Graph) -> None:
    """``shortcut + gate(branch) * branch``, where the branch is what a convolution gives."""
    for node in list(graph.nodes):
        found = _gated_sum(node)
        if not found:
            continue
        shortcut, branch, gate, factor = found
        conv, se = _module(branch), _module(gate)
        if se.squeeze == "none" or conv.activation:
            continue
        last, relu = _with_relu(node)
        overwrites = _may_overwrite(shortcut, last, branch.args[0])
        _put(last, GatedSum(conv, copy.deepcopy(se), relu, factor, overwrites), branch.args[0], shortcut)


def _gated_sum(node: fx.Node) -> tuple[fx.Node, fx.Node, fx.Node, float] | None:
    """The shortcut, the branch's convolution, its gate and a constant factor, where a node is their sum."""
    if _calls(node, ADDCMUL) and len(node.args) == 3 and not node.kwargs:
        shortcut, branch, gate = node.args
        return _own_gate(shortcut, branch, gate, 1.0, node)
    if not _calls(node, ADD) or not (operands := _operands(node)):
        return None
    for product, shortcut in (operands, operands[::-1]):
        inner = _operands(product) if _calls(product, MUL) and _only_user(product, node) else None
        for branch, gate in (inner, inner[::-1]) if inner else ():
            factor, user = 1.0, product
            if _calls(gate, MUL) and _only_user(gate, product) and _operands(gate, (int, float)):
                (gate, factor), user = gate.args, gate
            if _only_user(gate, user) and (found := _own_gate(shortcut, branch, gate, factor, product)):
                return found
    return None


def _own_gate(shortcut: fx.Node, branch: fx.Node, gate: fx.Node, factor: float, product: fx.Node):
    """The four, where the gate is the branch's own, and the branch a convolution's and nobody else's."""
    fits = _is_module(gate, SEGate) and gate.args == (branch,) and _is_module(branch, FusedConv2d)
    if fits and set(branch.users) == {gate, product} and len(branch.args) == 1 and shortcut is not branch:
        return shortcut, branch, gate, factor
    return None


def _gated_shortcuts(graph: fx.Graph) -> None:
    """``branch + gate * shortcut``: the product by itself, so that the sum can be the branch's convolution's."""
    for node in list(graph.nodes):
        if _calls(node, ADDCMUL) and not node.kwargs and _bare_conv(node.args[0], node):
            branch, shortcut, gate = node.args
            with graph.inserting_before(node):
                product = graph.call_function(operator.mul, (shortcut, gate))
                _exchange(node, graph.call_function(torch.add, (branch, product)))


def _sums(graph: fx.Graph) -> None:
    """A convolution, the sum with another map, and the ReLU behind it."""
    for node in list(graph.nodes):
        if not _calls(node, ADD) or not (operands := _operands(node)) or operands[0] is operands[1]:
            continue
        # The later one, for then the other map is there already.
        branch, other = sorted(operands, reverse=True)
        if not _bare_conv(branch, node):
            branch, other = other, branch
        if not _bare_conv(branch, node):
            continue
        conv, (last, relu) = _module(branch), _with_relu(node)
        conv.activation = "relu" if relu else ""
        conv.overwrites = _may_overwrite(other, last, branch.args[0])
        _put(last, conv, branch.args[0], other)


def _scalings(graph: fx.Graph) -> None:
    """A map times its gate, in place where nobody else needs the map."""
    for node in list(graph.nodes):
        if not _calls(node, MUL) or not (operands := _operands(node)):
            continue
        for scaled, gate in (operands, operands[::-1]):
            one_a_channel = _is_module(gate, SEGate) and _module(gate).squeeze != "none"
            if one_a_channel and _may_overwrite(scaled, node, gate):
                with graph.inserting_before(node):
                    _exchange(node, graph.call_method("mul_", (scaled, gate)))
                break


def _pools(graph: fx.Graph) -> None:
    """Max pooling of what a ReLU has made."""
    for node in list(graph.nodes):
        if _is_module(node, nn.MaxPool2d) and _not_negative(node.args[0]):
            pool = _module(node)
            if pool.dilation in (1, (1, 1)) and not pool.return_indices:
                _put(node, MaxPoolOfPositive(pool), node.args[0])


def _not_negative(node: fx.Node) -> bool:
    if _is_module(node, GatedSum):
        return _module(node).conv.activation != ""
    return _is_module(node, MaxPoolOfPositive) or (_is_module(node, FusedConv2d) and _module(node).activation != "")
