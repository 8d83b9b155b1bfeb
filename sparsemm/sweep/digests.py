"""One text, and one hash, of a plain value or a file."""

import hashlib
import json
from functools import cache
from typing import Any

from sparsemm.paths import resolve


def canonical(value: Any) -> str:
    """The one JSON text of a plain value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(value: Any) -> str:
    """The sha256 of a plain value, in hex."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


@cache
def file_digest(path: str) -> str:
    """The sha256 of a file, read once per process."""
    try:
        return hashlib.sha256(resolve(path).read_bytes()).hexdigest()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}). Check the path.") from error
