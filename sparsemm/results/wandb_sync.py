"""Sending offline runs, with wandb's own `wandb sync` underneath: what went up is marked beside the run."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from sparsemm.results.wandb_settings import OF_RUNS, has_key, import_wandb

HOST = "https://api.wandb.ai"
AT_ONCE = 32  # runs of one call of wandb sync
LIMIT_S = 300.0  # of one call: when the network goes away wandb tries again for long
CONNECT_S = 5.0
SAID = re.compile(r"error|fail|refus|denied|unable", re.IGNORECASE)
GONE = re.compile(r"previously (created and )?deleted|deleted run", re.IGNORECASE)


DELETED = "a run was deleted in W&B, which never gives its id again: choose tracking.suffix=again."


@dataclass(frozen=True)
class Sent:
    """What a sync did."""

    sent: tuple[str, ...]  # ids of runs
    before: int  # runs that were sent earlier
    failed: tuple[str, ...]
    reason: str = ""  # the first

    def __str__(self) -> str:
        lines = [f"W&B: sent {len(self.sent)} run{'s' * (len(self.sent) != 1)}; {self.before} were there."]
        if self.sent:
            shown = ", ".join(self.sent[:8])
            lines.append(f"  {shown}{f' and {len(self.sent) - 8} more' if len(self.sent) > 8 else ''}")
        if self.failed:
            lines.append(
                f"W&B: {len(self.failed)} runs could not be sent: {self.reason} They stay in the store: "
                "`sparsemm sync`, or the next report with tracking=online, tries again."
            )
        return "\n".join(lines)


def offline_runs(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the runs that wait, and those that were sent, by their folders in <output>/wandb."""
    waiting: list[Path] = []
    sent: list[Path] = []
    for run in sorted(folder.glob("offline-run-*")):
        files = list(run.glob("run-*.wandb"))
        if files:
            done = all(file.with_name(f"{file.name}.synced").exists() for file in files)
            (sent if done else waiting).append(run)
    return waiting, sent


def sync(folder: Path, limit_s: float | None = None, tried: Callable[[int], Any] = int) -> Sent:
    """Send every run that waits in `folder`.

    Args:
        folder: <output>/wandb.
        limit_s: for a call of wandb sync.
        tried: is told how many runs each call was about.

    Raises:
        ValueError: wandb is not installed, or nobody is logged in.
    """
    waiting, sent = offline_runs(folder)
    if not waiting:
        return Sent((), len(sent), ())
    import_wandb("sync")
    if not has_key():
        raise ValueError(
            "sync: W&B has no API key here. Log in with `wandb login` (or set WANDB_API_KEY), and run it "
            "again."
        )
    if reason := _unreachable():
        return Sent((), len(sent), tuple(map(_id, waiting)), reason)
    for start in range(0, len(waiting), AT_ONCE):
        some = waiting[start : start + AT_ONCE]
        said = _send(some, folder, limit_s or LIMIT_S)
        reason = reason or said
        tried(len(some))
        if said and not any(map(_sent, some)):
            break  # nothing goes up: the others would wait in vain
    done = [run for run in waiting if _sent(run)]
    failed = [run for run in waiting if run not in done]
    if not failed:
        shutil.rmtree(folder / "staged", ignore_errors=True)  # what artifacts waited in
    return Sent(tuple(map(_id, done)), len(sent), tuple(map(_id, failed)), reason if failed else "")


def _unreachable() -> str:
    """Say why W&B cannot be reached, or nothing; a proxy is left to wandb."""
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy")):
        return ""
    place = urlparse(os.environ.get("WANDB_BASE_URL") or HOST)
    try:
        port = place.port or (80 if place.scheme == "http" else 443)
        socket.create_connection((place.hostname or "", port), CONNECT_S).close()
    except OSError as error:
        return f"{place.netloc} cannot be reached ({error.strerror or error})."
    return ""


def _send(runs: Sequence[Path], folder: Path, limit_s: float) -> str:
    """Call wandb sync; return why it failed, or nothing."""
    command = [sys.executable, "-m", "wandb", "sync", *(str(run) for run in runs)]
    environment = {name: value for name, value in os.environ.items() if name not in OF_RUNS}
    environment["WANDB_SILENT"] = "false"
    environment |= dict.fromkeys(("WANDB_DATA_DIR", "WANDB_CACHE_DIR"), str(folder / "staged"))
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        said = str(error.stdout) + str(error.stderr)
        return DELETED if GONE.search(said) else f"wandb sync did not end within {limit_s:.0f} s."
    except OSError as error:
        return f"wandb sync could not be started ({error})."
    said = done.stdout + done.stderr
    if GONE.search(said):
        return DELETED
    if done.returncode == 0 and all(_sent(run) for run in runs):
        return ""
    lines = [line.removeprefix("wandb:").strip() for line in said.splitlines()]
    errors = [line for line in lines if SAID.search(line) and "debug-cli" not in line]
    return (errors or lines or [f"wandb sync ended with {done.returncode}."])[0]


def _sent(run: Path) -> bool:
    return any(run.glob("run-*.wandb.synced"))


def _id(run: Path) -> str:
    """Read it from the file: folders of one run and one second differ by a number at the end."""
    return next(run.glob("run-*.wandb")).stem.removeprefix("run-")
