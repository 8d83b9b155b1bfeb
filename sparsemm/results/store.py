"""The store: one folder per cell, files only, readable after a crash at any point.

cells/<fp[:2]>/<fp>/  config.yaml  samples-0001.jsonl ...  lease-0001.json ...  result.json  failure.json
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from sparsemm.results.files import (
    create_exclusively,
    parse_json,
    read_json,
    storage_error,
    to_line,
    write_all,
    write_atomically,
)

FORMAT = 1  # of result.json
READERS = 8  # threads of the bulk reader: a network file system answers them side by side
_FAILURE = re.compile(r"failure(-shard-\d+-of-\d+)?\.json")
_SAMPLES = re.compile(r"samples-(\d+)\.jsonl")


class NewerResult(ValueError):
    """A result that a newer version wrote."""


@dataclass(frozen=True)
class Samples:
    """The sample records of a cell, merged over its attempts and ordered by index."""

    records: dict[str, dict[str, Any]]  # sample id -> record
    torn: int  # last lines that a stopped or failed write left unfinished
    unreadable: int  # other lines that hold no record
    attempts: int  # number of samples files
    devices: frozenset[str] = frozenset()  # where they were answered


class Attempt:
    """One worker's own samples file; nobody else ever writes to it."""

    def __init__(self, path: Path, number: int) -> None:
        self.path = path
        self.number = number
        self._descriptor: int | None = os.open(path, os.O_WRONLY | os.O_APPEND)

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Write the records of one batch as whole lines in one write, and force them to the disk.

        After a failed write the file may end in a part of a line, so this attempt takes no more records.
        """
        if self._descriptor is None:
            raise ValueError(f"{self.path}: this attempt is closed. Begin another with begin_attempt().")
        data = "".join(to_line(dict(record)) for record in records).encode()
        try:
            write_all(self._descriptor, data)
        except OSError as error:
            self.close()
            raise storage_error(self.path, error) from error

    def close(self) -> None:
        """Close the file; closing twice is allowed."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            with contextlib.suppress(OSError):  # every batch was synced by append, or reported by it
                os.close(descriptor)

    def __enter__(self) -> Attempt:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class CellFolder:
    """The files of one cell."""

    path: Path
    fingerprint: str

    def write_config(self, settings: Mapping[str, Any]) -> None:
        """Write config.yaml: for people, and for what a report shows besides numbers."""
        import yaml

        text = yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True, width=100)
        write_atomically(self.path / "config.yaml", text)

    def config(self) -> dict[str, Any]:
        """Return the settings in config.yaml; empty where it is missing or torn."""
        import yaml

        try:
            text = (self.path / "config.yaml").read_text(encoding="utf-8")
            settings = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # ten times as fast
        except (OSError, ValueError, yaml.YAMLError):
            return {}
        return settings if isinstance(settings, dict) else {}

    def begin_attempt(self, worker: str, device: str = "") -> Attempt:
        """Open a new samples file with the next free number; its first line says who writes it."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(self.path, error) from error
        number = max(self._attempts(), default=0)
        while True:
            number += 1
            path = self.path / f"samples-{number:04d}.jsonl"
            about = {"attempt": number, "worker": worker, "device": device, "started": time.time()}
            header = to_line(about)
            if create_exclusively(path, header.encode()):
                return Attempt(path, number)

    def samples(self) -> Samples:
        """Merge the attempts: of a sample's records the first that was answered counts, else the first."""
        records: dict[str, dict[str, Any]] = {}
        torn = unreadable = 0
        devices: set[str] = set()
        attempts = self._attempts()
        for number in sorted(attempts):
            *lines, rest = attempts[number].read_bytes().split(b"\n")
            torn += bool(rest)
            for line in lines:
                record = parse_json(line)
                if record is not None and isinstance(record.get("sample"), str):
                    known = records.setdefault(record["sample"], record)
                    if known.get("error") is not None and record.get("error") is None:
                        records[record["sample"]] = record
                elif record is None or "attempt" not in record:
                    unreadable += 1
                elif record.get("device"):
                    devices.add(str(record["device"]))
        ordered = sorted(records.values(), key=lambda record: (record.get("index", 0), record["sample"]))
        by_name = {record["sample"]: record for record in ordered}
        return Samples(by_name, torn, unreadable, len(attempts), frozenset(devices))

    def result(self) -> dict[str, Any] | None:
        """Return result.json; None when it is missing or truncated, so the cell counts as not finished."""
        return _checked(read_json(self.path / "result.json"), self.path)

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Publish result.json in one step, and forget an earlier failure."""
        whole = {"format": FORMAT, "fingerprint": self.fingerprint, **result}
        write_atomically(self.path / "result.json", to_line(whole))
        for file in self._failures():
            file.unlink(missing_ok=True)

    def failure(self, part: str | None = None) -> str | None:
        """Return why the cell's last run failed, or that of one part (None: of any); None when none did."""
        for file in self._failures() if part is None else [self._failure(part)]:
            failure = read_json(file)
            if failure is not None:
                return str(failure.get("reason"))
        return None

    def write_failure(self, reason: str, part: str = "") -> None:
        """Record why the cell, or a part of it such as `shard-0-of-2`, cannot be finished."""
        write_atomically(self._failure(part), to_line({"reason": reason, "time": time.time()}))

    def clear_failure(self, part: str | None = "") -> None:
        """Forget a failure of the cell or of one part (None: all of them), as a new run begins."""
        for file in self._failures() if part is None else [self._failure(part)]:
            file.unlink(missing_ok=True)

    def _failure(self, part: str) -> Path:
        return self.path / (f"failure-{part}.json" if part else "failure.json")

    def _failures(self) -> list[Path]:
        try:
            names = [entry.name for entry in os.scandir(self.path)]
        except FileNotFoundError:
            return []
        return [self.path / name for name in sorted(names) if _FAILURE.fullmatch(name)]

    def _attempts(self) -> dict[int, Path]:
        try:
            names = [path.name for path in self.path.iterdir()]
        except FileNotFoundError:
            return {}
        matches = (_SAMPLES.fullmatch(name) for name in names)
        return {int(match[1]): self.path / match[0] for match in matches if match}


@dataclass(frozen=True)
class Store:
    """Everything under the output folder."""

    root: Path
    cells: Path = field(init=False)
    workers: Path = field(init=False)
    sweeps: Path = field(init=False)
    reports: Path = field(init=False)

    def __post_init__(self) -> None:
        root = Path(self.root).expanduser().absolute()
        object.__setattr__(self, "root", root)
        for name in ("cells", "workers", "sweeps", "reports"):
            object.__setattr__(self, name, root / name)

    def cell(self, fingerprint: str) -> CellFolder:
        """Return the cell's folder, which need not exist yet."""
        return CellFolder(self.cells / fingerprint[:2] / fingerprint, fingerprint)

    def fingerprints(self) -> list[str]:
        """Return the cells that have a folder, ordered."""
        return sorted(name for part in _names(self.cells) for name in _names(self.cells / part))

    def results(
        self, fingerprints: Iterable[str] | None = None, *, skip_newer: bool = False
    ) -> list[dict[str, Any]]:
        """Read the finished results, of all cells or of these, in the order of the fingerprints.

        Raises:
            ValueError: a newer version wrote one of them; with `skip_newer` it is left out instead.
        """
        wanted = self.fingerprints() if fingerprints is None else list(fingerprints)
        paths = [self.cells / name[:2] / name / "result.json" for name in wanted]
        step = 64
        chunks = [paths[start : start + step] for start in range(0, len(paths), step)]
        found = []
        with ThreadPoolExecutor(READERS) as pool:
            for path, data in (pair for chunk in pool.map(_read_chunk, chunks) for pair in chunk):
                result = parse_json(data)
                with contextlib.suppress(NewerResult) if skip_newer else contextlib.nullcontext():
                    result = _checked(result, path.parent)
                    found += [result] if result else []
        return found

    def finished(self, fingerprints: Iterable[str]) -> set[str]:
        """Return those of the cells that have a whole result."""
        return {result["fingerprint"] for result in self.results(fingerprints)}

    def failures(self, fingerprints: Iterable[str]) -> dict[str, str]:
        """Return the reason of every one of the cells whose last run failed."""
        reasons = ((name, self.cell(name).failure()) for name in fingerprints)
        return {name: reason for name, reason in reasons if reason is not None}


def _checked(result: dict[str, Any] | None, folder: Path) -> dict[str, Any] | None:
    if result is None or not isinstance(result.get("format"), int):
        return None
    if result["format"] > FORMAT:
        raise NewerResult(
            f"{folder / 'result.json'}: format={result['format']}: this version reads up to {FORMAT}. "
            "A newer SparseMM wrote it: update this one, or give another output=FOLDER."
        )
    return result


def _read_chunk(paths: list[Path]) -> list[tuple[Path, bytes]]:
    found = []
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            found.append((path, path.read_bytes()))
    return found


def _names(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as found:
            return [entry.name for entry in found if entry.is_dir()]
    except FileNotFoundError:
        return []
