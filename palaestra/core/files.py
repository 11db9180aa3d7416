"""Files that are either whole or absent: atomic replacement, tensors as safetensors, no pickle anywhere."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import shutil
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from palaestra.core.errors import BadCheckpoint, PalaestraError

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""The types of tensor that files hold, as safetensors names them."""

Chunks = Sequence[bytes | memoryview]
"""The contents of a file in pieces, so that large tensors need not be copied to be hashed and written."""


class Frozen(dict[str, Tensor]):
    """Named tensors that do not change, and the hash of the file they make, which a checkpoint writes once."""

    def __init__(self, tensors: Mapping[str, Tensor], digest: str):
        super().__init__(tensors)
        self.digest = digest

    @staticmethod
    def of(tensors: Mapping[str, Tensor]) -> Frozen:
        return Frozen(tensors, sha256(*pack_tensors(tensors)))


def write_bytes(path: Path, *data: bytes | memoryview) -> None:
    """Write and flush to disk, then rename into place: a reader sees the old file or the new one, never a torn one."""
    if not path.name:
        raise PalaestraError(f"'{path}' is a folder; name the file to write")
    scratch = _scratch(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(scratch, "wb") as file:
            for chunk in data:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
        _sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            scratch.unlink()
        raise disk_error(error, path) from error


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors as safetensors, atomically."""
    write_bytes(path, *pack_tensors(tensors))


def pack_tensors(tensors: Mapping[str, Tensor]) -> Chunks:
    """Named tensors as the pieces of a safetensors file; equal tensors always give equal bytes."""
    header: dict[str, Any] = {}
    data: list[memoryview] = []
    end = 0
    # Wide types first, as the format's own writer does, so that every tensor is aligned.
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])):
        plain = tensor.detach().cpu().contiguous()
        begin, end = end, end + plain.nbytes
        header[name] = {"dtype": DTYPES[plain.dtype], "shape": list(plain.shape), "data_offsets": [begin, end]}
        data.append(memoryview(plain.reshape(-1).view(torch.uint8).numpy()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return [struct.pack("<Q", len(text)), text, *data]


def read_bytes(path: Path, remedy: str = "") -> bytes:
    """The whole of an ordinary file; one that is missing or cannot be read is refused by name."""
    try:
        if path.exists() and not path.is_file():  # a pipe would block, a device might never end
            raise BadCheckpoint(f"{path} is not an ordinary file{remedy}")
        return path.read_bytes()
    except FileNotFoundError:
        raise BadCheckpoint(f"{path} is missing{remedy}") from None
    except (OSError, MemoryError) as error:
        raise BadCheckpoint(f"{path} cannot be read ({error}){remedy}") from None


def read_json(path: Path, remedy: str = "") -> dict[str, Any]:
    """A JSON object; anything else, however deeply nested or large, is refused by name."""
    return parse_json(read_bytes(path, remedy), path, remedy)


def parse_json(data: bytes, path: Path, remedy: str = "") -> dict[str, Any]:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadCheckpoint(f"{path} is not valid JSON ({error}){remedy}") from None
    if not isinstance(content, dict):
        raise BadCheckpoint(f"{path} holds no JSON object{remedy}")
    return content


def read_tensors(path: Path, like: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Read a safetensors file; one that holds tensors unlike `like` (by name and shape) is refused before it is read."""
    if like is None:
        return unpack_tensors(read_bytes(path), path)
    _check_header(path, {name: tensor.shape for name, tensor in like.items()})
    tensors = unpack_tensors(read_bytes(path), path)
    for name, tensor in like.items():
        if tensors[name].dtype != tensor.dtype:
            raise BadCheckpoint(f"{path} has {tensors[name].dtype} for '{name}', where {tensor.dtype} belongs")
    return tensors


def unpack_tensors(data: bytes, path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(data)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise BadCheckpoint(f"{path} is not a whole safetensors file ({error})") from None


def _check_header(path: Path, shapes: dict[str, torch.Size]) -> None:
    """Compare a file's header, without reading what follows it, with the tensors that should be there."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        read_bytes(path)  # says what is wrong
    try:
        with safe_open(str(path), framework="pt") as file:
            found = {name: torch.Size(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise BadCheckpoint(f"{path} is not a whole safetensors file ({error})") from None
    for name in sorted({**shapes, **found}):
        if found.get(name) != shapes.get(name):
            has, wants = (
                "nothing" if side.get(name) is None else f"shape {tuple(side[name])}" for side in (found, shapes)
            )
            raise BadCheckpoint(f"{path} has {has} for '{name}', where its description asks for {wants}")


def sha256(*data: bytes | memoryview) -> str:
    digest = hashlib.sha256()
    for chunk in data:
        digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Fill a fresh folder, then swap it in for `folder` as a whole; on an error the old one stays as it was."""
    folder = Path(folder)
    scratch = _scratch(folder)
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        scratch.mkdir(parents=True)
        yield scratch
        if folder.exists():
            _exchange(scratch, folder)
        else:
            scratch.rename(folder)
        _sync_folder(folder.parent)
    except OSError as error:
        raise disk_error(error, folder) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove what a killed process left half-written in `folder`; only for one that nobody else is writing to."""
    for path in folder.glob(".*.tmp-*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _scratch(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp-{os.getpid()}")


def _exchange(fresh: Path, folder: Path) -> None:
    """Swap two folders in one step where the system can, so that at no moment there is none under the name."""
    at_cwd, exchange = -100, 2
    try:
        swapped = ctypes.CDLL(None).renameat2(at_cwd, os.fsencode(fresh), at_cwd, os.fsencode(folder), exchange) == 0
    except (OSError, AttributeError):  # another system
        swapped = False
    if not swapped:
        old = _scratch(folder.with_name(f"{folder.name}.old"))
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
        fresh.rename(folder)
        shutil.rmtree(old, ignore_errors=True)


def disk_error(error: OSError, path: Path) -> PalaestraError:
    """An operating-system error as one line that says what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return PalaestraError(
            f"no space left on the disk of {path}; the last whole checkpoint is intact: free some space, then --resume"
        )
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return PalaestraError(f"{path} cannot be written ({error.strerror}); choose another folder with --out")
    return PalaestraError(f"{path}: {error.strerror or error}")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
