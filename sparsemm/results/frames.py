"""Tables as one data frame: a line per place, with what stands beside it where the paper has the cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from sparsemm.results import compare
from sparsemm.results.entries import FIGURES, figures
from sparsemm.results.tables import VARIANTS, Table


def frame(tables: Sequence[Table]) -> pd.DataFrame:
    """One line per place of the tables, those that were not run included (score empty)."""
    lines = []
    for table in tables:
        for row in table.rows:
            constant = (row, None) in table.entries
            for column in (None,) if constant else table.columns:
                entry = table.entries.get((row, column))
                label: Mapping[str, Any] = (
                    entry.label if entry else {**dict(row.variant), table.column_key: column}
                )
                budget = label.get("budget")
                line: dict[str, Any] = {"model": table.model, "task": table.task, "metric": table.metric}
                line |= {"row": table.name(row), "method": row.method}
                line["budget"] = None if budget is None else str(budget)
                line |= {key: label.get(key) for key in VARIANTS if key != "budget"}
                lines.append(line | (figures(entry) if entry else {}) | compare.values(table, row, column))
    beside = dict.fromkeys(key for table in tables for key in compare.columns(table))
    columns = ["model", "task", "metric", "row", "method", *VARIANTS, *FIGURES, *beside]
    return pd.DataFrame(lines, columns=columns)
