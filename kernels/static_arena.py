"""Arenas of fixed addresses and shapes, into which the arenas of one prompt after the other are copied.

A captured decode step reads the addresses and the grid sizes of its capture. Here both are those of a roomy
arena; the chunks of the list that no prompt needs lie beyond every segment, so their programs end at once.
"""

from collections.abc import Hashable
from dataclasses import replace

import torch
from torch import Tensor

from .ragged_attention import Arena, coarse
from .work_list import WorkList

LARGE = 2**16  # slots from which on a step of `coarse` would be much memory
NOWHERE = 2**20  # a chunk beyond every segment


def roomy(size: int) -> int:
    """Slots or chunks of a buffer for `size`: few different numbers, so that few steps are captured.

    A large one is rounded up to eighths of a power of two, an eighth too much at most.
    """
    if size <= LARGE:
        return coarse(size)
    step = 1 << ((size - 1).bit_length() - 4)
    return -(-size // step) * step


def shape_of(arena: Arena) -> Hashable:
    """What a step captured for one arena must have in common with another.

    Plain PyTorch takes its shapes from the size classes, kernels from slots and chunks, rounded up here.
    """
    rows_and_heads = tuple(arena.lengths.shape)
    if arena.work is None:
        return rows_and_heads, arena.classes
    return rows_and_heads, roomy(len(arena.keys)), roomy(len(arena.work.segments))


def empty_like(arena: Arena) -> Arena:
    """An arena of the same shape with nothing in it."""
    slots, work = len(arena.keys), arena.work
    if work is not None:
        slots, chunks = roomy(slots), roomy(len(work.segments))
        work = WorkList(
            _resized(work.segments, chunks), _resized(work.chunks, chunks), torch.empty_like(work.firsts)
        )
    fields = {name: _resized(getattr(arena, name), slots) for name in ("keys", "values", "tokens", "bias")}
    kept = {name: torch.empty_like(getattr(arena, name)) for name in ("lengths", "starts", "order", "place")}
    return Arena(**fields, **kept, classes=arena.classes, room=0, work=work)


def fill(static: Arena, arena: Arena) -> Arena:
    """Copy an arena into one of its shape; the addresses are those of `static`."""
    assert shape_of(arena) == shape_of(static)
    slots = len(arena.keys)
    for name in ("keys", "values", "tokens"):
        getattr(static, name)[:slots].copy_(getattr(arena, name))
    static.bias[:slots].copy_(arena.bias)
    static.bias[slots:].fill_(float("-inf"))
    for name in ("lengths", "starts", "order", "place"):
        getattr(static, name).copy_(getattr(arena, name))
    if static.work is not None and arena.work is not None:
        chunks = len(arena.work.segments)
        static.work.segments[:chunks].copy_(arena.work.segments)
        static.work.segments[chunks:].zero_()
        static.work.chunks[:chunks].copy_(arena.work.chunks)
        static.work.chunks[chunks:].fill_(NOWHERE)
        static.work.firsts.copy_(arena.work.firsts)
    return replace(static, classes=arena.classes, room=arena.room)


def _resized(tensor: Tensor, length: int) -> Tensor:
    return tensor.new_zeros(length, *tensor.shape[1:])
