"""What one sweep submitted to SLURM: sweeps/<id>/slurm.json, and with which parameters: launcher.json.

Jobs have a name that is written before anything is submitted and that no other sweep has: ids may begin again
when a controller loses its state. launcher.json is for its owner alone, and values of secrets are not in it.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sparsemm.results.files import read_json, write_atomically
from sparsemm.sweep.awaiting import names
from sparsemm.sweep.errors import UnusableConfiguration

_SECRET = re.compile(r"(TOKEN|KEY|SECRET|PASSWORD|PASSWD|CREDENTIAL)S?(_|\d|$)", re.IGNORECASE)
PARAMETERS = "launcher.json"


@dataclass(frozen=True)
class Job:
    """One element of an array: job files that it runs, and the cells in them."""

    files: tuple[Path, ...]
    cells: tuple[str, ...]

    @classmethod
    def of(cls, files: Sequence[tuple[Path, Mapping[str, Any]]]) -> "Job":
        """The job of these job files, with what they hold; a head search has the cells that wait for it."""
        cells = [entry["fingerprint"] for _, content in files for entry in content.get("cells", [])]
        cells += [name for _, content in files for name in content.get("awaited_by", [])]
        return cls(tuple(path for path, _ in files), tuple(dict.fromkeys(cells)))


@dataclass(frozen=True)
class Part:
    """One array."""

    name: str  # of its jobs in SLURM
    folder: Path  # logs, and what submitit keeps
    jobs: tuple[Job, ...]
    id: str | None = None  # of the array; None before sbatch has answered
    after: tuple[int, ...] = ()  # numbers of the arrays of head searches that it waits for
    search: bool = False  # whether it is one of those


@dataclass(frozen=True)
class Submission:
    """What one sweep submitted."""

    folder: Path  # of the sweep
    created: float
    parts: tuple[Part, ...]
    parameters: dict[str, Any] = field(default_factory=dict)  # of the launcher, to be written
    cancelled: frozenset[str] = frozenset()  # ids of its jobs that were cancelled by our own verb
    cells: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        cells = frozenset(cell for part in self.parts for job in part.jobs for cell in job.cells)
        object.__setattr__(self, "cells", cells)

    @property
    def waits(self) -> bool:
        """Whether some of its cells wait, or waited, for a head search."""
        return any(part.after for part in self.parts)

    def with_id(self, number: int, job_id: str) -> "Submission":
        """The same, where sbatch has answered for a part."""
        parts = [replace(part, id=job_id) if n == number else part for n, part in enumerate(self.parts)]
        return replace(self, parts=tuple(parts))

    def write(self) -> None:
        """Write slurm.json, and launcher.json once.

        Raises:
            StorageError: the disk is full, or not ours to write to.
        """
        if self.parameters and not (self.folder / PARAMETERS).exists():
            environment = self.parameters.get("environment", {})
            hidden = secrets(environment)
            shown = {key: value for key, value in environment.items() if key not in hidden}
            kept = {"parameters": {**self.parameters, "environment": shown}, "secrets": list(hidden)}
            write_atomically(self.folder / PARAMETERS, json.dumps(kept), 0o600)
        parts = [
            {
                "name": part.name,
                "id": part.id,
                "folder": str(part.folder),
                "jobs": [{"files": list(map(str, job.files)), "cells": job.cells} for job in part.jobs],
                "after": part.after,
                "search": part.search,
            }
            for part in self.parts
        ]
        content = {"created": self.created, "parts": parts, "cancelled": sorted(self.cancelled)}
        write_atomically(self.folder / "slurm.json", json.dumps(content))

    def given(self) -> dict[str, Any]:
        """What the launcher was given, with secrets from this shell; {} where it is not known.

        Raises:
            UnusableConfiguration: another user's, or a secret that this shell does not have.
        """
        path = self.folder / PARAMETERS
        try:
            content = read_json(path)
        except PermissionError as error:
            raise UnusableConfiguration(
                f"{path}: only who submitted these jobs may read it. Choose hydra/launcher=slurm and its "
                "parameters, and run the command again."
            ) from error
        if content is None:
            return {}
        if missing := [name for name in content["secrets"] if name not in os.environ]:
            raise UnusableConfiguration(
                f"hydra.launcher.environment.{missing[0]}: these jobs were given it, and no secret is kept "
                f"on disk. Run `export {missing[0]}=...` in this shell, and the command again."
            )
        environment = content["parameters"]["environment"]
        environment |= {name: os.environ[name] for name in content["secrets"]}
        return {**content["parameters"], "environment": environment}

    @classmethod
    def read(cls, path: Path) -> "Submission | None":
        """A slurm.json; None where it is missing."""
        content = read_json(path)
        if content is None:
            return None
        waits = any(one.get("after") for one in content["parts"])
        known = names(path.parent) if waits else {}
        parts = tuple(_part(one, known) for one in content["parts"])
        cancelled = frozenset(content.get("cancelled", ()))
        return cls(path.parent, content["created"], parts, cancelled=cancelled)


def secrets(names: Iterable[str]) -> tuple[str, ...]:
    """Those names of variables that sound like secrets, as HF_TOKEN and WANDB_API_KEY do."""
    return tuple(name for name in names if _SECRET.search(name))


def _part(content: dict[str, Any], known: Mapping[str, str]) -> Part:
    jobs = [
        Job(tuple(map(Path, job["files"])), tuple(known.get(cell, cell) for cell in job["cells"]))
        for job in content["jobs"]
    ]
    after, search = tuple(content.get("after", ())), bool(content.get("search"))
    return Part(content["name"], Path(content["folder"]), tuple(jobs), content["id"], after, search)
