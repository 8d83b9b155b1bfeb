"""Durable writes: a file is either there and whole, or not there; a failed write says what to do."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from pathlib import Path
from typing import Any


class StorageError(OSError):
    """The store could not be written; what was written before is still readable."""


def storage_error(path: Path, error: OSError) -> StorageError:
    """Name the path, the reason and the next step."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    wrapped = StorageError(
        f"{path}: cannot write: {reason}. Nothing that was written before is lost. "
        "Free space (or fix the permissions), or give another output=FOLDER, and run the same command again: "
        "it goes on where it stopped."
    )
    wrapped.errno = error.errno
    return wrapped


def write_all(descriptor: int, data: bytes) -> None:
    """Write every byte (a disk that fills up answers a short count first) and force it to the disk."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Make a new name in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def create_exclusively(path: Path, data: bytes) -> bool:
    """Create `path` with `data`; False when it exists. Of several processes exactly one gets True."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return False
    except OSError as error:
        raise storage_error(path, error) from error
    try:
        write_all(descriptor, data)
    except OSError as error:
        raise storage_error(path, error) from error
    finally:
        os.close(descriptor)
    return True


def write_atomically(path: Path, text: str, mode: int = 0o666) -> None:
    """Replace `path` by `text`: readers see the old file or the new one, never a part; `mode`: who may."""
    temporary = path.parent / f".tmp-{path.name}-{secrets.token_hex(6)}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            write_all(descriptor, text.encode())
        finally:
            os.close(descriptor)
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise storage_error(path, error) from error


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in `path`; None when it is missing, truncated or not an object."""
    try:
        return parse_json(path.read_bytes())
    except FileNotFoundError:
        return None


def parse_json(data: bytes) -> dict[str, Any] | None:
    """Return the JSON object in `data`, or None."""
    try:
        value = json.loads(data)
    except ValueError:  # JSONDecodeError and UnicodeDecodeError
        return None
    return value if isinstance(value, dict) else None


def to_line(value: dict[str, Any]) -> str:
    """Compact JSON on one line; NaN and infinity are refused, since other readers refuse them."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"
