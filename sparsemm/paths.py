"""Where things are: package data by name, everything else by path."""

from importlib.resources import files
from pathlib import Path


def resolve(path: str) -> Path:
    """A folder or file: `pkg://package/inside` for what ships with a package, else a path (with ~)."""
    if path.startswith("pkg://"):
        package, _, inside = path.removeprefix("pkg://").partition("/")
        return Path(str(files(package).joinpath(inside)))
    return Path(path).expanduser()
