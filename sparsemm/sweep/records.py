"""What a worker writes: a sample's record, a cell's result, and where they come from."""

import contextlib
import platform
import re
import resource
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import torch

from sparsemm.engine.generate import Generation
from sparsemm.heads.files import read_head_file
from sparsemm.models.base import LoadedModel, ModelAdapter
from sparsemm.paths import is_hub_id
from sparsemm.results.statistics import summarise
from sparsemm.results.store import Store
from sparsemm.sweep.head_files import head_files
from sparsemm.tasks.base import Sample, Task

Record = dict[str, Any]
VERSIONS = ("sparsemm", "torch", "transformers", "numpy", "pillow", "hydra-core")
MEASURED = ("answer", "score", "kept_entries", "kept_bytes", "prompt_tokens", "new_tokens")


@dataclass
class Clock:
    """What the answers of a worker took."""

    wall_s: float = 0.0
    samples: int = 0
    cells: int = 0
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))


def answered(loaded: LoadedModel, task: Task, sample: Sample, index: int, answer: Generation) -> Record:
    """The record of an answered sample."""
    text = loaded.text(answer.token_ids, answer.stop_strings)
    entry_bytes = 2 * loaded.shape.head_dim * loaded.model.dtype.itemsize
    heads = loaded.shape.layers * loaded.shape.kv_heads
    return _asked(sample, index) | {
        "answer": text,
        "score": task.score(sample, text),
        "kept_entries": answer.kept_entries,
        "kept_bytes": answer.kept_entries * entry_bytes,
        "full_entries": answer.prompt_tokens * heads,
        "heads": heads,
        "prompt_tokens": answer.prompt_tokens,
        "new_tokens": len(answer.token_ids),
        "error": None,
    }


def unanswered(sample: Sample, index: int, reason: str) -> Record:
    """The record of a sample that has no prompt."""
    return _asked(sample, index) | dict.fromkeys(MEASURED) | {"error": reason}


def cell_result(
    entry: Mapping[str, Any], task: Task, records: Sequence[Record], group: Record, provenance: Record
) -> Record:
    """result.json of a cell of which at least one sample was answered."""
    good = [record for record in records if record["error"] is None]
    score, shares = task.total(records)
    scored = [{**record, "score": share} for record, share in zip(records, shares, strict=True)]
    summary = summarise(scored)
    kept, full = (sum(record[key] for record in good) for key in ("kept_entries", "full_entries"))
    return {
        **{key: entry[key] for key in ("label", "identity")},
        "metric": task.metric,
        **(summary if score is None else {**summary, "score": score}),
        "head_data": head_data(entry["settings"]),
        "whole": task.whole and summary["failed"] == 0,
        "kept_share": kept / full,
        "full_entries": full / len(good),
        "entries_per_head": kept / len(good) / good[0]["heads"],
        "group": group,
        "provenance": provenance,
    }


def source(adapter: ModelAdapter) -> Record:
    """Where the weights came from: path, and the commit of a hub's repository."""
    return {"model": adapter.path, "revision": adapter.folder.name if is_hub_id(adapter.path) else None}


def head_data(settings: Mapping[str, Any]) -> str | None:
    """On what data the head scores were found that a cell uses; None where it uses none."""
    found = sorted({str(read_head_file(file).get("data")) for file in head_files(settings)})
    return " and ".join(found) or None


def group_record(clock: Clock, device: torch.device, rows: int) -> Record:
    """Time and memory of the cells that were answered together, and how many rows shared them."""
    return {
        "wall_s": clock.wall_s,
        "peak_memory_bytes": _peak_memory(device),
        "rows": rows,
        "cells": clock.cells,
        "samples_timed": clock.samples,
    }


def provenance(
    clock: Clock, devices: Iterable[str], dtype: str, git: Mapping[str, Any], attempts: int
) -> Record:
    """Which code ran where and when."""
    return {
        "git_commit": git.get("commit"),
        "git_dirty": git.get("dirty"),
        "versions": {name: version(name) for name in VERSIONS} | {"python": platform.python_version()},
        "host": platform.node(),
        "device": " + ".join(sorted(devices)),
        "threads": torch.get_num_threads(),
        "dtype": dtype,
        "started": clock.started,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "attempts": attempts,
    }


def _asked(sample: Sample, index: int) -> Record:
    return {
        "sample": sample.id,
        "document": sample.document,
        "index": index,
        "question": sample.question,
        "references": list(sample.references),
    }


def read_sample(task: Task, index: int) -> Sample:
    """The sample; one that cannot be had gets an image that says why, and fails alone."""
    try:
        return task.sample(index)
    except ValueError as error:
        reason = str(error)

    def no_image() -> NoReturn:
        raise ValueError(reason)

    return Sample(*task.ids(index), "", (), no_image)


def fail_open_cells(
    store: Store, entries: Sequence[Mapping[str, Any]], error: Exception, part: str = ""
) -> None:
    """Give every cell without a result the reason of what stopped them all."""
    for entry in entries:
        folder = store.cell(entry["fingerprint"])
        if folder.result() is None:
            reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            folder.write_failure(reason, part)


def device_name(device: torch.device) -> str:
    """The GPU's name, or cpu."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def reset_peak_memory(device: torch.device) -> None:
    """Begin a new measurement; on a CPU where the kernel allows it (Linux)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def _peak_memory(device: torch.device) -> int:
    """Bytes: of the GPU's allocator, or of this process on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    with contextlib.suppress(OSError):
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        if found:
            return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
