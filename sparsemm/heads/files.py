"""Head-score files: how much every query head looks at the visual evidence of what the model says.

One JSON object: format, scores [L][Hq], model (content id), name, data, samples, counts, images (hashes),
git.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsemm.methods.base import ModelShape
from sparsemm.paths import resolve

FORMAT = 1
HOW = "Find them with `sparsemm heads model=... out=heads.json`"
COUNTS = ("tokens", "matched", "hits", "repeated", "ambiguous", "unknown", "outside", "regions", "cut")


def read_head_file(path: str | None) -> dict[str, Any]:
    """The content of a head-score file.

    Raises:
        ValueError: no path, no file, not JSON, or another format.
    """
    if path is None:
        raise ValueError(
            f"model.head_scores=null: this method spends the cache by head scores. {HOW}, then set "
            "model.head_scores=heads.json."
        )
    file = resolve(path)
    if not file.is_file():
        raise ValueError(f"model.head_scores={path}: no such file. {HOW}.")
    try:
        content: dict[str, Any] = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(
            f"model.head_scores={path}: not valid JSON ({error}). Find the scores again."
        ) from None
    if isinstance(content, dict) and "scores" not in content and _official(content):
        raise ValueError(
            f"model.head_scores={path}: a file of the paper's code, by layer and head. "
            f"Convert it: sparsemm heads import={path} model=... out=heads.json"
        )
    if not isinstance(content, dict) or "scores" not in content or content.get("format") != FORMAT:
        raise ValueError(
            f"model.head_scores={path}: not a head-score file of format {FORMAT}. Find the scores again."
        )
    return content


def load_head_scores(path: str | None) -> Tensor:
    """Scores [L, Hq] float32 of a head-score file; errors as `read_head_file`."""
    scores = read_head_file(path)["scores"]
    try:
        return torch.tensor(scores, dtype=torch.float32)
    except (ValueError, TypeError):
        raise ValueError(
            f"model.head_scores={path}: scores must be numbers, [layers][query heads]."
        ) from None


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
    """Samples that are done, in a file of lines: the search, then each sample. A torn line is dropped."""

    file: Path
    search: dict[str, Any]
    found: dict[int, Found] = field(default_factory=dict)

    @classmethod
    def open(cls, out: Path, search: dict[str, Any]) -> "Partial":
        """What is there of a search whose result goes to `out`.

        Raises:
            ValueError: what is there belongs to another search.
        """
        partial = cls(out.with_name(f"{out.stem}.samples.jsonl"), search)
        out.parent.mkdir(parents=True, exist_ok=True)
        lines = partial.file.read_text().split("\n") if partial.file.is_file() else [""]
        whole = lines[:-1]
        if not whole:
            partial.file.write_text(json.dumps(search) + "\n")
            return partial
        before = json.loads(whole[0])
        if before != search:
            other = ", ".join(key for key in search if before.get(key) != search[key])
            raise ValueError(
                f"out={out}: {partial.file} holds samples of another search ({other} differ). "
                "Remove it, or give another out."
            )
        layers, heads = search["shape"]
        for line in whole[1:]:
            entry = json.loads(line)
            scores = torch.zeros(layers * heads, dtype=torch.float64)
            for place, score in entry.pop("scores"):
                scores[place] = score
            partial.found[entry["index"]] = Found(**entry, scores=scores.view(layers, heads))
        if lines[-1]:  # the search was stopped while it wrote
            partial.file.write_text("\n".join(whole) + "\n")
        return partial

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
        self.found[found.index] = found


def write_heads(
    out: Path, partial: Partial, indices: Iterable[int], asked: int, name: str, git: Mapping[str, object]
) -> dict[str, Any]:
    """Write the mean over the samples that matched anything, and return the file's content.

    Raises:
        ValueError: no head looked at a word.
    """
    found = [partial.found[index] for index in indices]
    scored = [one for one in found if one.counts.get("matched")]
    counts = sum((Counter(one.counts) for one in found), Counter[str]())
    if not counts["hits"]:
        raise ValueError(
            f"{counts['matched']} of {counts['tokens']} tokens matched and no head looked at what was said: "
            f"{out} was not written. Can the model read these images? {partial.file} has the counts."
        )
    scores = torch.stack([one.scores for one in scored]).mean(0)
    content = {
        "format": FORMAT,
        "scores": [[round(value, 6) for value in row] for row in scores.tolist()],
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
    _write(out, content)
    return content


def import_heads(file: Path, out: Path, shape: ModelShape, model: str, name: str) -> dict[str, Any]:
    """Convert a file of the paper's code, {"layer-head": [score of a sample, ...]}; returns what was written.

    Args:
        file: theirs.
        out: ours.
        shape: of the model that the scores are for.
        model: its content id.
        name: its name.

    Raises:
        ValueError: no such file, another form, or scores of a model of another shape.
    """
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"import={file}: cannot be read ({error}). Check the path.") from None
    if not isinstance(content, dict) or not _official(content):
        raise ValueError(
            f'import={file}: expected {{"layer-head": [score, ...]}}, as the code of arXiv:2506.05344 '
            "writes it."
        )
    means = {
        tuple(map(int, key.split("-"))): sum(values) / max(1, len(values)) for key, values in content.items()
    }
    theirs = [1 + max(place[axis] for place in means) for axis in (0, 1)]
    if theirs != [shape.layers, shape.query_heads] or len(means) != theirs[0] * theirs[1]:
        raise ValueError(
            f"import={file}: scores of {len(means)} heads, {theirs} (layers, query heads), but model={name} "
            f"has [{shape.layers}, {shape.query_heads}]. Choose the model that they were made for."
        )
    written = {
        "format": FORMAT,
        "scores": [[means[layer, head] for head in range(theirs[1])] for layer in range(theirs[0])],
        "model": model,
        "name": name,
        "data": f"imported from {file.name}, sha256 {hashlib.sha256(file.read_bytes()).hexdigest()[:16]}",
        "samples": max(map(len, content.values())),
        "images": [],
    }
    _write(out, written)
    return written


def _official(content: dict[str, Any]) -> bool:
    def head(key: str) -> bool:
        layer, dash, number = key.partition("-")
        return bool(dash) and layer.isdigit() and number.isdigit()

    numbers = all(
        isinstance(values, list) and all(isinstance(value, int | float) for value in values)
        for values in content.values()
    )
    return bool(content) and all(map(head, content)) and numbers


def _write(out: Path, content: Mapping[str, Any]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(out.name + ".part")
    aside.write_text(json.dumps(content) + "\n")
    aside.replace(out)
