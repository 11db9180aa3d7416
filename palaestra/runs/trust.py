"""Whose code a run's folder names.

A run of one's own method or task is resumed from its folder alone, which names a Python file or module in `config.yaml`; and
whoever made a folder could name anything there, with any arguments. So a run that names code is sealed with a key that only
this user has. One that lacks the seal, or whose config was changed since, was made by somebody else, and its code is executed
only for who says so.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from palaestra.core import files
from palaestra.core.errors import Untrusted
from palaestra.data.load import names_code

KEY_BYTES = 32


def seal(folder: Path, config: Mapping[str, Any]) -> None:
    """Note in a run's folder that this user started it, if its config names code."""
    key = _key() if named_code(config) else None
    if key is not None:
        files.write_text(folder / "seal", _digest(key, config))


def refuse_foreign_code(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise `Untrusted` if a run's config names code and the run was not started by this user, just so."""
    code = named_code(config)
    if not code:
        return
    key, path = _key(), folder / "seal"
    sealed = files.read_bytes(path).decode(errors="replace") if path.exists() else ""
    if key is None or not hmac.compare_digest(sealed.encode(), _digest(key, config).encode()):
        raise Untrusted(
            f"the config.yaml of {folder} names code ({', '.join(code)}), and was not written by a run that you started on this "
            "machine; if you trust whoever wrote it, add --trust (load_run(folder, trust=True)) to execute that"
        )


def named_code(config: Mapping[str, Any]) -> list[str]:
    """What importing a run's method and task would execute: each `file.py:Name`, `module:name` or `module:Id-v0`, and each
    reward function, pair judge and tool."""
    task = config.get("task")
    parts = task if isinstance(task, dict) else {"spec": task}
    arguments = parts.get("kwargs")
    arguments = arguments if isinstance(arguments, dict) else {}
    functions = _texts([arguments.get(name) for name in ("reward", "compare", "tools")])
    places = (config.get("method"), parts.get("spec"), arguments.get("env"), arguments.get("judge"))
    named = [str(name) for name in places if name is not None]
    return [name for name in named if names_code(name)] + functions


def _texts(value: Any) -> list[str]:
    """All texts in a value, however deep: reward functions are named by one, a list or a mapping."""
    if isinstance(value, dict):
        return [text for part in value.values() for text in _texts(part)]
    if isinstance(value, list):
        return [text for part in value for text in _texts(part)]
    return [value] if isinstance(value, str) else []


def _digest(key: bytes, config: Mapping[str, Any]) -> str:
    decides = {part: config.get(part) for part in ("method", "settings", "task")}
    return hmac.new(key, json.dumps(decides, sort_keys=True, default=str).encode(), hashlib.sha256).hexdigest()


def _key() -> bytes | None:
    """This user's key, made when it is first needed; None where none can be kept."""
    with suppress(OSError, RuntimeError):  # RuntimeError: nobody knows where home is
        path = Path.home() / ".palaestra" / "key"
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError), open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
        key = path.read_bytes()
        return key if len(key) == KEY_BYTES else None
    return None
