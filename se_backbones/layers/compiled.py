"""C files of this package as libraries: compiled at first use by the system's C compiler, for the processor at hand."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd import forward_ad

FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC")
# GCC takes half of the vectors that the processor has, unless it is told.
FLAGS_OF_X86 = ("-mprefer-vector-width=512",)


def load(source: Path) -> ctypes.CDLL:
    """The library of a C file.

    It is kept in ``$XDG_CACHE_HOME/se_backbones`` (``~/.cache/se_backbones``), by a name that tells the file, the
    compiler and the processor, for home folders are shared by machines that differ. Where that cannot be written, it is
    compiled for this process alone.

    It is not linked with OpenMP: it calls the one that PyTorch has loaded. A second one would have threads of its own,
    which would wait for work on cores where PyTorch's work.

    Raises:
        OSError: the system has no such compiler (``$CC``, else gcc, else cc), it fails, or PyTorch's OpenMP is not of
            the compiler's kind. The message says which.
    """
    compiler = _compiler()
    flags = FLAGS + (FLAGS_OF_X86 if platform.machine() in ("x86_64", "AMD64") else ())
    told = "\n".join((*compiler, *flags, _processor())).encode() + source.read_bytes()
    name = f"{source.stem}-{hashlib.sha256(told).hexdigest()[:16]}.so"
    kept = _cache() / name
    if kept.is_file():
        with contextlib.suppress(OSError):  # damaged, or of a system with other libraries: it is made anew
            return _opened(kept)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, name)
        _compile([*compiler, *flags, "-c", str(source), "-o", f"{made}.o"])
        _compile([*compiler, "-shared", f"{made}.o", "-o", str(made)])
        library = _opened(made)  # before it is kept: what does not open here is not there the next time
        _keep(made, kept)
    return library


def can_read(x: Tensor) -> bool:
    """Whether C code finds a map, (N, C, H, W), where the tensor says that it is: in the memory of a processor,
    channels_last, and no stand-in for one."""
    return (
        type(x) is Tensor
        and x.is_cpu
        and not transformed()  # under which the next one can fail
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def transformed() -> bool:
    """Whether the calls of now are under torch.func or forward-mode AD, where a tensor carries more than its numbers:
    what PyTorch does not see of them is lost."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def _compiler() -> list[str]:
    """The words that call it."""
    if sys.platform != "linux":
        raise OSError("only on Linux is the OpenMP of C compilers known to be PyTorch's")
    wanted = os.environ.get("CC")
    for words in [["gcc"], ["cc"]] if wanted is None else [shlex.split(wanted)]:
        if words and (found := shutil.which(words[0])):
            return [found, *words[1:]]
    raise OSError("no C compiler was found" + ("" if wanted is None else f" by the name that CC gives, {wanted!r}"))


def _processor() -> str:
    """What tells processors apart that need different machine code."""
    lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(dict.fromkeys(line for line in lines if line.startswith(wanted)))


def _cache() -> Path:
    """Raises OSError where nobody knows whose home this is."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "se_backbones")
    except RuntimeError as error:
        raise OSError(f"no folder to keep the library in: {error}; XDG_CACHE_HOME names one") from error


def _compile(command: list[str]) -> None:
    found = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if found.returncode:
        raise OSError(f"{' '.join(command)} ended with {found.returncode}: {found.stderr.strip()[-500:]}")


def _opened(path: Path) -> ctypes.CDLL:
    return ctypes.CDLL(str(path), mode=os.RTLD_NOW)  # NOW: what is missing is missed here


def _keep(made: Path, kept: Path) -> None:
    with contextlib.suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".") as beside:  # other processes may do the same
            os.replace(shutil.copy(made, beside), kept)
