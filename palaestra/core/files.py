"""Files that are either whole or absent: atomic replacement, tensors as safetensors, no pickle anywhere."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from palaestra.core.errors import BadCheckpoint, PalaestraError


def write_bytes(path: Path, data: bytes) -> None:
    """Write and flush to disk, then rename into place: a reader sees the old file or the new one, never a torn one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        with open(scratch, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise disk_error(error, path) from error
    _sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write named tensors as safetensors, atomically."""
    write_bytes(path, pack_tensors(tensors))


def pack_tensors(tensors: dict[str, Tensor]) -> bytes:
    """Named tensors as the bytes of a safetensors file; the same tensors always give the same bytes."""
    from safetensors.torch import save

    return save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in sorted(tensors.items())})


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; anything else is refused by name."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise BadCheckpoint(f"{path} is missing") from None
    return unpack_tensors(data, path)


def unpack_tensors(data: bytes, path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise BadCheckpoint(f"{path} is not a whole safetensors file ({error})") from None


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Fill a fresh folder, then swap it in for `folder` as a whole; on an error the old one stays as it was."""
    folder = Path(folder)
    scratch = folder.with_name(f".{folder.name}.tmp-{os.getpid()}")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        scratch.mkdir(parents=True)
        yield scratch
        if folder.exists():
            old = folder.with_name(f".{folder.name}.old-{os.getpid()}")
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
            scratch.rename(folder)
            shutil.rmtree(old)
        else:
            scratch.rename(folder)
        _sync_folder(folder.parent)
    except OSError as error:
        raise disk_error(error, folder) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


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


def tensor_from_bytes(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)
