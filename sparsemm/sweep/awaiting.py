"""Cells that were submitted together with the head search that they wait for.

What such a cell is (its fingerprint) depends on scores that nobody knows yet. Its job file is written with a
name that stands for it, as jobs/3.awaiting.json; when the scores are there, whoever looks first writes
jobs/3.json with the cells as they are then, and which name stood for which. Cells that cannot use their
scores keep their name and are left out; only the job itself decides that.
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


class NothingUsable(ValueError):
    """No cell of a job can run; `reasons` by fingerprint."""

    def __init__(self, reasons: dict[str, str]) -> None:
        super().__init__("; ".join(dict.fromkeys(reasons.values())))
        self.reasons = reasons


def ready(path: Path) -> Path | None:
    """The job file with the cells as they are; `path` where it waited for nothing, None where it still does.

    Cells that cannot run are in its "unusable", each with the reason.

    Raises:
        NothingUsable: no cell can use its scores, or something else has gone since submission.
    """
    if not path.name.endswith(SUFFIX):
        return path
    target = _target(path)
    if read_json(target) is not None:
        return target
    job = _job_as_it_is(path)
    if job is None:
        return None
    if not job["cells"]:
        raise NothingUsable({one["fingerprint"]: one["reason"] for one in job["unusable"]})
    _write(target, job)
    return target


def _target(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(SUFFIX) + ".json")


def _write(path: Path, job: dict[str, Any]) -> None:
    write_atomically(path, json.dumps(job, ensure_ascii=False))


def _job_as_it_is(path: Path) -> dict[str, Any] | None:
    """A job whose scores are there, its cells split by whether they can use them; None: too early."""
    job = read_json(path)
    if job is None or not all(resolve(file).is_file() for file in job["awaits"]):
        return None
    maker, found = CellMaker(), dict[str, dict[str, Any]]()
    unusable: list[dict[str, str]] = []
    for entry in job["cells"]:
        try:
            cell = maker.again(entry["settings"])
        except ValueError as error:  # another cell may read another file
            unusable.append({"fingerprint": entry["fingerprint"], "reason": str(error)})
            continue
        known = {**entry, "fingerprint": cell.fingerprint, "identity": cell.identity, "group": cell.group}
        found.setdefault(cell.fingerprint, {**known, "was": []})["was"].append(entry["fingerprint"])
    return {**job, "cells": list(found.values()), "unusable": unusable}


def _look(path: Path) -> dict[str, Any]:
    """A job with the cells as they are, for those who ask about it."""
    target = _target(path)
    job = read_json(target)
    if job is None and (job := _job_as_it_is(path)) and not job["unusable"]:
        _write(target, job)
    return job or {}


def names(sweep: Path) -> dict[str, str]:
    """Name that stood for a cell -> its fingerprint, of a sweep's cells whose scores are there now."""
    found: dict[str, str] = {}
    for path in (sweep / "jobs").glob(f"*{SUFFIX}"):
        with suppress(ValueError, OSError):  # the job will say so
            for entry in _look(path).get("cells", []):
                found |= dict.fromkeys(entry["was"], entry["fingerprint"])
    return found


def renamed(sweep: Path, cells: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Entries of a sweep's record under the fingerprints that its cells have now."""
    known = names(sweep)
    return [{**one, "fingerprint": known.get(one["fingerprint"], one["fingerprint"])} for one in cells]
