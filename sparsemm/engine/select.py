"""Which entries of a prompt every method keeps: ranks are made once per layer and shared by all methods."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from sparsemm.cache import Kept
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
        everything: rows that keep the whole prompt.
        per_layer: rows whose method must see each layer's scores.
    """

    row_of: tuple[int, ...]
    methods: tuple[Method, ...]
    rankings: tuple[tuple[_Ranking, tuple[int, ...]], ...]
    counts: Tensor
    everything: tuple[int, ...]
    per_layer: tuple[int, ...]


class Selector:
    """Chooses the entries that a set of methods keeps."""

    def __init__(self, methods: Sequence[Method], shape: ModelShape):
        for method in methods:
            method.check(shape)
        self.methods, self.shape = tuple(methods), shape
        self.plan = lru_cache(maxsize=256)(self._plan)

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
        return RowPlan(
            tuple(row_of),
            tuple(deciding),
            shared,
            torch.stack(counts, dim=1),
            tuple(everything),
            tuple(per_layer),
        )

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
        keep = torch.zeros(len(plan.methods), heads, tokens, dtype=torch.bool, device=keys.device)
        keep[list(plan.everything)] = True
        counts = plan.counts[layer].to(keys.device)  # [R, H]
        for ranking, rows in plan.rankings:
            before = tokens - ranking.window
            scores = ranking.scorer.scores(queries[:, -ranking.window :], keys, scaling, before)[
                :, ranking.sinks :
            ]
            ranked = torch.sort(scores, dim=1, descending=True, stable=True)
            places = torch.arange(scores.shape[1], device=keys.device).expand(heads, -1)
            ranks = torch.empty_like(ranked.indices).scatter_(1, ranked.indices, places)
            budgets = counts[list(rows)]
            for place, row in enumerate(rows):
                if row in plan.per_layer:
                    budgets[place] = plan.methods[row].layer_counts(ranked.values, tokens)
            chosen = torch.ones(len(rows), heads, tokens, dtype=torch.bool, device=keys.device)
            torch.lt(ranks, budgets[:, :, None], out=chosen[:, :, ranking.sinks : before])
            keep[list(rows)] = chosen
        return Kept.gather(keys, values, keep)
