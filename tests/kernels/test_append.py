"""Appending writes what its reference writes, and nothing else."""

import pytest
import torch
from sparsemm.kernels.append import append, device_scalar
from sparsemm.kernels.append_ref import append as reference

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def parts(case):
    """Keys, values, tokens, bias of an arena; NaN and -inf where nothing is in use."""
    tokens = torch.full((len(case.keys),), -7, device=case.keys.device)
    bias = torch.full((len(case.keys),), float("-inf"), dtype=case.keys.dtype, device=case.keys.device)
    return [case.keys.clone(), case.values.clone(), tokens, bias, case.starts, case.lengths.clone()]


@pytest.mark.parametrize("new", [1, 3])
@pytest.mark.parametrize("dim, dtype", [(64, DTYPES[0]), (80, DTYPES[1]), (128, DTYPES[2]), (96, DTYPES[0])])
def test_new_tokens_are_written_behind_every_segment_and_nowhere_else(make_case, dim, dtype, new):
    case = make_case(dim, dtype)
    got, expected = parts(case), [one.cpu() for one in parts(case)]
    shape = (*case.lengths.shape, dim)
    for step in range(2):
        # as the projections leave them: [R, q, H, D] seen from the side
        fresh = (
            torch.randn(2, shape[0], new, shape[1], dim, device=case.keys.device).to(dtype).transpose(2, 3)
        )
        append(*got, *fresh, device_scalar(100 + step * new, case.keys.device))
        reference(*expected, *fresh.cpu(), torch.tensor([100 + step * new]))
    for left, right in zip(got, expected, strict=True):
        assert torch.equal(left.cpu().nan_to_num(), right.nan_to_num())


def test_ten_thousand_tokens_overwrite_nothing_and_reallocate_nothing(make_case):
    case = make_case(64, torch.float32, 1, [[3]], room=10_000)
    arena = parts(case)
    addresses = [one.data_ptr() for one in arena]
    fresh = (
        torch.arange(10_000.0, device=case.keys.device)[None, None, :, None].expand(1, 1, -1, 64).contiguous()
    )
    for begin in range(0, 10_000, 400):
        new = fresh[:, :, begin : begin + 400]
        append(*arena, new, -new, device_scalar(begin, case.keys.device))
    assert [one.data_ptr() for one in arena] == addresses
    assert arena[5].tolist() == [[10_003]]
    for start, before in zip(case.starts.tolist(), (3,), strict=True):
        assert torch.equal(arena[0][start : start + before], case.keys[start : start + before])
        assert torch.equal(arena[0][start + before : start + before + 10_000], fresh[0, 0])
        assert arena[2][start + before : start + before + 10_000].tolist() == list(range(10_000))
    assert bool(arena[0][:3].isnan().all())  # slots before the first segment
