"""One place of a table: a cell, or its seeds together, and how it compares with the best of its column."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from sparsemm.results import statistics
from sparsemm.results.statistics import Floats

Result = Mapping[str, Any]
HEAD_SCORED = ("visual_heads", "permuted_heads", "headkv")  # allocators that read head scores
PAPERS_HEADS = ("imported from", "synthdog/")  # how the data of the paper's head scores begins
UNKNOWN = "unknown data"
R = TypeVar("R", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One place of a table: a cell, or the seeds of one cell together."""

    label: Mapping[str, Any]
    fingerprints: tuple[str, ...]
    score: float | None
    low: float | None
    high: float | None
    samples: int  # of one seed
    failed: int  # of all seeds
    failures: tuple[str, ...]
    documents_sha: str | None  # None when the seeds ran on different documents
    scores: Floats  # [documents], NaN where all samples failed
    counts: Floats  # [documents]
    entries_per_head: float | None
    kept_share: float | None
    kept_bytes: float | None
    devices: frozenset[str]
    whole: bool = False  # every document of the benchmark's own split was asked
    published: bool = False  # model and task were set up as conf/protocol/paper.yaml has them
    head_data: str | None = None  # what its head scores were found on; None: it uses none
    spread: tuple[float, float] | None = None  # scores of the lowest and the highest of several seeds
    best: bool = False
    p: float | None = None  # against the best of the column, Holm-adjusted

    @property
    def same_as_best(self) -> bool:
        """Say whether the difference from the best of the column is not significant."""
        return not self.best and self.p is not None and self.p > statistics.LEVEL

    @property
    def foreign_heads(self) -> str | None:
        """What the head scores were found on, where they are not the paper's nor found on its data."""
        found = self.head_data
        return None if found is None or found.startswith(PAPERS_HEADS) else found


FIGURES: dict[str, Callable[[Entry], Any]] = {
    "seeds": lambda entry: len(entry.fingerprints),
    "score": lambda entry: entry.score,
    "low": lambda entry: entry.low,
    "high": lambda entry: entry.high,
    "best": lambda entry: entry.best,
    "p_holm": lambda entry: entry.p,
    "samples": lambda entry: entry.samples,
    "failed": lambda entry: entry.failed,
    "documents": lambda entry: len(entry.scores),
    "entries_per_head": lambda entry: entry.entries_per_head,
    "kept_share": lambda entry: entry.kept_share,
    "kept_bytes": lambda entry: entry.kept_bytes,
    "device": lambda entry: " + ".join(sorted(entry.devices)),
    "fingerprints": lambda entry: " ".join(entry.fingerprints),
}


def figures(entry: Entry) -> dict[str, Any]:
    """Return the entry's columns of a data frame."""
    return {key: get(entry) for key, get in FIGURES.items()}


def make_entry(results: Sequence[Result]) -> Entry:
    """Join the results of a cell's seeds: scores averaged per document, then over documents."""
    results = sorted(results, key=lambda result: str(result["fingerprint"]))  # the same answer in any order
    first = results[0]
    documents = [result["documents"] for result in results]
    sha = first["documents"]["ids_sha"] if len({d["ids_sha"] for d in documents}) == 1 else None
    scored = [result["score"] for result in results if result["score"] is not None]
    score, low, high = (
        (first["score"], first["low"], first["high"]) if len(results) == 1 else (None, None, None)
    )
    scores, counts = np.array([]), np.array([])
    if sha is not None:
        scores, counts = statistics.merge_seeds(
            np.array([d["scores"] for d in documents], np.float64),
            np.array([d["counts"] for d in documents], np.float64),
        )
    if len(results) > 1 and scored:
        score = math.fsum(scored) / len(scored)  # `compare` adds the interval, for a whole table at once
    return Entry(
        label=first["label"],
        fingerprints=tuple(result["fingerprint"] for result in results),
        score=score,
        low=low,
        high=high,
        samples=first["samples"],
        failed=sum(result["failed"] for result in results),
        failures=tuple(reason for result in results for reason in result["failures"]),
        documents_sha=sha,
        scores=scores,
        counts=counts,
        entries_per_head=_mean(results, "entries_per_head"),
        kept_share=_mean(results, "kept_share"),
        kept_bytes=_mean(results, "kept_bytes"),
        spread=(min(scored), max(scored)) if len(scored) > 1 else None,
        devices=frozenset(str(result["provenance"]["device"]) for result in results),
        whole=all(result.get("whole") is True for result in results),
        published=all(result.get("published") is True for result in results),
        head_data=_head_data(results),
    )


def _head_data(results: Sequence[Result]) -> str | None:
    found = {
        str(result.get("head_data") or UNKNOWN)
        for result in results
        if result.get("head_data") or result["label"].get("allocator") in HEAD_SCORED
    }
    foreign = {data for data in found if not data.startswith(PAPERS_HEADS)}
    return ", ".join(sorted(foreign or found)) or None


def _mean(results: Sequence[Result], key: str) -> float | None:
    values = [result[key] for result in results if result[key] is not None]
    return math.fsum(values) / len(values) if values else None


def compare(entries: Mapping[tuple[R, Any], Entry]) -> tuple[dict[tuple[R, Any], Entry], int]:
    """Mark the best of every column, test the others against it, and give averaged seeds their interval.

    A place is (row, column); column None stays outside the comparison, as the full cache does.
    Returns the marked entries, and the number of tests that Holm's correction covers.
    """
    marked = dict(entries)
    rival: dict[tuple[R, Any], tuple[R, Any]] = {}  # place -> the best of its column, to be tested against
    for column in dict.fromkeys(column for _, column in entries if column is not None):
        here = {p: e.score for p, e in entries.items() if p[1] == column and e.score is not None}
        if not here or max(here.values()) - min(here.values()) <= statistics.EQUAL:
            continue
        best = max(here, key=here.__getitem__)
        for place, score in here.items():
            if here[best] - score <= statistics.EQUAL:
                marked[place] = replace(marked[place], best=True)
            elif _comparable(entries[place], entries[best]):
                rival[place] = best
    averaged = [p for p, e in entries.items() if e.score is not None and e.low is None and e.documents_sha]
    groups: dict[str, dict[tuple[R, Any], int]] = defaultdict(dict)  # documents -> place -> column of `means`
    for place in (*rival, *rival.values(), *averaged):
        group = groups[str(entries[place].documents_sha)]
        group.setdefault(place, len(group))
    p_values: dict[tuple[R, Any], float] = {}
    for group in groups.values():
        means = statistics.resampled_means(
            np.stack([entries[place].scores for place in group]),
            np.stack([entries[place].counts for place in group]),
            statistics.resamples_for(len(rival)),
        )
        joined = [place for place in averaged if place in group]
        lows, highs = statistics.intervals(means[:, [group[place] for place in joined]])
        for place, low, high in zip(joined, lows.tolist(), highs.tolist(), strict=True):
            marked[place] = replace(marked[place], low=low, high=high)
        for best in dict.fromkeys(rival[place] for place in group if place in rival):
            others = [place for place in group if rival.get(place) == best]
            chosen = means[:, [group[best], *(group[place] for place in others)]]
            p_values |= dict(zip(others, statistics.paired_p_values(chosen, 0)[1:].tolist(), strict=True))
    for place, p in zip(p_values, statistics.holm(list(p_values.values())).tolist(), strict=True):
        marked[place] = replace(marked[place], p=p)
    return marked, len(rival)


def _comparable(entry: Entry, best: Entry) -> bool:
    return entry.documents_sha is not None and entry.documents_sha == best.documents_sha
