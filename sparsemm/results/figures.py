"""Score against budget: one panel per model and task, one line per method, the full cache dashed.

Intervals are shaded. Where the paper has the cells, its points are hollow, on a thin dotted line.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsemm.results import compare
from sparsemm.results.entries import Entry
from sparsemm.results.names import column_name, metric_name
from sparsemm.results.notes import MASKED
from sparsemm.results.tables import Row, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_PANELS = 15
LEGEND_IN = (0.6, 0.06)  # width of an entry of the legend: its line, and each letter
PAPER = "the paper (hollow, dotted)"
WIDTH_IN, PANEL_HEIGHT_IN, PANELS_ABREAST = 9.0, 3.5, 3
SMALL_WIDTH_IN, SMALL_HEIGHT_IN = 3.1, 2.7  # of a panel, where models are rows and tasks are columns
# Okabe and Ito's palette: told apart by colour-blind readers; the marker tells them apart in print as well
STYLES = {
    "full": ("#000000", ""),
    "sparsemm": ("#D55E00", "o"),
    "snapkv": ("#0072B2", "s"),
    "pyramidkv": ("#009E73", "^"),
    "adakv": ("#CC79A7", "D"),
    "random": ("#7F7F7F", "v"),
    "window": ("#E69F00", "p"),
    "streamingllm": ("#56B4E9", "X"),
    "headkv": ("#8C6D1F", "<"),
    "permuted": ("#4B3F99", ">"),
}
SPARE = (("#882255", "h"), ("#117733", "P"), ("#AA4499", "d"), ("#332288", "8"))
DASHES = ("-", (0, (4, 1.5)), (0, (1.5, 1.5)), (0, (5, 1.5, 1, 1.5)))  # rows of one method
LOOK = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "sparsemm",  # the same table gives the same file
    "svg.fonttype": "none",
}


def draw(tables: Sequence[Table], folder: Path, name: str = "figure") -> list[Path]:
    """Write <name>.png and <name>.svg; of more than MOST_PANELS tables, the first ones."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    shown = [table for table in tables if table.entries][:MOST_PANELS]
    if not shown:
        return []
    several_models = len({table.model for table in shown}) > 1
    panels_of = _by_model_and_task(shown)
    gridded = len(panels_of) > 1 and len(panels_of[0]) > PANELS_ABREAST
    if not gridded:
        starts = range(0, len(shown), PANELS_ABREAST)
        panels_of = [[*shown[start : start + PANELS_ABREAST]] for start in starts]
    abreast, deep = len(panels_of[0]), len(panels_of)
    styles = styles_of(shown)
    with mpl.rc_context(LOOK):
        size = (WIDTH_IN if abreast > 1 else 6.5, PANEL_HEIGHT_IN * deep + 0.7)
        if gridded:
            size = (SMALL_WIDTH_IN * abreast, SMALL_HEIGHT_IN * deep + 0.7)
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(deep, abreast, squeeze=False)
        handles: dict[str, Any] = {}
        for panels, abreast_tables in zip(grid, panels_of, strict=True):
            for panel, table in itertools.zip_longest(panels, abreast_tables):
                if table is None:
                    panel.set_axis_off()
                    continue
                handles |= _panel(panel, table, styles, shade=0.05 if gridded else 0.12)
                panel.set_title(f"{table.task}, {table.model}" if several_models else table.task)
        if gridded:
            _label_grid(grid, panels_of)
        if any(_has_paper_points(table) for table in shown):
            handles[PAPER] = _paper_handle()
        longest = max(map(len, handles))
        fitting = int(size[0] / (LEGEND_IN[0] + LEGEND_IN[1] * longest))
        columns = max(1, min(len(handles), 8 if gridded else 4, fitting))
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=columns, frameon=False)
        paths = [folder / f"{name}.png", folder / f"{name}.svg"]
        figure.savefig(paths[0], dpi=160)
        figure.savefig(paths[1], metadata={"Date": None})
    return paths


def _label_grid(grid: Any, panels_of: Sequence[Sequence[Table | None]]) -> None:
    """Name the model at the left of its row, and the budget axis below the last row only."""
    for panels, tables in zip(grid, panels_of, strict=True):
        for panel, table in zip(panels, tables, strict=True):
            if table is not None:
                panel.set_title(f"{table.task} ({panel.get_ylabel()})", fontsize=10)
                panel.set_ylabel("")
                panel.set_xlabel(panel.get_xlabel() if panels is grid[-1] else "")
        model = next(table.model for table in tables if table is not None)
        panels[0].set_ylabel(model, fontsize=10)


def _by_model_and_task(tables: Sequence[Table]) -> list[list[Table | None]]:
    """One list per model, with one place per task."""
    found = {(table.model, table.task): table for table in tables}
    models, tasks = (list(dict.fromkeys(names)) for names in zip(*found, strict=True))
    return [[found.get((model, task)) for task in tasks] for model in models]


def styles_of(tables: Sequence[Table]) -> dict[Row, tuple[str, str, Any]]:
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


def _panel(
    panel: Axes, table: Table, styles: dict[Row, tuple[str, str, Any]], shade: float
) -> dict[str, Any]:
    factor = table.scale.factor
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
            panel.fill_between(x, low, high, color=color, alpha=shade, linewidth=0)
            for place, point in zip(x, points, strict=True):
                if table.column_key == MASKED and point is not None and point.spread is not None:
                    lowest, highest = (factor * score for score in point.spread)
                    panel.vlines(place, lowest, highest, color=color, linewidth=0.9, alpha=0.7)
            handles[table.name(row)] = line
        _paper_points(panel, table, row, positions, color, marker)
    panel.set_ylabel(metric_name(table.metric) + (" (%)" if table.scale.unit == "%" else ""))
    panel.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    panel.set_axisbelow(True)
    return dict(reversed(handles.items()))


def _paper_points(
    panel: Axes, table: Table, row: Row, positions: dict[Any, float], color: str, marker: str
) -> None:
    """Draw the paper's numbers of a row, with a gap where there is none."""
    numbers = [paper_score(table, row, column) for column in table.columns]
    if all(math.isnan(number) for number in numbers):
        return
    look: dict[str, Any] = {"color": color, "linestyle": ":", "linewidth": 1.0, "zorder": 2}
    if row.family == "full":
        panel.axhline(numbers[0], **look)
    else:
        look |= {"marker": marker, "markersize": 5.5, "markerfacecolor": "none", "markeredgewidth": 0.9}
        panel.plot([positions[column] for column in table.columns], numbers, **look)


def paper_score(table: Table, row: Row, column: Any) -> float:
    """The paper's number as shown; NaN where there is none, or where ours means something else."""
    number = compare.published(table, row, column) if compare.comparable(table) else None
    return math.nan if number is None else table.scale.factor * number.score


def _has_paper_points(table: Table) -> bool:
    return any(
        not math.isnan(paper_score(table, row, column)) for row in table.rows for column in table.columns
    )


def _paper_handle() -> Any:
    from matplotlib.lines import Line2D

    return Line2D(
        [],
        [],
        color="#444444",
        linestyle=":",
        linewidth=1.0,
        marker="o",
        markersize=5.5,
        markerfacecolor="none",
    )


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
        if table.column_key == MASKED and all(percent):
            positions = [float(text.removesuffix("%")) for text in texts]
    panel.set_xticks(positions, texts)
    panel.minorticks_off()
    kind = "share of the prompt kept" if columns and all(percent) else "budget (entries per KV head)"
    panel.set_xlabel(kind if table.column_key == "budget" else column_name(table.column_key))
    return dict(zip(columns, positions, strict=True))
