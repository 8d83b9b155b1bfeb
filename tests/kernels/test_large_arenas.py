"""Arenas of more than 2^31 elements: 32 rows of 32 heads with 32K entries of 128 numbers have 2^32.

Memory that is not touched is not taken, so the arena here costs a few pages.
"""

import pytest
import torch
from sparsemm.kernels.append import append
from sparsemm.kernels.ragged_decode import ragged_decode
from sparsemm.kernels.work_list import make_work_list

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DIM = 64
FAR = 2**31 // DIM  # the first slot beyond


def test_a_segment_beyond_two_to_the_31_elements_is_appended_to_and_read():
    try:
        arena = torch.empty(FAR + 64, DIM, dtype=torch.float16, device=DEVICE)
    except RuntimeError:
        pytest.skip("this machine promises no more than 4 GB")
    generator = torch.Generator().manual_seed(0)
    entries = torch.randn(5, DIM, generator=generator).half().to(DEVICE)
    new = torch.randn(1, 1, 1, DIM, generator=generator).half().to(DEVICE)
    arena[FAR : FAR + 5] = entries
    starts, lengths = (torch.tensor([one], device=DEVICE) for one in (FAR, 5))
    tokens = torch.empty(len(arena), dtype=torch.long, device=DEVICE)
    bias = torch.empty(len(arena), dtype=torch.float16, device=DEVICE)
    append(arena, arena, tokens, bias, starts, lengths, new, new, torch.tensor([9], device=DEVICE))
    assert torch.equal(arena[FAR + 5], new[0, 0, 0])
    assert (int(lengths), int(tokens[FAR + 5])) == (6, 9)
    query = torch.randn(1, 1, DIM, generator=generator).half().to(DEVICE)
    found = ragged_decode(query, arena, arena, starts, lengths, 0.1, make_work_list([5], lengths.device))
    held = torch.cat([entries, new[0, 0]]).double()
    expected = torch.softmax(0.1 * query[0].double() @ held.T, -1) @ held
    assert torch.allclose(found[0].double(), expected, atol=1e-3)
