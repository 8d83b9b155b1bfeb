"""Which head-score files a cell reads."""

from collections.abc import Iterator, Mapping
from typing import Any


def head_files(settings: Mapping[str, Any]) -> list[str]:
    """The head-score files that a cell's allocator and mask read."""
    return sorted({path for name in ("allocator", "mask") for path in files_in(settings[name])})


def files_in(node: Any) -> Iterator[str]:
    """Files that a component reads."""
    if isinstance(node, Mapping):
        if "_target_" in node and isinstance(node.get("path"), str):
            yield node["path"]
        for value in node.values():
            yield from files_in(value)
