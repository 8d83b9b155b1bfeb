"""RaggedCache: a KV cache in which every head of every row keeps its own entries.

Layout of a layer: one arena for keys and one for values, [slots, D]. A segment is the slots of one KV head of
one row: a start, a length, and room for the tokens to come. Appending writes in place. Segments of similar
size stand together (a size class), so that plain PyTorch attends to a class with one call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from sparsemm.kernels.backends import TORCH, Backend, check_name, current, resolve, using
from sparsemm.kernels.ragged_attention import Arena

if TYPE_CHECKING:
    from sparsemm.engine.select import Selector


@dataclass(frozen=True)
class Kept:
    """The entries that the rows of one prompt keep in one layer, row by row, head by head, in token order.

    Args:
        keys: [E, D].
        values: [E, D].
        tokens: [E] the index of each entry in the prompt.
        lengths: [R, H] entries per segment, on the host; they sum to E.
    """

    keys: Tensor
    values: Tensor
    tokens: Tensor
    lengths: Tensor

    @staticmethod
    def gather(keys: Tensor, values: Tensor, keep: Tensor, lengths: Tensor | None = None) -> Kept:
        """Copy what `keep` [R, H, T] marks of keys and values [H, T, D]: `lengths` [R, H], where known."""
        return Kept(*current().gather(keys, values, keep, lengths))

    def rows(self, start: int, stop: int) -> Kept:
        """Rows `start` to `stop` (clipped)."""
        start, stop = max(0, start), min(stop, len(self.lengths))
        if (start, stop) == (0, len(self.lengths)):
            return self
        if start >= stop:
            return self.empty(0)
        ends = [0, *self.lengths.sum(1).cumsum(0).tolist()]
        here = slice(ends[start], ends[stop])
        return Kept(self.keys[here], self.values[here], self.tokens[here], self.lengths[start:stop])

    def empty(self, rows: int) -> Kept:
        """Rows that keep nothing."""
        return replace(self.released(), lengths=self.lengths.new_zeros(rows, self.lengths.shape[1]))

    def released(self) -> Kept:
        """The lengths alone: nothing of the entries stays in memory."""
        keys, values, tokens = (one[:0].clone() for one in (self.keys, self.values, self.tokens))
        return Kept(keys, values, tokens, self.lengths)


@dataclass(frozen=True)
class MaskedHeads:
    """Query heads that are switched off, while prompts are read and while answers are made.

    Args:
        heads: [L, Hq] bool.
        zero: query (attention becomes uniform over what is visible) or output (what was read is dropped).
    """

    heads: Tensor
    zero: Literal["query", "output"]


class RaggedLayer(CacheLayerMixin):
    """One layer. The attention function of `sparsemm.engine.attention` finds it through the keys."""

    is_sliding = False
    is_compileable = False
    supports_early_init = False

    def __init__(
        self,
        index: int,
        selector: Selector | None,
        room: int,
        hold: bool,
        masked: MaskedHeads | None,
        backend: str,
    ):
        super().__init__()
        self.backend_name = backend
        self.backend: Backend = TORCH  # until the first keys say device, dtype and head_dim
        self.index, self.selector, self.room, self.hold = index, selector, room, hold
        self.masked = masked
        self.masked_heads: Tensor | None = None if masked is None else masked.heads[index]
        self.seen = 0
        self.clock: Tensor | None = None  # [1] the index of the next token, where the device counts it
        self.observed = True  # the attention function has seen the last update
        self.held: list[Kept] = []
        self.arena: Arena | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Remember dtype and device."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.backend = resolve(self.backend_name, self.device, self.dtype, key_states.shape[-1])
        if self.masked_heads is not None:
            self.masked_heads = self.masked_heads.to(self.device)
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Take the keys and values [R, H, q, D] of new tokens; the attention function does the rest."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if not self.observed:
            raise RuntimeError(
                "This model's attention does not read RaggedCache. "
                "Call sparsemm.engine.attention.use_ragged_attention(model) first."
            )
        self.observed = False
        key_states.ragged_layer = self  # type: ignore[attr-defined]
        return key_states, value_states

    def masked_queries(self, queries: Tensor) -> Tensor:
        """Queries [R, Hq, q, D] with those of masked heads set to zero, where that is how they are masked."""
        if self.masked_heads is None or self.masked is None or self.masked.zero != "query":
            return queries
        return queries.masked_fill(self.masked_heads[:, None, None], 0.0)

    def masked_outputs(self, outputs: Tensor) -> Tensor:
        """Outputs [R, q, Hq, D] with those of masked heads set to zero, where that is how they are masked."""
        if self.masked_heads is None or self.masked is None or self.masked.zero != "output":
            return outputs
        return outputs.masked_fill(self.masked_heads[:, None], 0.0)

    def prefill(
        self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scaling: float
    ) -> None:
        """Choose and store the entries of the prompts: queries [B, Hq, T, D], keys and values [B, H, T, D].

        `mask` is what transformers made ([B, 1, T, T] or None); what the last query may not see is padding.
        """
        if self.selector is None:
            raise RuntimeError("This cache was joined from prefilled prompts; it takes no new prompt.")
        self.observed, self.seen = True, keys.shape[2]
        for row in range(len(keys)):
            k, v, q, shift = keys[row], values[row], queries[row], 0
            if mask is not None:
                visible = mask[row, 0, -1] if mask.dtype == torch.bool else mask[row, 0, -1] == 0
                shift = int(visible.int().argmax())
                if not bool(visible[shift:].all()):
                    raise ValueError(
                        "attention_mask: a prompt may be padded on the left only. Set padding_side='left'."
                    )
                k, v, q = k[:, shift:], v[:, shift:], q[:, shift:]
            with using(self.backend):
                kept = self.selector.select(self.index, q, k, v, scaling)
            if not self.hold and len(kept.lengths) != 1:
                raise ValueError(
                    f"RaggedCache: {len(kept.lengths)} methods make {len(kept.lengths)} rows of one prompt. "
                    "Give the selector one method, or decode them together with Engine."
                )
            self.held.append(Kept(kept.keys, kept.values, kept.tokens + shift, kept.lengths))
        if not self.hold:
            self.settle(self.room)

    def settle(self, room: int) -> None:
        """Lay out what is held, with room for `room` more tokens in every segment."""
        parts = zip(*((kept.keys, kept.values, kept.tokens, kept.lengths) for kept in self.held), strict=True)
        keys, values, tokens, lengths = (part[0] if len(part) == 1 else torch.cat(part) for part in parts)
        self.held = []
        self.arena = self.backend.lay_out(keys, values, tokens, lengths, room)

    def decode(
        self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scaling: float
    ) -> Tensor:
        """Append new tokens and attend: [R, Hq, q, D] with keys, values [R, H, q, D] -> [R, q, Hq, D]."""
        assert self.arena is not None
        self.observed = True
        if self.clock is not None and (mask is not None or keys.shape[2] > self.arena.room):
            raise RuntimeError("RaggedCache: a step of fixed addresses takes no mask, and cannot grow.")
        seen = self.seen if self.clock is None else self.clock
        self.arena = self.backend.append(self.arena, keys, values, seen, self.room)
        self.seen += keys.shape[2]
        return self.backend.attend(self.arena, queries, scaling, mask)

    def count(self, steps: int) -> None:
        """Note steps that were replayed on the device, out of this object's sight."""
        assert self.arena is not None
        if steps > self.arena.room:
            raise RuntimeError("RaggedCache: no room for another token in a step of fixed addresses.")
        self.arena = replace(self.arena, room=self.arena.room - steps)
        self.seen += steps

    def get_seq_length(self) -> int:
        """Tokens seen, not entries kept: positions go on from here."""
        return self.seen

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Masks cover all tokens seen; the attention looks its entries up in them."""
        return self.seen + query_length, 0

    def get_max_length(self) -> int:
        """No limit: segments grow when their room is used up."""
        return -1

    get_max_cache_shape = get_max_length

    def reset(self) -> None:
        """Forget everything."""
        self.seen, self.observed, self.held, self.arena = 0, True, [], None

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Beam search would need to copy segments."""
        raise NotImplementedError("RaggedCache does not support beam search. Use num_beams=1.")


class RaggedCache(Cache):
    """A KV cache for `model.generate(past_key_values=...)` that compresses the prompt with one method.

    The prompt is read with full attention, each layer is compressed at once, and all later tokens (answers,
    follow-up questions) are kept in full. A cache serves one conversation; make a new one for the next.

    Args:
        selector: the method(s) and the model's shape.
        room: tokens that every segment can take before the arena grows.
        hold: keep the chosen entries aside for `join` instead of laying them out (used by the engine).
        masked: heads that are switched off.
        backend: who computes: auto, torch, triton, cuda or flash_attn (see `sparsemm.kernels.backends`).

    Raises:
        ValueError: a backend that there is not; one that cannot run here is refused with the first keys.
    """

    def __init__(
        self,
        selector: Selector | None,
        layers: int,
        room: int = 128,
        hold: bool = False,
        masked: MaskedHeads | None = None,
        backend: str = "auto",
    ):
        check_name(backend)
        super().__init__(
            layers=[RaggedLayer(index, selector, room, hold, masked, backend) for index in range(layers)]
        )
        self.layers: list[RaggedLayer]

    @classmethod
    def join(
        cls,
        caches: Sequence[RaggedCache],
        rows: tuple[int, int],
        room: int,
        empty_rows: int = 0,
        release: bool = False,
    ) -> RaggedCache:
        """Lay out rows of several prefilled prompts.

        Args:
            caches: of the prompts, made with `hold`.
            rows: first and last (outside), counted through all prompts.
            room: tokens to come.
            empty_rows: rows without entries that follow.
            release: nothing is joined after this: no more than one layer is in memory twice.
        """
        first = caches[0].layers
        joined = cls(None, len(first), room, masked=first[0].masked, backend=first[0].backend_name)
        for index, layer in enumerate(joined.layers):
            before, layer.backend = 0, first[index].backend
            for held in (kept for cache in caches for kept in cache.layers[index].held):
                here = held.rows(rows[0] - before, rows[1] - before)
                before += len(held.lengths)
                if len(here.lengths):
                    layer.held.append(here)
            if empty_rows:
                layer.held.append(layer.held[0].empty(empty_rows))
            layer.seen = max(cache.layers[index].seen for cache in caches)
            if release:
                for cache in caches:
                    cache.layers[index].held = [kept.released() for kept in cache.layers[index].held]
            layer.settle(room)
        return joined

    @property
    def kept_lengths(self) -> Tensor:
        """[L, R, H] entries that each segment holds now."""
        lengths = [
            torch.cat([kept.lengths for kept in layer.held]) if layer.arena is None else layer.arena.lengths
            for layer in self.layers
        ]
        return torch.stack([one.to(lengths[0].device) for one in lengths])  # layers may be on several devices
