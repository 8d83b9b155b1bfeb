"""A cache that does not fit says what it needs and what would fit."""

import pytest
import torch

from sparsemm.cache import RaggedCache
from sparsemm.engine import memory
from sparsemm.engine.generate import Engine
from sparsemm.engine.memory import arena_slots, slot_bytes


def test_what_is_told_is_what_an_arena_holds(loaded, prompts, full, make_method):
    engine = Engine(loaded, [full, make_method("sparsemm", 9)], 5)
    cache = RaggedCache(engine.selector, loaded.shape.layers, hold=True)
    with torch.inference_mode():
        loaded.model(**prompts[0].inputs, past_key_values=cache)
    used, spare = arena_slots(cache.kept_lengths, 5)
    arenas = [layer.arena for layer in RaggedCache.join([cache], (0, 2), 5).layers]
    parts = [(arena.keys, arena.values, arena.tokens, arena.bias) for arena in arenas]
    assert used + spare == sum(len(arena.keys) for arena in arenas)
    assert slot_bytes(loaded.shape.head_dim, 4) * (used + spare) == sum(
        one.numel() * one.element_size() for part in parts for one in part
    )


def test_out_of_memory_names_the_parts_and_what_would_fit(loaded, prompts, full, make_method, monkeypatch):
    def join(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 bytes.")

    engine = Engine(loaded, [full, make_method("sparsemm", 9)], 5)
    needed = []
    monkeypatch.setattr(memory, "arena_slots", lambda *given: needed.append(arena_slots(*given)) or needed[0])
    half = slot_bytes(loaded.shape.head_dim, 4) / 2
    monkeypatch.setattr(memory, "free_bytes", lambda device: int(half * sum(needed[0])) + 1)
    monkeypatch.setattr(RaggedCache, "join", join)
    with pytest.raises(
        torch.OutOfMemoryError,
        match=r"cache of 2 rows: .* GB of kept entries and .* GB of room for answers of 5 tokens, .* of "
        r"weights\. .* GB are free, enough for about 1 rows or 50% of the budget\. Lower budget",
    ):
        engine.answer(prompts[:1])
