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
from sparsemm.engine.greedy import Answers, Greedy
from sparsemm.kernels.static_arena import empty_like, fill, shape_of
from sparsemm.models.base import LoadedModel

TOGETHER = 8  # steps between two looks at the answers; not measured
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
    """One decode step of a shape, and its graph once there is one."""

    def __init__(self, loaded: LoadedModel, greedy: Greedy, rows: Rows):
        self.loaded, self.greedy, self.rows = loaded, greedy, rows
        self.graph: torch.cuda.CUDAGraph | None = None

    @torch.inference_mode()
    def run(self) -> None:
        """Every row's next token; nothing is read back."""
        rows = self.rows
        output = self.loaded.model(
            input_ids=rows.tokens[:, None],
            position_ids=self.loaded.decode_positions(rows.positions),
            past_key_values=rows.cache,
            use_cache=True,
        )
        real = len(rows.answers)
        chosen = self.greedy.choose(output.logits[:real, -1], rows.seen)
        rows.tokens[:real].copy_(chosen)
        rows.answers.index_copy_(1, rows.place, chosen[:, None])
        for counter in (rows.positions, rows.clock, rows.place):
            counter.add_(1)

    @torch.inference_mode()
    def capture(self) -> None:
        """Record the step; what the buffers hold is lost."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # kernels are compiled and libraries find their workspaces
            self.run()
        torch.cuda.current_stream().wait_stream(side)
        for layer in self.rows.cache.layers:
            layer.count(-1)  # the room of the step before; capturing computes nothing
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.run()
        self.graph = graph

    def go(self) -> None:
        """One step: replayed where it was captured."""
        if self.graph is None:
            self.run()
        else:
            for layer in self.rows.cache.layers:
                layer.count(1)  # refuses before anything is written
            self.graph.replay()


class GraphDecoder:
    """Decodes the rows of a laid-out cache, with one captured step for each shape.

    Args:
        loaded: the model.
        greedy: which token comes next, and when a row ends.
        capture: False runs the step as it is, on the same buffers.

    Raises:
        ValueError: capture without a GPU, or over several.
    """

    def __init__(self, loaded: LoadedModel, greedy: Greedy, capture: bool = True):
        if capture and loaded.device.type != "cuda":
            raise ValueError(
                f"engine.decode=graph: needs an NVIDIA GPU, but the model is on {loaded.device}. "
                "Set engine.decode=eager."
            )
        if capture and len({parameter.device for parameter in loaded.model.parameters()}) > 1:
            raise ValueError(
                "engine.decode=graph: one graph cannot run on several GPUs. "
                "Set engine.decode=eager, or model.device_map=null."
            )
        self.loaded, self.greedy, self.capture = loaded, greedy, capture
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
        step = self._step(cache, first, positions, seen, limit)
        rows, made = step.rows, 0
        while made < limit - 1 and not bool(answers.finished.all()):
            together = min(TOGETHER, limit - 1 - made)
            for _ in range(together):
                step.go()
            for column in range(made, made + together):
                answers.add(rows.answers[:, column].clone())
            made += together
        return answers.tokens()

    def _step(
        self, cache: RaggedCache, first: Tensor, positions: Tensor, seen: Tensor | None, limit: int
    ) -> Step:
        """The step of this shape, its buffers filled."""
        shapes = tuple(shape_of(layer.arena) for layer in cache.layers if layer.arena is not None)
        key = (
            shapes,
            tuple(first.shape),
            tuple(positions.shape),
            None if seen is None else seen.shape,
            limit,
        )
        new = key not in self.steps
        if new:
            while len(self.steps) >= KEPT:
                self.steps.popitem(last=False)
            self.steps[key] = Step(self.loaded, self.greedy, self._rows(cache, first, positions, seen, limit))
        self.steps.move_to_end(key)
        step = self.steps[key]
        if new and self.capture:
            self._fill(step.rows, cache, first, positions, seen)
            step.capture()
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
            layer.backend_name = found.backend_name
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
