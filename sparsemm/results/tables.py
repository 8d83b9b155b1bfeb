"""From results to tables: one per (model, task), rows are methods, columns are budgets (or another key).

A row also carries whatever else varies for its method (rho, scorer, ...). Seeds of one cell are averaged per
document. Nothing is filled in: a cell that was not run has no entry.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from sparsemm.results.entries import Entry, Result, compare, make_entry
from sparsemm.results.names import NAMES, SEEDED, variant_texts
from sparsemm.results.scales import Scale, scale_of
from sparsemm.results.siblings import fitting
from sparsemm.results.statements import Statement

VARIANTS = ("budget", "scorer", "allocator", "rho", "window", "rounding")
SEEDS = 5  # a random method with fewer says so


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What an experiment says, and how its table is laid out."""

    title: str
    sentence: str  # what the table supports, or does not
    columns: str = "budget"  # the label's key whose values are the columns
    methods: tuple[str, ...] = tuple(NAMES)  # order of the rows; other methods follow by name
    paper: str | None = None  # the paper's table with the same cells: table1 .. table4
    rounding: str = "paper"  # of the cells that a verdict on the paper may rest on
    beside: str | None = (
        None  # the experiment whose cells stand beside these: the same ones, another rounding
    )
    statements: tuple[Statement, ...] = ()  # what the paper's numbers say
    figure: bool = False  # the figure is the product: the tables go to files, not to the terminal


@dataclass(frozen=True)
class Row:
    """A method and what tells it apart from the method's other rows."""

    method: str
    variant: tuple[tuple[str, Any], ...]  # (key, value), only keys that vary

    @property
    def family(self) -> str:
        """Return the method without what the sweep added to tell cells apart: `snapkv rho=0` is snapkv."""
        return self.method.partition(" ")[0]

    def name(self, seeds: int = 1) -> str:
        """Return the name to show."""
        extra = [*self.method.split(" ")[1:], *variant_texts(self.variant)]
        if self.family in SEEDED or seeds > 1:
            extra.append(f"{seeds} seed{'s' * (seeds != 1)}")
        name = NAMES.get(self.family, self.family)
        return f"{name} ({', '.join(extra)})" if extra else name


@dataclass(frozen=True, kw_only=True)
class Table:
    """The cells of one model and task."""

    model: str
    task: str
    metric: str
    column_key: str
    rows: tuple[Row, ...]
    columns: tuple[Any, ...]
    entries: Mapping[tuple[Row, Any], Entry]  # column None: holds in every column, as the full cache does
    comparisons: int  # number of paired tests that Holm's correction covers
    labels: Mapping[tuple[Row, Any], Mapping[str, Any]]  # of every place, run or not
    paper: str | None = None  # the paper's table with the same cells
    beside: Mapping[tuple[Row, Any], Entry] = field(default_factory=dict)
    beside_name: str = ""  # `exact`

    @property
    def scale(self) -> Scale:
        """Return how scores are shown."""
        return scale_of(self.metric, self.paper, self.model, self.task)

    def entry(self, row: Row, column: Any) -> Entry | None:
        """Return what is at this place, if it was run."""
        return self.entries.get((row, column)) or self.entries.get((row, None))

    def name(self, row: Row) -> str:
        """Return the row's name, with its number of seeds."""
        return self._names[row]

    @cached_property
    def _names(self) -> dict[Row, str]:
        seeds = dict.fromkeys(self.rows, 0)
        for (row, _), entry in self.entries.items():
            seeds[row] = max(seeds[row], len(entry.fingerprints))
        return {row: row.name(count) for row, count in seeds.items()}

    def column_entries(self, column: Any) -> dict[Row, Entry]:
        """Return the entries that belong to this column alone: the methods that are compared in it."""
        return {row: self.entries[row, column] for row in self.rows if (row, column) in self.entries}


def build_tables(
    results: Iterable[Result],
    expected_labels: Iterable[Mapping[str, Any]] = (),
    claim: Claim | None = None,
    beside_results: Iterable[Result] = (),
) -> list[Table]:
    """Lay the results out; labels that are expected and not there leave an empty place.

    Labels tell cells apart: the sweep makes them so (sparsemm.sweep.cells.with_distinct_labels).
    `beside_results` are those of the claim's sibling experiment: they stand beside the same places.
    """
    claim = claim or Claim(title="", sentence="")
    found = list(results)
    assert len({label_key(result["label"]) for result in found}) == len(found), "equal labels"
    missing = missing_labels([result["label"] for result in found], expected_labels)
    places: dict[tuple[str, str], list[tuple[Mapping[str, Any], Result | None]]] = defaultdict(list)
    for result in found:
        places[result["label"]["model"], result["label"]["task"]].append((result["label"], result))
    for label in missing:
        places[label["model"], label["task"]].append((label, None))
    tables = [_table(*key, places[key], claim) for key in sorted(places)]
    siblings = fitting(found, beside_results) if claim.beside else []
    if not siblings:
        return tables
    name = str(claim.beside).rpartition("_")[2]
    beside = {(t.model, t.task): t for t in build_tables(siblings, (), replace(claim, beside=None))}
    return [
        replace(table, beside=_places_of(table, beside[key]), beside_name=name)
        if (key := (table.model, table.task)) in beside
        else table
        for table in tables
    ]


def missing_labels(
    present: Iterable[Mapping[str, Any]], expected: Iterable[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Return the expected labels that have no result."""
    have = Counter(label_key(label) for label in present)
    missing: list[Mapping[str, Any]] = []
    for label in expected:
        key = label_key(label)
        if have[key]:
            have[key] -= 1
        else:
            missing.append(label)
    return missing


def budget_key(value: Any) -> tuple[int, float, str]:
    """Order numbers first, then percentages, then names."""
    if isinstance(value, int | float):
        return 0, float(value), ""
    text = str(value)
    try:
        return (1, float(text.removesuffix("%")), "") if text.endswith("%") else (0, float(text), "")
    except ValueError:
        return 2, 0.0, text


def _places_of(table: Table, other: Table) -> dict[tuple[Row, Any], Entry]:
    """The other table's entries at this table's places; a method with several rows there has none here."""
    rows: dict[str, list[Row]] = defaultdict(list)
    for row in other.rows:
        rows[row.method].append(row)
    own = Counter(row.method for row in table.rows)
    return {
        (row, column): other.entries[rows[row.method][0], column]
        for row in table.rows
        if own[row.method] == 1 and len(rows[row.method]) == 1
        for column in (None, *table.columns)
        if (rows[row.method][0], column) in other.entries
    }


def label_key(label: Mapping[str, Any]) -> str:
    """Return what equal labels share."""
    return json.dumps(dict(label), sort_keys=True, default=str)


def _table(
    model: str, task: str, places: list[tuple[Mapping[str, Any], Result | None]], claim: Claim
) -> Table:
    labels = [label for label, _ in places]
    varying = {
        method: _varying(method, labels, claim.columns) for method in {label["method"] for label in labels}
    }
    cells: dict[tuple[Row, Any], list[Result]] = defaultdict(list)
    labels_at: dict[tuple[Row, Any], Mapping[str, Any]] = {}
    for label, result in places:
        row = Row(label["method"], tuple((key, label.get(key)) for key in varying[label["method"]]))
        place = row, label.get(claim.columns)
        cells[place] += [result] if result else []
        labels_at.setdefault(place, label)
    rank = {method: number for number, method in enumerate(claim.methods)}
    rows = sorted(
        {row for row, _ in cells},
        key=lambda row: (
            rank.get(row.family, len(rank)),
            row.method,
            [budget_key("" if value is None else value) for _, value in row.variant],
        ),
    )
    columns = sorted({column for _, column in cells if column is not None}, key=budget_key)
    entries = {place: make_entry(group) for place, group in cells.items() if group}
    metric = next((str(result["metric"]) for _, result in places if result), "")
    entries, comparisons = compare(entries)
    return Table(
        model=model,
        task=task,
        metric=metric,
        column_key=claim.columns,
        rows=tuple(rows),
        columns=tuple(columns),
        entries=entries,
        comparisons=comparisons,
        labels=labels_at,
        paper=claim.paper,
    )


def _varying(method: str, labels: list[Mapping[str, Any]], columns: str) -> list[str]:
    """Return the keys that must be part of the method's row names."""
    own = [label for label in labels if label["method"] == method]
    averaged = {"seed", "mask_seed"}
    others = sorted(
        {key for label in own for key in label} - {"model", "task", "method", *averaged, *VARIANTS}
    )
    keys = []
    for key in [*VARIANTS, *others]:
        values: dict[Any, set[Any]] = defaultdict(set)
        for label in own:
            # where the window is the budget (the paper's Table 2) it belongs to the column
            values[label.get(columns) if key == "window" else None].add(label.get(key))
        if key != columns and any(len(found) > 1 for found in values.values()):
            keys.append(key)
    return keys
