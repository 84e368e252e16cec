"""SE put into a trained plain network: what it computed before is what it computes after, bit for bit."""

import copy
import functools

import pytest
import torch
from torch import nn

from se_backbones import SEConfig, create_backbone, find_spec, insert_se, twin_name
from se_backbones.weights import WeightsError, load_weights
from se_backbones.weights.inserting import load_weights_inserting_se
from tests.se_backbones.networks import change_rows, shallow

STANDARD = SEConfig()
PRE = SEConfig(placement="pre", squeeze="max", reduction=(2, 4, 8, 16))
INSIDE = SEConfig(placement="inside", squeeze="none")
RELU = [SEConfig(gate="relu", placement=placement) for placement in ("standard", "pre", "identity", "post", "inside")]
SETTINGS = [
    STANDARD,
    PRE,
    INSIDE,
    SEConfig(stages=(3, 5), reduction=4, bias=False),
    SEConfig(without=("layer2.1",)),
    *RELU,
]


def describe(se):
    return f"{se.gate}-{se.placement}-{se.squeeze}-r{se.reduction}-s{se.stages}"


def trained(name="resnet18", norm="BN"):
    """A plain network with nothing at its first value, and statistics as after a training."""
    return _trained(find_spec(name), norm)


@functools.cache
def _trained(row, norm):
    torch.manual_seed(3)
    model = create_backbone(row.name, 5, se=None, norm=norm)
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if key.endswith("running_var"):
                tensor.uniform_(0.5, 2.0)
            elif tensor.is_floating_point() and tensor.dim() == 1:
                tensor.uniform_(0.3, 0.9) if key.endswith("weight") else tensor.uniform_(-0.4, 0.4)
    return model


def plain_and_twin(se, *args):
    plain = copy.deepcopy(trained(*args))
    torch.manual_seed(11)
    return plain, insert_se(copy.deepcopy(plain), se)


def outputs(model, x):
    maps = model.forward_features(x)
    return maps | {"logits": model.classify(maps["res5"])}


def assert_equal(plain, twin, x):
    ours, theirs = outputs(twin, x), outputs(plain, x)
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name


def assert_equal_in_both_modes(plain, twin, precision=torch.float32):
    x = torch.randn(2, 3, 45, 40)
    with torch.no_grad(), torch.autocast("cpu", precision, enabled=precision != torch.float32):
        for training in (False, True, False):  # last with the running statistics that the training pass left
            plain.train(training), twin.train(training)
            assert_equal(plain, twin, x)
    state = twin.state_dict()
    statistics = [key for key in plain.state_dict() if ".running_" in key or "num_batches" in key]
    assert all(torch.equal(state[key], plain.state_dict()[key]) for key in statistics)
    return statistics


@pytest.mark.parametrize("se", SETTINGS, ids=describe)
def test_outputs_and_statistics_are_equal_bit_for_bit(se):
    plain, twin = plain_and_twin(se)
    assert assert_equal_in_both_modes(plain, twin)
    resolved = se.resolved(plain.spec.sites())
    gated = [(site.path, site.stage) for site in twin.se_sites() if site.gate is not None]
    assert gated == [site for site in plain.spec.sites() if resolved.at(*site)] != []


@pytest.mark.parametrize("se", [STANDARD, PRE, INSIDE], ids=describe)
@pytest.mark.parametrize("norm", ["BN", "FrozenBN", "GN"])
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d"])
def test_so_they_are_for_every_kind_of_unit_and_normalisation(name, norm, se, monkeypatch):
    change_rows(monkeypatch, shallow)
    assert_equal_in_both_modes(*plain_and_twin(se, name, norm))


@pytest.mark.parametrize("se", [STANDARD, PRE, RELU[2]], ids=describe)
def test_so_they_are_with_a_relu_before_the_gate(se):
    plain, twin = plain_and_twin(se, "se_resnet18_caffe")
    assert twin.spec.hyper.relu_before_se and twin.spec.name == "se_resnet18_caffe"
    assert_equal_in_both_modes(plain, twin)


@pytest.mark.parametrize("se", [STANDARD, PRE, RELU[3]], ids=describe)
def test_so_they_are_under_bf16_autocast(se):
    assert_equal_in_both_modes(*plain_and_twin(se), precision=torch.bfloat16)


def test_a_fresh_gate_changes_the_outputs():
    """What all this is for, and that the comparison above can fail."""
    plain = copy.deepcopy(trained()).eval()
    naive = create_backbone("se_resnet18", 5).eval()
    load_weights(naive, plain.state_dict(), allow=("missing:*.se.*",))
    x = torch.randn(2, 3, 45, 40)
    with torch.no_grad():
        theirs = plain.forward_features(x)["res5"]
        assert (naive.forward_features(x)["res5"] - theirs).abs().mean() > 0.1 * theirs.abs().mean()


def test_the_twin_is_a_network_of_the_table(tmp_path):
    _, twin = plain_and_twin(PRE)
    assert twin.spec.name == "se_resnet18"
    assert (twin.spec.se.placement, twin.spec.se.reduction, twin.spec.se.init) == (
        "pre",
        (("res2", 2), ("res3", 4), ("res4", 8), ("res5", 16)),
        "neutral",
    )
    rebuilt = create_backbone(twin.spec.name, 5, se=twin.spec.se)
    load_weights(rebuilt, twin.state_dict())
    x = torch.randn(1, 3, 40, 40)
    with torch.no_grad():
        assert_equal(rebuilt.eval(), twin.eval(), x)


def test_twins_of_the_table():
    assert twin_name(find_spec("resnet50"), se=True) == "se_resnet50"
    assert twin_name(find_spec("se_resnet50"), se=False) == "resnet50"
    assert twin_name(create_backbone("resnet50", 0, out_features=("stem",), dropout=0.5).spec, se=True) == "se_resnet50"
    assert twin_name(find_spec("senet154"), se=False) is None and twin_name(find_spec("resnet50_msra"), se=True) is None


def test_the_network_is_changed_in_place():
    plain = copy.deepcopy(trained())
    held = dict(plain.named_parameters())
    assert insert_se(plain) is plain
    assert all(parameter is held[name] for name, parameter in plain.named_parameters() if ".se." not in name)


def test_gates_of_a_frozen_stage_are_frozen_as_create_backbone_has_it():
    twin = insert_se(create_backbone("resnet18", 5, freeze_at=3))
    built = create_backbone("se_resnet18", 5, freeze_at=3)
    learns = {name: parameter.requires_grad for name, parameter in twin.named_parameters()}
    assert learns == {name: parameter.requires_grad for name, parameter in built.named_parameters()}


def test_a_network_inside_a_model_is_found_and_a_c4_heads_last_stage_too():
    """A C4 detector: the network ends at res4, and res5 belongs to the heads."""

    def build():
        torch.manual_seed(0)
        model = nn.ModuleDict({"backbone": create_backbone("resnet18", 0, out_features=("res4",))})
        model["roi_heads"] = nn.ModuleDict({"res5": copy.deepcopy(trained()).take_stage("res5")})
        return model.eval()

    plain, twin = build(), insert_se(build(), SEConfig(stages=(4, 5), without=("layer4.1",)))
    gated = {name.partition(".se.")[0] for name in twin.state_dict() if ".se." in name}
    assert gated == {"backbone.layer3.0", "backbone.layer3.1", "roi_heads.res5.0"}
    x = torch.randn(2, 3, 40, 40)
    with torch.no_grad():
        maps = [model["roi_heads"]["res5"](model["backbone"].forward_features(x)["res4"]) for model in (plain, twin)]
    assert torch.equal(*maps)


@pytest.mark.parametrize(
    "se, words",
    [
        (SEConfig(placement="identity"), "'identity'.*bare shortcut.*gate='relu'"),
        (SEConfig(placement="post"), "'post'.*behind the addition.*'standard', 'pre' or 'inside'"),
        (SEConfig(gate="tanh"), "tanh.*sigmoid"),
        (SEConfig(gate="relu", bias=False), "bias=True"),
        (SEConfig(without=("layer4.2",)), "no unit layer4.2"),
    ],
)
def test_what_cannot_be_exact_is_refused_and_nothing_changed(se, words):
    plain = copy.deepcopy(trained())
    before = copy.deepcopy(plain.state_dict())
    with pytest.raises(ValueError, match=words):
        insert_se(plain, se)
    assert plain.spec == trained().spec and plain.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[key]) for key, tensor in plain.state_dict().items())


def test_what_has_se_or_no_network_or_two_is_refused():
    _, twin = plain_and_twin(STANDARD)
    with pytest.raises(ValueError, match="already, in 8 units"):
        insert_se(twin)
    with pytest.raises(ValueError, match="Linear has none"):
        insert_se(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="has 2"):
        insert_se(nn.ModuleList([copy.deepcopy(trained()), copy.deepcopy(trained())]))
    with pytest.raises(ValueError, match="insert SE first, then wrap"):
        insert_se(nn.DataParallel(copy.deepcopy(trained())))


def gates(model, layer):
    return [getattr(site.gate, layer).weight for site in model.se_sites() if site.gate is not None]


@pytest.mark.parametrize("se", [STANDARD, PRE, *RELU], ids=describe)
def test_both_excitation_layers_learn_within_two_steps(se):
    _, twin = plain_and_twin(se)
    optimizer = torch.optim.SGD(twin.train().parameters(), lr=0.01)
    x, target = torch.randn(4, 3, 45, 40), torch.tensor([0, 1, 2, 3])
    first = [weight.detach().clone() for weight in gates(twin, "fc1")]
    for step in (1, 2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(twin(x), target).backward()
        assert all(weight.grad.abs().sum() > 0 for weight in gates(twin, "fc2"))
        assert all((weight.grad.abs().sum() > 0) == (step == 2) for weight in gates(twin, "fc1"))
        optimizer.step()
    assert all(weight.abs().sum() > 0 for weight in gates(twin, "fc2"))
    assert not any(torch.equal(a, b) for a, b in zip(first, gates(twin, "fc1"), strict=True))


@pytest.mark.parametrize("se", [STANDARD, PRE], ids=describe)
def test_weight_decay_alone_keeps_the_twins_equal(se):
    """A step without gradients: fc2 stays at zero, and the doubled weights shrink as the plain ones do."""
    plain, twin = plain_and_twin(se)
    for model in (plain, twin):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9, weight_decay=0.25)
        for _ in range(2):
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
    assert all(not weight.any() for weight in gates(twin, "fc2"))
    assert not torch.equal(plain.conv1.weight, trained().conv1.weight)
    with torch.no_grad():
        assert_equal(plain.eval(), twin.eval(), torch.randn(2, 3, 45, 40))


def test_weight_decay_moves_a_relu_gate_unless_it_is_kept_off_biases():
    _, twin = plain_and_twin(RELU[0])
    biases = [parameter for name, parameter in twin.named_parameters() if name.endswith("bias")]
    others = [parameter for name, parameter in twin.named_parameters() if not name.endswith("bias")]
    for parameter in twin.parameters():
        parameter.grad = torch.zeros_like(parameter)
    one = twin.layer1[0].se.fc2.bias
    torch.optim.SGD([{"params": others}, {"params": biases, "weight_decay": 0}], lr=0.5, weight_decay=0.25).step()
    assert (one == 1).all()
    torch.optim.SGD(twin.parameters(), lr=0.5, weight_decay=0.25).step()
    assert (one == 0.875).all()


def test_a_doubled_weight_has_half_the_gradient():
    plain, twin = plain_and_twin(STANDARD)
    for model in (plain, twin):
        model.eval()(torch.ones(1, 3, 40, 40)).square().sum().backward()
    torch.testing.assert_close(2 * twin.layer2[0].bn2.weight.grad, plain.layer2[0].bn2.weight.grad)
    torch.testing.assert_close(twin.layer2[0].conv2.weight.grad, plain.layer2[0].conv2.weight.grad)


# --- while loading


def test_plain_weights_load_into_an_se_network_that_computes_the_same():
    plain = copy.deepcopy(trained()).eval()
    model = create_backbone("se_resnet18", 5, se=SEConfig(reduction=4)).eval()
    report = load_weights_inserting_se(model, plain.state_dict())
    with torch.no_grad():
        assert_equal(plain, model, torch.randn(2, 3, 45, 40))
    assert not report.missing and not report.unaccounted and not report.allowed
    assert {name for name in report.derived if ".se." in name} == {n for n in model.state_dict() if ".se." in n}
    assert len(report.loaded) + len(report.derived) == len(model.state_dict())
    note = report.notes[-1]
    assert "SE inserted into 8 units (res2, res3, res4, res5)" in note and "gate sigmoid, reduction 4" in note
    assert note in report.format()


@pytest.mark.parametrize(
    "se, state, words",
    [
        (STANDARD, lambda: plain_and_twin(STANDARD)[1].state_dict(), "hold squeeze-and-excitation already"),
        (SEConfig(placement="post"), lambda: trained().state_dict(), "'post'"),
        (None, lambda: trained().state_dict(), "nothing to insert"),
        (STANDARD, lambda: {k: v for k, v in trained().state_dict().items() if k != "layer1.0.bn2.bias"}, "missing"),
    ],
)
def test_what_does_not_fit_leaves_the_model_as_it_was(se, state, words):
    model = create_backbone("se_resnet18", 5, se=se)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(WeightsError, match=words):
        load_weights_inserting_se(model, state())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_plain_weights_without_inserting_say_how_to_insert():
    with pytest.raises(WeightsError, match="MODEL.SE.INSERT True"):
        load_weights(create_backbone("se_resnet18", 5), trained().state_dict())
