"""Leases: which worker runs which cell. They only save work; the samples files alone keep the results right.

A cell's leases are numbered files, lease-0001.json, lease-0002.json, ...; the highest number is in force.
Taking a free or stale cell over is creating the next number exclusively, so of several contenders exactly one
wins, and a worker whose lease has a successor knows that it lost the cell. No file is ever removed or reused.
The file system need only create exclusively, as NFS does; the clocks of its hosts must agree to seconds.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from sparsemm.results.files import create_exclusively, read_json, storage_error, to_line, write_atomically
from sparsemm.results.store import Store

STALE_S = 60.0  # a worker that has been silent for longer has lost its cells
ENDED = ("done", "failed")  # states in which a worker no longer runs anything
_LEASE = re.compile(r"lease-(\d+)\.json")


def new_worker_id() -> str:
    """Return a name for this process that no other process of the store has."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"


class Heartbeat:
    """Says in workers/<id>.json, every few seconds, that this worker lives and how far it is."""

    def __init__(
        self, store: Store, worker: str, *, job: str = "", job_id: str = "", every_s: float = STALE_S / 6
    ) -> None:
        self.path = store.workers / f"{worker}.json"
        self.every_s = every_s
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._fields: dict[str, Any] = {
            "worker": worker,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "machine": _machine(),
            "pid_started": _started(os.getpid()),
            "job": job,
            "job_id": job_id,
            "done": 0,
            "total": 0,
            "rate_per_s": None,
            "state": "starting",
        }

    def update(self, **fields: Any) -> None:
        """Set done, total, rate_per_s or state; the next beat shows them."""
        with self._lock:
            self._fields.update(fields)

    def beat(self) -> None:
        """Write the heartbeat now."""
        with self._lock:
            write_atomically(self.path, to_line({**self._fields, "updated": time.time()}))

    def __enter__(self) -> Heartbeat:
        self.beat()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self.update(state="failed" if kind else "done")
        with contextlib.suppress(
            OSError
        ):  # on a full disk the error that ended the worker is the one to show
            self.beat()

    def _run(self) -> None:
        while not self._stop.wait(self.every_s):
            with contextlib.suppress(OSError):  # the worker's own writes report a full disk; try again
                self.beat()


@dataclass(frozen=True)
class Lease:
    """The lease in force on a cell."""

    number: int
    worker: str  # empty when its writer stopped before it had written its name
    since: float
    released: bool


class Leases:
    """The cells that one worker holds."""

    def __init__(self, store: Store, worker: str, stale_s: float = STALE_S, part: str = "") -> None:
        self.store = store
        self.part = part  # of the cell: each shard has leases of its own
        self.worker = worker
        self.stale_s = stale_s
        self._held: dict[str, int] = {}

    def folder(self, fingerprint: str) -> Path:
        """Return where the leases on this worker's part of a cell lie."""
        return self.store.cell(fingerprint).path / self.part

    def acquire(self, fingerprint: str) -> bool:
        """Take the cell if nobody alive has it."""
        if self.still_mine(fingerprint):
            return True
        folder = self.folder(fingerprint)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(folder, error) from error
        lease = current(folder)
        if lease is not None and _in_force(lease, _beat(self.store, lease.worker), self.stale_s):
            return False
        number = lease.number + 1 if lease else 1
        content = to_line({"worker": self.worker, "since": time.time(), "released": False})
        if not create_exclusively(_path(folder, number), content.encode()):
            return False
        self._held[fingerprint] = number
        return True

    def still_mine(self, fingerprint: str) -> bool:
        """Say whether this worker still has the cell; ask at every batch boundary."""
        number = self._held.get(fingerprint)
        if number is None:
            return False
        folder = self.folder(fingerprint)
        if _path(folder, number).exists() and not _path(folder, number + 1).exists():
            return True
        del self._held[fingerprint]
        return False

    def release(self, fingerprint: str) -> None:
        """Give the cell back, if it is still this worker's."""
        if self.still_mine(fingerprint):
            path = _path(self.folder(fingerprint), self._held.pop(fingerprint))
            write_atomically(path, to_line({"worker": self.worker, "since": time.time(), "released": True}))

    def release_all(self) -> None:
        """Give all cells back."""
        for fingerprint in list(self._held):
            self.release(fingerprint)


def current(folder: Path) -> Lease | None:
    """Return the lease with the highest number in a cell's folder.

    Where its writer died before it had written its name, the worker is '': the cell counts as held, by nobody
    who could be asked, until the file is stale.
    """
    try:
        matches = [_LEASE.fullmatch(path.name) for path in folder.iterdir()]
    except FileNotFoundError:
        return None
    number = max((int(match[1]) for match in matches if match), default=0)
    if not number:
        return None
    path = _path(folder, number)
    content = read_json(path)
    if content is None or not content.keys() >= {"worker", "since", "released"}:
        return Lease(number, "", path.stat().st_mtime, False)
    return Lease(number, str(content["worker"]), float(content["since"]), bool(content["released"]))


def workers(store: Store) -> dict[str, dict[str, Any]]:
    """Return the last heartbeat of every worker."""
    beats = [read_json(path) for path in sorted(store.workers.glob("*.json"))]
    return {beat["worker"]: beat for beat in beats if beat}


def running(store: Store, fingerprints: Iterable[str], stale_s: float = STALE_S) -> dict[str, dict[str, Any]]:
    """Return, for those of the cells that a live worker holds, that worker's heartbeat.

    A cell whose lease names no worker is not among them: nobody is known to run it.
    """
    beats = workers(store)
    held = {}
    for fingerprint in fingerprints:
        for folder in _lease_folders(store.cell(fingerprint).path):
            lease = current(folder)
            if lease and lease.worker in beats and _in_force(lease, beats[lease.worker], stale_s):
                held[fingerprint] = beats[lease.worker]
    return held


def alive(beat: dict[str, Any], stale_s: float = STALE_S) -> bool:
    """Say whether a worker runs: not ended, heard of lately and, where that can be seen, still a process."""
    if beat["state"] in ENDED or time.time() - beat["updated"] > stale_s:
        return False
    if not beat["machine"] or beat["machine"] != _machine():
        return True
    try:
        os.kill(beat["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return bool(_started(beat["pid"]) == beat["pid_started"])


def _in_force(lease: Lease, beat: dict[str, Any] | None, stale_s: float) -> bool:
    if lease.released:
        return False
    return alive(beat, stale_s) if beat else time.time() - lease.since <= stale_s


def _beat(store: Store, worker: str) -> dict[str, Any] | None:
    return read_json(store.workers / f"{worker}.json") if worker else None


def _lease_folders(cell: Path) -> list[Path]:
    """The cell's folder, and those of its shards."""
    return [cell, *sorted(cell.glob("shard-*"))]


def _path(folder: Path, number: int) -> Path:
    return folder / f"lease-{number:04d}.json"


def _machine() -> str:
    """Name the kernel and the process numbering within which a pid means one process; '' if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Return when the process started (clock ticks since boot), '' when it is gone, a zombie, or unknown."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else fields[18]  # field 22 of proc(5); `state` is field 3
