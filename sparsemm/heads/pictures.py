"""Pictures of head scores: a heat map, how few heads carry how much, and where heads look on an image.

The only importer of matplotlib here. Every picture is drawn in two themes; papers want the light one.
"""

import io
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from sparsemm.heads.compare import count_of, cumulative
from sparsemm.heads.overlay import Shown, Spoken
from sparsemm.heads.watch import Head

BEST = 0.05  # of the heads: marked in the heat map
MARKED = (0.05, 0.1)  # of the heads: marked on the curve
CONTEXT = 16  # letters beside a word
DPI, PAGE_DPI = 200, 110  # of files for papers, and within the page
LEAST_INCHES = 2.1  # height of a heat map: the label of its scale


@dataclass(frozen=True)
class Theme:
    """Colours. The scale runs from the paper's colour to the strongest."""

    name: str
    ink: str
    paper: str
    faint: str
    ring: str
    scale: tuple[str, ...]
    lines: tuple[str, ...]


# lines: Okabe and Ito's palette, told apart by colour-blind readers
LIGHT = Theme(
    "light", "#1a1a1a", "#ffffff", "#c9c9c9", "#3fa7e8", ("#f6f3ee", "#f3b27a", "#d55e00", "#5c2300"),
    ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#7f7f7f", "#e69f00"),
)  # fmt: skip
DARK = Theme(
    "dark", "#e6e6e6", "#16181d", "#4a4f59", "#0072b2", ("#22252c", "#7a3a0c", "#f07c1e", "#ffe3c2"),
    ("#ff8a33", "#56b4e9", "#2fc39b", "#e39cc4", "#a5a5a5", "#f0c040"),
)  # fmt: skip
THEMES = (LIGHT, DARK)


def png(draw: Callable[[Theme], Any], theme: Theme, dpi: int = DPI) -> bytes:
    """A picture as a PNG file; the same picture gives the same bytes."""
    import matplotlib as mpl

    look = {
        "font.size": 9,
        "figure.facecolor": theme.paper,
        "axes.facecolor": theme.paper,
        "savefig.facecolor": theme.paper,
        "axes.spines.top": False,
        "axes.spines.right": False,
        **dict.fromkeys(
            ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"),
            theme.ink,
        ),
    }
    stream = io.BytesIO()
    with mpl.rc_context(look), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a script that the font lacks: boxes
        draw(theme).savefig(stream, format="png", dpi=dpi, metadata={"Software": None})
    return stream.getvalue()


def heat_map(scores: Tensor) -> Callable[[Theme], Any]:
    """Layers x heads; the best 5 % have a ring."""

    def draw(theme: Theme) -> Any:
        figure = _figure(*_map_size(scores))
        _heat_map(figure, figure.subplots(), scores, theme)
        return figure

    return draw


def heat_maps(scores: Mapping[str, Tensor]) -> Callable[[Theme], Any]:
    """Several heat maps side by side."""

    def draw(theme: Theme) -> Any:
        sizes = [_map_size(one) for one in scores.values()]
        figure = _figure(sum(width for width, _ in sizes), max(height for _, height in sizes) + 0.3)
        for axes, (name, one) in zip(
            figure.subplots(1, len(scores), squeeze=False)[0], scores.items(), strict=True
        ):
            _heat_map(figure, axes, one, theme)
            axes.set_title(_short(name, 34), fontsize=9)
        return figure

    return draw


def curves(scores: Mapping[str, Tensor]) -> Callable[[Theme], Any]:
    """The share of the score that the best heads carry, of one file or several."""

    def draw(theme: Theme) -> Any:
        figure = _figure(4.6, 3.4)
        axes = figure.subplots()
        for number, (name, one) in enumerate(scores.items()):
            shares = 100 * np.concatenate([[0], cumulative(one).numpy()])
            x = np.linspace(0, 100, len(shares))
            color = theme.lines[number % len(theme.lines)]
            axes.plot(x, shares, color=color, linewidth=1.8, label=_short(name, 40), zorder=3)
            if len(scores) > 1:
                continue
            for share in MARKED:
                heads = count_of(one, share)
                axes.plot(x[heads], shares[heads], "o", color=color, markersize=5, zorder=4)
                axes.annotate(
                    f"{heads} of {one.numel()} heads: {shares[heads]:.0f} %",
                    (x[heads], shares[heads]),
                    (9, -3),
                    textcoords="offset points",
                    va="top",
                    fontsize=8.5,
                )
        axes.plot([0, 100], [0, 100], color=theme.faint, linestyle="--", linewidth=1, zorder=2)
        axes.annotate("all heads alike", (72, 69), color=theme.ink, alpha=0.65, fontsize=8, va="top")
        axes.set(xlim=(0, 100), ylim=(0, 102), xlabel="best heads, % of all", ylabel="share of the score, %")
        axes.grid(color=theme.faint, linewidth=0.4, alpha=0.6)
        axes.set_axisbelow(True)
        if len(scores) > 1:
            legend = axes.legend(loc="lower right", frameon=True, fontsize=8)
            legend.get_frame().set(facecolor=theme.paper, edgecolor="none", alpha=0.9)
        return figure

    return draw


def overlay(shown: Shown, best: Sequence[Head], worst: Sequence[Head]) -> Callable[[Theme], Any]:
    """A row per word, a column per head; the word that is being read has a frame."""
    heads = [*best, *worst]

    def draw(theme: Theme) -> Any:
        width, height = shown.image.size
        side = 1.55
        tall = min(2.0, max(0.5, height / width)) * side
        figure = _figure(1.35 + side * len(heads), (tall + 0.1) * len(shown.words) + 0.4)
        grid = figure.subplots(
            len(shown.words), len(heads) + 1, squeeze=False, width_ratios=[0.8, *[1] * len(heads)]
        )
        for number, (row, spoken) in enumerate(zip(grid, shown.words, strict=True)):
            _said(row[0], spoken)
            for place, axes in enumerate(row[1:]):
                _look(axes, shown, spoken, place, theme)
                if number == 0:
                    kind = "visual" if place < len(best) else "not visual"
                    layer, head = heads[place]
                    axes.set_title(f"layer {layer}, head {head}\n{kind}", fontsize=8)
        return figure

    return draw


def _said(axes: Any, spoken: Spoken) -> None:
    """The word that is being read, within its answer."""
    axes.set_axis_off()
    before = " ".join(spoken.before.split())[-CONTEXT:]
    after = " ".join(spoken.after.split())[:CONTEXT]
    word = "\n".join(textwrap.wrap(spoken.word, 12)) or spoken.word
    left: dict[str, Any] = {"ha": "right", "transform": axes.transAxes, "parse_math": False}
    axes.text(1, 0.5, word, va="center", fontsize=10, fontweight="bold", **left)
    axes.text(1, 0.68, f"\N{HORIZONTAL ELLIPSIS}{before}", va="center", fontsize=7, alpha=0.7, **left)
    axes.text(1, 0.32, f"{after}\N{HORIZONTAL ELLIPSIS}", va="center", fontsize=7, alpha=0.7, **left)


def _look(axes: Any, shown: Shown, spoken: Spoken, place: int, theme: Theme) -> None:
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Rectangle

    width, height = shown.image.size
    grey = np.asarray(shown.image.convert("L"), dtype=np.float32) / 255
    page = 0.35 + 0.65 * grey  # pale, so that attention stands out
    heat = spoken.heat[place].numpy()
    rows, columns = np.arange(height) * heat.shape[0] // height, np.arange(width) * heat.shape[1] // width
    strength = heat[rows][:, columns] / max(float(heat.max()), 1e-12)
    alpha = 0.85 * strength[..., None]
    color = np.array(to_rgb(LIGHT.lines[0]))
    axes.imshow((1 - alpha) * page[..., None] + alpha * color, extent=(0, width, height, 0))
    left, top, right, bottom = spoken.box
    axes.add_patch(
        Rectangle(
            (left - 1, top - 1),
            right - left + 2,
            bottom - top + 2,
            fill=False,
            edgecolor="#0072b2",
            linewidth=1.3,
        )
    )
    axes.set(xticks=[], yticks=[], xlim=(0, width), ylim=(height, 0))
    axes.set_xlabel(f"{100 * float(spoken.inside[place]):.0f} % on the word", fontsize=7.5, labelpad=2)
    for spine in axes.spines.values():
        spine.set(visible=True, color=theme.faint)


def _heat_map(figure: Any, axes: Any, scores: Tensor, theme: Theme) -> None:
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import Rectangle

    layers, heads = scores.shape
    share = (100 * scores.double() / scores.double().sum()).numpy()
    colors = LinearSegmentedColormap.from_list(theme.name, theme.scale)
    image = axes.imshow(share, cmap=colors, vmin=0, aspect="equal", interpolation="nearest")
    for place in (
        scores.flatten().sort(descending=True, stable=True).indices[: count_of(scores, BEST)].tolist()
    ):
        layer, head = divmod(place, heads)
        axes.add_patch(
            Rectangle((head - 0.5, layer - 0.5), 1, 1, fill=False, edgecolor=theme.ring, linewidth=1.6)
        )
    for axis, size in ((axes.xaxis, heads), (axes.yaxis, layers)):
        axis.set_ticks(range(0, size, 1 if size <= 12 else 4))
        axis.set_tick_params(length=0)
    axes.set(xlabel="query head", ylabel="layer")
    for spine in axes.spines.values():
        spine.set_visible(False)
    bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03, aspect=24)
    bar.outline.set_visible(False)
    bar.set_label("share of the score, %")


def _map_size(scores: Tensor) -> tuple[float, float]:
    """Inches."""
    layers, heads = scores.shape
    cell = min(0.36, 4.2 / max(layers, heads))
    return cell * heads + 1.6, max(cell * layers + 0.8, LEAST_INCHES)


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}\N{HORIZONTAL ELLIPSIS}"
