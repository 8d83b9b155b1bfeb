"""Which results of a sibling experiment may stand beside ours: those of the same models and documents."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from sparsemm.results.entries import Result

SECTIONS = ("model", "task")  # of an identity: what a prompt and its answer's score come from


def fitting(results: Iterable[Result], siblings: Iterable[Result]) -> list[Result]:
    """Return the siblings that share model and task, in every setting, with a result of ours.

    The store may hold the sibling's cells under several conditions (another limit, another image size), with
    equal labels; of those that are left with equal labels the last one counts.
    """
    own = {_key(result.get("identity", {}), SECTIONS) for result in results}
    kept = [result for result in siblings if _key(result.get("identity", {}), SECTIONS) in own]
    return list({_key(result["label"], result["label"]): result for result in kept}.values())


def _key(values: Mapping[str, Any], names: Iterable[str]) -> str:
    return json.dumps({name: values.get(name) for name in names}, sort_keys=True, default=str)
