"""convert_file: the numbers keep their bytes there and back, and the file says what it is."""

import json
import pickle

import pytest
import torch

from se_backbones import SEConfig
from se_backbones.weights import IMAGENET_RGB, WeightsError, convert_file, load_weights, read_state_dict
from se_backbones.weights.safetensors_file import read_header, tensors_sha256

pytest.importorskip("safetensors")


@pytest.fixture
def saved(filled, tmp_path):
    """``saved(name, …)``: a file of ours with random weights, as our training writes it, and its tensors."""

    def save(name, beside=None, **arguments):
        state = filled(name, 1, num_classes=4, **arguments).state_dict()
        content = {"format": "se-backbones-checkpoint/1", "model": state, "backbone": name, **(beside or {})}
        torch.save(content, tmp_path / "ours.pth")
        return tmp_path / "ours.pth", dict(state)

    return save


def same_bytes(first, second):
    return first.keys() == second.keys() and tensors_sha256(first) == tensors_sha256(second)


@pytest.mark.parametrize(
    ("name", "to", "suffix"),
    [
        ("resnet18", "torchvision", ".pth"),
        ("resnet18", "detectron2", ".pkl"),
        ("resnet50", "detectron2", ".safetensors"),
        ("resnet50_msra", "detectron2", ".pkl"),
        ("se_resnet50", "timm", ".safetensors"),
        ("se_resnet50_caffe", "timm-legacy", ".safetensors"),
        ("se_resnet34", "ours", ".pth"),
    ],
)
def test_there_and_back(name, to, suffix, saved, tmp_path, empty):
    source, state = saved(name)
    there = convert_file(source, tmp_path / f"there{suffix}", to)
    back = convert_file(there.out, tmp_path / "back.safetensors")
    assert there.architecture == back.architecture == name
    assert same_bytes(read_state_dict(back.out).state_dict, state)
    load_weights(empty(name, num_classes=4), there.out)  # either file loads as it is


def test_deep_stem_there_and_back(tmp_path, filled):
    """SENet-154's stem through the legacy names, on a file that is its first stage alone."""
    from se_backbones.weights import convert_state_dict, detect_layout

    full = filled("senet154_caffe", 1, num_classes=0, out_features=["res2"]).state_dict()
    theirs = convert_state_dict(full, "ours", "timm-legacy")
    assert detect_layout(theirs) == "timm-legacy" and "layer0.conv3.weight" in theirs
    assert same_bytes(convert_state_dict(theirs, "timm-legacy", "ours"), dict(full))


def test_metadata(saved, tmp_path):
    beside = {
        "classes": ["bär", "cat", "dog", "eel"],
        "preprocessing": IMAGENET_RGB.as_dict(),
        "iteration": 9,
    }
    source, _ = saved("se_resnet18", beside, se=SEConfig(reduction=8))
    done = convert_file(source, tmp_path / "w.safetensors")
    _, metadata = read_header(tmp_path / "w.safetensors")
    assert metadata["architecture"] == "se_resnet18" and metadata["source"] == "ours.pth"
    assert len(metadata["source_sha256"]) == len(metadata["tensors_sha256"]) == 64
    assert json.loads(metadata["classes"]) == ["bär", "cat", "dog", "eel"]
    assert json.loads(metadata["preprocessing"])["mean"] == [0.485, 0.456, 0.406]
    assert json.loads(metadata["se"])["reduction"] == 8
    again = read_state_dict(tmp_path / "w.safetensors")
    assert again.classes[0] == "bär" and again.preprocessing == IMAGENET_RGB and again.architecture == "se_resnet18"
    assert "4 classes" in str(done) and "se_resnet18 as ours" in str(done)


@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
def test_metadata_in_the_other_forms(suffix, saved, tmp_path):
    source, _ = saved("resnet18", {"classes": list("abcd"), "preprocessing": IMAGENET_RGB.as_dict()})
    convert_file(source, tmp_path / f"w{suffix}", "detectron2")
    again = read_state_dict(tmp_path / f"w{suffix}")
    assert again.classes == list("abcd") and again.preprocessing == IMAGENET_RGB
    assert again.facts.basis == "stated" and again.architecture == "resnet18"


def test_detectron2_itself_reads_the_pickle(saved, tmp_path):
    """Its checkpointer wants arrays under ``model``, and the flag that matches names by their endings."""
    source, state = saved("resnet18")
    convert_file(source, tmp_path / "R-18.pkl", "detectron2")
    content = pickle.loads((tmp_path / "R-18.pkl").read_bytes())  # our own file, written a line above
    assert content["matching_heuristics"] is True and "__author__" in content
    assert (content["model"]["stem.conv1.weight"] == state["conv1.weight"].numpy()).all()


def test_usual_preprocessing_is_not_written_as_known(filled, tmp_path):
    from se_backbones.weights import convert_state_dict

    state = convert_state_dict(filled("resnet18", num_classes=2).state_dict(), "ours", "detectron2")
    torch.save(state, tmp_path / "d2.pth")
    done = convert_file(tmp_path / "d2.pth", tmp_path / "w.safetensors")
    assert done.architecture == "resnet18" and "preprocessing" not in done.metadata


def test_architecture_must_be_named_where_it_does_not_show(filled, tmp_path):
    from se_backbones.weights import convert_state_dict

    state = convert_state_dict(filled("resnet50", num_classes=2).state_dict(), "ours", "detectron2")
    torch.save(state, tmp_path / "d2.pth")
    with pytest.raises(WeightsError, match=r"resnet50 and resnet50_msra.*--arch"):
        convert_file(tmp_path / "d2.pth", tmp_path / "w.safetensors")
    done = convert_file(tmp_path / "d2.pth", tmp_path / "w.safetensors", architecture="resnet50_msra")
    assert read_state_dict(done.out).facts.stride_in_1x1 is True
    for wrong in ("resnet101", "resnet5"):
        with pytest.raises(WeightsError, match=wrong):
            convert_file(tmp_path / "d2.pth", tmp_path / "x.safetensors", architecture=wrong)


@pytest.mark.parametrize(
    ("name", "to", "why", "arguments"),
    [
        ("se_resnet18", "torchvision", "squeeze-and-excitation", {}),
        ("se_resnet18", "timm", "rounds SE widths", {}),
        ("se_resnet18", "timm-legacy", "pool and stride", {}),
        ("se_resnet18_caffe", "timm", "Caffe's release", {}),
        ("resnet50_msra", "torchvision", "Caffe's release", {}),
        ("se_resnet18_caffe", "timm-legacy", "reduction is 8", {"se": SEConfig(reduction=8)}),
        ("se_resnet18_caffe", "timm-legacy", "no biases", {"se": SEConfig(bias=False)}),
        ("se_resnet18_caffe", "timm-legacy", "only some of its stages", {"se": SEConfig(stages=(2, 3))}),
    ],
)
def test_targets_that_cannot_hold_the_network(name, to, why, arguments, saved, tmp_path):
    source, _ = saved(name, **arguments)
    with pytest.raises(WeightsError, match=why):
        convert_file(source, tmp_path / "w.safetensors", to)
    assert not (tmp_path / "w.safetensors").exists()


def test_se_in_another_placement_has_no_other_form(saved, tmp_path):
    source, _ = saved("se_resnet18_caffe", {"se": {"placement": "pre"}})
    with pytest.raises(WeightsError, match="placement pre"):
        convert_file(source, tmp_path / "w.safetensors", "timm-legacy")


def test_timm_widths_can_go_to_timm(saved, tmp_path):
    source, state = saved("se_resnet18", se=SEConfig(reduction=(8, 16, 16, 16)))
    done = convert_file(source, tmp_path / "w.safetensors", "timm")
    assert same_bytes(read_state_dict(done.out).state_dict, state)


def test_detector_there_and_back(tmp_path, filled):
    net = filled("resnet18", 1, num_classes=0).state_dict()
    state = {f"backbone.bottom_up.net.{name}": tensor for name, tensor in net.items()}
    state |= {
        "roi_heads.box_predictor.cls_score.bias": torch.randn(3),
        "backbone.fpn_lateral2.bias": torch.randn(8),
    }
    torch.save({"format": "se-backbones-checkpoint/1", "model": state, "backbone": "resnet18"}, tmp_path / "d.pth")
    there = convert_file(tmp_path / "d.pth", tmp_path / "d2.pkl", "detectron2")
    assert "backbone.bottom_up.stem.conv1.norm.weight" in read_state_dict(there.out).state_dict
    back = convert_file(there.out, tmp_path / "back.pth")
    assert same_bytes(read_state_dict(back.out).state_dict, state)
    with pytest.raises(WeightsError, match="has no detectors"):
        convert_file(tmp_path / "d.pth", tmp_path / "tv.pth", "torchvision")


def test_files_are_not_overwritten(saved, tmp_path):
    source, _ = saved("resnet18")
    other = tmp_path / "w.safetensors"
    other.write_bytes(b"precious")
    with pytest.raises(WeightsError, match="exists already"):
        convert_file(source, other)
    assert other.read_bytes() == b"precious"
    with pytest.raises(WeightsError, match="is the source itself"):
        convert_file(source, tmp_path / "." / "ours.pth", force=True)
    convert_file(source, other, force=True)
    assert read_state_dict(other).layout == "torchvision"


def test_a_failed_write_leaves_the_old_file(saved, tmp_path, monkeypatch):
    source, _ = saved("resnet18")
    (tmp_path / "w.pth").write_bytes(b"old")

    def fail(content, path):
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="no space"):
        convert_file(source, tmp_path / "w.pth", force=True)
    assert (tmp_path / "w.pth").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours.pth", "w.pth"]


@pytest.mark.parametrize(("out", "to"), [("w.bin", "ours"), ("w.pkl", "ours"), ("w.pth", "caffe2"), ("w", "ours")])
def test_names_and_targets_outside_the_list(out, to, saved, tmp_path):
    source, _ = saved("resnet18")
    with pytest.raises(WeightsError):
        convert_file(source, tmp_path / out, to)
