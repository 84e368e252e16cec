"""Networks of torchvision, Detectron2, mmpretrain, moskomule and Places365, loaded from their own files."""

import pickle
import pickletools

import pytest
import torch
from torch import nn

from se_backbones import SEConfig
from se_backbones.preprocessing import FAIR_BGR
from se_backbones.weights import CAFFE_BGR, IMAGENET_RGB, WeightsError, load_weights, read_state_dict
from tests.se_backbones.networks import distinct_rows

TOLERANCE = 1e-5
DISTINCT = distinct_rows()


def image(height=97, width=128, seed=1):
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "name",
    [
        "resnet18", "resnet34", "resnet50", "resnet101", "resnet152",
        "resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d",
    ],
)  # fmt: skip
def test_torchvision(name, randomise, empty, run_ours, run_theirs, difference, names_and_shapes_fit, tmp_path):
    models = pytest.importorskip("torchvision.models")
    if name not in DISTINCT:
        assert names_and_shapes_fit(getattr(models, name), name)
        return
    theirs = randomise(getattr(models, name)(weights=None), seed=3)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    ours = empty(name)
    report = load_weights(ours, tmp_path / "theirs.pth", preprocessing=IMAGENET_RGB)
    assert report.layout == "torchvision" and not report.unaccounted
    modules = {"stem": "maxpool", **{f"res{stage + 1}": f"layer{stage}" for stage in range(1, 5)}}
    for size in (224, 97):
        x = image(size, size)
        assert difference(run_ours(ours, x), run_theirs(theirs, x, modules)) <= TOLERANCE


# --- Detectron2 ---


def detectron2_resnet(randomise, depth, stride_in_1x1, norm="BN", groups=1, width=64):
    pytest.importorskip("engine.compat", reason="Detectron2 is not installed")
    pytest.importorskip("detectron2")
    from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock, ResNet

    arguments = {"norm": norm}
    if depth >= 50:
        arguments |= {
            "stride_in_1x1": stride_in_1x1,
            "num_groups": groups,
            "bottleneck_channels": groups * width,
        }
    stages = []
    units = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}[depth]
    channels, expansion = 64, 4 if depth >= 50 else 1
    for i, count in enumerate(units):
        out = 64 * expansion * 2**i
        if depth >= 50:
            arguments["bottleneck_channels"] = groups * width * 2**i
        stages.append(
            ResNet.make_stage(
                BottleneckBlock if depth >= 50 else BasicBlock,
                count,
                stride_per_block=[1 if i == 0 else 2] + [1] * (count - 1),
                in_channels=channels,
                out_channels=out,
                **arguments,
            )
        )
        channels = out
    names = ["stem", "res2", "res3", "res4", "res5", "linear"]
    model = ResNet(BasicStem(norm=norm), stages, num_classes=10, out_features=names)
    return randomise(model, seed=5)


def caffe2_names(state_dict, statistics=True):
    """Detectron2's names as the .pkl of MSRA has them."""
    letters = {"conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c", "shortcut": "branch1"}
    ends = {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}
    names = {}
    for name, tensor in state_dict.items():
        parts = name.split(".")
        if parts[-1] == "num_batches_tracked" or (parts[-1].startswith("running") and not statistics):
            continue
        if parts[0] == "linear":
            key = f"fc1000_{parts[1][0]}"
        elif parts[0] == "stem":
            key = f"res_conv1_bn_{ends[parts[-1]]}" if "norm" in parts else "conv1_w"
        else:
            stage, unit, conv = parts[0], parts[1], letters[parts[2]]
            key = f"{stage}_{unit}_{conv}_" + (f"bn_{ends[parts[-1]]}" if "norm" in parts else "w")
        names[key] = tensor.numpy()
    return names


def theirs_and_ours(theirs, ours, x, run_ours, difference):
    with torch.inference_mode():
        features = theirs(x)
    features["logits"] = features.pop("linear")
    return difference(run_ours(ours, x), features)


@pytest.mark.parametrize("depth", [18, 50])
def test_detectron2_pickle_of_torchvision(depth, randomise, empty, run_ours, difference, tmp_path):
    theirs = detectron2_resnet(randomise, depth, stride_in_1x1=False)
    arrays = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    arrays = {name.replace("linear.", "stem.fc."): array for name, array in arrays.items()}  # as their script does
    content = {"model": arrays, "__author__": "torchvision", "matching_heuristics": True}
    (tmp_path / "R.pkl").write_bytes(pickle.dumps(content))
    ours = empty(f"resnet{depth}", num_classes=10)
    report = load_weights(ours, tmp_path / "R.pkl", preprocessing=IMAGENET_RGB)
    assert report.layout == "detectron2" and report.preprocessing_basis == "stated"
    for size in (97, 224):
        assert theirs_and_ours(theirs, ours, image(size, size), run_ours, difference) <= TOLERANCE


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_detectron2_msra_pickle(protocol, randomise, empty, run_ours, difference, tmp_path):
    theirs = detectron2_resnet(randomise, 50, stride_in_1x1=True)
    content = {
        "model": caffe2_names(theirs.state_dict()),
        "__author__": "Caffe2",
        "matching_heuristics": True,
    }
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    ours = empty("resnet50_msra", num_classes=10)
    report = load_weights(ours, tmp_path / "R-50.pkl", preprocessing=CAFFE_BGR)
    assert report.layout == "caffe2" and not report.unaccounted
    assert theirs_and_ours(theirs, ours, image(97, 224), run_ours, difference) <= TOLERANCE
    # The same names and shapes with the stride elsewhere: never silently.
    with pytest.raises(WeightsError, match=r"(?s)stride_in_1x1=True.*Take 'resnet50_msra'"):
        load_weights(empty("resnet50", num_classes=10), tmp_path / "R-50.pkl")


@pytest.mark.parametrize(
    ("name", "groups", "width", "images"),
    [("resnet50_msra", 1, 64, CAFFE_BGR), ("resnext50_32x4d", 32, 4, FAIR_BGR)],  # MSRA's; FAIR's, as X-101-32x8d.pkl
)
def test_caffe2_folded_statistics(name, groups, width, images, randomise, empty, run_ours, difference, tmp_path):
    """The older files: no statistics, the whole normalisation is in weight and bias."""
    arguments = {"norm": "FrozenBN", "groups": groups, "width": width}
    theirs = detectron2_resnet(randomise, 50, stride_in_1x1=groups == 1, **arguments)
    for key, tensor in theirs.state_dict().items():
        if key.endswith("running_mean"):
            tensor.zero_()
        elif key.endswith("running_var"):
            tensor.fill_(1 - 1e-5)
    names = caffe2_names(theirs.state_dict(), statistics=False)
    names |= {"conv1_w_momentum": names["conv1_w"], "conv1_b": names["res_conv1_bn_s"] * 0}
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps({"blobs": names}, protocol=2))
    with pytest.raises(WeightsError, match="norm='FrozenBN'"):
        load_weights(empty(name, num_classes=10), tmp_path / "R-50.pkl")
    ours = empty(name, num_classes=10, norm="FrozenBN")
    report = load_weights(ours, tmp_path / "R-50.pkl", preprocessing=images)
    assert report.ignored == {"conv1_w_momentum": "an optimizer's momentum", "conv1_b": "a bias of zeros"}
    assert theirs_and_ours(theirs, ours, image(), run_ours, difference) <= TOLERANCE


def test_bias_of_the_first_convolution_is_folded(filled, empty, run_ours, difference):
    theirs = filled("resnet18", 2)
    state = dict(theirs.state_dict())
    bias = torch.linspace(-1, 1, 64)
    state["bn1.running_mean"] = state["bn1.running_mean"] + bias
    ours = empty("resnet18")
    report = load_weights(ours, state | {"conv1.bias": bias})
    assert report.ignored == {"conv1.bias": "folded into bn1.running_mean"}
    assert difference(run_ours(ours, image()), run_ours(theirs, image())) <= TOLERANCE


# --- SE in other layouts: the tensors of a network of ours under their names ---


def mmpretrain_names(state):
    for name, tensor in state.items():
        for i in (1, 2):
            name = name.replace(f".se.fc{i}.", f".se_layer.conv{i}.conv.")
        yield (f"head.{name}" if name.startswith("fc.") else f"backbone.{name}"), tensor


def test_mmpretrain(filled, empty, run_ours, difference, tmp_path):
    theirs = filled("se_resnet50", 4)
    meta = {"epoch": 100, "CLASSES": ["a", "b"]}
    torch.save({"meta": meta, "state_dict": dict(mmpretrain_names(theirs.state_dict()))}, tmp_path / "mm.pth")
    ours = empty("se_resnet50")
    report = load_weights(ours, tmp_path / "mm.pth", preprocessing=IMAGENET_RGB)
    assert report.layout == "mmpretrain" and not report.unaccounted
    assert difference(run_ours(ours, image()), run_ours(theirs, image())) == 0


class MoskomuleGate(nn.Module):
    """SE as senet.pytorch writes it: two linear layers without bias."""

    def __init__(self, channels):
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(channels, channels // 16, bias=False),
            nn.ReLU(),
            nn.Linear(channels // 16, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x):
        return self.fc(x.mean((2, 3)))[:, :, None, None]


def test_moskomule(filled, empty, randomise, run_ours, difference, tmp_path):
    theirs = filled("se_resnet50", 6, se=SEConfig(bias=False))
    for site in theirs.se_sites():
        site.owner.se = randomise(MoskomuleGate(site.gate.fc2.out_channels), seed=7)
    torch.save(theirs.state_dict(), tmp_path / "seresnet50.pkl")  # their files end so, and are torch's
    ours = empty("se_resnet50", se=SEConfig(bias=False))
    report = load_weights(ours, tmp_path / "seresnet50.pkl")
    assert report.layout == "moskomule" and "layer1.0.se.fc1.weight" in report.converted
    assert difference(run_ours(ours, image()), run_ours(theirs, image())) <= TOLERANCE
    with pytest.raises(WeightsError, match=r"SEConfig\(bias=False\)"):
        load_weights(empty("se_resnet50"), tmp_path / "seresnet50.pkl")


def as_python_2_wrote(path):
    """Rewrites the pickles of a file in torch's older form: texts are bytes, as Python 2 had them."""
    data, out, at = path.read_bytes(), b"", 0
    for _ in range(5):
        instructions = list(pickletools.genops(data[at:]))
        ends = [place for _, _, place in instructions[1:]] + [instructions[-1][2] + 1]
        for (instruction, argument, place), end in zip(instructions, ends, strict=True):
            text = argument.encode("latin1") if instruction.name == "BINUNICODE" else b""
            # A NumPy number's bytes had no detour over a codec: only the texts are looked at here.
            out += b"U" + bytes([len(text)]) + text if text else data[at + place : at + end]
        at += ends[-1]
    path.write_bytes(out + data[at:])


@pytest.mark.parametrize("form", ["zip", "legacy", "python 2"])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_places365_release(name, form, randomise, empty, run_theirs, difference, tmp_path):
    models = pytest.importorskip("torchvision.models")
    numpy = pytest.importorskip("numpy")
    theirs = randomise(getattr(models, name)(weights=None, num_classes=365), seed=8)
    state = {f"module.{key}": t for key, t in theirs.state_dict().items() if not key.endswith("tracked")}
    content = {"epoch": 90, "arch": name, "state_dict": state, "best_prec1": numpy.float64(54.7)}
    path = tmp_path / f"{name}_places365.pth.tar"
    torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    if form == "python 2":
        as_python_2_wrote(path)
    ours = empty(name, num_classes=365)
    report = load_weights(ours, path, preprocessing=IMAGENET_RGB)
    counters = {"resnet18": 20, "resnet50": 53}  # one a BatchNorm
    assert report.layout == "torchvision" and len(report.derived) == counters[name]
    with torch.inference_mode():
        assert difference({"logits": ours(image())}, {"logits": theirs(image())}) <= TOLERANCE
    about = read_state_dict(path).metadata
    assert about == {"epoch": 90, "arch": name, "best_prec1": 54.7}
