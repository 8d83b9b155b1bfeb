"""What stands beside our scores: the sibling experiment's, the paper's with the difference, later reruns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sparsemm.results import paper
from sparsemm.results.entries import Entry
from sparsemm.results.names import SEEDED
from sparsemm.results.paper import Key, Published
from sparsemm.results.tables import Row, Table

NOT_PRINTED, NOT_LEGIBLE = "n/p", "n/l"
LEGEND = {
    NOT_PRINTED: "not printed in the paper.",
    NOT_LEGIBLE: "in the paper's table, but not legible in the copy that its numbers were read from.",
}
PORT = "llava_next"  # models whose Hugging Face port is not what the paper ran


@dataclass(frozen=True)
class Line:
    """A line below a method's row."""

    name: str
    texts: tuple[str, ...]  # one per column


def lines(table: Table, row: Row) -> list[Line]:
    """Return what stands below the method's scores, in the table's columns."""
    places = table.columns or (None,)
    found = []
    beside = [_beside(table, row, column) for column in places]
    if seeds := max((len(entry.fingerprints) for entry in beside if entry), default=0):
        counted = f" ({seeds} seed{'s' * (seeds != 1)})" * (row.family in SEEDED)
        found.append(Line(table.beside_name + counted, tuple(_score(table, entry) for entry in beside)))
    if _has_paper(table):
        name = _paper_name(table, row)
        found.append(Line(name, tuple(_paper_text(table, row, column) for column in places)))
        found.append(Line("difference", tuple(_difference_text(table, row, column) for column in places)))
        for source in paper.rerun_sources():
            texts = tuple(_rerun_text(table, row, column, source) for column in places)
            found.append(Line(f"rerun {source}", texts))
    return [line for line in found if any(line.texts)]


def columns(table: Table) -> list[str]:
    """Return the names of what `values` gives for this table."""
    names = [table.beside_name] if table.beside else []
    if _has_paper(table):
        names += ["paper", "difference", *(f"rerun_{source}" for source in paper.rerun_sources())]
    return names


def values(table: Table, row: Row, column: Any) -> dict[str, float | None]:
    """Return the numbers beside a place, on the stored scale; None where there is none."""
    found: dict[str, float | None] = {}
    if table.beside:
        entry = _beside(table, row, column)
        found[table.beside_name] = None if entry is None else entry.score
    if _has_paper(table):
        number = published(table, row, column)
        found["paper"] = None if number is None else number.score
        found["difference"] = difference(table, row, column)
        for source in paper.rerun_sources():
            found[f"rerun_{source}"] = _reruns(table, row, column).get(source)
    return found


def published(table: Table, row: Row, column: Any) -> Published | None:
    """Return the paper's number for a place."""
    key = _key(table, row, column)
    return None if key is None or table.paper is None else paper.published(table.paper, key)


def difference(table: Table, row: Row, column: Any) -> float | None:
    """Return ours minus the paper's; None unless both are there and the cell is set up as the paper's."""
    entry, number = table.entry(row, column), published(table, row, column)
    if entry is None or entry.score is None or number is None or not comparable(table):
        return None
    if not entry.published or entry.foreign_heads is not None:
        return None
    return entry.score - number.score


def comparable(table: Table) -> bool:
    """Say whether model and benchmark are the paper's own: any further word tells a variant apart."""
    return " " not in f"{table.model}{table.task}"


def notes(table: Table) -> list[str]:
    """Return what a reader of the lines below the rows must know."""
    if table.paper is None:
        return []
    if not _has_paper(table):
        return [f"The paper has no numbers for {table.task} with {table.model} in this table."]
    source = "arXiv:2506.05344, Table " + table.paper.removeprefix("table")
    said = [
        f"paper: {source}; difference: ours minus the paper's, whose runs have one seed and no intervals."
    ]
    if not comparable(table):
        said = [f"paper: {source}. {_why_not(table)}; not comparable, so no difference is computed."]
    entries = list(table.entries.values())
    if comparable(table):
        said += _no_difference(table)
    if comparable(table) and any(not entry.whole for entry in entries):
        said.append(
            "CAUTION: not every document of the benchmark was asked: differences also show which were."
        )
    roundings = {str(entry.label.get("rounding")) for entry in entries if entry.label.get("rounding")}
    if comparable(table) and roundings - {"paper"}:
        said.append(
            "The paper's code rounds as rounding paper does: here the differences also show another rounding."
        )
    if table.beside:
        said.append(
            f"{table.beside_name}: the same cells with rounding {table.beside_name}; below the methods is "
            "what they keep."
        )
    if table.model.startswith(PORT):
        said.append(
            "The paper ran the original repository's LLaVA-NeXT code and weights; these are the Hugging Face "
            "port, which prepares image tiles, padding and prompt with code of its own."
        )
    if any(line.name.startswith("rerun") for row in table.rows for line in lines(table, row)):
        said.append("rerun: the same cells in later work; sparsemm/data/paper/README.md names it.")
    return said


def _no_difference(table: Table) -> list[str]:
    """Which places have a number of the paper and no difference from it, and why."""
    both = [
        entry for (row, column), entry in table.entries.items() if published(table, row, column) is not None
    ]
    other = [entry for entry in both if not entry.published]
    heads = [entry for entry in both if entry.published and entry.foreign_heads is not None]
    said = []
    if other:
        which = (
            "These cells are" if len(other) == len(both) else f"{len(other)} of these {len(both)} cells are"
        )
        said.append(
            f"{which} not set up as published (protocol=paper and no other setting), so no difference is "
            "computed."
        )
    if heads:
        found = ", ".join(sorted({str(entry.foreign_heads) for entry in heads}))
        said.append(
            f"The paper found its head scores on SynthDoG, and these were found on {found}, so no difference "
            "is computed for the methods that use them."
        )
    return said


def legend(table: Table) -> list[str]:
    """Explain the marks among the lines."""
    shown = {text for row in table.rows for line in lines(table, row) for text in line.texts}
    return [f"{mark}: {meaning}" for mark, meaning in LEGEND.items() if mark in shown]


def _has_paper(table: Table) -> bool:
    if table.paper is None:
        return False
    return paper.is_of(table.paper, table.task.partition(" ")[0], table.model.partition(" ")[0])


def _key(table: Table, row: Row, column: Any) -> Key | None:
    if table.paper is None:
        return None
    label = table.labels.get((row, column)) or table.labels.get((row, None))
    return None if label is None else paper.key_of(table.paper, label)


def _beside(table: Table, row: Row, column: Any) -> Entry | None:
    return table.beside.get((row, column)) or table.beside.get((row, None))


def _score(table: Table, entry: Entry | None) -> str:
    return "-" if entry is None else "?" if entry.score is None else table.scale.text(entry.score)


def _paper_name(table: Table, row: Row) -> str:
    sources = {
        number.source for column in (None, *table.columns) if (number := published(table, row, column))
    }
    return "paper" if sources <= {""} else "paper, " + sorted(sources)[-1].replace("figure", "Figure ")


def _paper_text(table: Table, row: Row, column: Any) -> str:
    key, number = _key(table, row, column), published(table, row, column)
    if number is None or table.paper is None:
        legible = key is None or table.paper is None or not paper.in_grid(table.paper, key)
        return NOT_PRINTED if legible else NOT_LEGIBLE
    return table.scale.text(number.score, number.digits if number.source else None)


def _difference_text(table: Table, row: Row, column: Any) -> str:
    apart, number = difference(table, row, column), published(table, row, column)
    if apart is None or number is None:
        return ""
    return table.scale.signed(apart, number.digits if number.source else None)


def _reruns(table: Table, row: Row, column: Any) -> dict[str, float]:
    key = _key(table, row, column)
    return {} if key is None or table.paper is None else dict(paper.reruns(table.paper, key))


def _rerun_text(table: Table, row: Row, column: Any, source: str) -> str:
    score = _reruns(table, row, column).get(source)
    return "" if score is None else table.scale.text(score, 3)


def _why_not(table: Table) -> str:
    if table.model.endswith(" smoke"):
        return "The cells ran on a small random model and on little data"
    variant = table.model if " " in table.model else table.task
    return f"{variant} is not what the paper ran"
