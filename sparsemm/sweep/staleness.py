"""Whether the head scores that a cell reads are the ones that its fingerprint stands for."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from sparsemm.paths import absolute
from sparsemm.results.store import Store
from sparsemm.sweep.cells import MISSING, Cell, content_of

AGAIN = "Run the sweep's command again."


def left_behind(cells: Iterable[Cell], searched: Iterable[str]) -> list[Cell]:
    """The cells whose fingerprint stands for head scores that were missing then and that no search finds."""
    known = set(searched)
    return [cell for cell in cells if _awaited(cell.identity) - known]


def _awaited(identity: Mapping[str, Any]) -> set[str]:
    """The files that were not there when an identity was made, as a cell's settings name them."""
    known = (value for key, value in _values(identity) if key == "sha256" and isinstance(value, str))
    return {absolute(value.removeprefix(f"{MISSING}: ")) for value in known if value.startswith(MISSING)}


def current_cells(store: Store, entries: Sequence[dict[str, Any]], part: str = "") -> list[dict[str, Any]]:
    """The cells of a job whose result would be what their fingerprint says; the others fail (this part)."""
    outdated = _outdated(entries)
    for name, reason in outdated.items():
        store.cell(name).write_failure(reason, part)
    return [entry for entry in entries if entry["fingerprint"] not in outdated]


def _outdated(entries: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Fingerprint -> why the cell must not run."""

    @cache
    def now(target: str, path: str) -> dict[str, Any]:
        try:
            found: dict[str, Any] = content_of({"_target_": target, "path": path})
        except (OSError, ValueError):  # neither what it was
            return {}
        return found

    def reason(entry: Mapping[str, Any]) -> str | None:
        settings, identity = entry["settings"], entry["identity"]
        if any(isinstance(value, str) and value.startswith(f"{MISSING}: ") for _, value in _values(identity)):
            return f"submitted under a name that stands for what was not there yet. {AGAIN}"
        for section, was in (("allocator", identity["method"]["allocator"]), ("mask", identity.get("mask"))):
            for key, node in settings[section].items() if was else ():
                if not isinstance(node, Mapping) or not {"_target_", "path"} <= node.keys():
                    continue
                found = now(node["_target_"], str(node["path"]))
                if any(found.get(name) != was[key].get(name) for name in ("scores", "sha256")):
                    return f"{node['path']}: head scores changed since submission. {AGAIN}"
        return None

    return {entry["fingerprint"]: said for entry in entries if (said := reason(entry))}


def _values(node: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield key, value
            yield from _values(value)
