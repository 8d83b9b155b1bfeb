"""Figure 6 and the table of five methods as text: ours, the paper's, and full cache / SparseMM of each."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparsemm.results import efficiency
from sparsemm.results.efficiency import DECODES, MEASURES, OURS, Measured, Place, Way, machine_text
from sparsemm.results.figures_efficiency import NOT_MEASURED
from sparsemm.results.names import NAMES
from sparsemm.results.render import markdown

DIGITS = 2  # of milliseconds, GB and ratios
FIGURE, TABLE = "figure 6", "table at 16K"
WHAT = {"decode": "Milliseconds per token", "memory": "Peak memory, GB (1e9 bytes)"}
COLUMNS = (
    *(
        "part",
        "measure",
        "model",
        "prompt_tokens",
        "decode",
        "method",
        "budget",
        "unit",
        "ours",
        "ours_full_to_this",
    ),
    *("paper", "paper_full_to_this", "backend", "device", "when"),
)


@dataclass(frozen=True, kw_only=True)
class Line:
    """A method at a place, ours beside the paper's; None: not measured, or not printed."""

    part: str  # FIGURE | TABLE
    measure: str
    shape: str
    prompt_tokens: int
    way: Way
    ours: Measured | None
    full: Measured | None  # the full cache, decoded the same way
    paper: float | None
    paper_full: float | None

    @property
    def value(self) -> float | None:
        """Return ours."""
        return self.ours.value if self.ours else None

    @property
    def ratio(self) -> float | None:
        """Return ours of the full cache / this; None across machines."""
        if self.ours is None or self.full is None or self.ours.machine != self.full.machine:
            return None
        return self.full.value / self.ours.value

    @property
    def paper_ratio(self) -> float | None:
        """Return the paper's full cache / this."""
        return None if self.paper is None or self.paper_full is None else self.paper_full / self.paper


def lines(found: Mapping[Place, Measured], shapes: Sequence[str], methods: Sequence[str]) -> list[Line]:
    """Return every place of the figure, measured or not, by measure, model, prompt and way of decoding.

    Args:
        found: what was measured.
        shapes: models.
        methods: of the figure.
    """
    return [
        _line(found, FIGURE, measure, shape, prompt, Way(OURS, method, budget, decode))
        for measure in MEASURES
        for shape in shapes
        for prompt in _prompts(found, measure, shape)
        for decode in _decodes(found, measure, shape)
        for method in methods
        for budget in _budgets(found, measure, shape, method)
    ]


def table_16k(found: Mapping[Place, Measured]) -> list[Line]:
    """Return the places of the paper's table of five methods, measured or not."""
    shape, prompt, by_method = efficiency.paper_16k()
    return [
        _line(found, TABLE, "decode", shape, prompt, Way(OURS, method, budget, decode))
        for decode in _decodes(found, "decode", shape)
        for method in by_method
        for budget in [None if method == "full" else efficiency.paper_budget()]
    ]


def _line(
    found: Mapping[Place, Measured], part: str, measure: str, shape: str, prompt: int, way: Way
) -> Line:
    full = way._replace(method="full", budget=None)
    return Line(
        part=part,
        measure=measure,
        shape=shape,
        prompt_tokens=prompt,
        way=way,
        ours=found.get(Place(measure, shape, way, prompt)),
        full=found.get(Place(measure, shape, full, prompt)),
        paper=_paper(part, measure, shape, way, prompt),
        paper_full=_paper(part, measure, shape, full, prompt),
    )


def _paper(part: str, measure: str, shape: str, way: Way, prompt: int) -> float | None:
    if way.budget not in (None, efficiency.paper_budget()):
        return None
    if part == TABLE:
        return efficiency.paper_16k()[2].get(way.method)
    return efficiency.paper_curve(measure, shape, way.method).get(prompt)


def _prompts(found: Mapping[Place, Measured], measure: str, shape: str) -> list[int]:
    ours = {place.prompt_tokens for place in found if (place.measure, place.shape) == (measure, shape)}
    return sorted(ours | set(efficiency.paper_curve(measure, shape, "full")))


def _decodes(found: Mapping[Place, Measured], measure: str, shape: str) -> list[str | None]:
    if measure == "memory":
        return [None]
    ways = [place.way for place in found if (place.measure, place.shape) == (measure, shape)]
    return [one for one in DECODES if any((way.way, way.decode) == (OURS, one) for way in ways)] or [None]


def _budgets(found: Mapping[Place, Measured], measure: str, shape: str, method: str) -> Sequence[int | None]:
    if method == "full":
        return (None,)
    places = [place.way for place in found if (place.measure, place.shape) == (measure, shape)]
    known = {way.budget for way in places if (way.way, way.method) == (OURS, method) and way.budget}
    return sorted(known) or (efficiency.paper_budget(),)


def to_csv(shown: Sequence[Line]) -> str:
    """Return a line per method and place."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for line in shown:
        machine = line.ours.machine if line.ours else {}
        backend = (line.ours.backend if line.ours else None) or ""
        writer.writerow(
            [
                *(line.part, line.measure, line.shape, line.prompt_tokens, line.way.decode or ""),
                *(line.way.method, line.way.budget or "", MEASURES[line.measure][2]),
                *(_shown(line.value, 4), _number(line.ratio, 4)),
                *(_number(line.paper), _number(line.paper_ratio, 4)),
                *(backend, machine.get("device", ""), machine.get("when", "")),
            ]
        )
    return stream.getvalue()


def to_markdown(shown: Sequence[Line], title: str, sentence: str) -> str:
    """Return a table per part, measure and model."""
    parts = [f"## {markdown(title)}", markdown(sentence)]
    groups: dict[tuple[str, str, str], list[Line]] = {}
    for line in shown:
        groups.setdefault((line.part, line.measure, line.shape), []).append(line)
    for (part, measure, shape), group in groups.items():
        five = f", {len({line.way.method for line in group})} methods" if part == TABLE else ""
        parts += [f"### {WHAT[measure]}{five}: {markdown(shape)}", _table(group)]
    machines = dict.fromkeys(machine_text(line.ours.machine) for line in shown if line.ours)
    parts += [f"Measured on: {'; '.join(map(markdown, machines))}."] if machines else []
    return "\n\n".join(parts) + "\n"


def _table(group: Sequence[Line]) -> str:
    names = ["prompt, tokens", "method"] + ["decode"] * any(line.way.decode for line in group)
    names += ["ours", "full / this"]
    paper = any(line.paper is not None for line in group)
    names += ["paper", "paper: full / this"] if paper else []
    rows = [names, ["---"] + ["---:" if name not in ("method", "decode") else "---" for name in names[1:]]]
    for line in group:
        budget = f", budget {line.way.budget}" if line.way.budget else ""
        row = [f"{line.prompt_tokens:,}", NAMES.get(line.way.method, line.way.method) + budget]
        row += [line.way.decode or "-"] * ("decode" in names)
        row += [_shown(line.value), _number(line.ratio)]
        row += [_number(line.paper), _number(line.paper_ratio)] if paper else []
        rows.append([markdown(cell) or "-" for cell in row])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _shown(value: float | None, digits: int = DIGITS) -> str:
    if value is None:
        return NOT_MEASURED
    return f"{value:.{digits}f}" if value >= 1 else f"{value:.3g}"  # a small model's GB


def _number(value: Any, digits: int = DIGITS) -> str:
    return "" if value is None else f"{value:.{digits}f}"
