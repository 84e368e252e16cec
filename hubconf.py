"""What ``torch.hub`` finds here: every network of ``list_backbones()`` by its name, and two functions.

``torch.hub.load(REPOSITORY, "se_resnet50", pretrained=True)`` is ``create_backbone("se_resnet50", pretrained=True)``.
"""

from se_backbones import create_backbone as _create_backbone
from se_backbones import features_only, from_pretrained  # noqa: F401  (entries too)
from se_backbones import list_backbones as _list_backbones

dependencies = ["torch"]


def _entry(name):
    def entry(num_classes=None, **settings):
        return _create_backbone(name, num_classes, **settings)

    entry.__name__ = entry.__qualname__ = name
    entry.__doc__ = f"The network {name}. Arguments as for create_backbone:\n\n{_create_backbone.__doc__}"
    return entry


globals().update({name: _entry(name) for name in _list_backbones()})
