"""What a compression method is: a scorer, an allocator and a protection, under a name.

Shape letters of the whole project: L layers, R rows, H KV heads, Hq query heads, G query heads per KV head,
T prompt tokens, n candidates (tokens outside the protection), D head_dim, W window.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import torch

from sparsemm.methods.budget import Budget, parse_budget, share_out

if TYPE_CHECKING:
    from torch import Tensor

Rounding = Literal["exact", "paper"]


@dataclass(frozen=True)
class ModelShape:
    """The attention of a model: what a method must fit."""

    layers: int
    query_heads: int
    kv_heads: int
    head_dim: int

    @property
    def group(self) -> int:
        """Query heads per KV head (G)."""
        return self.query_heads // self.kv_heads


@dataclass(frozen=True, kw_only=True, eq=False)  # without fields all would be equal
class Scorer(ABC):
    """Says which candidate tokens of a layer are worth keeping."""

    @abstractmethod
    def scores(self, queries: Tensor, keys: Tensor, scaling: float, candidates: int) -> Tensor:
        """Score the first `candidates` tokens of a layer, per KV head; higher is kept longer.

        Args:
            queries: [Hq, W, D], the last W queries of the prompt, after RoPE.
            keys: [H, T, D], all keys of the prompt, after RoPE.
            scaling: factor on the dot products.
            candidates: n, the number of tokens before the window.

        Returns:
            [H, n] float32. Ties go to the lower index.
        """


@dataclass(frozen=True, kw_only=True, eq=False)  # without fields all would be equal
class Allocator(ABC):
    """Says how many candidates every KV head may keep.

    An allocator implements `wishes` (it needs only the prompt's length and the model) or `layer_wishes` (it
    looks at the token scores of each layer, and sets `per_layer`). Exact totals are made from its wishes.
    """

    per_layer = False  # True: answers from a layer's token scores
    keeps_all = False  # True: nothing is compressed and there is no budget

    def wishes(self, shape: ModelShape, candidates: int, capacity: int) -> Tensor:
        """[L, H] float64 >= 0: what every head should get, in entries outside the protection."""
        raise TypeError(f"{type(self).__name__} answers per layer")

    def layer_wishes(self, ranked: Tensor, capacity: int) -> Tensor:
        """[H] float64 >= 0 for one layer. `ranked`: [H, n] float32, each head's scores from high to low."""
        raise TypeError(f"{type(self).__name__} answers for the whole model")

    def paper_counts(self, wishes: Tensor) -> Tensor:
        """Whole entries as the published code rounds them: half to even, nothing given to other heads."""
        return wishes.round().long()

    def check(self, shape: ModelShape) -> None:
        """Raise ValueError where this allocator does not fit the model."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A named composition. `budget` counts entries per KV head, protection included; None keeps everything.

    Raises:
        ValueError: a window, sinks or budget that cannot be.
    """

    name: str
    scorer: Scorer
    allocator: Allocator
    window: int  # last tokens of the prompt, always kept
    sinks: int = 0  # first tokens of the prompt, always kept
    budget: int | str | None
    rounding: Rounding = "exact"

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(
                f"method.window={self.window}: must be at least 1, the last token of the prompt. Raise it."
            )
        if self.sinks < 0:
            raise ValueError(f"method.sinks={self.sinks}: must be 0 or more.")
        if self.rounding not in ("exact", "paper"):
            raise ValueError(f"rounding={self.rounding}: must be exact or paper.")
        if self.allocator.keeps_all != (self.budget is None):
            raise ValueError(
                f"budget={self.budget}: method={self.name} "
                + (
                    "keeps everything and takes no budget (null)."
                    if self.allocator.keeps_all
                    else "needs a budget, such as 64 or 10%."
                )
            )
        entries = self.limit.entries if self.limit else None
        if entries is not None and entries < self.protected:
            raise ValueError(
                f"budget={self.budget}: must be at least {self.protected}: method.window={self.window}"
                + (f" and method.sinks={self.sinks} are" if self.sinks else ", which is")
                + " always kept. Raise budget, or lower method.window."
            )

    @property
    def protected(self) -> int:
        """Entries that every head keeps, whatever its allocation."""
        return self.window + self.sinks

    @property
    def limit(self) -> Budget | None:
        """The parsed budget."""
        return None if self.budget is None else parse_budget(self.budget)

    def check(self, shape: ModelShape) -> None:
        """Raise ValueError where this method does not fit the model."""
        self.allocator.check(shape)

    def capacity(self, prompt_tokens: int) -> int | None:
        """Entries per head outside the protection, or None where all entries of this prompt are kept.

        Raises:
            ValueError: the budget is a share, and of this prompt it is less than the protection.
        """
        if self.limit is None or prompt_tokens <= self.protected:
            return None
        entries = self.limit.at(prompt_tokens)
        if entries < self.protected:
            raise ValueError(
                f"budget={self.budget}: {entries} entries of a prompt of {prompt_tokens} tokens, but "
                f"{self.protected} are always kept (method.window). Raise budget, or lower method.window."
            )
        return None if entries >= prompt_tokens else entries - self.protected

    def counts(self, shape: ModelShape, prompt_tokens: int) -> Tensor | None:
        """[L, H] candidates to keep, or None where the allocator must see each layer's scores."""
        capacity = self.capacity(prompt_tokens)
        candidates = max(0, prompt_tokens - self.protected)
        if capacity is None:
            return torch.full((shape.layers, shape.kv_heads), candidates)
        return None if self.allocator.per_layer else _static_counts(self, shape, candidates, capacity)

    def layer_counts(self, ranked: Tensor, prompt_tokens: int) -> Tensor:
        """[H] candidates to keep in one layer, for the host; `ranked` [H, n] as in `layer_wishes`."""
        capacity = self.capacity(prompt_tokens)
        assert capacity is not None
        wishes = self.allocator.layer_wishes(ranked, capacity).cpu()  # rounding looks at them many times
        return self._whole(wishes, ranked.shape[1], capacity)

    def _whole(self, wishes: Tensor, candidates: int, capacity: int) -> Tensor:
        if self.rounding == "paper":
            return self.allocator.paper_counts(wishes).clamp(0, candidates)
        return share_out(wishes.flatten(), candidates, capacity * wishes.numel()).view(wishes.shape)


@lru_cache(maxsize=4096)
def _static_counts(method: Method, shape: ModelShape, candidates: int, capacity: int) -> Tensor:
    return method._whole(method.allocator.wishes(shape, candidates, capacity), candidates, capacity)
