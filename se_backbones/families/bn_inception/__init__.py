"""BN-Inception."""

from se_backbones.families.bn_inception import family  # noqa: F401
