"""Cells that were submitted together with the head search that they wait for.

What such a cell is (its fingerprint) depends on scores that nobody knows yet. Its job file is written with a
name that stands for it, as jobs/3.awaiting.json; when the scores are there, whoever looks first writes
jobs/3.json with the cells as they are then, and which name stood for which.
"""

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from sparsemm.paths import resolve
from sparsemm.results.files import read_json, write_atomically
from sparsemm.sweep.cells import CellMaker

SUFFIX = ".awaiting.json"


def ready(path: Path) -> Path | None:
    """The job file with the cells as they are; `path` where it waited for nothing, None where it still does.

    Raises:
        ValueError: scores that a cell cannot use, or something else that has gone since submission.
    """
    if not path.name.endswith(SUFFIX):
        return path
    target = path.with_name(path.name.removesuffix(SUFFIX) + ".json")
    if read_json(target) is not None:
        return target
    job = read_json(path)
    if job is None or not all(resolve(file).is_file() for file in job["awaits"]):
        return None
    maker, found = CellMaker(), dict[str, dict[str, Any]]()
    for entry in job["cells"]:
        cell = maker.again(entry["settings"])
        known = {**entry, "fingerprint": cell.fingerprint, "identity": cell.identity, "group": cell.group}
        found.setdefault(cell.fingerprint, {**known, "was": []})["was"].append(entry["fingerprint"])
    write_atomically(target, json.dumps({**job, "cells": list(found.values())}, ensure_ascii=False))
    return target


def names(sweep: Path) -> dict[str, str]:
    """Name that stood for a cell -> its fingerprint, of a sweep's cells whose scores are there now."""
    found: dict[str, str] = {}
    for path in (sweep / "jobs").glob(f"*{SUFFIX}"):
        with suppress(ValueError, OSError):  # the job will say so
            file = ready(path)
            for entry in (read_json(file) or {}).get("cells", []) if file else ():
                found |= dict.fromkeys(entry["was"], entry["fingerprint"])
    return found


def renamed(sweep: Path, cells: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Entries of a sweep's record under the fingerprints that its cells have now."""
    known = names(sweep)
    return [{**one, "fingerprint": known.get(one["fingerprint"], one["fingerprint"])} for one in cells]
