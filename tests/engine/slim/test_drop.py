"""When gates stop being dropped: held against the whole network at every step."""

import copy

import pytest
import torch

from classification.task import CLASS_FOLDERS
from engine.errors import UserError
from engine.slim.drop import drop_gates, drop_while
from engine.slim.subject import Score
from se_backbones import create_backbone, find_network
from tests.se_backbones.networks import randomised

UNITS = [f"stage1.unit{number}" for number in (1, 2, 3)]


class Fake:
    """A subject whose figures are told beforehand."""

    info = CLASS_FOLDERS.info
    weights = "fake.pth"

    def __init__(self, *values, error=0.5):
        self.model = randomised(create_backbone("se_resnet20_cifar", 3)).eval()
        self.whole = copy.deepcopy(self.model)
        self.values, self.error = list(values), error

    network = property(lambda self: find_network(self.model))

    def evaluate(self):
        return Score("top1", self.values.pop(0), self.error, {})

    def images(self, count):
        return [torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))]

    def check_output(self, path):
        pass


def gates(subject):
    return [site.path for site in subject.network.se_sites() if site.gate is not None]


def tried(subject, allowed):
    before = subject.evaluate()
    means = [torch.full((16,), value) for value in (0.25, 0.5, 1.0)]
    return drop_while(subject, list(zip(UNITS, means, strict=True)), before, allowed)


def test_it_ends_at_the_first_gate_that_costs_too_much_and_puts_it_back():
    subject = Fake(90.0, 90.5, 88.9)
    steps, score = tried(subject, 1.0)
    assert [(step.gate, step.value, step.dropped) for step in steps] == [
        (UNITS[0], 90.5, True),
        (UNITS[1], 88.9, False),
    ]
    assert score.value == 90.5 and not subject.values
    assert subject.network.spec.se.without == (UNITS[0],) and UNITS[1] in gates(subject)
    ours, whole = subject.network.state_dict(), subject.whole.state_dict()
    norm = f"{UNITS[0]}.bn2.weight"
    assert torch.equal(ours[norm], whole[norm] * 0.25)
    assert all(torch.equal(ours[name], whole[name]) for name in ours if not name.startswith(UNITS[0]))


@pytest.mark.parametrize(("last", "count"), [(89.0, 3), (88.999, 2)])
def test_a_fall_by_just_as_much_as_is_allowed_is_allowed(last, count):
    """And held against the whole network, not against the step before."""
    subject = Fake(90.0, 89.5, 89.2, last)
    steps, _ = tried(subject, 1.0)
    assert sum(step.dropped for step in steps) == count == 9 - len(gates(subject))


def test_all_may_go_where_nothing_falls():
    steps, score = tried(Fake(90.0, 91.0, 92.0, 90.0), 0.0)
    assert all(step.dropped for step in steps) and score.value == 90.0


def test_one_standard_error_is_what_may_be_lost_where_nothing_is_said(tmp_path):
    with pytest.raises(UserError, match=r"falls from 90.00 to 89.40, by more than 0.50 points: nothing was dropped"):
        drop_gates(Fake(90.0, 89.4), tmp_path / "a.pth")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fall", [-0.1, float("nan"), float("inf")])
def test_no_number_of_points_is_refused(fall, tmp_path):
    with pytest.raises(UserError, match="0 or more"):
        drop_gates(Fake(), tmp_path / "a.pth", fall=fall)
