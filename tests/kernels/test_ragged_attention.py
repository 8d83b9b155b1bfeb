"""The ragged arena holds what was put in, and attends like its slow reference."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sparsemm.kernels import ragged_attention as fast
from sparsemm.kernels import ragged_attention_ref as slow
from torch import Tensor

DIM = 8
LENGTHS = [[0, 1], [63, 257], [5, 16], [1, 24]]  # [R, H]


def entries(lengths: list[list[int]], seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random keys, values, tokens (ascending within a segment) and lengths."""
    torch.manual_seed(seed)
    flat = [length for row in lengths for length in row]
    longest = max([*flat, 1])
    tokens = torch.cat([torch.randperm(longest)[:length].sort().values for length in flat])
    return torch.randn(sum(flat), DIM), torch.randn(sum(flat), DIM), tokens, torch.tensor(lengths)


def unpack(arena: fast.Arena) -> slow.Segments:
    """The arena's content, read through starts and lengths."""
    spans = list(zip(arena.starts.tolist(), arena.lengths.flatten().tolist(), strict=True))
    return slow.Segments(
        [arena.keys[start : start + length] for start, length in spans],
        [arena.values[start : start + length] for start, length in spans],
        [arena.tokens[start : start + length].tolist() for start, length in spans],
        arena.lengths.shape[1],
    )


def assert_same(arena: fast.Arena, expected: slow.Segments) -> None:
    got = unpack(arena)
    assert got.tokens == expected.tokens
    for left, right in zip(got.keys + got.values, expected.keys + expected.values, strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize("group", [1, 3])
@pytest.mark.parametrize("new", [1, 3])
@pytest.mark.parametrize("masked", [None, "bool", "additive"])
def test_attention_equals_the_slow_reference_while_segments_grow(group, new, masked):
    parts = entries(LENGTHS)
    arena, segments = fast.build_arena(*parts, room=2), slow.build_arena(*parts, room=2)
    rows, heads, seen = len(LENGTHS), len(LENGTHS[0]), 257
    for step in range(4):  # room for 2 tokens: the arena is laid out anew on the way
        keys, values = torch.randn(rows, heads, new, DIM), torch.randn(rows, heads, new, DIM)
        arena = fast.append(arena, keys, values, seen, more_room=2)
        segments = slow.append(segments, keys, values, seen, more_room=2)
        seen += new
        mask = None
        if masked:
            mask = torch.rand(rows, 1, new, seen) < 0.7
            mask[..., -new:] &= torch.ones(new, new, dtype=torch.bool).tril()
            mask[..., range(new), range(seen - new, seen)] = True
        if masked == "additive":
            mask = torch.where(mask, 0.0, torch.finfo(torch.float32).min)
        queries = torch.randn(rows, heads * group, new, DIM)
        got = fast.attend(arena, queries, 0.4, mask)
        expected = slow.attend(segments, queries, 0.4, mask)
        assert got.shape == (rows, new, heads * group, DIM)
        assert torch.allclose(got, expected, atol=1e-5), f"step {step}"
    assert_same(arena, segments)


@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
def test_attention_in_half_precision_stays_near_the_reference(dtype, tolerance):
    keys, values, tokens, lengths = entries(LENGTHS)
    parts = (keys.to(dtype), values.to(dtype), tokens, lengths)
    new = torch.randn(4, 2, 1, DIM).to(dtype), torch.randn(4, 2, 1, DIM).to(dtype)
    queries = torch.randn(4, 4, 1, DIM).to(dtype)
    got = fast.attend(fast.append(fast.build_arena(*parts, 4), *new, 257, 4), queries, 0.4)
    expected = slow.attend(slow.append(slow.build_arena(*parts, 4), *new, 257, 4), queries, 0.4)
    assert got.dtype == dtype
    assert torch.allclose(got.float(), expected, atol=tolerance)


def test_a_query_that_may_see_nothing_gets_no_nan():
    parts = entries([[3, 2]])
    arena = fast.append(
        fast.build_arena(*parts, 4), torch.randn(1, 2, 1, DIM), torch.randn(1, 2, 1, DIM), 3, 4
    )
    mask = torch.zeros(1, 1, 1, 4, dtype=torch.bool)
    assert torch.equal(fast.attend(arena, torch.randn(1, 2, 1, DIM), 1.0, mask), torch.zeros(1, 1, 2, DIM))


def test_slots_beyond_a_segment_never_reach_the_output():
    arena = fast.build_arena(*entries(LENGTHS), room=4)
    arena = fast.append(arena, torch.randn(4, 2, 1, DIM), torch.randn(4, 2, 1, DIM), 257, 4)
    queries = torch.randn(4, 2, 1, DIM)
    before = fast.attend(arena, queries, 0.4)
    unused = arena.bias == float("-inf")
    arena.keys[unused], arena.values[unused] = 1e4, -1e4
    assert torch.equal(fast.attend(arena, queries, 0.4), before)


def test_other_rows_do_not_change_a_rows_output():
    keys, values, tokens, lengths = entries(LENGTHS)
    new = torch.randn(4, 2, 1, DIM), torch.randn(4, 2, 1, DIM)
    queries = torch.randn(4, 4, 1, DIM)
    together = fast.attend(
        fast.append(fast.build_arena(keys, values, tokens, lengths, 4), *new, 257, 4), queries, 0.4
    )
    ends = [0, *lengths.sum(1).cumsum(0).tolist()]
    for row in range(4):
        here, one = slice(ends[row], ends[row + 1]), slice(row, row + 1)
        arena = fast.build_arena(keys[here], values[here], tokens[here], lengths[one], 4)
        arena = fast.append(arena, new[0][one], new[1][one], 257, 4)
        assert torch.allclose(fast.attend(arena, queries[one], 0.4), together[one], atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.integers(1, 3).flatmap(
        lambda heads: st.lists(
            st.lists(st.integers(0, 70), min_size=heads, max_size=heads), min_size=1, max_size=5
        )
    ),
    room=st.integers(1, 20),
    steps=st.lists(st.integers(1, 5), max_size=4),
    seed=st.integers(0, 9),
)
def test_the_arena_holds_what_was_put_in(lengths, room, steps, seed):
    parts = entries(lengths, seed)
    arena, segments = fast.build_arena(*parts, room), slow.build_arena(*parts, room)
    seen = 70
    for new in steps:
        keys, values = (torch.randn(len(lengths), len(lengths[0]), new, DIM) for _ in range(2))
        arena = fast.append(arena, keys, values, seen, room)
        segments = slow.append(segments, keys, values, seen, room)
        seen += new
    assert_same(arena, segments)
    # Segments do not overlap, fit their class, and exactly the slots in use are open to attention.
    used = torch.zeros(len(arena.bias), dtype=torch.int)
    for start, length in zip(arena.starts.tolist(), arena.lengths.flatten().tolist(), strict=True):
        used[start : start + length] += 1
    assert int(used.max()) <= 1
    assert torch.equal(arena.bias == 0, used == 1)
    assert arena.order[arena.place].tolist() == list(range(len(arena.starts)))
    for size in arena.classes:
        for segment in arena.order[size.first : size.first + size.count].tolist():
            inside = int(arena.starts[segment]) - size.offset
            assert inside % size.capacity == 0 and 0 <= inside < size.count * size.capacity
            assert int(arena.lengths.flatten()[segment]) + arena.room <= size.capacity


@given(st.integers(0, 100_000))
def test_a_size_class_wastes_less_than_half_and_less_than_512_slots(size):
    capacity = fast.class_capacity(size)
    assert size <= capacity < size + 512
    assert capacity == 16 or capacity < 1.5 * size + 1


def test_appending_within_the_room_writes_in_place():
    arena = fast.build_arena(*entries(LENGTHS), room=8)
    address = arena.keys.data_ptr(), arena.values.data_ptr(), arena.lengths.data_ptr()
    grown = fast.append(arena, torch.randn(4, 2, 1, DIM), torch.randn(4, 2, 1, DIM), 257, 8)
    assert (grown.keys.data_ptr(), grown.values.data_ptr(), grown.lengths.data_ptr()) == address


def test_ten_thousand_tokens_reallocate_nothing_and_overwrite_nothing():
    parts = entries([[3, 0], [257, 16]])
    arena = fast.build_arena(*parts, room=10_000)
    addresses = [getattr(arena, name).data_ptr() for name in ("keys", "values", "tokens", "bias", "lengths")]
    before = unpack(arena)
    held = [one.clone() for one in before.keys]
    for token in range(10_000):
        new = torch.full((2, 2, 1, DIM), float(token))
        arena = fast.append(arena, new, -new, 300 + token, more_room=1)
    assert addresses == [
        getattr(arena, name).data_ptr() for name in ("keys", "values", "tokens", "bias", "lengths")
    ]
    after, added = unpack(arena), torch.arange(10_000.0)[:, None].expand(-1, DIM)
    for keys, values, tokens, first in zip(after.keys, after.values, after.tokens, held, strict=True):
        assert torch.equal(keys, torch.cat([first, added]))
        assert torch.equal(values[len(first) :], -added)
        assert tokens[len(first) :] == list(range(300, 10_300))
    grown = fast.append(arena, torch.ones(2, 2, 1, DIM), torch.ones(2, 2, 1, DIM), 10_300, more_room=1)
    assert grown.keys.data_ptr() != addresses[0], "a full arena is laid out anew"
    assert torch.equal(unpack(arena).keys[0], torch.cat([held[0], added])), "and was not written to"
