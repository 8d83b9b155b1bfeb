"""What a reader of a table must know: sizes, entries really kept, failures, seeds, devices, marks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sparsemm.results import compare
from sparsemm.results.entries import Entry
from sparsemm.results.names import NAMES, SEEDED, column_name, metric_name
from sparsemm.results.scales import Scale
from sparsemm.results.statistics import LEVEL, MOST_RESAMPLES
from sparsemm.results.tables import SEEDS, Row, Table, budget_key

SHOWN = 5  # items of a long list
MASKED = "mask_share"  # columns of tables about masked heads


def number(value: float, digits: int = 2) -> str:
    """Format without trailing zeros: 64, 63.97."""
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _size(count: float) -> str:
    return f"{number(count / 1e6)} MB" if count >= 1e6 else f"{number(count / 1e3, 1)} kB"


KEPT: dict[str, tuple[str, Callable[[float], str]]] = {
    "entries_per_head": ("Entries per head", number),
    "kept_share": ("Share of the prompt", lambda share: f"{number(100 * share, 1)}%"),
    "kept_bytes": ("KV cache per prompt", _size),
}


def kept_rows(table: Table) -> list[tuple[str, list[str]]]:
    """Return what was really kept: one row where all methods keep the same, else one per method."""
    rows = []
    for key, (title, show) in KEPT.items():
        by_column = [_kept(table, column, key) for column in table.columns]
        alike = all(equal(column.values()) for column in by_column)
        if key == "entries_per_head" or alike or not table.paper:  # else the entries say it
            rows += _kept_by(table, title, show, by_column)
    if table.beside:
        title, show = KEPT["entries_per_head"]
        by_column = [
            _values(table.rows, table.beside, column, "entries_per_head") for column in table.columns
        ]
        rows += _kept_by(table, f"{title} ({table.beside_name})", show, by_column)
    return rows


def _kept_by(
    table: Table, title: str, show: Callable[[float], str], by_column: list[dict[Row, float]]
) -> list[tuple[str, list[str]]]:
    if all(equal(column.values()) for column in by_column):
        return [(title, [show(next(iter(c.values()))) if c else "-" for c in by_column])]
    owners = [row for row in table.rows if any(row in column for column in by_column)]
    return [
        (f"{title}, {table.name(row)}", [show(c[row]) if row in c else "-" for c in by_column])
        for row in owners
    ]


def equal(values: Iterable[float]) -> bool:
    """Say whether all values are the same up to rounding."""
    found = list(values)
    return not found or max(found) - min(found) <= 1e-9 * max(1.0, max(found))


def notes(table: Table) -> list[str]:
    """Return the notes below a table, most important first."""
    parts = (_sizes, _constant, _entries, _above_prompt, _heads, _failed, _seeds, _spread, _untested, _mixed)
    own = [line for part in (*parts, _resolution) for line in part(table)]
    return [*own, *compare.notes(table)]


def legend(table: Table, *, best: str, same: str, failed: str) -> list[str]:
    """Explain the marks that the table uses."""
    entries = list(table.entries.values())
    lines = []
    if any(entry.best for entry in entries):
        among = "" if table.column_key == MASKED else ", among the compressed methods"
        lines.append(f"{best}: best of its column{among}.")
    if any(entry.same_as_best for entry in entries):
        lines.append(
            f"{same}: not significantly different from the best (paired bootstrap over documents, "
            f"level {LEVEL}, Holm-corrected over the table's {table.comparisons} comparisons)."
        )
    elif table.comparisons:
        lines.append(
            f"All differences from the best are significant (paired bootstrap over documents, level {LEVEL}, "
            f"Holm-corrected over {table.comparisons} comparisons)."
        )
    if any(entry.failed for entry in entries):
        lines.append(f"{failed}: some samples failed; they are in no mean.")
    if any(table.entry(row, column) is None for row in table.rows for column in table.columns):
        lines.append("-: no result yet.")
    return [*lines, *compare.legend(table)]


def _sizes(table: Table) -> list[str]:
    groups: dict[tuple[int, int], list[str]] = defaultdict(list)
    for (row, column), entry in table.entries.items():
        groups[entry.samples, len(entry.scores)].append(_where(table, row, column))
    if not groups:
        return []
    if len(groups) == 1:
        ((samples, documents),) = groups
        return [
            f"n = {samples} samples on {documents} documents; intervals (95 %) and tests resample documents."
        ]
    return [
        f"n = {samples} samples on {documents} documents: {_list(places)}."
        for (samples, documents), places in sorted(groups.items(), key=lambda group: -len(group[1]))
    ]


def _constant(table: Table) -> list[str]:
    lines = []
    for row in table.rows:
        entry = table.entries.get((row, None))
        if entry:
            kept = [
                show(value) for key, (_, show) in KEPT.items() if (value := getattr(entry, key)) is not None
            ]
            figures = (
                f" It keeps {kept[0]} entries per head ({', '.join(kept[1:])})." if len(kept) == 3 else ""
            )
            lines.append(
                f"{table.name(row)}: one run{', shown in every column' * bool(table.columns)}.{figures}"
            )
    return lines


def _entries(table: Table) -> list[str]:
    compared = [entry for (_, column), entry in table.entries.items() if column is not None]
    if not compared:
        return []
    roundings = sorted({str(entry.label.get("rounding")) for entry in compared})
    by_column = {column: _kept(table, column, "entries_per_head") for column in table.columns}
    uneven = [column for column, kept in by_column.items() if not equal(kept.values())]
    lines = []
    if len(roundings) > 1:
        lines.append(f"CAUTION: rows mix rounding {' and '.join(roundings)}: their real budgets differ.")
    if uneven:
        spread = max(max(by_column[c].values()) - min(by_column[c].values()) for c in uneven)
        lines.append(
            f"CAUTION: methods do not keep the same number of entries (rounding {', '.join(roundings)}) at "
            f"{table.column_key} {_list(map(str, uneven))}: up to {spread:.3g} entries per head apart."
        )
    elif any(len(kept) > 1 for kept in by_column.values()) and roundings != ["None"]:
        lines.append(
            f"All methods keep the same number of entries in every column (rounding {roundings[0]})."
        )
    return lines


def _above_prompt(table: Table) -> list[str]:
    if table.column_key == MASKED:
        return []
    shares = {column: _kept(table, column, "kept_share") for column in table.columns}
    above = [str(c) for c, kept in shares.items() if kept and min(kept.values()) >= 1 - 1e-9]
    return [f"{table.column_key} {_list(above)}: above the prompt, nothing is compressed."] if above else []


def _heads(table: Table) -> list[str]:
    """What the head scores were found on, for the rows that use any."""
    users: dict[str, dict[str, None]] = defaultdict(dict)
    for (row, _), entry in table.entries.items():
        if entry.head_data is not None:
            users[entry.head_data][NAMES.get(row.family, row.family)] = None
    return [f"Head scores of {_list(rows)}: {data}." for data, rows in users.items()]


def _failed(table: Table) -> list[str]:
    lines = []
    for (row, column), entry in table.entries.items():
        if entry.failed:
            total = entry.samples * len(entry.fingerprints)
            where = _where(table, row, column)
            lines.append(
                f"{where}: {entry.failed} of {total} samples failed ({'; '.join(entry.failures[:2])})."
            )
    more = [f"Samples failed in {len(lines) - SHOWN} more places."] if len(lines) > SHOWN else []
    return lines[:SHOWN] + more


def _seeds(table: Table) -> list[str]:
    lines = []
    for row in table.rows:
        own = {c: len(e.fingerprints) for (owner, c), e in table.entries.items() if owner == row}
        columns = sorted(own, key=budget_key)
        few = [f"{column} ({own[column]})" for column in columns if own[column] < SEEDS]
        if few and (row.family in SEEDED or max(own.values()) > 1):
            lines.append(f"{table.name(row)}: fewer than {SEEDS} seeds at {table.column_key} {_list(few)}.")
    return lines


def _spread(table: Table) -> list[str]:
    """The lowest and the highest seed, where the draw of heads is what varies."""
    if table.column_key != MASKED:
        return []
    lines = []
    for row in table.rows:
        own = [
            f"{column}: {table.scale.text(entry.spread[0])} to {table.scale.text(entry.spread[1])}"
            for column in table.columns
            if (entry := table.entries.get((row, column))) is not None and entry.spread is not None
        ]
        lines += [f"{table.name(row)}, lowest and highest seed at {', '.join(own)}."] if own else []
    return [*lines, "In the figure these are thin upright lines; shaded: 95 %."] if lines else []


def _untested(table: Table) -> list[str]:
    places = [
        _where(table, row, column)
        for column in table.columns
        for row, entry in table.column_entries(column).items()
        if entry.p is None and not entry.best and any(e.best for e in table.column_entries(column).values())
    ]
    return [f"Not tested against the best (other documents, or no score): {_list(places)}."] if places else []


def _mixed(table: Table) -> list[str]:
    count: dict[str, int] = defaultdict(int)
    for entry in table.entries.values():
        for device in entry.devices:
            count[device] += 1
    if len(count) < 2:
        return []
    devices = ", ".join(f"{device} ({cells} places)" for device, cells in sorted(count.items()))
    return [f"CAUTION: cells ran on different devices: {devices}; scores may differ by more than the method."]


def _resolution(table: Table) -> list[str]:
    if 2 * table.comparisons / (MOST_RESAMPLES + 1) <= LEVEL:
        return []
    return [
        f"{table.comparisons} comparisons are more than {MOST_RESAMPLES} resamples can resolve: no "
        "difference can be significant here. Report fewer cells at once."
    ]


def _kept(table: Table, column: Any, key: str) -> dict[Row, float]:
    return _values(table.rows, table.entries, column, key)


def _values(
    rows: Iterable[Row], entries: Mapping[tuple[Row, Any], Entry], column: Any, key: str
) -> dict[Row, float]:
    values = ((row, getattr(entries[row, column], key)) for row in rows if (row, column) in entries)
    return {row: value for row, value in values if value is not None}


def _where(table: Table, row: Row, column: Any) -> str:
    return table.name(row) if column is None else f"{table.name(row)} at {column}"


def _list(items: Iterable[str]) -> str:
    found = list(items)
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return ", ".join(found[:SHOWN]) + more


def title(table: Table) -> str:
    """Return the table's heading."""
    unit = f"{metric_name(table.metric)}{', %' * (table.scale.unit == '%')}" if table.metric else ""
    what = f"{table.task} ({unit or 'nothing run yet'})"
    return f"{what}, model {table.model}, by {column_name(table.column_key)}"


def entry_text(entry: Entry | None, scale: Scale) -> tuple[str, str]:
    """Return score and interval as text: '-' for a place that was not run, '?' for no score."""
    if entry is None:
        return "-", ""
    if entry.score is None:
        return "?", ""
    text = scale.text(entry.score)
    if entry.low is None or entry.high is None:
        return text, ""
    return text, f"{scale.text(entry.low)}-{scale.text(entry.high)}"
