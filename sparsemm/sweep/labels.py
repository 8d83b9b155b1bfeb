"""Labels: what tables call a cell."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sparsemm.config import Settings
from sparsemm.sweep.digests import canonical

Label = dict[str, Any]
DIGESTS = (("model", "content"), ("task", "data"))  # in a label only where nothing readable tells cells apart
SHOWN = 16  # hex digits of a digest in a label


def label(settings: Settings) -> Label:
    """The keys by which tables name, order and compare cells."""
    compresses = settings["method"]["budget"] is not None
    allocator = settings["allocator"]
    return {
        "model": settings["model"]["name"],
        "task": settings["task"]["name"],
        "method": settings["method"]["name"],
        "scorer": _module(settings["scorer"]) if compresses else None,
        "allocator": _module(allocator),
        "budget": settings["method"]["budget"],
        "rho": allocator.get("rho"),
        "seed": allocator.get("seed"),
        "rounding": settings["method"]["rounding"] if compresses else None,
        "window": settings["method"]["window"] if compresses else None,
        **_mask_label(settings["mask"]),
    }


def distinct_labels(labels: Sequence[Label], identities: Sequence[Mapping[str, Any]]) -> list[Label]:
    """Name what tells cells apart where their labels alone do not, such as `snapkv scorer.pool_kernel=3`."""
    alike: dict[str, list[int]] = {}
    for number, one in enumerate(labels):
        alike.setdefault(canonical(one), []).append(number)
    named = list(labels)
    for group in alike.values():
        leaves = [dict(_leaves(identities[number])) for number in group]
        keys = dict.fromkeys(key for leaf in leaves for key in leaf)
        differing = [key for key in keys if len({canonical(leaf.get(key)) for leaf in leaves}) > 1]
        named_keys = [key for key in differing if key not in DIGESTS]
        several = len({canonical([leaf.get(key) for key in named_keys]) for leaf in leaves}) < len(group)
        for number, leaf in zip(group, leaves, strict=True):
            named[number] = _told_apart(labels[number], leaf, differing if several else named_keys)
    return named


def _mask_label(mask: Settings) -> dict[str, Any]:
    """Nothing where no head is masked: such labels are as they were without masks."""
    if mask["_target_"].endswith(".NoMask"):
        return {}
    visual, spared = mask["_target_"].endswith(".VisualHeadMask"), mask.get("spared") is not None
    return {
        "mask": "visual heads" if visual else "random other heads" if spared else "random heads",
        "mask_share": f"{100 * mask['share']:g}%",
        "mask_zero": mask["zero"],
        "mask_seed": mask.get("seed"),
    }


def mask_text(label: Mapping[str, Any]) -> str:
    """What is masked in a cell: `5% of the heads masked (visual heads, query zeroed)`; '' for nothing."""
    if "mask" not in label:
        return ""
    return f"{label['mask_share']} of the heads masked ({label['mask']}, {label['mask_zero']} zeroed)"


def _leaves(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves(value, (*path, str(key)))
    else:
        yield path, node


def _told_apart(plain: Label, leaves: dict[tuple[str, ...], Any], keys: list[tuple[str, ...]]) -> Label:
    named = dict(plain)
    for section, *rest in keys:
        place = section if section in ("model", "task") else "method"
        text = str(leaves.get((section, *rest)))
        text = text[:SHOWN] if re.fullmatch("[0-9a-f]{32,}", text) else text
        named[place] = f"{named[place]} {'.'.join(rest)}={text}"
    return named


def _module(node: Settings) -> str:
    return str(node["_target_"]).split(".")[-2]
