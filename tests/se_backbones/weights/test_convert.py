"""convert_file: the numbers keep their bytes there and back, and the file says what it is."""

import json
import os
import pickle
import re

import pytest
import torch

from se_backbones import SEConfig
from se_backbones.weights import (
    IMAGENET_RGB,
    WeightsError,
    convert_file,
    convert_state_dict,
    load_weights,
    read_state_dict,
)
from se_backbones.weights.formats.safetensors_file import read_safetensors, tensors_sha256

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


def foreign(layout, state):
    """A network's tensors as the layout's own program writes them."""
    if layout == "detectron2":  # frozen normalisations have no counter
        state = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    return convert_state_dict(state, "ours", layout)


@pytest.mark.parametrize(
    ("name", "layout", "dtype", "arguments"),
    [
        ("resnet18", "torchvision", torch.float32, {}),
        ("se_resnet18", "timm", torch.float16, {"se": SEConfig(reduction=(8, 16, 16, 16))}),
        ("se_resnet18_caffe", "timm-legacy", torch.float32, {}),
        ("resnet18", "detectron2", torch.bfloat16, {}),
    ],
)
def test_from_another_layout_and_back(name, layout, dtype, arguments, filled, tmp_path):
    state = filled(name, 1, num_classes=3, **arguments).state_dict()
    theirs = {key: t.to(dtype) if t.is_floating_point() else t for key, t in foreign(layout, state).items()}
    theirs = {key: t.to(memory_format=torch.channels_last) if t.dim() == 4 else t for key, t in theirs.items()}
    torch.save(theirs, tmp_path / "theirs.pth")
    ours = convert_file(tmp_path / "theirs.pth", tmp_path / "ours.safetensors")
    back = convert_file(ours.out, tmp_path / "back.pth", layout)
    assert ours.architecture == back.architecture == name
    assert same_bytes(torch.load(back.out, weights_only=True)["state_dict"], theirs)


@pytest.mark.parametrize("layout", ["mmpretrain", "moskomule"])
def test_layouts_that_are_read_alone_keep_their_numbers(layout, filled, tmp_path):
    state = filled("se_resnet18", 1, num_classes=3, se=SEConfig(bias=layout == "mmpretrain")).state_dict()
    theirs = {}
    for name, tensor in state.items():
        if layout == "mmpretrain":
            name = re.sub(r"\.se\.fc([12])\.", r".se_layer.conv\1.conv.", name)
            name = f"head.{name}" if name.startswith("fc.") else f"backbone.{name}"
        else:
            name = name.replace(".se.fc1.", ".se.fc.0.").replace(".se.fc2.", ".se.fc.2.")
            tensor = tensor.flatten(1) if ".se.fc." in name else tensor
        theirs[name] = tensor
    torch.save({"state_dict": theirs}, tmp_path / "theirs.pth")
    done = convert_file(tmp_path / "theirs.pth", tmp_path / "ours.safetensors")
    assert done.architecture == "se_resnet18" and json.loads(done.metadata["se"])["bias"] == (layout == "mmpretrain")
    assert same_bytes(read_state_dict(done.out).state_dict, state)


def test_a_checkpoint_becomes_its_averaged_weights_and_says_so(saved, tmp_path):
    source, state = saved("resnet18")
    content = torch.load(source, weights_only=True)
    average = {name: tensor * 0.5 if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    torch.save({**content, "ema": {f"module.{name}": t for name, t in average.items()}}, source)
    done = convert_file(source, tmp_path / "w.safetensors")
    assert same_bytes(read_state_dict(done.out).state_dict, average) and "averaged weights were taken" in str(done)


def test_a_file_that_says_it_is_another_network(saved, tmp_path):
    source, _ = saved("resnet18", {"backbone": "resnet50_msra"})
    with pytest.raises(WeightsError, match=r"says that it is a resnet50_msra, and its tensors are basic units"):
        convert_file(source, tmp_path / "w.safetensors")
    assert not (tmp_path / "w.safetensors").exists()


def test_a_name_that_contradicts_what_the_file_states_is_refused(saved, tmp_path):
    """The tensors fit both; the strides that the file was trained with would be lost."""
    source, _ = saved("se_resnet18_caffe")
    with pytest.raises(WeightsError, match="says that it is a se_resnet18_caffe, which --arch se_resnet18 contradicts"):
        convert_file(source, tmp_path / "out.pth", architecture="se_resnet18")
    assert convert_file(source, tmp_path / "out.pth", architecture="se_resnet18_caffe").architecture[-5:] == "caffe"


def test_settings_that_leave_no_mark_go_along(saved, tmp_path):
    source, _ = saved("se_resnet50", {"unmarked": {"A.SIZES": [[1, 2]]}})
    for suffix, to in ((".safetensors", "timm"), (".pth", "ours")):
        written = convert_file(source, tmp_path / f"out{suffix}", to).out
        assert read_state_dict(written).metadata["unmarked"] == {"A.SIZES": [[1, 2]]}


def test_deep_stem_there_and_back(tmp_path, filled):
    """SENet-154's stem through the legacy names, on a file that is its first stage alone."""
    from se_backbones.weights import detect_layout

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
    _, metadata = read_safetensors(tmp_path / "w.safetensors")
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
    state = convert_state_dict(filled("resnet18", num_classes=2).state_dict(), "ours", "detectron2")
    torch.save(state, tmp_path / "d2.pth")
    done = convert_file(tmp_path / "d2.pth", tmp_path / "w.safetensors")
    assert done.architecture == "resnet18" and "preprocessing" not in done.metadata


def test_architecture_must_be_named_where_it_does_not_show(filled, tmp_path):
    state = convert_state_dict(filled("resnet50", num_classes=2).state_dict(), "ours", "detectron2")
    torch.save(state, tmp_path / "d2.pth")
    with pytest.raises(WeightsError, match=r"resnet50 and resnet50_msra.*--arch"):
        convert_file(tmp_path / "d2.pth", tmp_path / "w.safetensors")
    done = convert_file(tmp_path / "d2.pth", tmp_path / "w.safetensors", architecture="resnet50_msra")
    assert read_state_dict(done.out).facts.hyper["stride_in_1x1"] is True
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
    # In a C4 detector the last stage lies in the heads.
    c4 = {f"backbone.net.{n}" if not n.startswith("layer4.") else f"roi_heads.res5.{n[7:]}": t for n, t in net.items()}
    torch.save({"format": "se-backbones-checkpoint/1", "model": c4, "backbone": "resnet18"}, tmp_path / "c4.pth")
    there = convert_file(tmp_path / "c4.pth", tmp_path / "c4.pkl", "detectron2")
    assert "roi_heads.res5.0.shortcut.weight" in read_state_dict(there.out).state_dict
    assert same_bytes(read_state_dict(convert_file(there.out, tmp_path / "c4b.pth").out).state_dict, c4)
    with pytest.raises(WeightsError, match="has no detectors"):
        convert_file(tmp_path / "d.pth", tmp_path / "tv.pth", "torchvision")


def test_bfloat16_has_no_form_in_numpy(filled, tmp_path):
    torch.save(filled("resnet18", 1, num_classes=2).bfloat16().state_dict(), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="is bfloat16, which NumPy does not have"):
        convert_file(tmp_path / "w.pth", tmp_path / "w.pkl", "detectron2")
    assert [path.name for path in tmp_path.iterdir()] == ["w.pth"]


# --- names that no encoding has ---


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pkl"])
def test_class_names_and_paths_that_are_not_utf8(suffix, saved, tmp_path, capfdbinary):
    """Half a surrogate stands for a byte of a folder's name (chambre_\\xe9); it comes back as it was."""
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    classes = [os.fsdecode(b"chambre_\xe9"), "bär", "洗手間", "d"]
    source, state = saved("resnet18", {"classes": classes})
    source = source.rename(folder / os.fsdecode(b"w\xe9.pth"))
    done = convert_file(source, folder / os.fsdecode(b"o\xff" + suffix.encode()), "detectron2")
    str(done).encode()
    assert done.metadata["source"] == r"w\xe9.pth" and read_state_dict(done.out).classes == classes
    from se_backbones import create_backbone

    report = load_weights(create_backbone("resnet18", num_classes=4), done.out)
    report.format().encode()
    assert json.loads(report.write(folder / "report.json").read_text())["classes"] == classes


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
