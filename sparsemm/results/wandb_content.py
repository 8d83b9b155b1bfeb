"""What W&B gets of a cell and of a report: plain values, made from the store, nothing of the environment."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sparsemm.results.entries import Result
from sparsemm.results.frames import frame
from sparsemm.results.names import METRICS, variant_texts
from sparsemm.results.notes import entry_text, title
from sparsemm.results.page_tables import colors_of, curve_view
from sparsemm.results.tables import Row, Table

SUMMARY = {  # ours -> W&B's; intervals are 95 %
    "score": "score",
    "low": "score_low",
    "high": "score_high",
    "samples": "samples",
    "failed": "failed",
    "entries_per_head": "entries_per_head",
    "kept_share": "kept_share",
    "kept_bytes": "kept_bytes",
}
GROUP = ("wall_s", "peak_memory_bytes", "rows", "cells")  # of all cells that were answered together
SAMPLE = ("sample", "image", "question", "answer", "references", "score", "kept_share", "error")


@dataclass(frozen=True, kw_only=True)
class RunContent:
    """A run of W&B; `tables` and `curves` are plain, `samples` are rows of `SAMPLE` without the image."""

    id: str
    name: str
    report: str  # that shows it; others may show the same cell
    job_type: str  # cell | report | bench
    tags: tuple[str, ...]  # besides the reports
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    samples: Sequence[tuple[int, tuple[Any, ...]]] = ()  # index of the sample, its row
    tables: Mapping[str, tuple[list[str], list[list[Any]]]] = field(default_factory=dict)
    curves: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()  # points of native charts, by `step`
    step: str = ""  # what the points vary: budget, rho, prompt_tokens
    fingerprint: str = ""
    images_of: str = ""  # runs that share it have the same images

    @property
    def digest(self) -> str:
        """Return what changes with the content, and with nothing else: not with the report that shows it."""
        content = {key: value for key, value in vars(self).items() if key != "report"}
        text = json.dumps(content, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()


def run_id(name: str, suffix: str) -> str:
    """Return an id that W&B takes."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", f"{name}-{suffix}" if suffix else name)[:120]


def cell_run(
    result: Result, report: str, records: Mapping[str, Mapping[str, Any]], most: int, suffix: str = ""
) -> RunContent:
    """Return the run of a finished cell.

    Args:
        result: the cell's.
        report: the sweep's or the experiment's name.
        records: its samples.
        most: rows of the sample table; evenly spaced samples where there are more.
        suffix: of the run's id.
    """
    label = {key: value for key, value in result["label"].items() if value is not None}
    provenance = result["provenance"]
    config = {
        **label,
        "fingerprint": result["fingerprint"],
        "metric": result["metric"],
        "whole": result.get("whole", False),
        "published": result.get("published", False),
        "identity": result.get("identity", {}),
        **{key: provenance.get(key) for key in ("device", "dtype", "git_commit", "versions")},
    }
    summary = {theirs: result[ours] for ours, theirs in SUMMARY.items() if result.get(ours) is not None}
    group = result.get("group") or {}
    summary |= {f"group/{key}": group[key] for key in GROUP if key in group}
    words = [f"{key} {label[key]}" for key in ("budget", "rho", "seed") if key in label]
    known = list(records.values())
    step = max(1, len(known)) / max(1, min(most, len(known)))
    chosen = [known[int(number * step)] for number in range(min(most, len(known)))]
    return RunContent(
        id=run_id(str(result["fingerprint"]), suffix),
        name=", ".join([str(label["method"]), *words, str(label["task"]), str(label["model"])])[:120],
        report=report,
        job_type="cell",
        tags=tags_of(label["model"], label["task"], label["method"]),
        config=config,
        summary=summary,
        samples=[(int(record.get("index", 0)), _row(record)) for record in chosen],
        fingerprint=str(result["fingerprint"]),
        images_of=json.dumps(result.get("identity", {}).get("task") or result["fingerprint"], sort_keys=True),
    )


def report_run(
    report: str,
    heading: str,
    tables: Sequence[Table],
    results: Sequence[Result],
    missing: int,
    suffix: str = "",
) -> RunContent:
    """Return the run of a report: the paper's tables with ours, paper and difference, and the curves."""
    colors = colors_of(tables)
    several = len({table.model for table in tables}) > 1
    long = frame(tables)
    rows = [[_plain(value) for value in line] for line in long.itertuples(index=False, name=None)]
    content: dict[str, tuple[list[str], list[list[Any]]]] = {"results": (list(map(str, long.columns)), rows)}
    curves = {}
    for table in tables:
        place = f"{table.model}/{table.task}"
        content[f"tables/{place}"] = _wide(table)
        view = curve_view(table, colors, several)
        if view:
            curves[f"curves/{place}"] = {
                "title": title(table),
                "xname": table.column_key,
                "names": [line["name"] for line in view["lines"]],
                "xs": [_there(view["x"], line["y"]) for line in view["lines"]],
                "ys": [_there(line["y"], line["y"]) for line in view["lines"]],
            }
    models = sorted({table.model for table in tables})
    config = {
        "report": report,
        "title": heading,
        "models": models,
        "tasks": sorted({table.task for table in tables}),
        "cells": sorted(str(result["fingerprint"]) for result in results),
    }
    return RunContent(
        id=run_id(f"report-{report}", suffix),
        name=f"report: {report}",
        report=report,
        job_type="report",
        tags=tags_of("report", *models[:3]),
        config=config,
        summary={"cells": len(results), "cells_missing": missing},
        tables=content,
        curves=curves,
        history=_history(tables),
        step=tables[0].column_key if tables else "",
    )


def curve_metrics(table: Table) -> dict[Row, str]:
    """Return where each row's curve is in the report's run: score/<model>/<task>/<method>.

    W&B takes letters, digits and underscores; more seeds do not change a name.
    """
    place = [table.model, table.task]
    names = {row: [*place, " ".join([row.method, *variant_texts(row.variant)])] for row in table.rows}
    return {
        row: "/".join(["score", *(re.sub(r"[^A-Za-z0-9_]", "_", word) for word in words)])
        for row, words in names.items()
    }


def _history(tables: Sequence[Table]) -> list[dict[str, Any]]:
    """Scores by what the columns vary, as the cells' summaries have them; nothing where that is no number."""
    points: dict[float, dict[str, Any]] = {}
    texts = [str(column) for table in tables for column in table.columns]
    shares = bool(texts) and all(text.endswith("%") for text in texts)
    for table in tables:
        for column in table.columns:
            try:
                place = float(str(column).removesuffix("%") if shares else str(column))
            except ValueError:
                return []
            for row, name in curve_metrics(table).items():
                entry = table.entry(row, column)
                if entry is not None and entry.score is not None:
                    points.setdefault(place, {})[name] = entry.score
    return [{tables[0].column_key: place, **points[place]} for place in sorted(points)]


def _wide(table: Table) -> tuple[list[str], list[list[Any]]]:
    """Return the table as it is read: a line per method, a column per budget, scores as text."""
    columns = table.columns or (None,)
    unit = METRICS.get(table.metric, table.metric) + (" %" if table.scale.unit == "%" else "")
    names = [
        "method",
        *(f"{table.column_key} {column}" if column is not None else unit for column in columns),
    ]
    rows = [
        [table.name(row), *(entry_text(table.entry(row, column), table.scale)[0] for column in columns)]
        for row in table.rows
    ]
    return names, rows


def _there(values: Sequence[Any], ys: Sequence[Any]) -> list[Any]:
    return [value for value, y in zip(values, ys, strict=True) if y is not None]


def _plain(value: Any) -> Any:
    """A value of a data frame as W&B stores it: text where columns mix kinds, None where nothing is."""
    if value is None or (isinstance(value, float) and value != value):
        return None
    return value.item() if hasattr(value, "item") else value


def _row(record: Mapping[str, Any]) -> tuple[Any, ...]:
    kept, full = record.get("kept_entries"), record.get("full_entries")
    return (
        record["sample"],
        None,
        record.get("question"),
        record.get("answer"),
        " | ".join(map(str, record.get("references") or [])),
        record.get("score"),
        kept / full if kept is not None and full else None,
        record.get("error"),
    )


def tags_of(*words: Any) -> tuple[str, ...]:
    """W&B takes tags of 1 to 64 letters."""
    return tuple(dict.fromkeys(str(word)[:64] for word in words if word))
