"""Which entries of a prompt every method keeps: ranks are made once per layer and shared by all methods."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from sparsemm.cache import Kept
from sparsemm.kernels.backends import current
from sparsemm.methods.base import Method, ModelShape, Scorer


@dataclass(frozen=True)
class _Ranking:
    """What rows must share to be cut from the same ranking of a layer."""

    scorer: Scorer
    window: int
    sinks: int


@dataclass(frozen=True)
class RowPlan:
    """The rows that one prompt needs. Methods that keep the same entries share a row.

    Args:
        row_of: for every method, its row.
        methods: for every row, the method that decides.
        rankings: the distinct rankings, each with its rows.
        counts: [L, R, H] candidates to keep; meaningless for rows in `per_layer`.
        lengths: [L, R, H] entries that every row keeps; likewise.
        everything: rows that keep the whole prompt.
        per_layer: rows whose method must see each layer's scores.
    """

    row_of: tuple[int, ...]
    methods: tuple[Method, ...]
    rankings: tuple[tuple[_Ranking, tuple[int, ...]], ...]
    counts: Tensor
    lengths: Tensor
    everything: tuple[int, ...]
    per_layer: tuple[int, ...]


class Selector:
    """Chooses the entries that a set of methods keeps."""

    def __init__(self, methods: Sequence[Method], shape: ModelShape):
        for method in methods:
            method.check(shape)
        self.methods, self.shape = tuple(methods), shape
        self.plan = lru_cache(maxsize=256)(self._plan)
        self._on_device = lru_cache(maxsize=16)(self._placed)

    def _plan(self, tokens: int) -> RowPlan:
        rows: dict[object, int] = {}
        row_of, deciding, counts, everything, per_layer = [], [], [], [], []
        rankings: dict[_Ranking, list[int]] = {}
        for method in self.methods:
            kept = method.counts(self.shape, tokens)
            ranking = _Ranking(method.scorer, method.window, method.sinks)
            key: object
            if method.capacity(tokens) is None:
                key = "everything"
            elif kept is None:
                key = (ranking, method.allocator, method.capacity(tokens), method.rounding)
            else:
                key = (ranking, kept.numpy().tobytes())
            if key not in rows:
                row = rows[key] = len(rows)
                deciding.append(method)
                counts.append(
                    torch.zeros(self.shape.layers, self.shape.kv_heads).long() if kept is None else kept
                )
                if key == "everything":
                    everything.append(row)
                else:
                    rankings.setdefault(ranking, []).append(row)
                    if kept is None:
                        per_layer.append(row)
            row_of.append(rows[key])
        shared = tuple((ranking, tuple(members)) for ranking, members in rankings.items())
        wanted = torch.stack(counts, dim=1)
        lengths = wanted + torch.tensor([method.protected for method in deciding])[:, None]
        lengths[:, everything] = tokens
        return RowPlan(
            tuple(row_of),
            tuple(deciding),
            shared,
            wanted,
            lengths,
            tuple(everything),
            tuple(per_layer),
        )

    def _placed(self, tokens: int, device: torch.device) -> list[tuple[slice | Tensor, Tensor]]:
        """For every ranking of a plan its rows, and what they want [L, r, H]: copied to the device once."""
        plan, found = self.plan(tokens), list[tuple[slice | Tensor, Tensor]]()
        for _, rows in plan.rankings:
            together = rows == tuple(range(rows[0], rows[-1] + 1))
            index = slice(rows[0], rows[-1] + 1) if together else torch.tensor(rows, device=device)
            found.append((index, plan.counts[:, list(rows)].to(device)))
        return found

    def select(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Kept:
        """Choose the entries of one layer of one prompt.

        Args:
            layer: its index.
            queries: [Hq, T, D] (the last tokens are enough, if they cover every window).
            keys: [H, T, D].
            values: [H, T, D].
            scaling: factor on the dot products.
        """
        heads, tokens, _ = keys.shape
        plan = self.plan(tokens)
        if len(plan.everything) == len(plan.methods):  # they share one row
            return _everything(keys, values)
        keep = torch.ones(len(plan.methods), heads, tokens, dtype=torch.bool, device=keys.device)
        placed, lengths = self._on_device(tokens, keys.device), plan.lengths[layer]
        for (ranking, rows), (index, counts) in zip(plan.rankings, placed, strict=True):
            before = tokens - ranking.window
            scores = ranking.scorer.scores(queries[:, -ranking.window :], keys, scaling, before)[
                :, ranking.sinks :
            ]
            wanted, order = counts[layer], None
            if set(rows) & set(plan.per_layer):
                ranked = torch.sort(scores, dim=1, descending=True, stable=True)
                wanted, order, lengths = wanted.clone(), ranked.indices, lengths.clone()
                for place, row in enumerate(rows):
                    if row in plan.per_layer:
                        counted = plan.methods[row].layer_counts(ranked.values, tokens)
                        wanted[place], lengths[row] = counted, counted + plan.methods[row].protected
            keep[index, :, ranking.sinks : before] = current().choose(scores, wanted, order)
        return Kept.gather(keys, values, keep, lengths)


def _everything(keys: Tensor, values: Tensor) -> Kept:
    """All of keys and values [H, T, D], for one row; copied only where they are not contiguous."""
    heads, tokens, dim = keys.shape
    places = torch.arange(tokens, device=keys.device).repeat(heads)
    lengths = torch.full((1, heads), tokens)
    return Kept(keys.reshape(-1, dim), values.reshape(-1, dim), places, lengths)
