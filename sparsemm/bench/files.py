"""bench.json and bench.csv: whole after every result; what an earlier run left is kept beside them."""

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsemm.bench.results import COLUMNS, Result
from sparsemm.results.files import write_atomically

FORMAT = 1
NAMES = ("bench.json", "bench.csv")
HEADER = ("measure", "shape", *dict.fromkeys(key for keys in COLUMNS.values() for key in keys), "error")


class BenchFiles:
    """The files of one run.

    Args:
        folder: where to. What is there goes to earlier-1, earlier-2, ... when the first result comes.
        settings: as resolved.
        machine: as `machine.describe` tells it.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], machine: Mapping[str, Any]):
        self.folder, self.results = folder, list[Result]()
        self.head = {"format": FORMAT, "settings": dict(settings), "machine": dict(machine)}

    def add(self, found: Result) -> None:
        """Write everything so far, this result included."""
        if not self.results:
            keep_earlier(self.folder)
        self.results.append(found)
        write_atomically(self.folder / "bench.json", json.dumps(self.content, indent=1) + "\n")
        write_atomically(self.folder / "bench.csv", _csv(self.results))

    @property
    def content(self) -> dict[str, Any]:
        """Of bench.json."""
        return {**self.head, "results": self.results}


def keep_earlier(folder: Path) -> None:
    """Move the files of an earlier run into a folder of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    left = [folder / name for name in NAMES if (folder / name).exists()]
    if not left:
        return
    number = 1
    while (folder / f"earlier-{number}").exists():
        number += 1
    aside = folder / f"earlier-{number}"
    aside.mkdir()
    for file in left:
        file.rename(aside / file.name)


def all_runs(folder: Path) -> list[dict[str, Any]]:
    """What this run and the earlier ones of a folder found, oldest first."""
    earlier = sorted(folder.glob("earlier-*/bench.json"), key=lambda file: (len(str(file)), file))
    files = [*earlier, folder / "bench.json"]  # `when` has seconds: of equal ones the numbers decide
    found = [json.loads(file.read_text()) for file in files if file.is_file()]
    return sorted(
        (one for one in found if one.get("format") == FORMAT), key=lambda one: str(one["machine"]["when"])
    )


def _csv(results: list[Result]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, HEADER, lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {key: " ".join(map(str, value)) if isinstance(value, list) else value for key, value in one.items()}
        for one in results
    )
    return text.getvalue()
