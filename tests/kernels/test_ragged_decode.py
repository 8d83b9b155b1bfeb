"""Ragged decode attention equals its float64 reference; on the CPU in Triton's interpreter."""

import pytest
import torch
from sparsemm.kernels import ragged_decode as module
from sparsemm.kernels import work_list
from sparsemm.kernels.ragged_decode import HEAD_DIMS, ragged_decode
from sparsemm.kernels.ragged_decode_ref import ragged_decode as reference

TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}


@pytest.fixture(autouse=True)
def poisoned_outputs(monkeypatch):
    """What a kernel does not write stays NaN."""

    def empty(*shape, **kind):
        return torch.full(shape, float("nan"), **kind)

    monkeypatch.setattr(module.torch, "empty", empty)


def close(case, got):
    cpu = [one.cpu() for one in (case.queries, case.keys, case.values, case.starts, case.lengths)]
    expected = reference(*cpu, 0.2)
    tolerance = TOLERANCE[case.queries.dtype]
    assert got.dtype == case.queries.dtype
    assert torch.allclose(got.cpu().double(), expected, atol=tolerance, rtol=tolerance)


def run(case, room=0):
    return ragged_decode(
        case.queries, case.keys, case.values, case.starts, case.lengths, 0.2, case.work(room)
    )


@pytest.mark.parametrize("group", [1, 7])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_mixed_lengths_in_one_call_equal_the_reference(make_case, dtype, group):
    case = make_case(128, dtype, group)
    close(case, run(case))


@pytest.mark.parametrize("group", [1, 3])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("dim", HEAD_DIMS)
def test_every_head_dim_and_dtype_equals_the_reference(make_case, dim, dtype, group):
    case = make_case(dim, dtype, group, [[0, 130], [63, 17]])
    close(case, run(case))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_rows_output_is_the_same_to_the_bit_whatever_the_other_rows_hold(make_case, dtype):
    first = make_case(64, dtype, 2, [[257, 65], [3000, 1], [0, 2]])
    others = make_case(64, dtype, 2, [[257, 65], [0, 1], [700, 5000], [9, 9]])
    alone = make_case(64, dtype, 2, [[257, 65]])
    for other in (others, alone):
        other.queries[0] = first.queries[0]
    expected = run(first)[0]
    assert torch.equal(run(others)[0], expected)
    assert torch.equal(run(alone)[0], expected)
    assert torch.equal(run(alone, room=5000)[0], expected)  # chunks that are not in use change nothing


def test_queries_may_be_a_view_of_a_larger_tensor(make_case):
    case = make_case(64, torch.float32, 2)
    wide = torch.full((*case.queries.shape[:2], 3, 64), float("nan"), device=case.queries.device)
    wide[:, :, 1] = case.queries
    view = ragged_decode(wide[:, :, 1], case.keys, case.values, case.starts, case.lengths, 0.2, case.work())
    assert torch.equal(view, run(case))


def test_logits_of_any_size_do_not_overflow(make_case):
    case = make_case(64, torch.float32, 1, [[200, 3]])
    case.keys.mul_(1000)
    close(case, run(case))


@pytest.mark.parametrize(
    "size", [0, 1, 127, 128, 129, 1024, 1025, 1280, 3071, 3072, 3073, 3584, 3585, 40_000]
)
def test_the_work_list_covers_every_slot_once(size):
    sizes = torch.tensor([size, 0, 300])
    count = sum(work_list.chunks_of(one) for one in sizes.tolist())
    work = work_list.make_work_list(sizes.tolist(), sizes.device)
    assert len(work.segments) == count == int(work.firsts[-1])
    begin, length = work_list.chunk_bounds(work.chunks.long())
    covered = torch.zeros(int(sizes.max()) + work_list.LONG, dtype=torch.int)
    for segment, first, slots in zip(work.segments.tolist(), begin.tolist(), length.tolist(), strict=True):
        if segment == 0:
            covered[first : first + slots] += 1
    assert bool((covered[:size] == 1).all())
    assert len(set(zip(work.segments.tolist(), work.chunks.tolist(), strict=True))) == count
