"""Score against budget: one panel per task, one line per method, the full cache dashed, intervals shaded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsemm.results.entries import Entry
from sparsemm.results.notes import PERCENT, metric_name, scale
from sparsemm.results.tables import Row, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_PANELS = 12
WIDTH_IN, PANEL_HEIGHT_IN, PANELS_ABREAST = 9.0, 3.5, 3
# Okabe and Ito's palette: told apart by colour-blind readers; the marker tells them apart in print as well
STYLES = {
    "full": ("#000000", ""),
    "sparsemm": ("#D55E00", "o"),
    "snapkv": ("#0072B2", "s"),
    "pyramidkv": ("#009E73", "^"),
    "adakv": ("#CC79A7", "D"),
    "random": ("#7F7F7F", "v"),
    "window": ("#E69F00", "p"),
}
SPARE = (("#56B4E9", "X"), ("#8C6D1F", "<"), ("#4B3F99", ">"), ("#882255", "h"))
DASHES = ("-", (0, (4, 1.5)), (0, (1.5, 1.5)), (0, (5, 1.5, 1, 1.5)))  # rows of one method


def draw(tables: Sequence[Table], folder: Path, name: str = "figure") -> list[Path]:
    """Write <name>.png and <name>.svg; of more than MOST_PANELS tables, the first ones."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    shown = [table for table in tables if table.entries][:MOST_PANELS]
    if not shown:
        return []
    abreast = min(len(shown), PANELS_ABREAST)
    deep = math.ceil(len(shown) / abreast)
    several_models = len({table.model for table in shown}) > 1
    styles = _styles(shown)
    look = {
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "svg.hashsalt": "sparsemm",  # the same table gives the same file
        "svg.fonttype": "none",
    }
    with mpl.rc_context(look):
        width = WIDTH_IN if abreast > 1 else 6.5
        figure = Figure(figsize=(width, PANEL_HEIGHT_IN * deep + 0.7), layout="constrained")
        panels = figure.subplots(deep, abreast, squeeze=False).ravel()
        handles: dict[str, Any] = {}
        for panel, table in zip(panels, shown, strict=False):
            handles |= _panel(panel, table, styles)
            panel.set_title(f"{table.task}, {table.model}" if several_models else table.task)
        for panel in panels[len(shown) :]:
            panel.set_axis_off()
        columns = min(len(handles), 4)
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=columns, frameon=False)
        paths = [folder / f"{name}.png", folder / f"{name}.svg"]
        figure.savefig(paths[0], dpi=160)
        figure.savefig(paths[1], metadata={"Date": None})
    return paths


def _styles(tables: Sequence[Table]) -> dict[Row, tuple[str, str, Any]]:
    """Give every row its colour and marker: a method's first row the method's own, the others free ones."""
    rows = list(dict.fromkeys(row for table in tables for row in table.rows))
    used = {STYLES[row.family] for row in rows if row.family in STYLES}
    free = [style for style in (*SPARE, *STYLES.values()) if style not in used and style[1]]
    seen: dict[str, int] = {}
    taken = 0
    styles = {}
    for row in rows:
        nth = seen[row.family] = seen.get(row.family, -1) + 1
        style = STYLES.get(row.family) if nth == 0 else None
        if style is None:
            style = free[taken % len(free)]
            taken += 1
        styles[row] = (*style, DASHES[nth % len(DASHES)])
    return styles


def _panel(panel: Axes, table: Table, styles: dict[Row, tuple[str, str, Any]]) -> dict[str, Any]:
    factor = scale(table.metric)
    positions = _positions(panel, table)
    handles: dict[str, Any] = {}
    for row in reversed(table.rows):  # the first rows are drawn last, on top
        color, marker, dash = styles[row]
        constant = table.entries.get((row, None))
        if constant is not None and constant.score is not None:
            line = panel.axhline(
                factor * constant.score, color=color, linestyle="--", linewidth=1.4, zorder=3
            )
            if constant.low is not None and constant.high is not None:
                panel.axhspan(
                    factor * constant.low, factor * constant.high, color=color, alpha=0.06, linewidth=0
                )
            handles[table.name(row)] = line
        points = [_scored(table, row, column) for column in table.columns]
        if any(point is not None for point in points):
            x = [positions[column] for column in table.columns]
            (line,) = panel.plot(
                x,
                [factor * (point.score or 0.0) if point else math.nan for point in points],  # gap: not run
                color=color,
                marker=marker,
                linestyle=dash,
                linewidth=1.8,
                markersize=5.5,
                markeredgecolor="white",
                markeredgewidth=0.6,
                zorder=4,
            )
            low, high = (
                [
                    math.nan if (bound := getattr(point, side, None)) is None else factor * bound
                    for point in points
                ]
                for side in ("low", "high")
            )
            panel.fill_between(x, low, high, color=color, alpha=0.12, linewidth=0)
            handles[table.name(row)] = line
    panel.set_ylabel(metric_name(table.metric) + (" (%)" if table.metric in PERCENT else ""))
    panel.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    panel.set_axisbelow(True)
    return dict(reversed(handles.items()))


def _scored(table: Table, row: Row, column: Any) -> Entry | None:
    entry = table.entries.get((row, column))
    return entry if entry is not None and entry.score is not None else None


def _positions(panel: Axes, table: Table) -> dict[Any, float]:
    """Put the columns on the axis: logarithmic for budgets of one kind, evenly spaced otherwise."""
    columns = table.columns
    texts = [str(column) for column in columns]
    percent = [text.endswith("%") for text in texts]
    logarithmic = table.column_key == "budget" and bool(columns) and (all(percent) or not any(percent))
    if logarithmic:
        panel.set_xscale("log", base=2)
        positions = [float(text.removesuffix("%")) for text in texts]
    else:
        positions = [float(number) for number in range(len(columns))]
    panel.set_xticks(positions, texts)
    panel.minorticks_off()
    kind = "share of the prompt kept" if columns and all(percent) else "budget (entries per KV head)"
    panel.set_xlabel(kind if table.column_key == "budget" else table.column_key)
    return dict(zip(columns, positions, strict=True))
