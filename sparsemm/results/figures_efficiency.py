"""Milliseconds per token and peak memory against the prompt's length, one column of panels per model.

Line styles tell ways to decode apart, colours methods. The paper's points are hollow, on a thin dotted line.
Where nothing was measured on a GPU, times are ratios: milliseconds of a CPU tell nobody anything.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsemm.results.efficiency import MEASURES, OURS, Measured, Place, Way, curves, paper_curve
from sparsemm.results.figures import LEGEND_IN, LOOK, PANEL_HEIGHT_IN, STYLES
from sparsemm.results.names import NAMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PAPER = "the paper on its hardware"
NOT_MEASURED = "not measured"
RELATIVE = "time per token, relative"
DASHES: dict[str | None, Any] = {"eager": "-", "graph": (0, (4, 1.5)), "compiled": (0, (5, 1.5, 1, 1.5))}
OTHERS = {"transformers": ("#7F7F7F", "v"), "published": ("#E69F00", "p")}  # ways that are not ours
WIDTH_IN, NARROW_IN = 3.3, 6.5  # of a column of panels, of a figure with one
LETTERS_PER_IN = 13  # of the title


def draw_efficiency(
    found: Mapping[Place, Measured],
    shapes: Sequence[str],
    methods: Sequence[str],
    paper: bool,
    title: str,
    folder: Path,
    name: str,
) -> list[Path]:
    """Write <name>.svg and <name>.png.

    Args:
        found: what was measured.
        shapes: a column of panels each.
        methods: of the lines.
        paper: whether the paper's points are drawn.
        title: above the panels.
        folder: there already.
        name: of the files.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(LOOK):
        width = WIDTH_IN * len(shapes) if len(shapes) > 1 else NARROW_IN
        figure = Figure(figsize=(width, PANEL_HEIGHT_IN * len(MEASURES) * 0.8 + 1.1), layout="constrained")
        grid = figure.subplots(len(MEASURES), len(shapes), squeeze=False, sharex="col")
        handles: dict[str, Any] = {}
        for panels, (measure, (_, _, unit)) in zip(grid, MEASURES.items(), strict=True):
            relative = measure == "decode" and bool(found) and not any(one.gpu for one in found.values())
            panels[0].set_ylabel(RELATIVE if relative else unit)
            for panel, shape in zip(panels, shapes, strict=True):
                lines = curves(found, measure, shape)
                if relative:
                    lines = _as_ratios(lines)
                handles |= _panel(panel, lines, measure, shape, methods, paper)
        for column, shape in enumerate(shapes):
            grid[0, column].set_title(shape)
            grid[-1, column].set_xlabel("prompt, tokens")
        figure.suptitle("\n".join(textwrap.wrap(title, int(width * LETTERS_PER_IN))), fontsize=10)
        fitting = int(width / (LEGEND_IN[0] + LEGEND_IN[1] * max(map(len, handles), default=1)))
        columns = max(1, min(len(handles), fitting))
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=columns, frameon=False)
        paths = [folder / f"{name}.svg", folder / f"{name}.png"]
        figure.savefig(paths[0], metadata={"Date": None})
        figure.savefig(paths[1], dpi=160)
    return paths


def _as_ratios(lines: Mapping[Way, Mapping[int, float]]) -> dict[Way, dict[int, float]]:
    """Times over that of the first way after the shortest prompt."""
    first = next((one for points in lines.values() for one in points.values()), 1.0)
    return {way: {prompt: one / first for prompt, one in points.items()} for way, points in lines.items()}


def _panel(
    panel: Axes,
    lines: Mapping[Way, Mapping[int, float]],
    measure: str,
    shape: str,
    methods: Sequence[str],
    paper: bool,
) -> dict[str, Any]:
    prompts = {prompt for points in lines.values() for prompt in points}
    handles: dict[str, Any] = {}
    for way, points in lines.items():
        if way.method not in methods:
            continue
        color, marker = STYLES.get(way.method, ("#882255", "h")) if way.way == OURS else OTHERS[way.way]
        (line,) = panel.plot(
            list(points),
            list(points.values()),
            color=color,
            marker=marker or "o",
            linestyle=DASHES.get(way.decode, "-"),
            linewidth=1.8,
            markersize=5.5,
            markeredgecolor="white",
            markeredgewidth=0.6,
            zorder=4,
        )
        if way.decode is not None:
            handles[way.name] = line
    for method in methods if paper else ():
        points = paper_curve(measure, shape, method)
        prompts |= set(points)
        color, marker = STYLES[method]
        look: dict[str, Any] = {"color": color, "linestyle": ":", "linewidth": 1.0, "zorder": 2}
        look |= {"marker": marker or "o", "markersize": 5.5, "markerfacecolor": "none"}
        (line,) = panel.plot(list(points), list(points.values()), markeredgewidth=0.9, **look)
        handles[f"{NAMES[method]}, {PAPER}"] = line
    if not lines:
        panel.text(0.04, 0.93, f"ours: {NOT_MEASURED}", transform=panel.transAxes, va="top", color="#62656e")
    panel.set_xscale("log", base=2)
    ticks = sorted(prompts)
    panel.set_xticks(ticks, [f"{one // 1024}K" if one % 1024 == 0 else str(one) for one in ticks])
    panel.minorticks_off()
    if prompts:
        panel.set_ylim(0, 1.1 * panel.dataLim.y1)
    panel.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    panel.set_axisbelow(True)
    return handles
