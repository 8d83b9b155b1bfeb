"""Head-score files: how much every query head looks at the visual evidence of what the model says.

One JSON object: format, scores [L][Hq], halves (the scores of every other sample, and of the others), model
(content id), name, data, samples, counts, ids and images (hashes) of the samples, git.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsemm.paths import resolve

if TYPE_CHECKING:  # the command line reads head files and never imports torch
    import numpy as np
    from torch import Tensor

    from sparsemm.methods.base import ModelShape

FORMAT = 1
HALVED = 10  # values per head of an imported file: with fewer, halves say nothing of samples
HOW = "Find them with `sparsemm heads model=... out=heads.json`"


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
            f"Convert it: sparsemm heads import {path} model=... out=heads.json"
        )
    if not isinstance(content, dict) or "scores" not in content or content.get("format") != FORMAT:
        raise ValueError(
            f"model.head_scores={path}: not a head-score file of format {FORMAT}. Find the scores again."
        )
    return content


def load_head_scores(path: str | None) -> "Tensor":
    """Scores [L, Hq] float32 of a head-score file; errors as `read_head_file`."""
    import torch

    return torch.from_numpy(read_scores(path))


def read_scores(path: str | None) -> "np.ndarray[Any, Any]":
    """The same as a numpy array, for planning: without torch."""
    import numpy as np

    scores = read_head_file(path)["scores"]
    try:
        found = np.array(scores)
    except ValueError:  # rows of several lengths
        found = np.array(None)
    if found.dtype.kind not in "iuf":
        raise ValueError(f"model.head_scores={path}: scores must be numbers, [layers][query heads].")
    return found.astype(np.float32)


def check_model(path: str, content: Mapping[str, Any], model: str, name: str) -> None:
    """Raise ValueError where the scores were found on another model, by content ids; a file may have none."""
    theirs = content.get("model")
    if theirs is not None and theirs != model:
        raise ValueError(
            f"model.head_scores={path}: scores of {content.get('name') or 'a model'} (content {theirs}), but "
            f"model={name} is another one (content {model}). {HOW}, or set model.head_scores to its own file."
        )


def folder_of(out: Path) -> Path:
    """Where everything that belongs to a head-score file goes: `heads/tiny` for `heads/tiny.json`.

    Raises:
        ValueError: a name that does not end in .json.
    """
    if out.suffix != ".json":
        raise ValueError(f"out={out}: must end in .json. Try out={out}.json")
    return out.with_suffix("")


def import_heads(file: Path, out: Path, shape: "ModelShape", model: str, name: str) -> dict[str, Any]:
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
    lists = {tuple(map(int, key.split("-"))): values for key, values in content.items()}
    means = {place: _mean(values) for place, values in lists.items()}
    theirs = [1 + max(place[axis] for place in means) for axis in (0, 1)]
    if theirs != [shape.layers, shape.query_heads] or len(means) != theirs[0] * theirs[1]:
        raise ValueError(
            f"import={file}: scores of {len(means)} heads, {theirs} (layers, query heads), but model={name} "
            f"has [{shape.layers}, {shape.query_heads}]. Choose the model that they were made for."
        )

    def table(of: Mapping[tuple[int, ...], float]) -> list[list[float]]:
        return [[of[layer, head] for head in range(theirs[1])] for layer in range(theirs[0])]

    samples = {len(values) for values in lists.values()}
    halves = [table({place: _mean(values[half::2]) for place, values in lists.items()}) for half in (0, 1)]
    written = {
        "format": FORMAT,
        "scores": table(means),
        **({"halves": halves} if min(samples) >= HALVED and len(samples) == 1 else {}),
        "model": model,
        "name": name,
        "data": f"imported from {file.name}, sha256 {hashlib.sha256(file.read_bytes()).hexdigest()[:16]}",
        "samples": max(samples),
        "images": [],
    }
    write(out, written)
    return written


def _mean(values: list[float]) -> float:
    return sum(values) / max(1, len(values))


def _official(content: dict[str, Any]) -> bool:
    def head(key: str) -> bool:
        layer, dash, number = key.partition("-")
        return bool(dash) and layer.isdigit() and number.isdigit()

    numbers = all(
        isinstance(values, list) and all(isinstance(value, int | float) for value in values)
        for values in content.values()
    )
    return bool(content) and all(map(head, content)) and numbers


def write(out: Path, content: Mapping[str, Any]) -> None:
    """Write a file whole or not at all; of several shards that end at once any may be the last."""
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f"{out.name}.{os.getpid()}.part")
    aside.write_text(json.dumps(content) + "\n")
    aside.replace(out)
