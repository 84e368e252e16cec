"""Squeeze-and-Excitation backbones. Needs torch alone.

A name below is imported when it is first asked for, and torch with it: ``se_backbones.files`` and what else needs no
torch imports without it.
"""

from typing import TYPE_CHECKING

from se_backbones.lazy_names import lazy_names

if TYPE_CHECKING:
    from se_backbones.backbone import Absorber, Backbone, FeatureInfo, SEOwner, SESite, find_network, sites_of
    from se_backbones.create import create_backbone
    from se_backbones.features import FeatureList, features_only
    from se_backbones.hub.folder import from_pretrained, push_to_hub, save_pretrained
    from se_backbones.layers.gated import use_gated_kernels
    from se_backbones.layers.norm import FrozenBatchNorm2d
    from se_backbones.registry import Family, Spec, find_spec, list_backbones, register, twin_name
    from se_backbones.se import SEConfig, SEGate
    from se_backbones.surgery.fold import FoldReport, fold_constant_gates
    from se_backbones.surgery.fuse import FusedBackbone, fuse
    from se_backbones.surgery.insert import insert_se
    from se_backbones.surgery.prune import prune
    from se_backbones.surgery.ratios import drop_hidden_units

__all__ = [
    "Absorber",
    "Backbone",
    "Family",
    "FeatureInfo",
    "FeatureList",
    "FoldReport",
    "FrozenBatchNorm2d",
    "FusedBackbone",
    "SEConfig",
    "SEGate",
    "SEOwner",
    "SESite",
    "Spec",
    "create_backbone",
    "drop_hidden_units",
    "features_only",
    "find_network",
    "find_spec",
    "fold_constant_gates",
    "from_pretrained",
    "fuse",
    "insert_se",
    "list_backbones",
    "prune",
    "push_to_hub",
    "register",
    "save_pretrained",
    "sites_of",
    "twin_name",
    "use_gated_kernels",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Absorber": "se_backbones.backbone",
        "Backbone": "se_backbones.backbone",
        "Family": "se_backbones.registry",
        "FeatureInfo": "se_backbones.backbone",
        "FeatureList": "se_backbones.features",
        "FoldReport": "se_backbones.surgery.fold",
        "FrozenBatchNorm2d": "se_backbones.layers.norm",
        "FusedBackbone": "se_backbones.surgery.fuse",
        "SEConfig": "se_backbones.se",
        "SEGate": "se_backbones.se",
        "SEOwner": "se_backbones.backbone",
        "SESite": "se_backbones.backbone",
        "Spec": "se_backbones.registry",
        "create_backbone": "se_backbones.create",
        "drop_hidden_units": "se_backbones.surgery.ratios",
        "features_only": "se_backbones.features",
        "find_network": "se_backbones.backbone",
        "find_spec": "se_backbones.registry",
        "fold_constant_gates": "se_backbones.surgery.fold",
        "from_pretrained": "se_backbones.hub.folder",
        "fuse": "se_backbones.surgery.fuse",
        "insert_se": "se_backbones.surgery.insert",
        "list_backbones": "se_backbones.registry",
        "prune": "se_backbones.surgery.prune",
        "push_to_hub": "se_backbones.hub.folder",
        "register": "se_backbones.registry",
        "save_pretrained": "se_backbones.hub.folder",
        "sites_of": "se_backbones.backbone",
        "twin_name": "se_backbones.registry",
        "use_gated_kernels": "se_backbones.layers.gated",
    },
)
