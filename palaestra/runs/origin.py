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

from palaestra.runs import threads
from palaestra.version import __version__


def versions() -> dict[str, Any]:
    """What a figure depends on besides its command."""
    import numpy

    return {
        "palaestra": __version__,
        "commit": _commit(),
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
def _commit() -> str | None:
    here = Path(__file__).parent
    try:
        asked = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=5,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return asked.stdout.strip() or None
