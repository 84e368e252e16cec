"""Named sources: what is fetched, what is known of it, what is said when it cannot be had. No network."""

import builtins
import io
import pickle
import urllib.error

import pytest
import torch

from se_backbones.weights import CAFFE_BGR, IMAGENET_RGB, WeightsError, load_weights, read_state_dict
from se_backbones.weights.sources import named as module


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network, and empty folders for what was fetched before."""

    def refuse(*_args, **_kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(module.urllib.request, "urlopen", refuse)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "d2"))
    return tmp_path


class Answer(io.BytesIO):
    def __init__(self, data, length=None):
        super().__init__(data)
        self.headers = {"Content-Length": str(length or len(data))}


def without(monkeypatch, *names):
    """As if a package were not installed."""
    real = builtins.__import__

    def fake(name, *args, **kwargs):
        if name.split(".")[0] in names:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fake)


def test_timm_source(monkeypatch, timm_model, empty, tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    safetensors = pytest.importorskip("safetensors.torch")
    asked = []

    def download(repository, filename, **_):
        asked.append((repository, filename))
        safetensors.save_file(timm_model("seresnet50").state_dict(), tmp_path / filename)
        return str(tmp_path / filename)

    monkeypatch.setattr(hub, "hf_hub_download", download)
    model = empty("se_resnet50")
    report = load_weights(model, "timm://seresnet50.ra2_in1k", preprocessing=IMAGENET_RGB)
    assert asked == [("timm/seresnet50.ra2_in1k", "model.safetensors")]
    assert report.source == "timm://seresnet50.ra2_in1k" and report.preprocessing_basis == "stated"
    assert torch.isfinite(model.fc.weight).all()
    with pytest.raises(WeightsError, match="BGR"):
        load_weights(model, "timm://seresnet50.ra2_in1k", preprocessing=CAFFE_BGR)


def test_timm_cannot_be_reached(monkeypatch, offline):
    hub = pytest.importorskip("huggingface_hub")
    pytest.importorskip("timm")

    def download(*_args, **_kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(hub, "hf_hub_download", download)
    with pytest.raises(WeightsError) as caught:
        read_state_dict("timm://seresnet50.ra2_in1k")
    message = str(caught.value)
    for part in ("timm/seresnet50.ra2_in1k/model.safetensors", "no route to host", "give its path in place"):
        assert part in message


@pytest.mark.parametrize("cached", [False, True])
def test_without_a_network_one_file_is_waited_for(monkeypatch, cached, tmp_path):
    """The client tries for half a minute; what else there may be is looked for in its cache alone."""
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    def download(repository, filename, **options):
        asked.append((filename, options))
        if cached and filename == "pytorch_model.bin":
            return str(tmp_path / filename)
        raise hub.utils.LocalEntryNotFoundError("check your connection" if len(asked) == 1 else "not in the cache")

    monkeypatch.setattr(hub, "hf_hub_download", download)
    if cached:
        assert module.locate("hf://someone/net").path == tmp_path / "pytorch_model.bin"
    else:
        with pytest.raises(WeightsError, match="Reason: LocalEntryNotFoundError: check your connection"):
            module.locate("hf://someone/net")
    assert asked == [("model.safetensors", {}), ("pytorch_model.bin", {"local_files_only": True})]


def test_no_name_is_no_source():
    with pytest.raises(WeightsError, match="no weights are named: give a file, or timm://NAME"):
        read_state_dict("")


def test_timm_not_installed(monkeypatch):
    without(monkeypatch, "timm")
    with pytest.raises(WeightsError, match=r"(?s)pip install timm.*give its path in place"):
        read_state_dict("timm://seresnet50.ra2_in1k")


@pytest.mark.parametrize("name", ["seresnet50.ra9_in1k", "seresnett50"])
def test_timm_does_not_know_the_name(name):
    pytest.importorskip("timm")
    with pytest.raises(WeightsError, match="nearest: .*seresnet"):
        read_state_dict(f"timm://{name}")


def test_torchvision_source(monkeypatch, offline, filled, empty):
    torchvision = pytest.importorskip("torchvision")
    url = torchvision.models.get_model_weights("resnet18").DEFAULT.url
    buffer = io.BytesIO()
    torch.save(filled("resnet18").state_dict(), buffer)
    asked = []

    def fetch(address, timeout):
        asked.append(address)
        return Answer(buffer.getvalue())

    monkeypatch.setattr(module.urllib.request, "urlopen", fetch)
    # The released name carries a hash, and these are not the released weights.
    with pytest.raises(WeightsError, match="its name promises a sha256"):
        read_state_dict("torchvision://resnet18")
    monkeypatch.setattr("se_backbones.weights.weights_file.check_name_hash", lambda *_: None)
    report = load_weights(empty("resnet18"), "torchvision://resnet18.IMAGENET1K_V1")
    assert report.classes[0] == "tench" and len(report.classes) == 1000
    assert asked == [url]  # once: the second time the file was there
    assert [path.name for path in (offline / "hub" / "checkpoints").iterdir()] == [url.rsplit("/", 1)[-1]]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("torchvision://resnet18", "download.pytorch.org.*no route to host.*give its path in place"),
        ("torchvision://resnett18", "nearest: .*resnet18"),
        ("torchvision://resnet50.V9", "IMAGENET1K_V1, IMAGENET1K_V2"),
        ("detectron2://ImageNetPretrained/MSRA/R-50.pkl", "MSRA/R-50.pkl.*no route to host"),
        ("detectron2://../../etc/passwd", "a name such as"),
        ("https://example.com/w.pth", "fetch it first and name the file"),
        ("keras://resnet50", "timm://NAME, torchvision://NAME"),
    ],
)
def test_sources_that_cannot_be_had(source, message, offline):
    with pytest.raises(WeightsError, match=f"(?s){message}"):
        read_state_dict(source)


def test_a_connection_that_ends_early_leaves_nothing(monkeypatch, offline):
    monkeypatch.setattr(module.urllib.request, "urlopen", lambda url, timeout: Answer(b"half", length=8))
    with pytest.raises(WeightsError, match="ended after 4 of 8 bytes"):
        read_state_dict("detectron2://ImageNetPretrained/MSRA/R-50.pkl")
    assert not [path for path in (offline / "hub").rglob("*") if path.is_file()]


def test_detectron2_source_from_its_own_cache(offline, filled):
    state = {f"res2.0.conv{i}.weight": torch.zeros(1).numpy() for i in (1, 2, 3)}
    path = offline / "d2" / "detectron2" / "ImageNetPretrained" / "torchvision" / "R-50.pkl"
    path.parent.mkdir(parents=True)
    path.write_bytes(pickle.dumps({"model": state, "__author__": "torchvision"}))
    weights = read_state_dict("detectron2://ImageNetPretrained/torchvision/R-50.pkl")
    assert weights.path == path and weights.layout == "detectron2"
    assert weights.facts.hyper["stride_in_1x1"] is False and weights.preprocessing == IMAGENET_RGB


def test_missing_file_names_its_neighbour(tmp_path):
    (tmp_path / "model_final.pth").write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"Nearest in that folder: model_final\.pth"):
        read_state_dict(tmp_path / "model_finl.pth")
    with pytest.raises(WeightsError, match="does not exist either"):
        read_state_dict(tmp_path / "no" / "file.pth")


def test_part_of_a_file(filled, tmp_path):
    model = filled("resnet18", num_classes=2)
    average = {f"module.{name}": tensor + 1 for name, tensor in model.state_dict().items()}
    torch.save({"model": model.state_dict(), "model_ema": average}, tmp_path / "both.pth")
    first = read_state_dict(tmp_path / "both.pth")
    assert any("model_ema" in note for note in first.notes)
    second = read_state_dict(f"{tmp_path / 'both.pth'}#model_ema")
    assert torch.equal(second.state_dict["fc.bias"], first.state_dict["fc.bias"] + 1)
