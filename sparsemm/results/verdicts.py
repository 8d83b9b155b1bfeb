"""Whether our numbers support what the paper's numbers say.

A verdict needs the paper's model, the whole benchmark under the paper's protocol and settings, and every
cell that the sentence is about. Anything else is `not tested`, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsemm.results import paper, statistics
from sparsemm.results.entries import Entry
from sparsemm.results.names import NAMES
from sparsemm.results.scales import Scale
from sparsemm.results.statements import Numbers, Place, Statement, Sum
from sparsemm.results.tables import Claim, Table

SUPPORTED, NOT_SUPPORTED, NOT_TESTED = "supported", "not supported", "not tested"
SHOWN = 4  # items of a long list


@dataclass(frozen=True)
class Verdict:
    """What our numbers say about a sentence."""

    sentence: str
    verdict: str  # SUPPORTED | NOT_SUPPORTED | NOT_TESTED
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Measured(Numbers):
    """Our numbers of one model and benchmark; sums of them are tested over the same documents."""

    entries: Mapping[Place, Entry]
    scale: Scale
    key: str  # what the columns are: `budget`

    def score(self, place: Place) -> float:
        """Return the place's score."""
        score = self.entries[place].score
        assert score is not None
        return score

    def positive(self, sums: Sequence[Sum]) -> list[bool]:
        """Test each sum by a paired bootstrap; Holm-corrected over the sums."""
        places = dict.fromkeys(place for terms in sums for _, place in terms)
        index = {place: number for number, place in enumerate(places)}
        means = statistics.resampled_means(
            np.stack([self.entries[place].scores for place in index]),
            np.stack([self.entries[place].counts for place in index]),
            statistics.resamples_for(len(sums)),
        )
        drawn = [sum(weight * means[:, index[place]] for weight, place in terms) for terms in sums]
        zero = np.zeros(len(means))
        p_values = [statistics.paired_p_values(np.stack([zero, one], 1), 0)[1] for one in drawn]
        return [
            bool(p <= statistics.LEVEL) and sum(weight * self.score(place) for weight, place in terms) > 0
            for terms, p in zip(sums, statistics.holm(p_values), strict=True)
        ]

    def describe(self, place: Place) -> str:
        """Return the place and its score as prose."""
        method, column = place
        where = "" if column is None else f" at {self.key} {column}"
        return f"{NAMES.get(method, method)}{where} ({self.scale.text(self.score(place))})"


def judge(tables: Sequence[Table], claim: Claim) -> list[Verdict]:
    """Return the verdict on every statement of the claim."""
    return [_judge(statement, tables, claim) for statement in claim.statements]


def _judge(statement: Statement, tables: Sequence[Table], claim: Claim) -> Verdict:
    failed: dict[str, list[str]] = {}
    untested: dict[str, list[tuple[str, str]]] = {}
    cases = [(model, benchmark) for model in statement.models for benchmark in statement.benchmarks]
    for model, benchmark in cases:
        where = f"{benchmark} with {model}"
        numbers = _numbers(statement, tables, model, benchmark, claim)
        if isinstance(numbers, str):
            untested.setdefault(numbers, []).append((model, benchmark))
        elif failures := statement.check.failures(numbers):
            failed[where] = [f"{where}: {failure}" for failure in failures]
    total = f"{len(cases)} {'case' if len(cases) == 1 else 'cases'}"
    held = len(cases) - len(failed) - sum(map(len, untested.values()))
    reasons = [
        f"all {total}: {reason}" if len(where) == len(cases) else f"{reason}: {_cases(where)}"
        for reason, where in untested.items()
    ]
    if failed:
        found = [failure for failures in failed.values() for failure in failures]
        more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
        summary = f"it fails in {len(failed)} of {total}"
        return Verdict(statement.sentence, NOT_SUPPORTED, (summary, *found[:SHOWN], *more, *reasons))
    if untested:
        holds = [f"it holds in {held} of {total}"] if held else []
        return Verdict(statement.sentence, NOT_TESTED, (*holds, *reasons))
    return Verdict(statement.sentence, SUPPORTED, (f"it holds in {held} of {total}",))


def _numbers(
    statement: Statement, tables: Sequence[Table], model: str, benchmark: str, claim: Claim
) -> Measured | str:
    """The numbers that the statement needs, or why there are none."""
    run = [table for table in tables if table.entries]
    table = next((one for one in run if (one.model, one.task) == (model, benchmark)), None)
    if table is None:
        for other in run:
            if (_first(other.model), _first(other.task)) == (model, benchmark):
                name = other.task if other.model == model else other.model
                return "a small random model" if _smoke(name) else f"{name} is a variant of the paper's"
        return "not run with the paper's model and benchmark"
    needed = statement.check.needs()
    entries = {place: entry for place in needed if (entry := _entry(table, place, claim)) is not None}
    missing = [place for place in needed if place not in entries]
    if any((row.method, column) in missing for row, column in table.entries):
        return f"other settings than rounding {claim.rounding} and the paper's rho and window"
    if missing:
        return f"{len(missing)} of {len(needed)} cells not run"
    return _unfit(entries.values()) or Measured(entries, table.scale, table.column_key)


def _unfit(entries: Iterable[Entry]) -> str:
    """Why no verdict may rest on these entries; empty: it may."""
    found = list(entries)
    if any(not entry.whole for entry in found):
        return f"not the whole benchmark (n = {min(entry.samples for entry in found)})"
    if any(not entry.published for entry in found):
        return "model or task not set up as published (protocol=paper, no other setting)"
    if foreign := sorted({data for entry in found if (data := entry.foreign_heads) is not None}):
        return f"head scores found on {', '.join(foreign)}"
    if any(entry.failed or entry.score is None for entry in found):
        return "samples failed"
    if len({entry.documents_sha for entry in found}) > 1 or found[0].documents_sha is None:
        return "the cells were asked different documents"
    return ""


def _entry(table: Table, place: Place, claim: Claim) -> Entry | None:
    """The one entry of a place that is set up as the paper's."""
    found = [
        entry
        for (row, column), entry in table.entries.items()
        if (row.method, column) == place and _as_published(table, entry.label, claim)
    ]
    return found[0] if len(found) == 1 else None


def _as_published(table: Table, label: Mapping[str, Any], claim: Claim) -> bool:
    key = None if claim.paper is None else paper.key_of(claim.paper, label)
    if key is None or claim.paper is None or not paper.in_grid(claim.paper, key):
        return False
    return label.get("rounding") in (None, claim.rounding)


def _first(name: str) -> str:
    return name.partition(" ")[0]


def _smoke(name: str) -> bool:
    return name.endswith(" smoke")


def _cases(cases: Sequence[tuple[str, str]]) -> str:
    """Name the cases: `docvqa, textvqa with qwen2_vl_7b; docvqa with llava_next_vicuna_7b`."""
    benchmarks: dict[str, list[str]] = {}
    for model, benchmark in cases:
        benchmarks.setdefault(model, []).append(benchmark)
    return "; ".join(f"{', '.join(names)} with {model}" for model, names in benchmarks.items())
