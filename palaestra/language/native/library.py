"""What language models do most often on a processor, as machine code that is compiled once where palaestra runs.

`step.cpp` is a step of decoding, `attention.cpp` the attention of training passes and `elementwise.cpp` their norms and gates,
for models of Llama's shape; each says why it is faster than torch's operations on small models. Without a C++ compiler, or with
`PALAESTRA_NATIVE=0` in the environment, torch's operations do the same.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from palaestra.nets.gradient import compiler

SOURCES = sorted(Path(__file__).parent.glob("*.cpp"))
HEADERS = sorted(Path(__file__).parent.glob("*.h"))
FLAGS = ("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC")
THREADS = () if sys.platform == "darwin" else ("-fopenmp",)  # Apple's compiler has none: a step is then one thread's


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled functions; None where they cannot be compiled, or are not to be."""
    by = compiler()
    if by is None or os.environ.get("PALAESTRA_NATIVE") == "0":
        return None
    try:
        found = ctypes.CDLL(str(_compiled(by)))
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:  # the second of a user without a home
        why = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else str(error)
        warnings.warn(
            f"language models answer about half as fast, since their inner loops were not compiled: {why}", stacklevel=2
        )
        return None
    found.panel.restype = found.step.restype = ctypes.c_int64
    return found


def fits(x: Tensor) -> bool:
    """Whether the compiled functions are there for such numbers."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and library() is not None


def call(name: str, *given: Tensor | int | ctypes.Structure | None) -> Any:
    """What a compiled function gives, of tensors that lie in one piece, and numbers, and the number of threads."""
    return getattr(library(), name)(*map(_told, given), ctypes.c_int(torch.get_num_threads()))


def _told(given: Tensor | int | ctypes.Structure | None) -> Any:
    if isinstance(given, Tensor):
        return ctypes.c_void_p(given.data_ptr())
    return ctypes.c_int64(given) if isinstance(given, int) else given and ctypes.byref(given)


def _compiled(by: str) -> Path:
    """Where the library lies, in the user's cache. Another processor, which may share it, has a library of its own."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "palaestra")
    made_of = [path.read_bytes() for path in (*SOURCES, *HEADERS)], by, FLAGS, THREADS, _processor()
    path = folder / f"language-{hashlib.sha256(repr(made_of).encode()).hexdigest()[:16]}.so"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as beside:  # nobody finds half a library
            made = Path(beside, path.name)
            subprocess.run(
                [by, *FLAGS, *THREADS, *map(str, SOURCES), "-o", str(made)], check=True, capture_output=True, text=True
            )
            made.replace(path)
    return path


def _processor() -> str:
    """The instructions that this processor has, as far as the system tells."""
    try:
        told = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return next((line for line in told if line.startswith(("flags", "Features"))), platform.machine())
