"""BN-Inception as a family."""

from __future__ import annotations

from se_backbones.families.bn_inception.layouts import BIASES, LAYOUTS
from se_backbones.families.bn_inception.network import BNInception, BNInceptionHyper
from se_backbones.registry import Family, Spec, register
from se_backbones.se import SEConfig

FAMILY_NAME = "bn_inception"
# Table 2 of the SE paper: thousand millions of multiply-adds.
ROWS = (
    Spec("bn_inception", FAMILY_NAME, BNInceptionHyper(), paper_gflops=2.03),
    Spec("se_bn_inception", FAMILY_NAME, BNInceptionHyper(), SEConfig(), paper_gflops=2.04),
)

register(Family(FAMILY_NAME, ROWS, BNInception, LAYOUTS, bias_norms=BIASES))
