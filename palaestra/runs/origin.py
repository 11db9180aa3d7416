"""Where a figure comes from: the command, the versions, the commit and the machine."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch

import palaestra
from palaestra.runs import threads
from palaestra.version import __version__


def versions() -> dict[str, Any]:
    """What a figure depends on besides its command."""
    import numpy

    return {
        "palaestra": __version__,
        "commit": commit_of(Path(palaestra.__file__).parent),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "machine": f"{platform.machine()}, {threads.available()} cores",
    }


def command() -> str:
    """The command line that this process was started with."""
    ours = sys.argv[0].endswith(("palaestra", "palaestra/__main__.py"))
    return shlex.join(["palaestra", *sys.argv[1:]]) if ours else shlex.join(["python", *filter(None, sys.argv)])


@cache
def commit_of(folder: Path) -> str | None:
    """The commit of a folder of a repository, `-dirty` behind it if the folder has changed since: results that were written
    beside it change nothing. None where there is no repository.
    """
    commit = _git(folder, "describe", "--always", "--abbrev=12")
    if not commit:
        return None
    return f"{commit}-dirty" if _git(folder, "status", "--porcelain", "--", ".") else commit


def _git(folder: Path, *asked: str) -> str | None:
    try:
        told = subprocess.run(["git", *asked], cwd=folder, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.strip() or None
