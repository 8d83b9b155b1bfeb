"""Which code runs: the commit and the difference of the clone that this file lies in."""

import hashlib
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

UNKNOWN = {"commit": None, "dirty": None, "diff": None}


def git_state() -> dict[str, Any]:
    """Commit, dirty flag, and a hash of the difference ('' where there is none); None outside a clone."""
    try:
        commit, dirty = _git("rev-parse", "HEAD"), _git("status", "--porcelain")
        if Path(_git("rev-parse", "--show-toplevel").strip()) != _root():
            return dict(UNKNOWN)
        text = git_diff()
    except (OSError, subprocess.CalledProcessError):
        return dict(UNKNOWN)
    short = hashlib.sha256(text.encode()).hexdigest()[:12] if text else ""
    return {"commit": commit.strip(), "dirty": bool(dirty.strip()), "diff": short}


def git_diff() -> str:
    """What differs from the commit in tracked files."""
    return _git("diff", "HEAD", "--no-color", "--no-ext-diff")


def changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """How the code differs from when a sweep was submitted, in words; '' where it does not, or is unknown."""
    if then.get("commit") is None or now.get("commit") is None:
        return ""
    if then["commit"] != now["commit"]:
        return f"commit {then['commit'][:10]} was submitted, {now['commit'][:10]} is here now"
    if then.get("diff") is not None and then["diff"] != now["diff"]:
        return f"tracked files differ otherwise from commit {now['commit'][:10]} than at submission"
    return ""


def _root() -> Path:
    return Path(__file__).resolve().parents[2]


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(_root()), *arguments], capture_output=True, text=True, errors="replace", check=True
    )
    return done.stdout
