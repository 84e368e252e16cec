"""The command line of tools/insert_se.py, and the file it writes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from se_backbones import SEConfig, create_backbone
from se_backbones.weights import WeightsError, convert_file, load_weights, read_state_dict
from se_backbones.weights.inserting import insert_se_into_file

pytest.importorskip("safetensors")
TOOL = Path(__file__).parents[2] / "tools" / "insert_se.py"
RGB = {"channel_order": "RGB", "scale": 1, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def run(*arguments):
    return subprocess.run([sys.executable, TOOL, *map(str, arguments)], capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """(name, **form) → a plain network with statistics as after a training, and its file."""

    def make(name, suffix=".pth", num_classes=3, prefix="", halve=False, **stated):
        torch.manual_seed(1)
        model = create_backbone(name, num_classes).eval()
        for key, tensor in model.state_dict().items():
            if key.endswith("running_var"):
                tensor.uniform_(0.5, 2.0)
        state = {prefix + key: tensor.half() if halve else tensor for key, tensor in model.state_dict().items()}
        path = tmp_path_factory.mktemp("plain") / f"plain{suffix}"
        torch.save({"state_dict": state, **stated}, path)
        return model, path

    return make


def outputs(model, images):
    with torch.no_grad():
        maps = model.eval().forward_features(images)
        return [*maps.values(), *([model.classify(maps["res5"])] if model.num_classes else [])]


IMAGES = torch.randn(1, 3, 50, 45, generator=torch.Generator().manual_seed(3))


def test_writes_the_twin_and_says_what_it_is(plain, call, tmp_path):
    model, path = plain(
        "resnet50", format="se-backbones-weights/1", architecture="resnet50", preprocessing=RGB, classes=list("abc")
    )
    out = tmp_path / "se.safetensors"
    done = run(path, out)
    assert done.returncode == 0 and "se_resnet50" in done.stdout, done.stderr
    assert "differ from the plain network's by at most 0 " in done.stdout
    assert "SE inserted into 16 units" in done.stdout and "--to timm" in done.stdout
    written = read_state_dict(out)
    assert (written.architecture, written.classes) == ("se_resnet50", list("abc"))
    assert written.preprocessing.as_dict() == RGB and written.se["reduction"] == 16
    assert written.metadata["source"] == path.name and len(written.metadata["source_sha256"]) == 64
    twin = create_backbone("se_resnet50", 3)
    load_weights(twin, out, preprocessing=RGB)
    assert all(torch.equal(a, b) for a, b in zip(outputs(twin, IMAGES), outputs(model, IMAGES), strict=True))
    again = call("insert_se", path, out)
    assert again.returncode == 2 and again.stderr == f"error: {out}: exists already; remove it or use --force\n"


def test_what_it_exports_to_timm_computes_the_same_there(plain, tmp_path):
    timm = pytest.importorskip("timm")
    model, path = plain("resnet50", num_classes=4)
    done = insert_se_into_file(path, tmp_path / "se.pth", architecture="resnet50")
    assert done.timm == ""
    convert_file(done.out, tmp_path / "timm.pth", "timm")
    peer = timm.create_model("seresnet50", num_classes=4).eval()
    peer.load_state_dict(torch.load(tmp_path / "timm.pth", weights_only=True)["state_dict"])
    with torch.no_grad():
        torch.testing.assert_close(peer(IMAGES), model(IMAGES), rtol=1e-5, atol=1e-5)


def test_settings_of_the_command_line_reach_the_file(plain, call, tmp_path):
    model, path = plain("resnet18", num_classes=0)
    out = tmp_path / "se.pth"
    options = [
        "--reduction",
        2,
        4,
        8,
        16,
        "--placement",
        "post",
        "--gate",
        "relu",
        "--stages",
        3,
        5,
        "--squeeze",
        "max",
    ]
    done = call("insert_se", path, out, *options)
    assert done.returncode == 0 and "by at most 0 " in done.stdout, done.stderr
    assert "relu gates are this package's own form" in done.stdout and "0.731 in place of 1" in done.stdout
    written = read_state_dict(out)
    se = SEConfig(**written.se)
    asked_for = SEConfig((2, 4, 8, 16), "post", (3, 5), "max", "relu", init="neutral")
    assert se == asked_for.resolved(model.spec.sites())
    twin = create_backbone(written.architecture, 0, se=se)
    load_weights(twin, out)
    assert all(torch.equal(a, b) for a, b in zip(outputs(twin, IMAGES), outputs(model, IMAGES), strict=True))


def test_the_difference_of_a_relu_gate_to_a_sigmoid_is_that_of_the_outputs(plain, tmp_path):
    model, path = plain("resnet18")
    done = insert_se_into_file(path, tmp_path / "se.pth", SEConfig(gate="relu"))
    taken_for_sigmoid = create_backbone("se_resnet18", 3)
    load_weights(taken_for_sigmoid, read_state_dict(done.out).state_dict)
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    differences = [
        (a - b).abs().max().item()
        for a, b in zip(outputs(taken_for_sigmoid, images), outputs(model, images), strict=True)
    ]
    assert done.largest_difference == 0 and done.sigmoid_difference == pytest.approx(max(differences)) and differences


def test_half_precision_stays_half_precision_and_exact(plain, tmp_path):
    model, path = plain("resnet18", halve=True)
    done = insert_se_into_file(path, tmp_path / "se.safetensors")
    assert done.largest_difference == 0
    state = read_state_dict(done.out).state_dict
    assert {tensor.dtype for tensor in state.values() if tensor.is_floating_point()} == {torch.float16}
    assert torch.equal(state["layer1.0.bn2.weight"], 2 * model.layer1[0].bn2.weight.half())
    assert torch.equal(state["layer1.0.bn1.weight"], model.layer1[0].bn1.weight.half())


def test_a_detector_stays_a_detector_and_its_heads_keep_their_bytes(plain, tmp_path):
    model, path = plain("resnet18", num_classes=0, prefix="backbone.bottom_up.net.", architecture="resnet18")
    content = torch.load(path, weights_only=True)
    heads = {"backbone.fpn_lateral2.weight": torch.randn(8, 64, 1, 1), "roi_heads.box_head.fc1.bias": torch.randn(4)}
    content["state_dict"].update(heads)
    torch.save(content, path)
    done = insert_se_into_file(path, tmp_path / "se.safetensors")
    written = read_state_dict(done.out)
    assert written.layout == "ours-detection" and "no detectors" in done.timm and done.largest_difference == 0
    assert all(torch.equal(written.state_dict[name], tensor) for name, tensor in heads.items())
    twin = create_backbone("se_resnet18", 0)
    load_weights(twin, written.backbone())
    assert all(torch.equal(a, b) for a, b in zip(outputs(twin, IMAGES), outputs(model, IMAGES), strict=True))


def test_mistakes_leave_no_file(plain, call, tmp_path):
    _, path = plain("resnet18")
    out = tmp_path / "se.safetensors"
    done = call("insert_se", path, out, "--placement", "identity")
    assert done.returncode == 2 and "bare shortcut" in done.stderr and "Traceback" not in done.stderr
    for source, target, words in (
        (path, tmp_path / "se.pkl", "must end in .safetensors or .pth"),
        (path, path, "is the source itself"),
        (tmp_path / "no.pth", out, "no such file"),
    ):
        with pytest.raises(WeightsError, match=words):
            insert_se_into_file(source, target, force=True)
    done = insert_se_into_file(path, tmp_path / "se.pth")
    with pytest.raises(WeightsError, match="hold squeeze-and-excitation already"):
        insert_se_into_file(done.out, out)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["se.pth"]
    assert json.loads(json.dumps(str(done))).startswith(str(done.out))
