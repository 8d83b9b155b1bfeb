"""HeadKV's allocation: every head lends a part of its entries to a pool that head scores share out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparsemm.methods.base import Allocator, ModelShape
from sparsemm.methods.head_shares import check_fit, check_scores, kv_shares

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadKV(Allocator):
    """Every head keeps capacity - capacity // beta; the pool of all capacity // beta goes by head score.

    A smaller beta is a larger pool; it is SparseMM's rule with rho near 1 - 1 / beta. Two things differ
    from the published method: HeadKV scores heads by retrieval and reasoning on text, while these are the
    model's visual scores, so that SparseMM and HeadKV differ in their rule alone; and HeadKV gives every
    query head entries of its own, while ours sums the scores of a GQA group for its KV head.

    Source: arXiv:2410.19258, Eq. 4, and its code (`ReasonSnapKVCluster`, temperature 1).
    """

    head_scores: Tensor  # [L, Hq] float32, >= 0
    beta: float  # every head lends capacity // beta

    def __post_init__(self) -> None:
        if not 1 <= self.beta < float("inf"):
            raise ValueError(
                f"allocator.beta={self.beta}: must be at least 1 (1 lends everything). "
                "The paper tries 1.005 to 10."
            )
        check_scores(self.head_scores)

    def check(self, shape: ModelShape) -> None:
        """Raise ValueError where the scores belong to a model of another shape."""
        check_fit(self.head_scores, shape)

    def wishes(self, shape: ModelShape, candidates: int, capacity: int) -> Tensor:
        """[L, H] float64; see `Allocator.wishes`."""
        self.check(shape)
        lent = int(capacity // self.beta)
        shares = kv_shares(self.head_scores, shape)
        return (capacity - lent) + shares * lent * shares.numel()
