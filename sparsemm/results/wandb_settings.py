"""conf/tracking, and what can be known of W&B without asking it."""

from __future__ import annotations

import contextlib
import netrc
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

MODES = ("none", "offline", "online")
FORBIDDEN = re.compile(r"[/\\#?%:]")  # what W&B refuses in names of projects
LONGEST_NAME = 128
OF_RUNS = (  # variables by which wandb makes runs other than they are asked for, as below `wandb agent`
    *(
        "WANDB_SWEEP_ID",
        "WANDB_SWEEP_PARAM_PATH",
        "WANDB_RUN_ID",
        "WANDB_RESUME",
        "WANDB_NAME",
        "WANDB_NOTES",
    ),
    *("WANDB_TAGS", "WANDB_RUN_GROUP", "WANDB_JOB_TYPE", "WANDB_PROJECT", "WANDB_CONFIG_PATHS"),
)


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """conf/tracking."""

    mode: str
    project: str
    entity: str | None
    samples: int
    suffix: str

    def check(self) -> None:
        """Raise ValueError for what W&B would refuse, before any work is done."""
        if self.mode not in MODES:
            raise ValueError(f"tracking.mode={self.mode}: must be one of {', '.join(MODES)}.")
        if self.mode == "none":
            return
        check_name("project", self.project)
        if self.entity is not None:
            check_name("entity", self.entity)
        if self.samples < 0:
            raise ValueError(f"tracking.samples={self.samples}: must be 0 or more. Set tracking.samples.")
        import_wandb(f"tracking={self.mode}")
        if self.mode == "online" and not has_key():
            raise ValueError(
                "tracking=online: W&B has no API key here. Log in with `wandb login` (or set WANDB_API_KEY), "
                "or choose tracking=offline and run `sparsemm sync` later."
            )


def check_name(key: str, name: str) -> None:
    """Raise ValueError for a project or entity name that W&B refuses."""
    if not name or len(name) > LONGEST_NAME or FORBIDDEN.search(name):
        raise ValueError(
            f"tracking.{key}={name}: W&B takes 1 to {LONGEST_NAME} letters without / \\ # ? % and colons. "
            f"Set tracking.{key}."
        )


def import_wandb(asked: str) -> Any:
    """Return the module.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import wandb
    except ImportError as error:
        raise ValueError(
            f'{asked}: needs wandb ({error}). Install it with pip install "sparsemm[wandb]", '
            "or leave tracking out."
        ) from error
    return wandb


def has_key() -> bool:
    """Say whether `wandb login` left a key on this machine, or the environment has one; nothing is sent."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    named = os.environ.get("NETRC")
    files = [Path(named)] if named else [Path.home() / ".netrc", Path.home() / "_netrc"]
    host = urlparse(os.environ.get("WANDB_BASE_URL", "")).hostname
    for file in files:
        with contextlib.suppress(OSError, netrc.NetrcParseError):
            hosts = netrc.netrc(file).hosts
            if host in hosts if host else any("wandb" in name for name in hosts):
                return True
    return False
