"""A floor for every head, and the rest by a score per head: shared by the visual and the random allocator."""

from torch import Tensor

from sparsemm.methods.base import ModelShape


def check_rho(rho: float) -> None:
    """Raise ValueError unless rho is a share."""
    if not 0 <= rho <= 1:
        raise ValueError(
            f"rho={rho}: must be between 0 and 1, the share that every head gets. The paper uses 0.1."
        )


def floor_and_share(scores: Tensor, rho: float, shape: ModelShape, capacity: int) -> Tensor:
    """[L, H] float64 wishes from scores [L, Hq] per query head (arXiv:2506.05344, Eq. 5-9).

    Scores are summed over each GQA group and divided by their total.
    """
    groups = scores.double().view(shape.layers, shape.kv_heads, shape.group).sum(2)
    floor = int(rho * capacity)
    return floor + groups / groups.sum() * (capacity - floor) * shape.layers * shape.kv_heads
