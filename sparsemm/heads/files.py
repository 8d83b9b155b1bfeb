"""Head-score files: how much every query head looks at the visual evidence of what the model says."""

import json
from typing import Any

import torch
from torch import Tensor

from sparsemm.paths import resolve

FORMAT = 1


def read_head_file(path: str | None) -> dict[str, Any]:
    """The content of a head-score file.

    Raises:
        ValueError: no path, no file, not JSON, or another format.
    """
    if path is None:
        raise ValueError(
            "model.head_scores=null: this method spends the cache by head scores. Find them with "
            "`python -m sparsemm.heads.search model.path=... out=heads.json`, then set "
            "model.head_scores=heads.json."
        )
    file = resolve(path)
    if not file.is_file():
        raise ValueError(
            f"model.head_scores={path}: no such file. Find the scores with python -m sparsemm.heads.search."
        )
    try:
        content: dict[str, Any] = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(
            f"model.head_scores={path}: not valid JSON ({error}). Find the scores again."
        ) from None
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
