"""Hidden units dropped under a budget: what is exact, what the estimate is, and what is chosen by it."""

import copy
import random

import pytest
import torch
from torch.nn import functional as F

from se_backbones import SEConfig, create_backbone
from se_backbones.surgery import ratios
from se_backbones.surgery.ratios import drop_hidden_units, drop_units, gated_sites, se_parameters, units_of

CASES = [
    ("se_resnet20_cifar", {}),
    ("se_resnet20_cifar", {"placement": "inside", "squeeze": "max"}),
    ("se_resnet20_cifar", {"squeeze": "none", "gate": "tanh"}),
    ("se_resnet20_cifar", {"placement": "pre", "bias": False}),
    ("se_mobilenet_v1_050", {}),
    ("se_shufflenet_v1_g3", {}),
]


def build(name="se_resnet20_cifar", reduction=4, **se):
    """A network in float64 whose gates move."""
    torch.manual_seed(0)
    network = create_backbone(name, 5, se=SEConfig(reduction=reduction, **se)).double().eval()
    for site in gated_sites(network):
        with torch.no_grad():
            site.gate.fc2.weight *= 3
            if site.gate.fc1.bias is not None:
                site.gate.fc1.bias.normal_(std=0.1)
                site.gate.fc2.bias.normal_(std=0.1)  # no gate is 0 by itself, where the ReLU behind has no slope
    return network


def batches(side=32, images=(6, 5)):
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(count, 3, side, side, generator=generator, dtype=torch.float64),
            torch.randint(5, (count,), generator=generator),
        )
        for count in images
    ]


def losses_of(network, data):
    return lambda: [lambda x=x, y=y: F.cross_entropy(20 * network(x), y) for x, y in data]


@torch.no_grad()
def loss_of(network, data):
    total = sum(F.cross_entropy(20 * network(x), y, reduction="sum") for x, y in data)
    return total.item() / sum(len(y) for _, y in data)


@pytest.mark.parametrize(("name", "se"), CASES)
def test_the_cut_network_keeps_the_budget_and_is_built_anew_from_its_spec(name, se):
    network, data = build(name, **se), batches(images=(3, 2))
    whole = se_parameters(gated_sites(network))
    tensors = sum(p.numel() for p in network.parameters())
    report = drop_hidden_units(network, losses_of(network, data), parameters=whole // 2, rounds=2)
    left = se_parameters(gated_sites(network))
    most = max(ratios.unit_cost(site.gate) for site in gated_sites(network))
    assert whole // 2 - most < left <= whole // 2 and left == report.parameters
    assert whole - left == tensors - sum(p.numel() for p in network.parameters())
    assert all(gate.after >= 1 for gate in report.gates)
    assert report.loss == pytest.approx(loss_of(network, data), rel=1e-9)
    again = create_backbone(name, 5, se=network.spec.se).double().eval()
    again.load_state_dict(network.state_dict())
    with torch.inference_mode():
        assert torch.equal(again(data[0][0]), network(data[0][0]))
    assert all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("squeeze", ["avg", "none"])
def test_a_unit_that_never_moves_goes_without_a_trace(squeeze):
    network, (images, _) = build(squeeze=squeeze), batches()[0]
    before = network(images)
    for site in gated_sites(network):
        gate = site.gate
        with torch.no_grad():
            gate.fc1.weight[1] = 0
            gate.fc1.bias[1] = 0.7
            gate.fc1.bias[2] = -1e3  # behind the ReLU always 0
    before = network(images)
    for site in gated_sites(network):
        means = torch.full((units_of(site.gate),), torch.nan, dtype=torch.float64)
        means[1], means[2] = 0.7, 0
        drop_units(site.gate, [2, 1], means)
    torch.testing.assert_close(network(images), before, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "se"), CASES)
def test_the_first_order_is_the_slope_of_the_loss(name, se):
    """Against the loss itself, where a unit's activation is drawn a little towards its mean."""
    network, data = build(name, **se), batches(images=(4,))
    sites = gated_sites(network)
    taken = ratios._take(network, sites, losses_of(network, data))
    for site in (sites[0], sites[-1]):
        for unit in (0, units_of(site.gate) - 1):
            mean = taken.means[site.path][unit]

            def loss(step, site=site, unit=unit, mean=mean):
                def hook(module, inputs):
                    (hidden,) = inputs
                    moved = hidden.clone()
                    moved[:, unit] += step * (mean - hidden[:, unit])
                    return (moved,)

                handle = site.gate.fc2.register_forward_pre_hook(hook)
                try:
                    return loss_of(network, data)
                finally:
                    handle.remove()

            slope = (loss(1e-7) - loss(-1e-7)) / 2e-7
            assert taken.moves[site.path][:, unit].mean().item() == pytest.approx(slope, rel=1e-4, abs=1e-8)


def test_moves_are_each_images_own_whatever_the_batches():
    network, (one, two) = build(), batches()
    sites = gated_sites(network)
    whole = (torch.cat([one[0], two[0]]), torch.cat([one[1], two[1]]))
    apart = ratios._take(network, sites, losses_of(network, [one, two]))
    together = ratios._take(network, sites, losses_of(network, [whole]))
    assert apart.loss == pytest.approx(together.loss, rel=1e-9)
    for path in apart.moves:
        torch.testing.assert_close(apart.moves[path], together.moves[path], rtol=1e-8, atol=1e-10)


def test_each_drop_is_the_cheapest_given_those_before_it():
    network = build()
    sites = gated_sites(network)
    taken = ratios._take(network, sites, losses_of(network, batches()))
    chosen, estimated = ratios._choose(sites, taken, {site.path: 1 for site in sites}, 700)
    picked = {(path, unit) for path, units in chosen.items() for unit in units}
    total, dropped, gone = 0, set(), 0

    def rise(moves):
        return moves.var(correction=0).item() / 2

    so_far = torch.zeros(11, dtype=torch.float64)
    while gone < 700:
        best = None
        for site in sites:
            free = units_of(site.gate) - sum(path == site.path for path, _ in dropped) > 1
            for unit in range(units_of(site.gate)):
                if free and (site.path, unit) not in dropped:
                    more = rise(so_far + taken.moves[site.path][:, unit]) - rise(so_far)
                    price = more / ratios.unit_cost(site.gate)
                    if best is None or price < best[0]:
                        best = (price, site, unit)
        _, site, unit = best
        so_far = so_far + taken.moves[site.path][:, unit]
        dropped.add((site.path, unit))
        gone += ratios.unit_cost(site.gate)
        total = rise(so_far)
    assert picked == dropped and estimated == pytest.approx(total, rel=1e-9)


def test_what_is_chosen_moves_the_images_losses_less_than_what_is_drawn():
    network, data = build(), batches(side=16, images=(20, 20))
    whole = se_parameters(gated_sites(network))

    @torch.no_grad()
    def moved(other):
        each = [[F.cross_entropy(20 * one(x), y, reduction="none") for x, y in data] for one in (network, other)]
        return (torch.cat(each[1]) - torch.cat(each[0])).var(correction=0).item()

    chosen = copy.deepcopy(network)
    drop_hidden_units(chosen, losses_of(chosen, data), parameters=whole // 3, rounds=5)
    means = ratios._take(network, gated_sites(network), losses_of(network, data)).means
    draw = random.Random(0)
    drawn = []
    for _ in range(5):
        other = copy.deepcopy(network)
        sites = gated_sites(other)
        hidden = {site.path: list(range(units_of(site.gate))) for site in sites}
        gone = {path: [] for path in hidden}
        while whole - sum(len(gone[s.path]) * ratios.unit_cost(s.gate) for s in sites) > whole // 3:
            site = draw.choice([site for site in sites if len(hidden[site.path]) > 1])
            unit = draw.choice(hidden[site.path])
            hidden[site.path].remove(unit)
            gone[site.path].append(unit)
        for site in sites:
            drop_units(site.gate, gone[site.path], means[site.path])
        drawn.append(moved(other))
    assert moved(chosen) < min(drawn)


def test_given_widths_are_kept_gate_by_gate():
    network, data = build(), batches(images=(4,))
    uniform = ratios.uniform_units(network, 16)
    expected = ratios.parameters_at(network, uniform)
    report = drop_hidden_units(network, losses_of(network, data), hidden=uniform, rounds=3)
    assert {gate.name: gate.after for gate in report.gates} == uniform and report.parameters == expected
    assert set(uniform.values()) == {1, 2, 4}
    assert report.as_dict()["gates"][0]["reduction"] == 16 and "16.0" in report.format()


def test_a_frozen_network_is_cut_too_and_stays_frozen():
    network, data = build(), batches(images=(4,))
    network.requires_grad_(False)
    drop_hidden_units(network, losses_of(network, data), parameters=4000, rounds=1)
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_what_cannot_be_had_is_refused_and_nothing_has_changed():
    network, data = build(), batches(images=(4,))
    before = copy.deepcopy(network.state_dict())
    for kwargs, message in (
        ({"parameters": 100}, "1,017 with one hidden unit"),
        ({}, "give either"),
        ({"parameters": 100, "hidden": {}}, "give either"),
        ({"hidden": {"stage1.unit1": 5}}, "stage1.unit1 has 4 hidden units and cannot be left with 5"),
        ({"hidden": {"stage1.unit1": 0}}, "left with 0"),
        ({"parameters": 5000, "rounds": 0}, "rounds must be 1"),
    ):
        with pytest.raises(ValueError, match=message):
            drop_hidden_units(network, losses_of(network, data), **kwargs)
    with pytest.raises(ValueError, match="no image"):
        drop_hidden_units(network, list, parameters=5000)
    with pytest.raises(ValueError, match="the loss is nan"):
        drop_hidden_units(network, losses_of(network, [(data[0][0] * torch.nan, data[0][1])]), parameters=5000)
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    with pytest.raises(ValueError, match="resnet20_cifar has no squeeze-and-excitation"):
        drop_hidden_units(create_backbone("resnet20_cifar"), list, parameters=1)
