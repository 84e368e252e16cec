"""The gated sum's kernels in C: what they compute, where they are taken, and how they are compiled."""

import ctypes
import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from se_backbones import create_backbone, fuse
from se_backbones.layers import compiled, gated, gated_cpu
from se_backbones.surgery import fused_layers, gated_product
from tests.se_backbones.gated_cases import compare

ROOT = Path(__file__).resolve().parents[2]
TYPES = (torch.float32, torch.bfloat16)
SHAPES = (
    (2, 5, 3, 7),  # fewer channels than a vector has
    (1, 130, 3, 2),  # more than a strip's elements in one place
    (2, 16, 11, 13),  # strips of several places, the last one shorter
    (3, 1, 1, 1),
)


def have_a_compiler() -> bool:
    try:
        gated_cpu.kernels()
    except OSError:
        return False
    return True


needs_a_compiler = pytest.mark.skipif(not have_a_compiler(), reason="needs a C compiler on Linux")


@needs_a_compiler
@pytest.mark.parametrize("strip", [128, gated_cpu.STRIP])
@pytest.mark.parametrize("shape, dtype, relu", [*itertools.product(SHAPES, TYPES, (True, False))])
def test_kernels_equal_the_plain_formula(shape, dtype, relu, strip, monkeypatch):
    monkeypatch.setattr(gated_cpu, "STRIP", strip)
    gated_cpu._plan.cache_clear()
    compare(gated_cpu, shape, dtype, torch.channels_last, relu)
    gated_cpu._plan.cache_clear()


@needs_a_compiler
def test_bfloat16_is_rounded_to_the_nearest_and_halves_to_even():
    steps = torch.arange(-64.0, 64).view(1, 128, 1, 1) / 512  # quarters of bfloat16's step above 1
    extreme = torch.tensor([float("inf"), -float("inf"), float("nan"), -3.4e38, 1e-40]).view(1, 5, 1, 1)
    shortcut = torch.cat((torch.ones_like(steps), extreme), 1).bfloat16()
    branch = torch.cat((steps, torch.zeros_like(extreme)), 1).bfloat16()
    found = gated_cpu.forward(shortcut, branch, torch.ones_like(branch), False)
    expected = (shortcut.float() + branch.float()).bfloat16()
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    every_bit = torch.full((1, 133, 1, 1), 0x7FFFFFFF, dtype=torch.int32).view(torch.float32)
    assert gated_cpu.forward(shortcut, branch, every_bit, False).isnan().all()


@needs_a_compiler
@pytest.mark.parametrize("dtype", TYPES)
def test_results_are_to_the_last_bit_those_of_another_number_of_threads(dtype):
    maps = [torch.randn(2, 40, 61, 67).to(dtype).to(memory_format=torch.channels_last) for _ in range(3)]
    gate, threads, found = torch.rand(2, 40, 1, 1).to(dtype), torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            out = gated_cpu.forward(*maps[:2], gate, True)
            found.append((out, *gated_cpu.backward(maps[2], maps[1], out)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


@needs_a_compiler
def test_maps_of_another_memory_format_or_type_beside_the_branch_are_taken():
    shortcut, branch = torch.randn(2, 6, 5, 4), torch.randn(2, 6, 5, 4).to(memory_format=torch.channels_last)
    gate = torch.rand(2, 6, 1, 1)
    expected = torch.addcmul(shortcut, branch, gate)
    torch.testing.assert_close(gated_cpu.forward(shortcut, branch, gate, False), expected)
    torch.testing.assert_close(gated_cpu.forward(shortcut.double(), branch, gate.double(), False), expected)
    grad = torch.tensor(1.5).expand(2, 6, 5, 4)
    d_sum, d_gate = gated_cpu.backward(grad, branch, branch)
    torch.testing.assert_close(d_sum, 1.5 * (branch > 0))
    torch.testing.assert_close(d_gate, 1.5 * branch.relu().sum((2, 3), keepdim=True))
    for wrong in ((shortcut[:, :, :2], branch, gate), (shortcut, branch, gate[:, :3])):
        with pytest.raises(RuntimeError, match="expand"):
            gated_cpu.forward(*wrong, False)


@needs_a_compiler
def test_which_maps_the_kernels_take():
    taken = torch.randn(2, 6, 5, 4).to(memory_format=torch.channels_last)
    others = (taken.contiguous(), taken[:, :3], taken.double(), taken.half(), taken[:0], torch.nn.Parameter(taken))
    assert gated.kernels_for(taken) is gated.kernels_for(taken.bfloat16()) is gated_cpu
    assert not any(gated.kernels_for(other) for other in others)
    inside = []
    torch.func.vmap(lambda x: inside.append(gated.kernels_for(x)) or x)(taken[None])
    assert inside == [None]


@pytest.fixture
def calls(monkeypatch):
    """How often each kernel was called."""
    found = []
    for name in ("forward", "backward"):
        whole = getattr(gated_cpu, name)
        monkeypatch.setattr(gated_cpu, name, lambda *a, n=name, f=whole, **k: found.append(n) or f(*a, **k))
    return found


@needs_a_compiler
def test_training_takes_them(calls, monkeypatch):
    monkeypatch.setattr(gated, "FROM_ELEMENTS", {"cpu": 1})
    torch.manual_seed(0)
    model = create_backbone("se_resnet50", num_classes=3).to(memory_format=torch.channels_last).train()
    images = torch.randn(2, 3, 64, 64).to(memory_format=torch.channels_last)
    found = []
    for _ in range(2):
        loss = model(images).square().sum()
        found.append(torch.autograd.grad(loss, list(model.parameters())))
        monkeypatch.setattr(gated, "kernels_for", lambda x: None)
    assert calls.count("backward") == 16 and calls.count("forward") == 32  # the fork's too
    norms = [torch.stack([x.norm() for x in gradients]) for gradients in found]
    torch.testing.assert_close(*norms, rtol=1e-3, atol=1e-5)


@needs_a_compiler
@pytest.mark.parametrize("dtype", TYPES)
@torch.inference_mode()
def test_evaluation_takes_them(dtype, calls, monkeypatch):
    monkeypatch.setattr(gated, "FROM_ELEMENTS", {"cpu": 1})
    model = create_backbone("se_resnet50", num_classes=3).to(memory_format=torch.channels_last).eval()
    images = torch.randn(2, 3, 64, 64).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        ours = model(images)
        assert calls == ["forward"] * 16
        monkeypatch.setattr(gated, "kernels_for", lambda x: None)
        torch.testing.assert_close(ours, model(images), rtol=0.02 if dtype == torch.bfloat16 else 1e-5, atol=1e-4)


@needs_a_compiler
@pytest.mark.parametrize("dtype", TYPES)
def test_fused_networks_take_them(dtype, calls, monkeypatch):
    monkeypatch.setattr(gated_product, "takes", lambda *a: False)  # as on processors without AMX
    model = fuse(create_backbone("se_resnet50", num_classes=3).eval()).to(dtype)
    images = torch.randn(2, 3, 65, 65).to(dtype)
    with torch.inference_mode():
        ours = model(images)
        assert calls == ["forward"] * 16
        monkeypatch.setattr(fused_layers, "kernels_for", lambda x: None)
        torch.testing.assert_close(ours, model(images), rtol=0.02 if dtype == torch.bfloat16 else 1e-4, atol=1e-3)


@needs_a_compiler
def test_one_openmp_serves_pytorch_and_the_kernels():
    program = """
import torch
from se_backbones.layers import gated_cpu
x = torch.ones(2, 64, 64, 64).to(memory_format=torch.channels_last)
gated_cpu.forward(x, x, torch.ones(2, 64, 1, 1), True)
loaded = {line.split()[-1].rpartition("/")[2] for line in open("/proc/self/maps")}
print(len([name for name in loaded if name.startswith(("libgomp", "libiomp", "libomp"))]))
"""
    assert python(program).stdout.strip() == "1"


def python(program: str, **environment: str) -> subprocess.CompletedProcess:
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    return found


TAKEN = """
import torch
from se_backbones.layers import gated
print(gated.kernels_for(torch.ones(1, 1, 1, 1)))
"""


def test_without_a_compiler_pytorch_does_the_work():
    found = python(TAKEN, CC="")
    assert found.stdout == "None\n" and not found.stderr


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "se_backbones"


def a_compiler(folder: Path, text: str) -> str:
    path = folder / "cc"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.skipif(sys.platform != "linux", reason="compiled on Linux alone")
def test_a_compiler_that_fails_is_named_with_what_it_says(tmp_path, cache, monkeypatch):
    for words in ("a_compiler_that_is_not_there", ""):
        monkeypatch.setenv("CC", words)
        with pytest.raises(OSError, match=f"no C compiler was found by the name that CC gives, '{words}'"):
            compiled.load(Path(gated_cpu.__file__).with_name("gated_c.c"))
    monkeypatch.setenv("CC", a_compiler(tmp_path, "echo no space left >&2; exit 4"))
    with pytest.raises(OSError, match="ended with 4: no space left"):
        compiled.load(Path(gated_cpu.__file__).with_name("gated_c.c"))
    assert not cache.exists()


SOURCE = "int answer(void) { return 42; }\n"


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "answer.c"
    path.write_text(SOURCE)
    return path


@needs_a_compiler
def test_it_is_compiled_once_for_a_source_and_a_processor(source, cache, monkeypatch):
    def answer():
        return compiled.load(source).answer()

    monkeypatch.setenv("CC", "cc -Wall")
    assert answer() == 42 and len(list(cache.iterdir())) == 1
    monkeypatch.setattr(compiled, "_compile", pytest.fail)
    assert answer() == 42
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent))
    source.write_text(SOURCE.replace("42", "43"))
    assert answer() == 43 and len(list(cache.iterdir())) == 2
    monkeypatch.setattr(compiled, "_processor", lambda: "another one")
    assert answer() == 43 and sorted(path.suffix for path in cache.iterdir()) == [".so"] * 3


@needs_a_compiler
def test_a_cache_that_cannot_be_written_is_done_without(source, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("kept")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert compiled.load(source).answer() == 42
    assert (tmp_path / "file").read_text() == "kept"


@needs_a_compiler
def test_a_damaged_library_is_made_anew(source, cache):
    compiled.load(source)
    (library,) = cache.iterdir()
    whole = library.stat().st_size
    damaged = library.with_name("damaged")
    damaged.write_bytes(b"not a library")
    os.replace(damaged, library)
    assert compiled.load(source).answer() == 42 and library.stat().st_size == whole


@needs_a_compiler
def test_where_there_is_no_home_it_is_said(source, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(OSError, match="XDG_CACHE_HOME names one"):
        compiled.load(source)


@needs_a_compiler
def test_what_does_not_open_is_not_kept(source, cache):
    source.write_text("int missing(void);\nint answer(void) { return missing(); }\n")
    with pytest.raises(OSError, match="missing"):
        compiled.load(source)
    assert not cache.exists()


@needs_a_compiler
def test_processes_that_compile_at_once_leave_one_whole_library(cache):
    program = "from se_backbones.layers import gated_cpu; gated_cpu.kernels()"
    command = [sys.executable, "-c", program]
    started = [subprocess.Popen(command, cwd=ROOT) for _ in range(3)]
    assert [process.wait() for process in started] == [0, 0, 0]
    (library,) = cache.iterdir()
    assert ctypes.CDLL(str(library)).forward_float32
    assert b"libgomp" not in library.read_bytes()  # it is not linked with one that may not be PyTorch's
