"""torch.hub finds every network here, without building one before it is asked for."""

import sys
from pathlib import Path

import pytest
import torch

import se_backbones
from se_backbones import Backbone, create_backbone, list_backbones

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def local(monkeypatch):
    """torch.hub as if this folder had been fetched."""
    monkeypatch.setattr(torch.hub, "_get_cache_or_reload", lambda *_, **__: str(ROOT))
    return torch.hub


def test_every_network_is_listed_and_none_is_built(local, monkeypatch):
    def build(*_):
        raise AssertionError("a network was built")

    monkeypatch.setattr(Backbone, "__init__", build)
    listed = local.list("se-backbones/se-backbones")
    assert sorted(listed) == sorted([*list_backbones(), "features_only", "from_pretrained"])
    assert "pretrained" in local.help("se-backbones/se-backbones", "se_resnet50")


def test_an_entry_is_the_network(tmp_path):
    network = create_backbone("se_resnet20_cifar", 4, norm="GN")
    torch.save(network.state_dict(), tmp_path / "trained.pth")
    settings = {"pretrained": tmp_path / "trained.pth", "norm": "GN"}
    loaded = torch.hub.load(str(ROOT), "se_resnet20_cifar", 4, source="local", **settings)
    assert type(loaded) is type(network) and loaded.spec == network.spec
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in network.state_dict().items())
    features = torch.hub.load(str(ROOT), "features_only", "resnet20_cifar", (1,), source="local")
    assert isinstance(features, se_backbones.FeatureList)


def test_torch_alone_is_asked_for(local):
    sys.path.insert(0, str(ROOT))
    try:
        module = torch.hub._import_module("hubconf", str(ROOT / "hubconf.py"))
    finally:
        sys.path.remove(str(ROOT))
    assert module.dependencies == ["torch"]
