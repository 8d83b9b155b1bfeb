"""One layer's append and attention for a token, by every backend that runs here, beside the published way.

On a GPU there are as many layers as fill 256 MB, however many the model has, and a round goes through all of
them for every token, so that every byte comes from memory, as in a model beside its weights. All layers of a
token are one CUDA graph, for the published way too: real decoding could not capture that one, as its tensors
grow, but what is compared is the work, not who launches it. `eager_us` is without one.
"""

import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from tqdm import tqdm

from sparsemm.bench.layers import Layers, LayerShape, seconds
from sparsemm.bench.limits import beyond
from sparsemm.bench.published import PUBLISHED, Published
from sparsemm.bench.results import Found, Result, attempt, free, in_turn, result
from sparsemm.bench.settings import Settings
from sparsemm.bench.shapes import SHAPES
from sparsemm.kernels.backends import BACKENDS, TORCH, Backend, resolve

FILLED_BYTES = 256 * 10**6  # several times what the caches of an H200 hold (50 MB)
COPIED_BYTES = 2 * 10**9  # of a copy on a GPU: its caches hold nothing of the next one
COPIES = 10  # between two looks at the clock, on a GPU
WARM_S = 0.3  # until the clocks of a GPU have risen


def measure(settings: Settings, shape: str, copy_gb_per_s: float | None) -> Iterator[Result]:
    """One result for every backend and the published way, at every budget and number of rows.

    Prints which backend was the fastest, setting by setting.
    """
    known, place, numbers = SHAPES[shape].attention, settings.place, settings.numbers
    backends = runnable(settings.backend, place, numbers, known.head_dim)
    for rows in settings.rows:
        for budget in settings.budgets:
            layer = LayerShape(rows, known.kv_heads, known.group, known.head_dim, budget)
            told: dict[str, Any] = {"shape": shape, "budget": budget, "rows": rows}
            timed = time_layer(
                layer, known.layers, backends, place, numbers, settings.tokens, settings.rounds
            )
            yield from with_shares(timed, told, copy_gb_per_s)
            ours = {name: found["us"] for name, found in timed.items() if found["us"] and name != PUBLISHED}
            if ours:
                best = min(ours, key=ours.__getitem__)
                tqdm.write(f"  fastest of {', '.join(ours)} at budget={budget}, rows={rows}: {best}")
            free()


def runnable(name: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> list[Backend]:
    """The backend of a name; for auto, all that can run here. On a CPU that is PyTorch's.

    Raises:
        ValueError: a backend that cannot run here.
    """
    if name != "auto":
        return [resolve(name, device, dtype, head_dim)]
    found = []
    for one in BACKENDS[1:] if device.type == "cuda" else (TORCH.name,):
        try:
            found.append(resolve(one, device, dtype, head_dim))
        except ValueError as error:
            print(f"  left out: {error}")
    return found


def time_layer(
    shape: LayerShape,
    layers: int,
    backends: Sequence[Backend],
    device: torch.device,
    dtype: torch.dtype,
    tokens: int,
    rounds: int,
) -> dict[str, dict[str, Any]]:
    """Every backend, and for one row the published way, `tokens` tokens in every round, in turn.

    One that fails has no numbers; the others go on.

    Args:
        shape: of a layer.
        layers: most layers, on a CPU.
        backends: to be timed; at least one.
        device: where.
        dtype: of keys, values and queries.
        tokens: of a round.
        rounds: that are counted.

    Returns:
        By name: us, rounds_us, eager_us (on a GPU), read_bytes, note; error where it failed.
    """
    entries, segments = int(shape.lengths().sum()), shape.rows * shape.kv_heads
    entry = 2 * shape.head_dim * dtype.itemsize
    gpu = device.type == "cuda"
    count = -(-FILLED_BYTES // (entries * entry))
    count = count if gpu else max(1, min(layers, count))
    made: dict[str, Layers] = {}
    errors: dict[str, str] = {}
    notes: dict[str, str] = {}

    def tried(name: str, work: Callable[[], Found]) -> Found | None:
        try:
            found, error = attempt(work)
        except Exception as raised:
            found, error = None, f"{type(raised).__name__}: {' '.join(str(raised).split())}"
        if error is not None:
            errors[name] = error
            made.pop(name, None)
        return found

    def make(one: Backend) -> None:
        made[one.name] = Layers(one, shape, count, device, dtype, tokens + 1)

    warm: dict[str, float] = {}
    for one in backends:
        tried(one.name, partial(make, one))
        for _ in range(2):
            found = tried(one.name, partial(made[one.name].us, tokens, False)) if one.name in made else None
            if found is not None:
                warm[one.name] = min(found, warm.get(one.name, found))
    if shape.rows == 1:  # as published
        fastest = min(backends, key=lambda one: warm.get(one.name, float("inf")))
        published = tried(PUBLISHED, partial(Published, fastest, device, dtype))
        if published is not None:
            notes[PUBLISHED] = published.note
            tried(PUBLISHED, partial(make, published))
    for name in [*made] if gpu else ():
        tried(name, made[name].capture)
    times: dict[str, list[float]] = {one.name: [] for one in backends}
    times |= {PUBLISHED: []} if shape.rows == 1 else {}
    eager: dict[str, list[float]] = {name: [] for name in times}
    for number, name in in_turn(list(times), rounds):
        for kept, graph in ((times, True), (eager, False)) if gpu else ((times, False),):
            found = tried(name, partial(made[name].us, tokens, graph)) if name in made else None
            if number and found is not None:
                kept[name].append(found)
    return {
        name: {
            "us": statistics.median(each) if name not in errors else None,
            "rounds_us": each if name not in errors else None,
            "eager_us": statistics.median(eager[name]) if gpu and name not in errors else None,
            "read_bytes": (entries + segments * (tokens + 1) // 2) * entry,
            "note": notes.get(name),
            **({"error": errors[name]} if name in errors else {}),
        }
        for name, each in times.items()
    }


def with_shares(
    timed: dict[str, dict[str, Any]], told: dict[str, Any], copy_gb_per_s: float | None
) -> Iterator[Result]:
    """Results with bandwidth, its share of a copy's, and the speed-up against the published way."""
    published = timed.get(PUBLISHED, {}).get("us")
    for name, found in timed.items():
        us = found["us"]
        rate = None if us is None else found["read_bytes"] / us / 1e3
        share = None if rate is None or copy_gb_per_s is None else rate / copy_gb_per_s
        known = {**found, "gb_per_s": rate, "copy_share": share}
        known["note"] = "; ".join(one for one in (found["note"], beyond("copy_share", share)) if one) or None
        if us is not None and published is not None and name != PUBLISHED:
            known["speedup_against_published"] = published / us
        if beyond("copy_share", share):
            tqdm.write(f"  {name}: {known['note']}")
        yield result("kernel", **told, way=name, **known)


def copy_gb_per_s(
    device: torch.device, size: int | None = None, copies: int | None = None, warm_s: float | None = None
) -> float:
    """Measured bandwidth of a copy, what is read and what is written both counted; a median.

    Args:
        device: where.
        size: bytes that are copied; on a GPU, what is free bounds them.
        copies: one behind the other between two looks at the clock.
        warm_s: seconds of copies that do not count.
    """
    gpu = device.type == "cuda"
    if size is None:
        size = min(COPIED_BYTES, torch.cuda.mem_get_info(device)[0] // 4) if gpu else 1 << 28
    copies = copies or (COPIES if gpu else 1)
    warm_s = (WARM_S if gpu else 0.0) if warm_s is None else warm_s
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def work() -> None:
        for _ in range(copies):
            target.copy_(source)

    while warm_s > 0:
        warm_s -= seconds(work, device)
    return 2 * size * copies / statistics.median(seconds(work, device) for _ in range(5)) / 1e9
