"""docs/in_your_pytorch_project.md, block by block as it is printed. Nothing is fetched: the hub is a folder here."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from classification.model import build_network
from engine.train.checkpoint import save_checkpoint
from se_backbones import create_backbone
from se_backbones.hub.config import NetworkConfig
from tests.classification.predict.test_predictor import small_config
from tests.se_backbones.hub.fake_hub import FakeHub
from tests.se_backbones.networks import randomised

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "in_your_pytorch_project.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The names that each block leaves: a dictionary a block."""
    client = pytest.importorskip("huggingface_hub")
    safetensors = pytest.importorskip("safetensors.torch")
    timm = pytest.importorskip("timm")
    folder = tmp_path_factory.mktemp("project")
    release = folder / "hub" / "timm" / "seresnet50.ra2_in1k"
    release.mkdir(parents=True)
    theirs = timm.create_model("seresnet50", zero_init_last=False)
    safetensors.save_file(theirs.state_dict(), release / "model.safetensors")
    cfg = small_config("MODEL.BACKBONE.ARCHITECTURE", "se_resnet20_cifar")
    content = {"task": "classification", "config": cfg.dump(), "classes": ["cat", "dog"]}
    content["model"] = build_network(cfg, 2).state_dict()
    (folder / "output" / "mine").mkdir(parents=True)
    save_checkpoint(folder / "output" / "mine" / "model_final.pth", content)
    (folder / "path" / "of" / "a").mkdir(parents=True)
    (folder / "path" / "of" / "a" / "copy").symlink_to(ROOT)
    names, left = {}, []
    with pytest.MonkeyPatch.context() as patch:
        FakeHub(folder / "hub").put_in_place(patch, client)
        patch.setattr(torch.hub, "_get_cache_or_reload", lambda *_, **__: str(ROOT))
        patch.chdir(folder)
        for block in BLOCKS:
            exec(compile(block, "in_your_pytorch_project.md", "exec", dont_inherit=True), names)
            left.append(dict(names))
        yield left


def test_the_page_has_its_blocks():
    assert len(BLOCKS) == 7


def test_a_network_comes_with_weights_and_preprocessing(ran):
    network, logits, maps = (ran[1][name] for name in ("network", "logits", "maps"))
    assert network.weights_report.source == "timm://seresnet50.ra2_in1k" and logits.shape == (2, 1000)
    assert ran[1]["said"]["mean"] == [0.485, 0.456, 0.406]
    assert {name: tuple(x.shape) for name, x in maps.items()} == {
        name: (2, channels, 96 // stride, 128 // stride) for name, (channels, stride) in network.feature_info.items()
    }
    assert maps["res5"].shape == (2, 2048, 3, 4)  # as a comment of the page says


def test_the_list_is_that_of_the_network(ran):
    assert ran[2]["channels"] == [256, 512, 1024, 2048] and ran[2]["strides"] == [4, 8, 16, 32]
    listed, maps = ran[2]["listed"], ran[2]["maps"]
    assert [x.shape for x in listed] == [maps[name].shape for name in ("res2", "res3", "res4", "res5")]


def test_a_detector_trains_and_detects(ran):
    detector, losses, found = (ran[3][name] for name in ("detector", "losses", "found"))
    assert set(losses) == {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
    assert all(torch.isfinite(loss) for loss in losses.values())
    body = detector.backbone.body
    with_gradient = {name.split(".")[0] for name, p in body.named_parameters() if p.grad is not None and p.grad.any()}
    assert with_gradient == {"layer2", "layer3", "layer4"}  # all but what is fixed
    gates = [site.gate for site in body.se_sites() if site.stage != "res2"]
    assert all(gate.fc2.weight.grad.any() for gate in gates)
    assert set(found[0]) == {"boxes", "labels", "scores"} and found[0]["boxes"].shape[1] == 4
    assert list(detector.backbone(torch.rand(1, 3, 64, 64))) == ["0", "1", "2", "3", "pool"]


def test_what_the_page_says_of_torchvisions_own_pyramid_is_so():
    """It runs children in a row: no ReLU behind the stem's normalisation."""
    from torchvision.models._utils import IntermediateLayerGetter

    network = randomised(create_backbone("se_resnet18", 0)).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        theirs = IntermediateLayerGetter(network, {"layer1": "res2"})(images)["res2"]
        ours = network.forward_features(images)["res2"]
    assert theirs.shape == ours.shape and (theirs - ours).abs().max() > 0.01 * ours.abs().max()


def test_the_hubs_give_networks(ran):
    assert ran[4]["network"].spec.name == "se_resnet18"
    assert any(isinstance(module, nn.GroupNorm) for module in ran[4]["network"].modules())
    network, again, other = (ran[5][name] for name in ("network", "again", "other"))
    assert again.weights_report.source == "me/animals" and len(again.weights_report.classes) == 5
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in network.state_dict().items())
    assert other.num_classes == 2 and not next(other.parameters()).requires_grad


def test_a_run_of_this_project_goes_the_same_way(ran):
    config = NetworkConfig.read(Path("mine/config.json"))
    assert config.architecture == "se_resnet20_cifar" and config.classes == ("cat", "dog")
    assert config.preprocessing.scale == 255
