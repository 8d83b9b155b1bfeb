"""Arenas of very different lengths, laid out with poison in every slot that is not in use."""

from dataclasses import dataclass

import pytest
import torch
from sparsemm.kernels.work_list import WorkList, make_work_list
from torch import Tensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MIXED = [[0, 1], [63, 64], [65, 257], [5000, 2]]  # [R, H]


@dataclass(frozen=True)
class Case:
    """Keys and values [S, D], starts [N], lengths [R, H], queries [R, Hq, D]."""

    keys: Tensor
    values: Tensor
    starts: Tensor
    lengths: Tensor
    queries: Tensor

    def work(self, room: int = 0) -> WorkList:
        sizes = self.lengths.flatten() + room
        return make_work_list(sizes.tolist(), sizes.device)


def _case(
    dim: int = 64,
    dtype: torch.dtype = torch.float32,
    group: int = 1,
    lengths: list[list[int]] | None = None,
    room: int = 7,
    seed: int = 0,
    device: str = DEVICE,
) -> Case:
    """Random content; every segment's own does not depend on the others."""
    lengths = MIXED if lengths is None else lengths
    starts, parts, slots = [], [], 3
    for row, inside in enumerate(lengths):
        for head, length in enumerate(inside):
            generator = torch.Generator().manual_seed(1000 * seed + 17 * row + head)
            parts.append(torch.randn(2, length, dim, generator=generator))
            starts.append(slots)
            slots += length + room
    arena = torch.full((2, slots, dim), float("nan"))
    for start, part in zip(starts, parts, strict=True):
        arena[:, start : start + part.shape[1]] = part
    queries = torch.randn(
        len(lengths), len(lengths[0]) * group, dim, generator=torch.Generator().manual_seed(seed)
    )
    arena, queries = arena.to(device, dtype), queries.to(device, dtype)
    return Case(
        arena[0].contiguous(), arena[1].contiguous(), torch.tensor(starts, device=device),
        torch.tensor(lengths, device=device), queries,
    )  # fmt: skip


@pytest.fixture(scope="session")
def make_case():
    return _case
