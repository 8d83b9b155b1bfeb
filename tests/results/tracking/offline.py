"""The offline files of W&B read back, and compared with the store value by value."""

from __future__ import annotations

import csv
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparsemm.results.store import Store
from sparsemm.results.wandb_content import GROUP, SUMMARY

SAME = ("question", "answer", "score", "error")  # of a sample, here and there
BLOCK = 32768  # LevelDB's log format, as .wandb files have it, behind a header of 7 bytes


def records_of(file: Path) -> Iterator[Any]:
    """The protobuf records of a .wandb file."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, parts = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if BLOCK - place % BLOCK < 7:
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        if kind == 0:
            break
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # full, or last of several
            record = Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


@dataclass
class ReadRun:
    """A run as its offline file has it."""

    folder: Path
    id: str = ""
    name: str = ""
    group: str = ""
    job_type: str = ""
    project: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: dict[str, Any] = field(default_factory=dict)  # of all steps
    points: list[dict[str, Any]] = field(default_factory=list)  # of each step
    artifacts: list[Any] = field(default_factory=list)

    def table(self, key: str) -> dict[str, Any]:
        """Columns and data of a table, as the artifact has them that goes with it."""
        assert (self.folder / "files" / self.history[key]["path"]).is_file()
        return json.loads(self.staged(f"{key}.table.json").read_bytes())

    def staged(self, path: str) -> Path:
        """What an artifact of the run has at this path."""
        found = {one.path: one for artifact in self.artifacts for one in artifact.manifest.contents}
        return Path(found[path].local_path)


def read_run(folder: Path) -> ReadRun:
    """Everything that a run's folder says."""
    (file,) = folder.glob("run-*.wandb")
    run = ReadRun(folder)
    for record in records_of(file):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found = record.run
            run.id, run.name, run.group, run.job_type = (
                found.run_id,
                found.display_name,
                found.run_group,
                found.job_type,
            )
            run.project, run.tags = found.project, list(found.tags)
            run.config |= {item.key: json.loads(item.value_json) for item in found.config.update}
        elif kind == "config":
            run.config |= {item.key: json.loads(item.value_json) for item in record.config.update if item.key}
        elif kind == "summary":
            for item in record.summary.update:
                run.summary[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
        elif kind == "history":
            items = record.history.item
            run.points.append(
                {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
            )
            for item in record.history.item:
                *above, last = [item.key] if item.key else item.nested_key
                place = run.history
                for key in above:
                    place = place.setdefault(key, {})
                place[last] = json.loads(item.value_json)
        elif kind == "artifact" or (
            kind == "request" and record.request.WhichOneof("request_type") == "log_artifact"
        ):
            run.artifacts.append(
                record.artifact if kind == "artifact" else record.request.log_artifact.artifact
            )
    return run


def runs_like_the_store(root: Path) -> tuple[dict[str, ReadRun], ReadRun]:
    """The runs of cells and the report's, after each value was found equal to what the store has.

    Args:
        root: of the store; a report of all its cells was tracked.
    """
    found = [read_run(one) for one in sorted((root / "wandb").glob("offline-run-*"))]
    results = {one["fingerprint"]: one for one in map(_read, root.glob("cells/*/*/result.json"))}
    reports = [one for one in found if one.job_type == "report"]
    cells = {one.id: one for one in found if one.job_type == "cell"}
    assert len(reports) == 1 and len(cells) + 1 == len(found), "a run is there twice"
    assert cells.keys() == results.keys()
    store = Store(root)
    for fingerprint, result in results.items():
        run, label = cells[fingerprint], result["label"]
        told = {theirs: result.get(ours) for ours, theirs in SUMMARY.items()}
        told |= {f"group/{key}": result["group"][key] for key in GROUP}
        assert {key: run.summary.get(key) for key in told} == told
        assert {key: run.config.get(key) for key in label} == label
        assert run.group == reports[0].group and label["method"] in run.tags
        records = store.cell(fingerprint).samples().records
        table = run.table("samples")
        rows = [dict(zip(table["columns"], line, strict=True)) for line in table["data"]]
        assert rows and {row["sample"] for row in rows} <= records.keys()
        for row in rows:
            record = records[row["sample"]]
            assert [row[key] for key in SAME] == [record[key] for key in SAME]
            assert run.staged(row["image"]["path"]).stat().st_size > 100
    (folder,) = (root / "reports").glob(reports[0].group)
    with (folder / "table.csv").open(newline="") as lines:
        places = list(csv.DictReader(lines))
    table = reports[0].table("results")
    for place, line in zip(places, table["data"], strict=True):
        for key, value in zip(table["columns"], line, strict=True):
            assert place[key] == ("" if value is None else str(value)), (place, key)
    return cells, reports[0]


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content
