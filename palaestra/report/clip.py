"""A short moving picture of a trained policy, small enough to live inside a report.

Rendering may lack a display, a driver or a package, and a graphics driver may take the whole process with it: so it is done
in a process of its own (`python -m palaestra.report.clip RUN OUT`), which answers with a picture or with a sentence.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from palaestra.core.errors import PalaestraError
from palaestra.core.policy import load_policy
from palaestra.runs.record import RunRecord, load_records
from palaestra.runs.trust import named_code

if TYPE_CHECKING:
    from PIL.Image import Image

    from palaestra.report.summary import Entry, Group

LARGEST = 300_000
"""Bytes of one clip."""
LONGEST = 6.0
"""Seconds of one clip."""
WIDTH = 320
FRAMES_PER_SECOND = 20
PATIENCE = 120
"""Seconds that rendering may take."""
HOPELESS = 3
"""Exit status for a run that no other way of rendering would help."""


def clip(record: RunRecord) -> bytes:
    """An animated WebP of one greedy episode of a run's policy.

    Raises:
        PalaestraError: it cannot be rendered here; the message says why.
    """
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "clip.webp"
        reason = "rendering failed"
        for backend in _backends(record):
            # -P: the current folder may be the run's, and no file of it is to be imported in place of a module.
            command = [sys.executable, "-P", "-m", "palaestra.report.clip", str(record.folder), str(out)]
            env = {**os.environ, "SDL_VIDEODRIVER": "dummy", "OMP_NUM_THREADS": "1", **backend}
            try:
                done = subprocess.run(command, env=env, capture_output=True, timeout=PATIENCE, check=False)
            except subprocess.TimeoutExpired:
                raise PalaestraError(f"rendering took longer than {PATIENCE} seconds") from None
            if done.returncode == 0 and out.exists():
                return out.read_bytes()
            said = done.stderr.decode(errors="replace").strip().splitlines()
            reason = said[-1] if said else f"the renderer ended with status {done.returncode}"
            if done.returncode == HOPELESS:
                break
        raise PalaestraError(reason)


def films(groups: list[Group]) -> dict[tuple[str, str], bytes | str]:
    """By task and method, the clip of the best seed, or why there is none. Two are rendered at a time."""

    def film(entry: Entry) -> bytes | str:
        try:
            return clip(entry.best)
        except PalaestraError as error:
            return str(error)

    entries = {
        (group.name, entry.label): entry
        for group in groups
        for entry in group.entries
        if entry.best.task_spec.get("kind") != "prompts"  # of text there is no film
    }
    with ThreadPoolExecutor(max_workers=2) as pool:
        return dict(zip(entries, pool.map(film, entries.values())))


def render(record: RunRecord) -> bytes:
    """As `clip`, in this process. The code of a user's own environment is not run for a report; if the run was filmed
    while it trained, its last film is shown instead."""
    try:
        from PIL import Image
    except ImportError:
        raise PalaestraError("clips need Pillow: pip install 'palaestra[video]'") from None
    spec, kwargs = str(record.task_spec.get("spec")), record.task_spec.get("kwargs") or {}
    if named_code({"task": record.task_spec}):
        frames, rate = _film(record), float(FRAMES_PER_SECOND)
    else:
        from palaestra.core.task import as_task

        task = as_task(spec, **kwargs)
        if not hasattr(task, "frames"):
            raise PalaestraError(f"{record.task} has nothing to show")
        limit = round(LONGEST * FRAMES_PER_SECOND)
        frames, rate = task.frames(load_policy(record.folder), record.seed, limit=limit, rate=FRAMES_PER_SECOND)
    height = round(WIDTH * frames[0].shape[0] / frames[0].shape[1])
    pictures = [Image.fromarray(frame).resize((WIDTH, height), Image.Resampling.LANCZOS) for frame in frames]
    return _encode(pictures, round(1000 / rate))


def _film(record: RunRecord) -> list[np.ndarray]:
    from PIL import Image, ImageSequence

    films = sorted((record.folder / "videos").glob("*.gif"))
    if not films:
        raise PalaestraError(
            "a report does not run the code of an environment of one's own; train with --video for a clip"
        )
    with Image.open(films[-1]) as film:
        limit = round(LONGEST * FRAMES_PER_SECOND)
        return [np.asarray(frame.convert("RGB")) for frame, _ in zip(ImageSequence.Iterator(film), range(limit))]


def _encode(pictures: list[Image], milliseconds: int) -> bytes:
    """The best quality that stays under `LARGEST`, at last with every other frame."""
    data = b""
    for quality, stride in ((70, 1), (45, 1), (30, 2), (10, 4)):
        buffer = io.BytesIO()
        first, *rest = pictures[::stride]
        first.save(
            buffer,
            format="WEBP",
            save_all=True,
            append_images=rest,
            duration=milliseconds * stride,
            loop=0,
            quality=quality,
            method=4,
        )
        data = buffer.getvalue()
        if len(data) <= LARGEST:
            return data
    raise PalaestraError(f"the clip would take {len(data):,} bytes")


def _backends(record: RunRecord) -> list[dict[str, str]]:
    """Environment variables to try in turn: without a display, MuJoCo draws on EGL or else in software."""
    if os.environ.get("DISPLAY") or os.environ.get("MUJOCO_GL"):
        return [{}]
    return [{"MUJOCO_GL": "egl"}, {"MUJOCO_GL": "osmesa"}]


def main(folder: str, out: str) -> int:
    try:
        (record,) = load_records([folder])
        Path(out).write_bytes(render(record))
    except PalaestraError as error:
        print(error, file=sys.stderr)
        return HOPELESS
    except Exception as error:  # whatever a renderer raises becomes the sentence in the report
        print(" ".join(f"{error}".split()) or type(error).__name__, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
