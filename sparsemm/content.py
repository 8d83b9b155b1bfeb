"""What a file holds, as a hash: equal for equal content wherever it lies, and never of a part of it only."""

import hashlib
import logging
import os
import re
import time
from contextlib import suppress
from pathlib import Path

_SHA256 = re.compile(r"[0-9a-f]{64}")
_HUB_FOLDER = re.compile(r"(models|datasets|spaces)--.+")
_LARGE = 32 * 2**20  # bytes; the digest of a larger file is kept for other processes
_SETTLED_NS = 2 * 10**9  # a file changed more recently may change again under the same time stamps
_known: dict[tuple[object, ...], str] = {}


def file_digest(path: Path) -> str:
    """64 hex digits: the SHA-256 of a file's whole content.

    Of a large file in the hub's cache it is the name of its blob, and nothing is read. Others are read once:
    the digest is remembered until size, time stamps or inode change, that of a large one in the user's cache
    folder.

    Raises:
        OSError: no such file, or it cannot be read.
    """
    facts = path.stat()
    if name := _blob_name(path):
        return name
    key = _key(path, facts)
    if digest := _known.get(key):
        return digest
    kept = _kept(key) if facts.st_size > _LARGE else None
    digest = _read(kept)
    if digest is None:
        if facts.st_size > _LARGE:
            logging.getLogger(__name__).info("%s: reading %.1f GB once", path, facts.st_size / 1e9)
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        settled = time.time_ns() - max(facts.st_mtime_ns, facts.st_ctime_ns) > _SETTLED_NS
        if not settled or _key(path, path.stat()) != key:
            return digest
        _write(kept, digest)
    _known[key] = digest
    return digest


def _blob_name(path: Path) -> str | None:
    """The SHA-256 that the hub's cache names a large file's blob by; small files have other names there."""
    if not path.is_symlink():
        return None
    blob = path.resolve()
    inside = blob.parent.name == "blobs" and _HUB_FOLDER.fullmatch(blob.parent.parent.name)
    return blob.name if inside and _SHA256.fullmatch(blob.name) else None


def _key(path: Path, facts: os.stat_result) -> tuple[object, ...]:
    """Time stamps can be copied with a file; the time of its last change here and its inode cannot."""
    return str(path.resolve()), facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino


def _kept(key: tuple[object, ...]) -> Path | None:
    """The file that keeps a digest; None for a user without a home."""
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return None
    return cache / "sparsemm" / "digests" / hashlib.sha256(repr(key).encode()).hexdigest()


def _read(kept: Path | None) -> str | None:
    try:
        digest = kept.read_text() if kept else ""
    except (OSError, UnicodeDecodeError):
        return None
    return digest if _SHA256.fullmatch(digest) else None


def _write(kept: Path | None, digest: str) -> None:
    """Keep a digest, where the folder can be written to."""
    if kept is None:
        return
    new = kept.with_name(f"{kept.name}.{os.getpid()}")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(digest)
        new.replace(kept)
    except OSError:
        with suppress(OSError):
            new.unlink()
