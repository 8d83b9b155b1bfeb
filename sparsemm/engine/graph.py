"""Decoding by a captured step: a CUDA graph of the whole model, replayed for every token.

A step reads and writes buffers of fixed address and shape and looks at no value on the host, so it can be
captured once for a shape and replayed for all prompts; positions and lengths are counted on the device. The
host looks at the answers every few tokens. The step itself is ordinary code and runs on a CPU too.
"""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsemm.cache import RaggedCache
from sparsemm.engine.captured import Captured, capture
from sparsemm.engine.compiled import Forward, check_tools, compile_forward, reading
from sparsemm.engine.greedy import Answers, Greedy
from sparsemm.kernels.static_arena import empty_like, fill, shape_of
from sparsemm.models.base import LoadedModel

TOGETHER = 8  # steps between two looks at the answers; not measured
DECODES = ("eager", "graph", "compiled")
KEPT = 2  # shapes whose graphs and buffers stay in memory


@dataclass
class Rows:
    """What a step works on; every tensor stays where it is.

    Args:
        cache: arenas that are filled anew for every prompt.
        tokens: [R] the last token of every row.
        positions: [R] position of that token.
        clock: [1] index of that token, counted from the beginning of the prompt.
        place: [1] column of `answers` that is written next.
        answers: [real rows, N] tokens chosen.
        seen: [real rows, V] tokens that a repetition penalty knows, or None.
    """

    cache: RaggedCache
    tokens: Tensor
    positions: Tensor
    clock: Tensor
    place: Tensor
    answers: Tensor
    seen: Tensor | None


class Step:
    """One decode step of a shape, and its graph once there is one.

    Args:
        loaded: the model.
        greedy: which token comes next.
        rows: what the step works on.
        forward: the model's part as it was compiled; None: the model itself.
    """

    def __init__(self, loaded: LoadedModel, greedy: Greedy, rows: Rows, forward: Forward | None = None):
        self.loaded, self.greedy, self.rows, self.forward = loaded, greedy, rows, forward
        self.graph: Captured | None = None

    @torch.inference_mode()
    def run(self) -> None:
        """Every row's next token; nothing is read back."""
        rows = self.rows
        real = len(rows.answers)
        chosen = self.greedy.choose(self._logits()[:real], rows.seen)
        rows.tokens[:real].copy_(chosen)
        rows.answers.index_copy_(1, rows.place, chosen[:, None])
        for counter in (rows.positions, rows.clock, rows.place):
            counter.add_(1)

    def _logits(self) -> Tensor:
        """[R, V]."""
        rows = self.rows
        if self.forward is not None:
            with reading(rows.cache):
                return self.forward(rows.tokens, rows.positions)
        output = self.loaded.model(
            input_ids=rows.tokens[:, None],
            position_ids=self.loaded.decode_positions(rows.positions),
            past_key_values=rows.cache,
            use_cache=True,
        )
        logits: Tensor = output.logits[:, -1]
        return logits

    @torch.inference_mode()
    def capture(self) -> None:
        """Record the step; what the buffers hold is lost."""
        with torch.cuda.device(self.rows.tokens.device):  # streams are those of the current device
            self.graph = capture(self.run, self._take_back)

    def _take_back(self) -> None:
        """Give the room of one step back; recording computes nothing."""
        for layer in self.rows.cache.layers:
            layer.count(-1)

    def go(self, steps: int = 1) -> None:
        """Steps one after the other: replayed where the step was captured."""
        if self.graph is None:
            for _ in range(steps):
                self.run()
            return
        for layer in self.rows.cache.layers:
            layer.count(steps)  # refuses before anything is written
        for _ in range(steps):
            self.graph.replay()


class GraphDecoder:
    """Decodes the rows of a laid-out cache, with one captured step for each shape.

    Args:
        loaded: the model.
        greedy: which token comes next, and when a row ends.
        capture: False runs the step as it is, on the same buffers.
        compiled: the model's part is compiled first (see `sparsemm.engine.compiled`).

    Raises:
        ValueError: a model on several GPUs, nothing to compile with.
    """

    def __init__(self, loaded: LoadedModel, greedy: Greedy, capture: bool = True, compiled: bool = False):
        if len({parameter.device for parameter in loaded.model.parameters()}) > 1:
            raise ValueError(
                f"engine.decode={'compiled' if compiled else 'graph'}: one graph cannot run on several GPUs. "
                "Set engine.decode=eager, or model.device_map=null."
            )
        self.loaded, self.greedy, self.capture = loaded, greedy, capture
        self.forward = compile_forward(loaded) if compiled else None
        self.steps: OrderedDict[Hashable, Step] = OrderedDict()

    @torch.inference_mode()
    def decode(
        self, cache: RaggedCache, first: Tensor, positions: Tensor, seen: Tensor | None, limit: int
    ) -> list[tuple[int, ...]]:
        """Answers of up to `limit` tokens, the first included; the cache is used up.

        Args:
            cache: laid out with room for them, for R rows.
            first: [real rows] the tokens that the prompts led to; empty rows follow.
            positions: [R] their positions.
            seen: [real rows, V] what a repetition penalty knows, or None.
            limit: tokens of the longest answer.
        """
        answers = Answers(self.greedy, first)
        if limit == 1 or bool(answers.finished.all()):
            return answers.tokens()
        step = self.step(cache, first, positions, seen, limit)
        rows, made = step.rows, 0
        while made < limit - 1 and not bool(answers.finished.all()):
            together = min(TOGETHER, limit - 1 - made)
            step.go(together)
            for column in range(made, made + together):
                answers.add(rows.answers[:, column].clone())
            made += together
        return answers.tokens()

    def step(
        self, cache: RaggedCache, first: Tensor, positions: Tensor, seen: Tensor | None, limit: int
    ) -> Step:
        """The step of this shape, captured where it is to be, its buffers filled; the cache is used up."""
        shapes = tuple(shape_of(layer.arena) for layer in cache.layers if layer.arena is not None)
        key = (
            shapes,
            tuple(first.shape),
            tuple(positions.shape),
            None if seen is None else seen.shape,
            limit,
        )
        if key not in self.steps:
            while len(self.steps) >= KEPT:
                self.steps.popitem(last=False)
            rows = self._rows(cache, first, positions, seen, limit)
            made = Step(self.loaded, self.greedy, rows, self.forward)
            if self.capture:
                self._fill(rows, cache, first, positions, seen)
                made.capture()
            self.steps[key] = made
        self.steps.move_to_end(key)
        step = self.steps[key]
        self._fill(step.rows, cache, first, positions, seen, release=True)
        return step

    def _rows(
        self, cache: RaggedCache, first: Tensor, positions: Tensor, seen: Tensor | None, limit: int
    ) -> Rows:
        layers = cache.layers
        static = RaggedCache(None, len(layers), layers[0].room, masked=layers[0].masked)
        clock = torch.zeros(1, dtype=torch.long, device=first.device)
        for layer, found in zip(static.layers, layers, strict=True):
            assert found.arena is not None
            layer.arena, layer.clock = empty_like(found.arena), clock
            layer.backend_name = found.backend_name  # resolved with the first keys
        return Rows(
            static,
            first.new_zeros(len(positions)),
            torch.empty_like(positions),
            clock,
            clock.clone(),
            first.new_zeros(len(first), limit),
            None if seen is None else torch.empty_like(seen),
        )

    def _fill(
        self,
        rows: Rows,
        cache: RaggedCache,
        first: Tensor,
        positions: Tensor,
        seen: Tensor | None,
        release: bool = False,
    ) -> None:
        """Copy a prompt's cache and beginning into the buffers; `release` gives each layer's memory back."""
        for layer, found in zip(rows.cache.layers, cache.layers, strict=True):
            assert layer.arena is not None and found.arena is not None
            layer.arena, layer.seen = fill(layer.arena, found.arena), found.seen
            if release:
                found.arena = None
        rows.tokens[: len(first)].copy_(first)
        rows.positions.copy_(positions)
        rows.clock.fill_(cache.layers[0].seen)
        rows.place.zero_()
        if rows.seen is not None and seen is not None:
            rows.seen.copy_(seen)


def check_decode(decode: str, device: torch.device) -> None:
    """Raise ValueError for a name that is not one of DECODES, or a way to decode that cannot run there."""
    if decode not in DECODES:
        raise ValueError(f"engine.decode={decode}: must be one of {', '.join(DECODES)}.")
    if decode == "graph" and device.type != "cuda":
        raise ValueError(
            f"engine.decode=graph: needs an NVIDIA GPU, but the model is on {device}. "
            "Set engine.decode=eager."
        )
    if decode == "compiled":
        check_tools(device)


def make_decoder(decode: str, loaded: LoadedModel, greedy: Greedy) -> GraphDecoder | None:
    """Who decodes by fixed steps, for one of DECODES; None for eager.

    Raises:
        ValueError: another name, or a way to decode that cannot run here.
    """
    check_decode(decode, loaded.device)
    if decode == "eager":
        return None
    compiled = decode == "compiled"
    return GraphDecoder(
        loaded, greedy, capture=not compiled or loaded.device.type == "cuda", compiled=compiled
    )
