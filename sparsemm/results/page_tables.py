"""Tables and curves of the page, as plain values: what the template and the script show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sparsemm.results import compare
from sparsemm.results.entries import Entry
from sparsemm.results.figures import paper_score, styles_of
from sparsemm.results.names import column_name, metric_name
from sparsemm.results.notes import entry_text, kept_rows, legend, notes, number, title
from sparsemm.results.tables import Row, Table

Colors = Mapping[Row, str]


def colors_of(tables: Sequence[Table]) -> dict[Row, str]:
    """Return the figure's colour of every row."""
    return {row: color for row, (color, *_) in styles_of(tables).items()}


def table_view(table: Table, colors: Colors) -> dict[str, Any]:
    """Return a table as the template shows it."""
    columns = table.columns or (None,)
    return {
        "title": title(table),
        "model": table.model,
        "task": table.task,
        "column_key": column_name(table.column_key),
        "columns": [str(column) for column in table.columns] or ["score"],
        "rows": [
            {
                "name": table.name(row),
                "color": colors[row],
                "cells": [_cell(table, table.entry(row, column)) for column in columns],
                "beside": [(line.name, line.texts) for line in compare.lines(table, row)],
            }
            for row in table.rows
        ],
        "kept": kept_rows(table) if table.columns else [],
        "notes": [*legend(table, best="bold", same="≈", failed="†"), *notes(table)],
    }


def curve_view(table: Table, colors: Colors, several_models: bool) -> dict[str, Any] | None:
    """Return a table's curves; None where it has no columns or no scores."""
    texts = [str(column) for column in table.columns]
    lines = [_line(table, row, colors[row]) for row in table.rows]
    if not texts or not any(line for line in lines):
        return None
    shares = [text.endswith("%") for text in texts]
    log = table.column_key == "budget" and (all(shares) or not any(shares))
    kind = "share of the prompt kept" if all(shares) else "budget: entries per KV head"
    return {
        "task": table.task,
        "owner": table.model,
        "model": table.model if several_models else "",
        "metric": metric_name(table.metric) + (", %" if table.scale.unit == "%" else ""),
        "digits": table.scale.digits,
        "column_key": column_name(table.column_key),
        "log": log,
        "x": [float(text.removesuffix("%")) for text in texts] if log else list(range(len(texts))),
        "ticks": texts,
        "xlabel": f"{kind} (log scale)" if log else column_name(table.column_key),
        "lines": [line for line in lines if line],
    }


def _line(table: Table, row: Row, color: str) -> dict[str, Any] | None:
    entries = [table.entry(row, column) for column in table.columns]
    if all(entry is None or entry.score is None for entry in entries):
        return None
    shown = [paper_score(table, row, column) for column in table.columns]
    paper = [None if math.isnan(one) else one for one in shown]
    constant = (row, None) in table.entries
    return {
        "name": table.name(row),
        "color": color,
        "constant": constant,
        "dash": [7, 4] if constant else [],
        "paper": paper if any(one is not None for one in paper) else None,
        **{
            key: [_scaled(table, entry, field) for entry in entries]
            for key, field in (("y", "score"), ("low", "low"), ("high", "high"))
        },
    }


def _scaled(table: Table, entry: Entry | None, field: str) -> float | None:
    value = None if entry is None else getattr(entry, field)
    return None if value is None else round(table.scale.factor * value, 6)


def _cell(table: Table, entry: Entry | None) -> dict[str, Any]:
    text, between = entry_text(entry, table.scale)
    value = None if entry is None else entry.score
    return {
        "text": text,
        "between": between.replace("-", "–"),  # noqa: RUF001
        "value": "" if value is None else repr(value),
        "best": bool(entry and entry.best),
        "same": bool(entry and entry.same_as_best),
        "failed": bool(entry and entry.failed),
        "title": _about(entry) if entry else "no result yet",
    }


def _about(entry: Entry) -> str:
    parts = [f"{entry.samples} samples on {len(entry.scores)} documents"]
    if len(entry.fingerprints) > 1:
        parts.append(f"{len(entry.fingerprints)} seeds")
    if entry.entries_per_head is not None:
        parts.append(f"keeps {number(entry.entries_per_head)} entries per head")
    if entry.kept_share is not None:
        parts.append(f"{number(100 * entry.kept_share, 1)} % of the prompt")
    if entry.p is not None:
        parts.append(f"against the best p = {entry.p:.2g} (Holm)")
    return "; ".join(parts)
