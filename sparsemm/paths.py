"""Where things are: package data by name, hub repositories by id, everything else by path."""

import re
from importlib.resources import files
from pathlib import Path

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def resolve(path: str) -> Path:
    """A folder or file: `pkg://package/inside` for what ships with a package, else a path (with ~)."""
    if path.startswith("pkg://"):
        package, _, inside = path.removeprefix("pkg://").partition("/")
        return Path(str(files(package).joinpath(inside)))
    return Path(path).expanduser()


def is_hub_id(path: str) -> bool:
    """Whether `path` names a repository of a hub: it looks like owner/name, and no such folder is here."""
    return _HUB_ID.fullmatch(path) is not None and not Path(path).exists()


def absolute(path: str) -> str:
    """The same place from any working directory; hub ids and pkg:// stay as they are."""
    return path if "://" in path or is_hub_id(path) else str(Path(path).expanduser().absolute())
