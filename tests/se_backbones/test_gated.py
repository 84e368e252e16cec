"""The gated sum's own backward pass, on the CPU with plain operations, against autograd's of the plain formula."""

import copy
import io
from types import SimpleNamespace

import pytest
import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck

from se_backbones import SEConfig, SEGate, create_backbone, use_gated_kernels
from se_backbones.layers import gated
from se_backbones.layers.gated import gated_sum
from se_backbones.layers.recompute import recompute

LAYOUTS = (torch.channels_last, torch.contiguous_format)


@pytest.fixture(autouse=True)
def own_backward_for_small_maps(monkeypatch):
    monkeypatch.setattr(gated, "FROM_ELEMENTS", {"cpu": 1})


def maps(dtype=torch.float64, layout=torch.channels_last, shape=(2, 6, 3, 5)):
    torch.manual_seed(0)
    return [torch.randn(shape, dtype=dtype).to(memory_format=layout).requires_grad_() for _ in range(2)]


def make_gate(channels=6, dtype=torch.float64, **settings):
    torch.manual_seed(1)
    return SEGate(channels, SEConfig(**settings), channels // 2).to(dtype)


def plain(shortcut, branch, se, relu):
    out = shortcut + se(branch) * branch
    return torch.relu(out) if relu else out


def gradients(function, shortcut, branch, se, relu, grad):
    out = function(shortcut, branch, se, relu)
    return [out, *torch.autograd.grad(out, [shortcut, branch, *se.parameters()], grad)]


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("squeeze", ["avg", "max", "none"])
def test_first_and_second_derivatives_are_those_of_finite_differences(relu, squeeze):
    se = make_gate(squeeze=squeeze)

    def function(shortcut, branch, *parameters):
        names = [name for name, _ in se.named_parameters()]
        gate = lambda x: torch.func.functional_call(se, dict(zip(names, parameters, strict=True)), x)  # noqa: E731
        return gated_sum(shortcut, branch, gate, relu)

    inputs = (*maps(shape=(2, 4, 2, 3)), *(p.detach().requires_grad_() for p in make_gate(4).parameters()))
    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs)


def test_a_penalty_on_gradients_beside_the_loss():
    (shortcut, branch), se = maps(), make_gate()
    found = []
    for function in (gated_sum, plain):
        loss = function(shortcut, branch, se, True).square().sum()
        slopes = torch.autograd.grad(loss, (shortcut, branch), create_graph=True)
        loss = loss + sum(slope.square().sum() for slope in slopes)
        found.append(torch.autograd.grad(loss, (shortcut, branch, *se.parameters())))
    torch.testing.assert_close(*found, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("squeeze", ["avg", "max", "none"])
def test_equals_the_plain_formula(squeeze, relu, layout):
    (shortcut, branch), se = maps(layout=layout), make_gate(squeeze=squeeze)
    grad = torch.randn_like(branch)
    ours = gradients(gated_sum, shortcut, branch, se, relu, grad)
    torch.testing.assert_close(ours, gradients(plain, shortcut, branch, se, relu, grad), rtol=1e-12, atol=1e-12)
    assert ours[0].is_contiguous(memory_format=layout) and ours[2].is_contiguous(memory_format=layout)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_half_precision_is_as_near_to_the_exact_gradients_as_autograds(dtype):
    (shortcut, branch), se = maps(dtype, shape=(2, 6, 16, 16)), make_gate(dtype=dtype)
    grad = torch.randn_like(branch)
    exact = copy.deepcopy(se).double()
    # Where the sum is near 0, its sign is a matter of rounding.
    value = plain(shortcut.double(), branch.double(), exact, False)
    grad = torch.where(value.abs() < 0.05, 0, grad).detach()
    doubles = [x.detach().double().requires_grad_() for x in (shortcut, branch)]
    true = gradients(plain, *doubles, exact, True, grad.double())

    def errors(found):
        return [((a.double() - b).abs().max() / b.abs().max()).item() for a, b in zip(found, true, strict=True)]

    ours = errors(gradients(gated_sum, shortcut, branch, se, True, grad))
    theirs = errors(gradients(plain, shortcut, branch, se, True, grad))
    step = torch.finfo(dtype).eps
    assert all(a <= max(b, step) for a, b in zip(ours, theirs, strict=True)), (ours, theirs)


def test_a_gradient_in_another_memory_format_or_expanded_is_taken():
    (shortcut, branch), se = maps(), make_gate()
    for grad in (torch.randn(2, 6, 3, 5, dtype=torch.float64), torch.tensor(1.5).double().expand(2, 6, 3, 5)):
        ours, theirs = (gradients(f, shortcut, branch, se, True, grad) for f in (gated_sum, plain))
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("needs", [(True, False), (False, True)])
@pytest.mark.parametrize("trained", [True, False])
def test_only_what_needs_a_gradient_gets_one(needs, trained):
    (shortcut, branch), se = maps(), make_gate().requires_grad_(trained)
    shortcut.requires_grad_(needs[0])
    branch.requires_grad_(needs[1])
    wanted = [x for x in (shortcut, branch, *se.parameters()) if x.requires_grad]
    found = [torch.autograd.grad(f(shortcut, branch, se, True).square().sum(), wanted) for f in (gated_sum, plain)]
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


def test_backward_twice_over_a_kept_graph():
    (shortcut, branch), se = maps(), make_gate()
    loss = gated_sum(shortcut, branch, se, True).square().sum()
    first, second = (torch.autograd.grad(loss, (shortcut, branch), retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def saved_maps(function, numel):
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        function()
    return {x.data_ptr() for x in kept if x.numel() == numel}


@pytest.mark.parametrize("relu, maps_kept", [(True, 2), (False, 1)])
def test_no_map_is_kept_but_the_branch_and_for_the_relu_the_result(relu, maps_kept):
    (shortcut, branch), se = maps(), make_gate()
    assert len(saved_maps(lambda: gated_sum(shortcut, branch, se, relu), branch.numel())) == maps_kept


@pytest.mark.parametrize("mixed", ["shortcut", "gate"])
def test_types_that_differ_are_promoted_as_ever(mixed):
    (shortcut, branch), se = maps(torch.bfloat16), make_gate(dtype=torch.bfloat16)
    if mixed == "shortcut":
        shortcut = shortcut.detach().float().requires_grad_()
    function = (lambda x: se(x).float()) if mixed == "gate" else se
    ours = gated_sum(shortcut, branch, function, True)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, torch.relu(torch.addcmul(shortcut, branch, function(branch))))
    ours.sum().backward()


def own_nodes(out):
    """How often the graph of a result has the sum's own backward pass."""
    seen, waiting = set(), [out.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting.extend(function for function, _ in node.next_functions)
    return sum("_Sum" in node.name() for node in seen)


@pytest.mark.parametrize("name, units", [("se_resnet18", 8), ("se_resnet50", 16), ("se_shufflenet_v1_g3", 13)])
def test_a_network_trains_through_it_and_its_gradients_are_the_same(name, units, monkeypatch):
    torch.manual_seed(0)
    model = create_backbone(name, num_classes=3).double().train()
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    found = []
    for devices in ({"cpu": 1}, {}):
        monkeypatch.setattr(gated, "FROM_ELEMENTS", devices)
        out = model(images)
        assert own_nodes(out) == (units if devices else 0)
        found.append([out, *torch.autograd.grad(out.square().sum(), list(model.parameters()))])
    torch.testing.assert_close(*found, rtol=1e-8, atol=1e-10)


def plain_kernels(x):
    """The kernels' part, with plain operations."""
    return SimpleNamespace(forward=gated._multiply_add, backward=gated._gradients)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kernels", [True, False])
def test_every_gradient_that_reaches_a_normalisation_is_channels_last(kernels, precision, monkeypatch):
    if kernels:
        monkeypatch.setattr(gated, "kernels_for", plain_kernels)
    model = create_backbone("se_resnet50", num_classes=3).to(memory_format=torch.channels_last).train()
    formats = []

    def watch(module, inputs, out):
        out.register_hook(lambda grad: formats.append(grad.is_contiguous(memory_format=torch.channels_last)))

    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_hook(watch)
    images = torch.randn(2, 3, 64, 64).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=precision, enabled=precision != torch.float32):
        loss = model(images).float().square().mean()
    loss.backward()
    assert len(formats) == 53 and all(formats)


@pytest.mark.parametrize("kernels", [True, False])
def test_a_squeeze_whose_gradient_is_in_another_memory_format_changes_no_other(kernels, monkeypatch):
    if kernels:
        monkeypatch.setattr(gated, "kernels_for", plain_kernels)
    (shortcut, branch), se = maps(), make_gate()
    moved = lambda x: se(x.contiguous() * 1.5)  # noqa: E731
    grad = torch.randn_like(branch)
    found = [
        torch.autograd.grad(f(shortcut, branch, moved, True), (shortcut, branch), grad) for f in (gated_sum, plain)
    ]
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in found[0])


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_squeeze_gives_a_broadcast_gradient_of_the_maps_type(precision):
    x = torch.randn(2, 6, 3, 5, dtype=precision, requires_grad=True)
    found = []
    x.register_hook(found.append)
    make_gate(dtype=precision)(x).sum().backward()
    assert found[0].stride()[2:] == (0, 0) and found[0].dtype == precision


def test_on_gpus_it_is_asked_for_and_on_cpus_small_maps_go_without(monkeypatch):
    monkeypatch.undo()
    assert set(gated.FROM_ELEMENTS) == {"cpu"}
    use_gated_kernels()
    assert set(gated.FROM_ELEMENTS) == {"cpu", "cuda"}
    use_gated_kernels(False)
    assert set(gated.FROM_ELEMENTS) == {"cpu"}
    se = make_gate(dtype=torch.float32)
    small, large = maps(torch.float32), maps(torch.float32, shape=(2, 6, 205, 205))
    assert [own_nodes(gated_sum(*pair, se, True)) for pair in (small, large)] == [0, 1]


@pytest.fixture
def calls(monkeypatch):
    """What the kernels were called for; they do with plain operations what they do."""
    found, kernels = [], plain_kernels(None)
    whole = kernels.forward
    kernels.forward = lambda *maps: found.append(maps) or whole(*maps)
    monkeypatch.setattr(gated, "kernels_for", lambda x: kernels)
    return found


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("mode", ["no_grad", "inference_mode", "nothing trained"])
def test_without_gradients_it_is_one_call_of_the_kernels_or_a_multiply_add(mode, kernels, calls, monkeypatch):
    if not kernels:
        monkeypatch.setattr(gated, "kernels_for", lambda x: None)
    (shortcut, branch), se = maps(), make_gate()
    with torch.enable_grad() if mode == "nothing trained" else getattr(torch, mode)():
        if mode == "nothing trained":
            shortcut, branch = shortcut.detach(), branch.detach()
            se.requires_grad_(False)
        out = gated_sum(shortcut, branch, se, True)
        assert torch.equal(out, torch.addcmul(shortcut, branch, se(branch)).relu_())
        assert len(calls) == kernels and out.grad_fn is None
        monkeypatch.setattr(gated, "FROM_ELEMENTS", {"cpu": 500})
        assert torch.equal(gated_sum(shortcut, branch, se, True), out) and len(calls) == kernels  # maps too small


def test_where_the_gate_alone_is_trained_its_gradients_are_there(calls):
    (shortcut, branch), se = maps(), make_gate()
    found = []
    for function in (gated_sum, plain):
        out = function(shortcut.detach(), branch.detach(), se, True)
        found.append(torch.autograd.grad(out.square().sum(), list(se.parameters())))
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)
    assert not calls


@pytest.mark.parametrize("trained", [True, False])
def test_derivatives_forwards_are_there(trained, calls):
    (shortcut, branch), se = maps(), make_gate()
    with forward_ad.dual_level(), torch.set_grad_enabled(trained):
        dual = forward_ad.make_dual(branch, torch.ones_like(branch))
        ours, theirs = (forward_ad.unpack_dual(f(shortcut, dual, se, True)).tangent for f in (gated_sum, plain))
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert not calls


def test_gradients_image_by_image():
    (shortcut, branch), se = maps(), make_gate()

    def loss(shortcut, branch):
        return gated_sum(shortcut[None], branch[None], se, True).square().sum()

    one_by_one = torch.func.vmap(torch.func.grad(loss, (0, 1)))(shortcut, branch)
    at_once = torch.autograd.grad(gated_sum(shortcut, branch, se, True).square().sum(), (shortcut, branch))
    torch.testing.assert_close(one_by_one, at_once, rtol=1e-12, atol=1e-12)


def test_hooks_of_the_gate_see_its_gradient():
    (shortcut, branch), se = maps(), make_gate()
    seen = []
    se.register_full_backward_hook(lambda module, grad_input, grad_output: seen.append(grad_output[0]))
    out = gated_sum(shortcut, branch, se, True)
    out.sum().backward()
    torch.testing.assert_close(seen[0], ((out > 0) * branch).sum((2, 3), keepdim=True), rtol=1e-12, atol=1e-12)


def test_under_autocast():
    (shortcut, branch), se = maps(torch.bfloat16, shape=(2, 6, 8, 8)), make_gate(dtype=torch.float32)
    grad = torch.randn_like(branch)
    found = []
    for function in (gated_sum, lambda s, b, se, relu: torch.addcmul(s, b, se(b)).relu_()):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found.append(gradients(function, shortcut, branch, se, True, grad))
    assert [x.dtype for x in found[0]] == [x.dtype for x in found[1]]
    torch.testing.assert_close(*found, rtol=0.02, atol=0.02)


def test_recomputation_gives_the_same_gradients():
    torch.manual_seed(0)
    unit = create_backbone("se_resnet18").layer1[0].double().train()
    x = torch.randn(2, 64, 6, 6, dtype=torch.float64, requires_grad=True)
    found = []
    for call in (unit, lambda x: recompute(unit, x)):
        out = call(x)
        found.append([out, *torch.autograd.grad(out.square().sum(), [x, *unit.parameters()])])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_traced_exported_and_compiled_graphs_hold_plain_operations():
    (shortcut, branch), se = maps(torch.float32), make_gate(dtype=torch.float32)

    class Tail(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.se = se

        def forward(self, shortcut, branch):
            return gated_sum(shortcut, branch, self.se, True)

    expected = Tail()(shortcut, branch)
    traced = torch.jit.trace(Tail(), (shortcut, branch))
    torch.jit.save(traced, io.BytesIO())  # fails on a Python function in the graph
    exported = torch.export.export(Tail(), (shortcut, branch))
    compiled = torch.compile(Tail(), backend="eager", fullgraph=True)
    for function in (traced, exported.module(), compiled):
        torch.testing.assert_close(function(shortcut, branch), expected)
    assert "addcmul" in str(traced.inlined_graph) and "addcmul" in exported.graph_module.code
