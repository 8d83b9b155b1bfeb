"""Copying everything to append is what its reference does, by Triton and by PyTorch alone."""

import pytest
import torch
from sparsemm.kernels.copy_behind import BLOCK, copy_behind
from sparsemm.kernels.copy_behind_ref import copy_behind as reference

from sparsemm.bench.published import copy_by_torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("copied", [copy_behind, copy_by_torch])
@pytest.mark.parametrize(
    ("dim", "dtype", "counts"),
    [(64, torch.float16, torch.int32), (80, torch.float32, torch.int64), (128, torch.bfloat16, torch.int32)],
)
def test_every_segment_gets_its_new_entry_behind_it(copied, dim, dtype, counts):
    lengths = torch.tensor([0, 63, 1, 2 * BLOCK // dim + 1, 0, 257])
    ends = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]).to(DEVICE, counts)
    flat = torch.randn(int(lengths.sum()), dim, device=DEVICE).to(dtype)
    new = torch.randn(len(lengths), dim, device=DEVICE).to(dtype)
    longest = int(lengths.max())
    expected = reference(flat, new, ends, longest)
    for roomy in (longest, 3 * longest):
        assert torch.equal(copied(flat, new, ends, roomy), expected)
