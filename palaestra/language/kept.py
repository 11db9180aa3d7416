"""What frozen models said, their own answers and how likely they found others, kept in a folder: whoever asks the same model the
same is given the same, made once."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from palaestra.core import files
from palaestra.core.devices import models_device
from palaestra.core.precision import passes_dtype
from palaestra.core.world import world
from palaestra.language.rows import Row
from palaestra.language.sample import Sample
from palaestra.version import __version__

TENSORS = ("ids", "mask", "logp", "sampled_logp")
"""What an answer has of every token."""

_folders: list[Path] = []


@contextmanager
def keeping(folder: Path) -> Iterator[None]:
    """Keep what anchors say in a folder for now, and in processes that are forked meanwhile."""
    _folders.append(folder)
    try:
        yield
    finally:
        _folders.pop()


def sweep(folder: Path) -> None:
    """Remove what was kept in a folder, when nobody is left to ask; whoever comes later has it made again."""
    for name in {path.name.lstrip(".").partition(".")[0] for path in folder.glob("*")}:
        with open(folder / f"{name}.lock", "w") as door:
            fcntl.flock(door, fcntl.LOCK_EX)  # another comparison in the same folder may be reading
            for path in folder.glob(f"*{name}*"):  # what a killed process left half-written, too
                path.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def keeps() -> bool:
    """Whether what anchors say is kept."""
    return bool(_folders) and world().size == 1


def once(question: Callable[[], Mapping[str, Any]], make: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
    """What `make` gives, once for all that ask the same `question`, which is JSON, decides every number, and is asked for only
    where anything is kept.

    Others wait while it is made. What another version made, or with other rounding, is another question.
    """
    if not keeps():
        return make()
    about = {
        **question(),
        "palaestra": __version__,
        "threads": torch.get_num_threads(),  # which decide the order of sums, and so the last digits
        "precision": [torch.get_float32_matmul_precision(), str(passes_dtype())],
        "device": models_device().type,
    }
    path = _folders[-1] / f"{files.sha256(json.dumps(about).encode())}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_suffix(".lock"), "w") as door:
        fcntl.flock(door, fcntl.LOCK_EX)
        if path.exists():
            return files.read_tensors(path)
        made = make()
        files.write_tensors(path, made)
    return made


def answered(
    question: Callable[[], Mapping[str, Any]], rows: Sequence[Row], draw: Callable[[], list[Sample]]
) -> list[Sample]:
    """The answers to some rows that `draw` gives, once for all that ask the same."""
    return draw() if not keeps() else unpacked(once(question, lambda: packed(draw())), rows)


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Tensors end to end, as they are in files."""
    return torch.cat([part.cpu() for part in parts]) if parts else torch.zeros(0)


def packed(samples: Sequence[Sample]) -> dict[str, Tensor]:
    """Answers as tensors, without rows, rewards and clips."""
    told = json.dumps([[s.prompt, s.text, s.truncated, s.group, [*s.messages]] for s in samples], default=str).encode()
    return {
        **{name: joined([getattr(s, name) for s in samples]) for name in TENSORS},
        "lengths": torch.tensor([len(s) for s in samples]),
        "told": torch.frombuffer(bytearray(told), dtype=torch.uint8),
    }


def unpacked(tensors: Mapping[str, Tensor], rows: Sequence[Row]) -> list[Sample]:
    """The answers to `rows` that were packed."""
    lengths, told = tensors["lengths"].tolist(), json.loads(tensors["told"].numpy().tobytes())
    parts = {name: tensors[name].split(lengths) for name in TENSORS}
    return [
        Sample(
            **{name: split[i] for name, split in parts.items()},
            prompt=prompt,
            text=text,
            truncated=truncated,
            row=rows[group - told[0][3]],  # groups may be counted from another number than 0
            group=group,
            messages=messages,
        )
        for i, (prompt, text, truncated, group, messages) in enumerate(told)
    ]
