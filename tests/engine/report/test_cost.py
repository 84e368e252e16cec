"""Costs beside the paper's."""

import pytest
from torch import nn

from engine.report.cost import Cost, cost_of, count_multiply_adds, format_costs
from se_backbones import SEConfig, create_backbone


def test_a_multiply_add_counts_once():
    assert count_multiply_adds(nn.Conv2d(3, 8, 3, padding=1, bias=False), size=10) == 3 * 3 * 3 * 8 * 10 * 10


@pytest.mark.parametrize("name", ["resnet50_msra", "se_resnet50_caffe", "resnext50_32x4d", "se_resnext50_32x4d_caffe"])
def test_the_papers_figures_come_out(name):
    # The paper does not say which of the small operations it counts; no convention gives all of its figures, and
    # convolutions with fully-connected layers miss none by more.
    cost = cost_of(name)
    assert cost.multiply_adds / 1e9 == pytest.approx(cost.paper_gflops, abs=0.035)


def test_no_squeeze_costs_what_the_paper_says():
    # Table 16: 4.27 G with the two layers at full size. Its ResNets stride in the first 1×1.
    model = create_backbone("resnet50_msra", se=SEConfig(squeeze="none"))
    assert round(count_multiply_adds(model) / 1e9, 3) == 4.269


def test_se_adds_a_third_of_a_percent():
    plain, se = cost_of("resnet50_msra").multiply_adds, cost_of("se_resnet50_caffe").multiply_adds
    assert 0 < se / plain - 1 < 0.0035


def test_the_table_shows_the_paper_where_it_has_a_figure():
    text = format_costs(
        [Cost("resnet50_msra", 224, 25_557_032, 3_858_000_000, 25.6, 3.86), Cost("senet154", 224, 1, 2)]
    )
    assert "25.557" in text and "25.6" in text and "3.858" in text and "3.86   -0.002\n" in text
