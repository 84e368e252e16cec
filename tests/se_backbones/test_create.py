"""A network with published weights, or a file's, by ``create_backbone``. Nothing is fetched: the file is made here."""

import pytest
import torch

from se_backbones import SEConfig, create_backbone, find_spec, list_backbones
from se_backbones.registry import family_of
from se_backbones.weights import IMAGENET_RGB, WeightsError
from se_backbones.weights.sources.published import published_weights
from tests.se_backbones.networks import randomised

NAME = "mobilenet_v1_050"
CIFAR = "se_resnet20_cifar"


@pytest.fixture
def published(monkeypatch, tmp_path):
    """(network's name, its weights, what was asked of the hub); ``pretrained=True`` gives those weights."""
    hub = pytest.importorskip("huggingface_hub")
    safetensors = pytest.importorskip("safetensors.torch")
    timm = pytest.importorskip("timm")
    source, asked = "timm://mobilenetv1_100.ra4_e3600_r224_in1k", []
    theirs = randomised(timm.create_model("mobilenetv1_100"))
    assert published_weights("mobilenet_v1") == source
    safetensors.save_file(theirs.state_dict(), tmp_path / "model.safetensors")

    def download(repository, filename, **_):
        asked.append((repository, filename))
        return str(tmp_path / filename)

    monkeypatch.setattr(hub, "hf_hub_download", download)
    return "mobilenet_v1", theirs, asked


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A network for three classes and its file."""
    network = randomised(create_backbone(CIFAR, 3))
    path = tmp_path_factory.mktemp("trained") / "trained.pth"
    torch.save(network.state_dict(), path)
    return network, path


def same(network, other, but=()):
    theirs = other.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in network.state_dict().items() if name not in but)


def test_published_weights_come_with_their_account(published):
    name, theirs, asked = published
    network = create_backbone(name, pretrained=True)
    assert asked == [("timm/mobilenetv1_100.ra4_e3600_r224_in1k", "model.safetensors")]
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(network.eval()(x), theirs.eval()(x), atol=1e-5)
    report = network.weights_report
    assert set(report.loaded) | set(report.derived) == set(network.state_dict()) and not report.allowed
    timm = pytest.importorskip("timm")
    said = timm.get_pretrained_cfg("mobilenetv1_100.ra4_e3600_r224_in1k")
    assert report.preprocessing["channel_order"] == "RGB" and report.preprocessing["mean"] == list(said.mean)
    assert create_backbone(NAME).weights_report is None


@pytest.mark.parametrize("classes", [0, 5])
def test_another_classifier_starts_anew_and_all_else_is_loaded(published, classes):
    name, _, _ = published
    network = create_backbone(name, classes, pretrained=True, out_features=["stage3", "stage5"], freeze_at=1)
    whole = create_backbone(name, pretrained=True)
    head = {"classifier.weight", "classifier.bias"}
    assert same(network, whole, but=head)
    assert set(network.weights_report.allowed) == head
    assert network.num_classes == classes


def test_weights_of_stages_that_are_not_built_are_left_aside(trained):
    network, path = trained
    part = create_backbone(CIFAR, 0, pretrained=path, out_features=["stage1"])
    assert part.stages == ("stem", "stage1") and same(part, network)


@pytest.mark.parametrize("name", [CIFAR, "vgg16", "se_mobilenet_v1_050", "se_inception_resnet_v2"])
def test_a_network_without_classes_has_no_head(name):
    """And says so: tracing, say, asks a module for all of its attributes."""
    with torch.device("meta"):
        assert create_backbone(name, 0).head is None
        assert create_backbone(name, 4).head.out_features == 4


def test_weights_of_no_name_are_no_wish_for_random_ones(trained):
    for nothing in ("", {}):
        with pytest.raises(WeightsError):
            create_backbone(CIFAR, 3, pretrained=nothing)
    assert create_backbone(CIFAR, 3, pretrained=None).weights_report is None
    assert same(create_backbone(CIFAR, 3, pretrained=trained[0].state_dict()), trained[0])
    with pytest.raises(ValueError, match="num_classes must be 0, for no classifier, or more; got -1"):
        create_backbone(CIFAR, -1)


def test_classes_that_nobody_asked_for_are_refused(trained):
    network, path = trained
    assert same(create_backbone(CIFAR, 3, pretrained=str(path)), network)
    with pytest.raises(WeightsError, match="the file's classifier has 3 classes and the model's 10"):
        create_backbone(CIFAR, pretrained=path)


def test_gates_that_the_weights_lack_are_not_made_up(trained, tmp_path):
    torch.save(create_backbone("resnet20_cifar").state_dict(), tmp_path / "plain.pth")
    with pytest.raises(WeightsError, match=r"insert_se\(model\) in code"):
        create_backbone("resnet20_cifar", se=SEConfig(), pretrained=tmp_path / "plain.pth")
    with pytest.raises(WeightsError, match="the file's network has squeeze-and-excitation and the model has none"):
        create_backbone(CIFAR, 3, se=None, pretrained=trained[1])


def test_what_is_doubtful_about_weights_is_logged(tmp_path, caplog):
    torch.save(create_backbone("resnet18", 2).state_dict(), tmp_path / "mine.pth")
    create_backbone("resnet18", 2, pretrained=tmp_path / "mine.pth")
    assert "of others too" in caplog.text and "mine.pth" in caplog.text


@pytest.mark.parametrize("name", list_backbones())
def test_a_network_without_published_weights_names_those_that_have(name):
    if name in list_backbones(pretrained=True):
        assert "://" in published_weights(name)
        return
    with pytest.raises(WeightsError, match=f"no ImageNet weights are published for {name}") as caught:
        create_backbone(name, pretrained=True)
    named = family_of(find_spec(name)).published or list_backbones(pretrained=True)
    assert named and all(other in str(caught.value) for other in named)


def test_a_repository_of_the_hub_is_a_source(published):
    name, _, asked = published
    network = create_backbone(name, pretrained="hf://someone/mobile")
    assert asked[0] == ("someone/mobile", "model.safetensors") and network.weights_report.source.startswith("hf://")
    assert network.weights_report.preprocessing != IMAGENET_RGB.as_dict()  # a foreign repository's word is not believed


def test_a_network_without_memory_draws_no_weights(monkeypatch):
    """To draw them has PyTorch import its compiler, which takes longer than all the layers."""

    def drawn(tensor, *args, **kwargs):
        assert not tensor.is_meta
        return tensor

    for name in ("normal_", "kaiming_normal_"):
        monkeypatch.setattr(torch.nn.init, name, drawn)
    one_of_each = {family_of(find_spec(name)).name: name for name in list_backbones()}
    assert len(one_of_each) > 5
    for name in one_of_each.values():
        with torch.device("meta"):
            create_backbone(name, num_classes=5)
