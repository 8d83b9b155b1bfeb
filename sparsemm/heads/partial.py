"""A head search under way: samples that are done, as lines of files that outlive an interruption."""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsemm.heads.files import FORMAT, folder_of, write

COUNTS = ("tokens", "matched", "hits", "repeated", "ambiguous", "unknown", "outside", "regions", "cut")
Shard = tuple[int, int]  # which of how many jobs, each of which reads every n-th sample


@dataclass(frozen=True)
class Found:
    """What one sample gave.

    Args:
        index: its place in the data.
        id: its name there.
        image: hash of its pixels.
        counts: what happened to its tokens and regions.
        scores: [L, Hq] float64.
    """

    index: int
    id: str
    image: str
    counts: Mapping[str, int]
    scores: Tensor


@dataclass
class Partial:
    """Samples that are done: every shard appends to a file of its own, and all read the files of all.

    A file holds the search, then a line per sample. A torn line is left out, and its sample done again.
    """

    file: Path
    search: dict[str, Any]
    found: dict[int, Found] = field(default_factory=dict)

    @classmethod
    def open(cls, out: Path, search: dict[str, Any], shard: Shard = (0, 1)) -> "Partial":
        """What is there of a search whose result goes to `out`.

        Raises:
            ValueError: what is there belongs to another search.
        """
        number, shards = shard
        name = "samples.jsonl" if shards == 1 else f"samples-{number}-of-{shards}.jsonl"
        partial = cls(folder_of(out) / name, search)
        partial.file.parent.mkdir(parents=True, exist_ok=True)
        partial.refresh()
        text = partial.file.read_text() if partial.file.is_file() else ""
        if "\n" not in text:
            partial.file.write_text(json.dumps(search) + "\n")
        elif not text.endswith("\n"):  # the search was stopped while it wrote
            with partial.file.open("a") as stream:
                stream.write("\n")
        return partial

    def refresh(self) -> None:
        """Read what all shards have written."""
        layers, heads = self.search["shape"]
        for file in sorted(self.file.parent.glob("samples*.jsonl")):
            first, *lines = file.read_text().split("\n")
            if not lines:
                continue
            self._check(file, first)
            for line in lines[:-1]:
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue
                scores = torch.zeros(layers * heads, dtype=torch.float64)
                for place, score in entry.pop("scores"):
                    scores[place] = score
                self.found[entry["index"]] = Found(**entry, scores=scores.view(layers, heads))

    def add(self, found: Found) -> None:
        """Append a sample."""
        flat = found.scores.flatten()
        entry = {
            "index": found.index,
            "id": found.id,
            "image": found.image,
            "counts": dict(found.counts),
            "scores": [[place, float(flat[place])] for place in flat.nonzero()[:, 0].tolist()],
        }
        with self.file.open("a") as stream:
            stream.write(json.dumps(entry) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        self.found[found.index] = found

    def _check(self, file: Path, first: str) -> None:
        before = json.loads(first)
        if before != self.search:
            other = ", ".join(key for key in self.search if before.get(key) != self.search[key])
            raise ValueError(
                f"out={self.file.parent}.json: {file} holds samples of another search ({other} differ). "
                f"Remove {self.file.parent}, or give another out."
            )


def merge(
    out: Path, partial: Partial, count: int, asked: int, name: str, git: Mapping[str, object]
) -> dict[str, Any]:
    """Write the mean over the samples 0 .. count - 1 that matched anything; return the file's content.

    Raises:
        ValueError: no head looked at a word.
    """
    found = [partial.found[index] for index in range(count)]
    scored = [one for one in found if one.counts.get("matched")]
    counts = sum((Counter(one.counts) for one in found), Counter[str]())
    if not counts["hits"]:
        raise ValueError(
            f"no head looked at what was said, so {out} was not written. {describe_counts(counts)} "
            "Can the model read these images, and is data.question what it answers by reading? "
            f"{partial.file.parent} has the counts of every sample."
        )
    content = {
        "format": FORMAT,
        "scores": mean([one.scores for one in scored]),
        "halves": [mean([one.scores for one in scored[half::2]]) for half in (0, 1)][: len(scored)],
        "model": partial.search["model"],
        "name": name,
        "data": partial.search["data"],
        "samples": len(scored),
        "asked": asked,
        "unmatched": len(found) - len(scored),
        "counts": {key: counts[key] for key in COUNTS},
        "question": partial.search["question"],
        "settings": partial.search["settings"],
        "ids": [one.id for one in found],
        "images": [one.image for one in found],
        "git": dict(git),
    }
    if len(scored) < 2:
        del content["halves"]
    before = _before(out)
    if {**before, "git": None} == {**content, "git": None}:
        return before  # nothing was found anew: it stays what that code found
    write(out, content)
    return content


def _before(out: Path) -> dict[str, Any]:
    """What stands in a file; nothing where it is not there, or torn."""
    try:
        found = json.loads(out.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def mean(scores: Sequence[Tensor]) -> list[list[float]]:
    """The mean of [L, Hq] scores with six digits; nothing of nothing."""
    if not scores:
        return []
    rows: list[list[float]] = torch.stack(list(scores)).mean(0).tolist()
    return [[round(value, 6) for value in row] for row in rows]


def describe_counts(counts: Mapping[str, int]) -> str:
    """What became of the tokens, in words."""
    total = counts.get("tokens", 0)
    parts = [f"{counts.get('matched', 0)} of {total} tokens matched a region"]
    words = {
        "repeated": "said it again",
        "ambiguous": "fit several regions",
        "unknown": "fit none (spaces among them)",
        "outside": "fit a box outside its image",
    }
    parts += [f"{counts[key]} {text}" for key, text in words.items() if counts.get(key)]
    ended = counts.get("cut", 0)
    cut = f"; {ended} answers were cut at their greatest length" if ended else ""
    return ", ".join(parts) + cut + "."
