"""What only a GPU can show: the same figures as on a CPU, mixed precision, resume, nccl, memory. Skipped without one.

``SE_TEST_DEVICE=cpu`` runs them on a CPU, which shows that the tests themselves are right.
"""

import copy
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from classification.train import Options, run_classification
from detection.train import Options as DetectionOptions
from detection.train import run_detection
from engine.device import choose_device, choose_precision
from engine.errors import UserError
from engine.train.batch_size import largest_batch
from engine.train.checkpoint import load_checkpoint
from engine.train.launch import relaunch
from se_backbones import SEConfig, create_backbone, fold_constant_gates, fuse, insert_se
from se_backbones.surgery import fused_layers
from se_backbones.weights import load_weights
from synthetic.shapes import generate_shapes
from tests.se_backbones.networks import images, randomised

ROOT = Path(__file__).resolve().parents[2]
NAME = os.environ.get("SE_TEST_DEVICE", "cuda")
DEVICE = torch.device(NAME)
ON_GPU = DEVICE.type == "cuda"
PRECISIONS = ("fp32", "bf16", "fp16") if ON_GPU else ("fp32", "bf16")

pytestmark = [
    pytest.mark.skipif(ON_GPU and not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.usefixtures("runs_in_this_process", "exact_sums"),
]
only_on_a_gpu = pytest.mark.skipif(not ON_GPU, reason="needs a GPU")


@pytest.fixture
def exact_sums(monkeypatch):
    """Float32 as it is on a CPU (no TF32), and kernels that sum in one order."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def on_device(network):
    return network.to(DEVICE, memory_format=torch.channels_last)


@only_on_a_gpu
def test_a_gpu_is_what_auto_chooses():
    assert choose_device("auto").type == "cuda"
    modern = torch.cuda.get_device_capability()[0] >= 8
    assert choose_precision("auto", DEVICE) == (torch.bfloat16 if modern else torch.float16)


@pytest.mark.parametrize(
    "name, se",
    [
        ("se_resnet50", {}),
        ("se_resnet18", {"placement": "pre"}),
        ("se_resnet18", {"placement": "post"}),
        ("se_resnet18", {"placement": "identity"}),
        ("se_resnet18", {"placement": "inside", "squeeze": "max"}),
        ("se_resnet18", {"squeeze": "none", "gate": "tanh"}),
        ("se_mobilenet_v1", {}),
        ("se_shufflenet_v1_g3", {}),
        ("se_bn_inception", {}),
        ("se_vgg16", {}),
        ("se_preresnet20_cifar", {}),
        ("se_shakeshake26_2x96d_cifar", {}),
    ],
    ids=str,
)
def test_maps_and_gradients_are_those_of_the_cpu(name, se):
    """In float64, where a difference is a mistake and not rounding."""
    network = randomised(create_backbone(name, 5, se=SEConfig(**se))).double().eval()
    twin = on_device(copy.deepcopy(network))
    x = images(64, 64).double()
    results = []
    for model, device in ((network, "cpu"), (twin, DEVICE)):
        inputs = x.to(device).requires_grad_()
        out = model(inputs)
        (gradient,) = torch.autograd.grad(out.square().sum(), inputs)
        results.append((out.detach().cpu(), gradient.cpu()))
    for here, there in zip(*results, strict=True):
        assert (here - there).abs().max() <= 1e-10 * here.abs().max()


def test_maps_and_their_gradients_stay_channels_last():
    """An operation that fell back to the other layout would cost a copy of the map, and slow kernels behind it."""
    network = on_device(create_backbone("se_resnet50").train())
    x = images(64, 64).to(DEVICE, memory_format=torch.channels_last)
    maps, gradients = {}, {}

    def note(path, into):
        return lambda tensor: into.update({path: tensor.is_contiguous(memory_format=torch.channels_last)})

    def hook(path):
        def see(module, inputs, out):
            note(path, maps)(out)
            out.register_hook(note(path, gradients))

        return see

    for path, module in network.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_hook(hook(path))
    with torch.autocast(DEVICE.type, torch.bfloat16):
        loss = network(x).float().square().sum()
    loss.backward()
    assert len(maps) == len(gradients) == 53
    assert [path for path in maps if not (maps[path] and gradients[path])] == []


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("placement", ["standard", "pre", "inside"])
def test_inserted_gates_leave_every_map_as_it_was(placement, precision):
    plain = on_device(randomised(create_backbone("resnet50", 5)))
    twin = insert_se(copy.deepcopy(plain), SEConfig(placement=placement))
    x = images().to(DEVICE)
    with torch.no_grad(), torch.autocast(DEVICE.type, precision, enabled=precision != torch.float32):
        for training in (False, True, False):
            before, after = plain.train(training).forward_features(x), twin.train(training).forward_features(x)
            assert [name for name in before if not torch.equal(before[name], after[name])] == []


def test_folded_gates_give_the_plain_network_back():
    plain = on_device(randomised(create_backbone("resnet18", 5)))
    twin = insert_se(copy.deepcopy(plain), SEConfig()).eval()
    report = fold_constant_gates(twin, [images().to(DEVICE)], tolerance=0)
    assert len(report.folded) == 8 and twin.spec.se is None
    folded = twin.state_dict()
    assert [k for k, v in plain.state_dict().items() if not torch.equal(folded[k], v)] == []


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16] if ON_GPU else [torch.float32], ids=str
)
@pytest.mark.parametrize("name", ["resnet50", "se_resnet50", "se_resnet18", "se_resnext50_32x4d", "se_bn_inception"])
@torch.no_grad()
def test_a_fused_network_computes_the_same(name, dtype, monkeypatch):
    """With cuDNN's fused convolutions, the gate in one image's weights, and several images' gated sums by Triton."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    monkeypatch.setattr(fused_layers, "KERNEL_FROM", 1)
    model = randomised(create_backbone(name, 5)).eval()
    half, fused = on_device(copy.deepcopy(model).to(dtype)), fuse(on_device(copy.deepcopy(model)), dtype)
    assert fused_layers.has_cudnn(torch.zeros(1, dtype=dtype, device=DEVICE)) is ON_GPU
    model.double()
    for count in (1, 3):
        x = images(96, 64, count=count)
        exact, errors = model.forward_features(x.double()), []
        for network in (fused, half):
            maps = network.forward_features(x.to(DEVICE, dtype))
            errors.append(max((maps[k].cpu() - v).abs().max() / v.abs().max() for k, v in exact.items()))
        assert errors[0] < max(1e-5 if dtype == torch.float32 else 1e-2, errors[1])
    refused = [
        path for path, conv in fused.named_modules() if getattr(conv, "_cudnn", True) is False and conv.groups == 1
    ]
    assert refused == []


def test_a_recomputing_network_has_the_same_gradients():
    kept = on_device(randomised(create_backbone("se_resnet18", 5)))
    again = copy.deepcopy(kept)
    again.recompute = True
    x, held = images(96, 96, 8).to(DEVICE), []
    for network in (kept, again):
        before = torch.cuda.memory_allocated() if ON_GPU else 0
        out = network.train()(x)
        held.append(torch.cuda.memory_allocated() - before if ON_GPU else 0)
        out.square().sum().backward()
    for (name, one), other in zip(kept.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad), name
    assert not ON_GPU or held[1] < held[0] / 2


CLASSIFIER = ["tools/train_classifier.py", "--config", "configs/class_folders_se_resnet50.yaml", "MODEL.WEIGHTS", ""]
CLASSES = ("aster", "tulip", "zinnia")
TINY = [
    "MODEL.DEVICE", NAME, "MODEL.BACKBONE.ARCHITECTURE", "se_resnet18", "INPUT.TRAIN_SIZE", "32",
    "INPUT.TEST_RESIZE", "36", "INPUT.TEST_SIZE", "32", "SOLVER.IMS_PER_BATCH", "8", "SOLVER.BASE_LR", "0.01",
    "SOLVER.MAX_ITER", "12", "SOLVER.CHECKPOINT_EPOCHS", "2", "TEST.EVAL_EPOCHS", "0", "DATALOADER.NUM_WORKERS", "2",
    "SOLVER.EMA.ENABLED", "True", "LOG_PERIOD", "1",
]  # fmt: skip


@pytest.fixture(scope="module")
def scenes(tmp_path_factory, write_scenes):
    folder = tmp_path_factory.mktemp("data")
    data = write_scenes(folder / "flowers", {"train": 8, "val": 5}, CLASSES)
    return ["DATA.ROOT", str(data), "DATA.CACHE", str(folder / "cache")]


def python(*words, code=0):
    """Runs ``python *words``, which must end with that exit code; what it said."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    ended = subprocess.run(
        [sys.executable, *map(str, words)], cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, text=True, timeout=300,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert ended.returncode == code, ended.stdout
    return ended.stdout


def weights_of(folder):
    return load_checkpoint(Path(folder) / "model_final.pth")["model"]


def differing(folder, other):
    ours, theirs = weights_of(folder), weights_of(other)
    return [name for name in theirs if not torch.equal(ours[name].cpu(), theirs[name].cpu())]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_classifier_trains_resumes_and_is_evaluated_alike_on_a_cpu(precision, scenes, tmp_path):
    words = [*TINY, *scenes, "SOLVER.PRECISION", precision]
    whole, killed, here = (tmp_path / name for name in ("whole", "killed", "cpu"))
    result = run_classification(Options(overrides=[*words, "OUTPUT_DIR", str(whole)]))
    assert ("cpu" in result["hardware"].lower() or "core" in result["hardware"]) is not ON_GPU
    killed.mkdir()
    for name in ("config.yaml", "checkpoint_0000006.pth"):
        (killed / name).write_bytes((whole / name).read_bytes())
    run_classification(Options(overrides=[*words, "OUTPUT_DIR", str(killed)], resume=True))
    assert differing(killed, whole) == []

    at_last = ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", str(whole / "model_final.pth"), "OUTPUT_DIR", str(here)]
    again = run_classification(Options(overrides=[*words, *at_last], eval_only=True))
    assert again["classification"]["top1"] == result["classification"]["top1"]


def test_processes_under_torchrun_give_what_one_alone_gives(scenes, tmp_path):
    """With nccl on a GPU, gloo on a CPU."""
    alone, joined = tmp_path / "alone", tmp_path / "joined"
    words = [*TINY, *scenes, "SOLVER.PRECISION", "bf16"]
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", 1, "--master-port", _free_port()]
    for launcher, folder in (([], alone), (torchrun, joined)):
        python(*launcher, *CLASSIFIER, *words, "OUTPUT_DIR", folder)
    results = [json.loads((folder / "result.json").read_text()) for folder in (alone, joined)]
    assert results[0]["classification"]["top1"] == results[1]["classification"]["top1"]
    ours, theirs = weights_of(joined), weights_of(alone)
    for name, value in theirs.items():
        assert torch.allclose(ours[name].float(), value.float(), rtol=1e-2, atol=1e-3), name


def _free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


@only_on_a_gpu
def test_more_processes_than_gpus_are_refused():
    with pytest.raises(UserError, match=f"this machine has {torch.cuda.device_count()}"):
        relaunch(torch.cuda.device_count() + 1, DEVICE)


@only_on_a_gpu
@pytest.mark.slow
def test_a_batch_that_the_gpu_cannot_hold_is_said_in_a_line(scenes, tmp_path):
    # 64 GiB a map, and two of them behind the first convolution
    large = ["INPUT.TRAIN_SIZE", "8192", "SOLVER.IMS_PER_BATCH", "16", "SOLVER.PRECISION", "fp32"]
    words = [*TINY, *scenes, *large, "DATALOADER.NUM_WORKERS", "0", "OUTPUT_DIR", tmp_path / "run"]
    said = python(*CLASSIFIER, *words, code=2)
    assert "Traceback" not in said and "error: out of memory" in said and "SOLVER.IMS_PER_BATCH" in said


@only_on_a_gpu
def test_a_batch_that_is_found_by_itself_is_the_largest_that_fits(scenes, tmp_path):
    memory = torch.cuda.get_device_properties(DEVICE).total_memory
    torch.cuda.empty_cache()
    one = memory // 6  # four fit

    def prepare():
        return lambda count: torch.empty(count * one, dtype=torch.uint8, device=DEVICE)

    assert largest_batch(prepare, 64) == 4
    assert torch.cuda.memory_reserved() < one

    words = [*TINY, *scenes, "OUTPUT_DIR", str(tmp_path / "run"), "SOLVER.IMS_PER_BATCH", "auto 8"]
    run_classification(Options(overrides=words))
    cfg = load_checkpoint(tmp_path / "run" / "model_final.pth")["config"]
    assert "IMS_PER_BATCH: 16" in cfg and "BASE_LR: 0.02" in cfg and "MAX_ITER: 6" in cfg  # of 24 images


SMALL = [
    "MODEL.DEVICE", NAME, "INPUT.MIN_SIZE_TRAIN", "64", "INPUT.MIN_SIZE_TEST", "64", "SOLVER.IMS_PER_BATCH", "4",
    "SOLVER.BASE_LR", "0.01", "MODEL.FPN.OUT_CHANNELS", "16", "MODEL.ROI_BOX_HEAD.FC_DIM", "32", "SOLVER.MAX_ITER",
    "20", "LOG_PERIOD", "2", "SOLVER.CHECKPOINT_PERIOD", "10", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.01",
]  # fmt: skip


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_detector_trains_resumes_and_has_the_same_ap_on_a_cpu(precision, tmp_path):
    data = generate_shapes(tmp_path / "shapes", train=24, val=12, size=64)
    words = [
        *SMALL, "SOLVER.PRECISION", precision, "DATA.TRAIN.JSON", str(data.train_json), "DATA.TRAIN.IMAGES",
        str(data.train_images), "DATA.VAL.JSON", str(data.val_json), "DATA.VAL.IMAGES", str(data.val_images),
    ]  # fmt: skip
    config = str(ROOT / "configs" / "demo.yaml")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_detection(DetectionOptions(config=config, overrides=[*words, "OUTPUT_DIR", str(whole)]))
    killed.mkdir()
    for name in ("config.yaml", "checkpoint_0000010.pth"):
        (killed / name).write_bytes((whole / name).read_bytes())
    run_detection(DetectionOptions(config=config, overrides=[*words, "OUTPUT_DIR", str(killed)], resume=True))
    for name, value in weights_of(whole).items():  # RoIAlign's backward on a GPU adds in any order
        assert torch.allclose(weights_of(killed)[name].float().cpu(), value.float().cpu(), rtol=0.05, atol=0.02), name

    both = []
    for device in (NAME, "cpu"):
        at_last = ["MODEL.DEVICE", device, "OUTPUT_DIR", str(tmp_path / f"on_{device}")]
        overrides = [*words, "MODEL.WEIGHTS", str(whole / "model_final.pth"), *at_last]
        both.append(run_detection(DetectionOptions(config=config, overrides=overrides, eval_only=True)))
    assert abs(both[0]["bbox"]["AP"] - both[1]["bbox"]["AP"]) <= 0.1


COMPILED = """
import torch
from se_backbones import create_backbone
from tests.se_backbones.networks import images, randomised
torch.backends.cudnn.allow_tf32 = False
network = randomised(create_backbone("se_resnet18", 5)).to("{0}", memory_format=torch.channels_last).eval()
x = images(64, 64).to("{0}")
with torch.no_grad():
    plain, compiled = network(x), torch.compile(network)(x)
assert (plain - compiled).abs().max() <= 1e-4 * plain.abs().max()
"""


@pytest.mark.slow
def test_a_compiled_network_computes_the_same():
    """In a process of its own: the compiler leaves much behind."""
    python("-c", COMPILED.format(DEVICE))


def test_weights_go_to_the_network_wherever_it_is(tmp_path):
    saved = randomised(create_backbone("se_resnet18", 5))
    torch.save(on_device(copy.deepcopy(saved)).state_dict(), tmp_path / "w.pth")
    network = on_device(create_backbone("se_resnet18", 5))
    load_weights(network, tmp_path / "w.pth")
    assert [k for k, v in saved.state_dict().items() if not torch.equal(network.state_dict()[k].cpu(), v)] == []
