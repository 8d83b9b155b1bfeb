"""Gathering copies what its reference copies, and leaves the room behind it alone."""

import pytest
import torch
from sparsemm.kernels.gather import SPAN, gather
from sparsemm.kernels.gather_ref import gather as reference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dim", [64, 80, 128, 256])
def test_every_rows_entries_arrive_in_token_order(dim, dtype):
    rows, heads, tokens, room = 4, 3, SPAN + 70, 5
    torch.manual_seed(dim)
    keys, values = torch.randn(2, tokens, heads, dim).to(dtype).transpose(1, 2)
    share = torch.tensor([0.0, 0.02, 0.5, 1.0])[:, None, None]
    keep = torch.rand(rows, heads, tokens) < share
    counts = keep.sum(2).flatten() + room
    starts = counts.cumsum(0) - counts
    slots = int(counts.sum())

    def outputs():
        empty = torch.full((2, slots, dim), float("nan"), dtype=dtype)
        return [*empty, torch.full((slots,), -1)]

    expected = outputs()
    reference(keys, values, keep, starts, *expected, shift=9)
    got = [one.to(DEVICE) for one in outputs()]
    gather(*(one.to(DEVICE) for one in (keys, values, keep, starts)), *got, shift=9)
    for left, right in zip(got, expected, strict=True):
        assert torch.equal(left.cpu().nan_to_num(), right.nan_to_num())
