"""Append to, and attend over, segments of very different lengths, in plain PyTorch without a loop over heads.

Segments are sorted into size classes. A class is a strided view [segments, capacity, D] of the arena, so one
call of scaled_dot_product_attention serves it; slots beyond a segment's length are masked. The class of a
segment follows from its own size only, so other rows never change a result.
"""

from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from .work_list import WorkList

FINE_FROM, FINE = 1024, 512  # slots: long segments are few, and half of one is much memory


@dataclass(frozen=True)
class SizeClass:
    """`count` segments of `capacity` slots, from slot `offset` and place `first` of the order on."""

    offset: int
    first: int
    count: int
    capacity: int


@dataclass(frozen=True)
class Arena:
    """The slots of one layer. N = R * H segments, numbered row * H + head.

    Args:
        keys: [S, D].
        values: [S, D].
        tokens: [S] index of the token in each slot.
        bias: [S] 0 where a slot is in use, -inf where not; the dtype of the queries.
        lengths: [R, H] slots in use.
        starts: [N] first slot of each segment.
        order: [N] segments in the order of the arena.
        place: [N] where in that order each segment stands.
        classes: the size classes in the order of the arena.
        room: tokens that still fit into every segment.
        work: the chunks that kernels work on; None where plain PyTorch laid the arena out.
    """

    keys: Tensor
    values: Tensor
    tokens: Tensor
    bias: Tensor
    lengths: Tensor
    starts: Tensor
    order: Tensor
    place: Tensor
    classes: tuple[SizeClass, ...]
    room: int
    work: WorkList | None = None


def class_capacity(size: int) -> int:
    """The smallest of 16, 24, 32, 48, 64, ... 1024, and then multiples of 512, that holds `size` slots."""
    return coarse(size) if size <= FINE_FROM else -(-size // FINE) * FINE


def coarse(size: int) -> int:
    """The smallest of 16, 24, 32, 48, 64, 96, ... that is not below `size`."""
    power = 16
    while power < size:
        if power * 3 // 2 >= size:
            return power * 3 // 2
        power *= 2
    return power


def build_arena(keys: Tensor, values: Tensor, tokens: Tensor, lengths: Tensor, room: int) -> Arena:
    """Lay out entries (keys, values [E, D], tokens [E], segment by segment) of lengths [R, H].

    Nothing is waited for where the host knows the lengths; what follows from them is made there and sent in
    one copy, as every small operation on a GPU would be a launch.
    """
    device, known = keys.device, lengths.flatten().tolist()
    sizes = [class_capacity(length + room) for length in known]
    order = sorted(range(len(sizes)), key=sizes.__getitem__)
    starts, places, slots = [0] * len(sizes), [0] * len(sizes), 0
    classes: list[SizeClass] = []
    for position, segment in enumerate(order):
        if not classes or classes[-1].capacity != sizes[segment]:
            classes.append(SizeClass(slots, position, 0, sizes[segment]))
        last = classes[-1]
        classes[-1] = SizeClass(last.offset, last.first, last.count + 1, last.capacity)
        starts[segment], places[segment] = slots, position
        slots += sizes[segment]
    before = accumulate(known, initial=0)  # entries of the segments before
    shifts = [start - entries for start, entries in zip(starts, before, strict=False)]
    sent = torch.tensor([starts, order, places, shifts, known], dtype=torch.long)
    start, ordered, place, shift, flat = sent.to(device, non_blocking=True).unbind(0)
    target = torch.repeat_interleave(shift, flat, output_size=len(keys))
    target = target + torch.arange(len(keys), device=device)
    arena = Arena(
        keys.new_zeros(slots, keys.shape[1]).index_copy_(0, target, keys),
        values.new_zeros(slots, values.shape[1]).index_copy_(0, target, values),
        tokens.new_zeros(slots).index_copy_(0, target, tokens),
        keys.new_full((slots,), float("-inf")).index_fill_(0, target, 0.0),
        flat.view(lengths.shape).clone(),
        start,
        ordered,
        place,
        tuple(classes),
        room,
    )
    return arena


def append(arena: Arena, keys: Tensor, values: Tensor, seen: int | Tensor, more_room: int) -> Arena:
    """Write new tokens [R, H, q, D] behind every segment, in place; `seen` is the index of the first.

    Where the room is used up, the arena is laid out anew with at least `more_room` more. `seen` may be a
    tensor [1]: then nothing of this call is fixed to the step at which it was made.
    """
    new = keys.shape[2]
    if new > arena.room:
        arena = grow(arena, max(new, more_room))
    slots = arena.starts + arena.lengths.flatten()
    if new > 1:
        slots = (slots[:, None] + torch.arange(new, device=keys.device)).flatten()
    arena.keys.index_copy_(0, slots, keys.reshape(-1, keys.shape[3]))
    arena.values.index_copy_(0, slots, values.reshape(-1, values.shape[3]))
    if isinstance(seen, int) and new == 1:
        arena.tokens.index_fill_(0, slots, seen)
    else:
        tokens = seen + torch.arange(new, device=keys.device)
        arena.tokens.index_copy_(0, slots, tokens.repeat(len(slots) // new))
    arena.bias.index_fill_(0, slots, 0.0)
    arena.lengths.add_(new)
    return Arena(**{**arena.__dict__, "room": arena.room - new})


def attend(arena: Arena, queries: Tensor, scaling: float, mask: Tensor | None = None) -> Tensor:
    """Attention of the last q tokens over their segments, causal among themselves.

    Args:
        arena: as left by `append`, which has written the keys and values of these q tokens.
        queries: [R, Hq, q, D].
        scaling: factor on the dot products.
        mask: [R, 1, q, tokens seen] bool or additive, or None; looked up by each slot's token.

    Returns:
        [R, q, Hq, D].
    """
    rows, heads = arena.lengths.shape
    query_heads, new, dim = queries.shape[1:]
    group = query_heads // heads
    segments = queries.reshape(rows * heads, group * new, dim)
    several = len(arena.classes) > 1  # else the order is that of the segments
    if several:
        segments = segments.index_select(0, arena.order)
    outputs = []
    for size in arena.classes:
        here = slice(size.offset, size.offset + size.count * size.capacity)
        shape = (size.count, 1, size.capacity, dim)
        bias = arena.bias[here].view(size.count, 1, 1, size.capacity)
        if new > 1 or mask is not None:
            bias = bias + _visible(arena, size, new, mask).repeat(1, 1, group, 1)
        part = segments[size.first : size.first + size.count, None]
        outputs.append(
            F.scaled_dot_product_attention(
                part,
                arena.keys[here].view(shape),
                arena.values[here].view(shape),
                attn_mask=bias,
                scale=scaling,
            )
        )
    out = torch.cat(outputs).index_select(0, arena.place) if several else outputs[0]
    return out.view(rows, query_heads, new, dim).transpose(1, 2)


def _visible(arena: Arena, size: SizeClass, new: int, mask: Tensor | None) -> Tensor:
    """[segments, 1, q, capacity] additive: what each of the q new tokens may see in this class."""
    segments = arena.order[size.first : size.first + size.count]
    tokens = arena.tokens[size.offset : size.offset + size.count * size.capacity].view(
        size.count, 1, size.capacity
    )
    if mask is None:
        last = (
            arena.lengths.flatten()[segments][:, None] - new + torch.arange(new, device=tokens.device)
        )  # [n, q]
        seen = torch.arange(size.capacity, device=tokens.device) <= last[:, :, None]
    else:
        allowed = mask[:, 0] if mask.dtype == torch.bool else mask[:, 0] == 0
        per_segment = allowed[segments // arena.lengths.shape[1]]  # [n, q, seen]
        seen = per_segment.gather(2, tokens.expand(size.count, new, size.capacity))
    return torch.where(seen, 0.0, float("-inf")).to(arena.bias.dtype)[:, None]


def grow(arena: Arena, room: int) -> Arena:
    """The same entries with more room."""
    flat = arena.lengths.flatten()
    used = torch.repeat_interleave(arena.starts - (flat.cumsum(0) - flat), flat) + torch.arange(
        int(flat.sum()), device=flat.device
    )
    return build_arena(arena.keys[used], arena.values[used], arena.tokens[used], arena.lengths, room)
