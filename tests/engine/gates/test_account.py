"""What is told of gates, against values put in by hand."""

import numpy as np
import pytest
import torch

from engine.gates.account import MEANINGS, account, correlation, even
from engine.gates.pictures import ridge
from se_backbones import SEConfig, create_backbone
from se_backbones.surgery.gates import GateMoments

# Four images of two classes, a channel each way: that tells the classes apart, that is always on, always off, and one
# that varies within the classes alone.
VALUES = torch.tensor([[0.2, 0.95, 0.05, 0.4], [0.2, 0.95, 0.05, 0.6], [0.8, 0.95, 0.05, 0.4], [0.8, 0.95, 0.05, 0.6]])


def first_site(**se):
    """Of a network whose first gate has 16 channels, its normalisation's weights 1, 2, …, with signs."""
    torch.manual_seed(0)
    site = create_backbone("se_resnet20_cifar", se=SEConfig(**se)).se_sites()[0]
    return site


def told(site, labels=(0, 0, 1, 1), classes=3):
    moments = GateMoments(classes)
    moments.add(VALUES.repeat(1, 4), torch.tensor(labels))  # 16 channels
    return account(site, moments)


def test_a_gate_by_hand():
    site = first_site(placement="inside")
    with torch.no_grad():
        site.absorbers()[0].module.weight.copy_(torch.tensor([-1.0, 2.0, 0.0, -1.0] * 4))
    found = told(site)
    assert (found["path"], found["placement"], found["channels"]) == ("stage1.unit1", "inside", 16)
    assert (found["images"], found["values"]) == (4, 4)
    assert found["mean"] == pytest.approx(0.5)  # of 0.5, 0.95, 0.05 and 0.5
    assert found["by_channel"]["mean"] == pytest.approx([0.5, 0.95, 0.05, 0.5] * 4)
    # 0.2, 0.2, 0.8, 0.8 has a variance of 0.12; 0.4, 0.6, 0.4, 0.6 one of 0.04 / 3
    assert found["deviation"] == pytest.approx(((0.12 + 0.04 / 3) / 4) ** 0.5, abs=1e-5)
    assert found["between"] == pytest.approx((0.18 / 4) ** 0.5, abs=1e-5)  # the means 0.2 and 0.8, over 2 - 1
    assert found["within"] == pytest.approx((0.02 / 4) ** 0.5, abs=1e-5)
    assert found["separation"] == pytest.approx(0.18 / 0.02, abs=1e-4)
    assert (found["above"], found["below"]) == (0.25, 0.25)
    assert found["always_on"] == [1, 5, 9, 13] and found["always_off"] == [2, 6, 10, 14]
    assert found["by_channel"]["scale"] == [1, 2, 0, 1] * 4
    means, scale = np.array([0.5, 0.95, 0.05, 0.5] * 4), np.array([1, 2, 0, 1] * 4)
    assert found["scale_correlation"] == pytest.approx(np.corrcoef(means, scale)[0, 1], abs=1e-5)
    assert found["by_class"]["channels"] == list(range(16))
    assert found["by_class"]["mean"][1][:4] == pytest.approx([0.8, 0.95, 0.05, 0.5])
    assert found["by_class"]["mean"][2] == [None] * 16  # a class without images
    assert set(MEANINGS) <= set(found)


def test_a_site_whose_absorber_is_no_normalisation_has_no_scale():
    found = told(first_site(placement="pre"))
    assert found["scale_correlation"] is None and "scale" not in found["by_channel"]
    assert found["scale"] == "none: the gate is taken up by its branch's first convolution, which is no normalisation"


def test_images_without_classes_have_their_spread_alone():
    found = told(first_site(placement="inside"), labels=(-1, -1, -1, -1))
    assert found["between"] is None and found["within"] is None and found["separation"] is None
    assert found["deviation"] == pytest.approx(((0.12 + 0.04 / 3) / 4) ** 0.5, abs=1e-5)


def test_correlation_of_what_does_not_vary_is_none():
    line = torch.arange(5).double()
    assert correlation(line, 3 * line + 1) == pytest.approx(1) and correlation(line, -line) == pytest.approx(-1)
    assert correlation(line, torch.ones(5).double()) is None


def test_places_are_drawn_evenly_first_and_last_among_them():
    assert even(8, 50) == list(range(8)) and even(1, 5) == [0]
    drawn = even(256, 50)
    assert len(drawn) == 50 and drawn[0] == 0 and drawn[-1] == 255 and set(np.diff(drawn)) == {5, 6}


def test_a_ridge_counts_every_channel_whatever_its_spread():
    edges = np.linspace(-4, 0, 5)
    # 0 counts in the first bin, 1 in the last
    heights = ridge([0.0, 0.05, 0.05, 1.0, None], edges)
    assert heights == pytest.approx(np.convolve([0.25, 0, 0.5, 0.25], [0.25, 0.5, 0.25], "same"))
    assert ridge([None], edges) is None
