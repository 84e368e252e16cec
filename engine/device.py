"""Which device a run uses, and in which precision."""

from __future__ import annotations

import os
import platform
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import nn

from engine.cores import usable_cores
from engine.errors import UserError

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def choose_device(name: str = "auto") -> torch.device:
    """The device by name: ``auto`` is a GPU where there is one (this process's own under torchrun), else the CPU.

    Raises:
        UserError: a CUDA device was named and there is none, or the name is no device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name!r} is no device (MODEL.DEVICE): use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f"--device {name}: PyTorch sees no GPU here. Use --device cpu, or check the driver and that "
            f"this PyTorch ({torch.__version__}) was built for CUDA"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: this machine has {torch.cuda.device_count()} GPU(s), counted from cuda:0")
    return device


def device_of(model: nn.Module) -> torch.device:
    """Where a model's parameters are; an exported one has none, and says where it runs."""
    parameter = next(model.parameters(), None)
    return model.device if parameter is None else parameter.device


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The type in which autocast computes; ``torch.float32`` means no autocast.

    ``auto`` is bf16 where the GPU has it, fp16 on older GPUs, and on a CPU bf16 where its instructions are there
    (avx512_bf16 or amx) and float32 elsewhere: emulated bf16 is slower than float32.

    Raises:
        UserError: an unknown name, or fp16 on a CPU.
    """
    if name not in PRECISIONS:
        raise UserError(f"precision must be one of {', '.join(PRECISIONS)}; got {name!r}")
    if name == "fp16" and device.type == "cpu":
        raise UserError("fp16 needs a GPU: on a CPU use bf16 or fp32")
    if name == "auto":
        if device.type == "cuda":
            name = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        else:
            name = "bf16" if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported() else "fp32"
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager:
    """Mixed precision for a forward pass; does nothing for float32."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def describe_device(device: torch.device) -> str:
    """A line for the log: the GPU's name and memory, or the CPU's threads."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{device} ({properties.name}, {properties.total_memory / 2**30:.0f} GiB)"
    return f"{device} ({torch.get_num_threads()} threads)"


def hardware(device: torch.device) -> str:
    """One line: the GPUs, or the processor and how many cores this process may use."""
    if device.type == "cuda":
        return f"{int(os.environ.get('WORLD_SIZE', '1'))} x {torch.cuda.get_device_name(device)}"
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{model}, {usable_cores()} cores"
