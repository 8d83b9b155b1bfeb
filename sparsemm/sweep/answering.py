"""Answers of a group of cells; what fails, or does not fit into memory, is tried in smaller parts."""

import gc
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from sparsemm.engine.attention import refuse_sliding
from sparsemm.engine.generate import Engine, Generation
from sparsemm.engine.memory import is_out_of_memory
from sparsemm.methods.base import Method
from sparsemm.models.base import LoadedModel, Prompt
from sparsemm.results.store import Attempt, CellFolder
from sparsemm.tasks.base import Sample


@dataclass
class RunningCell:
    """One cell in a worker's hands."""

    entry: dict[str, Any]
    method: Method
    folder: CellFolder
    done: set[str]  # sample ids
    attempt: Attempt | None = None
    rows: int = 0
    open: bool = True  # neither failed nor lost to another worker
    writing: threading.Lock = field(default_factory=threading.Lock)


Found = Mapping[int, list[Generation] | str]  # place in the batch -> an answer per cell, or why there is none


@dataclass
class Answering:
    """Answers prompts under cells.

    Args:
        make_engine: the engine of some methods.
        fail: told of a cell that cannot be answered, and why.
    """

    make_engine: Callable[[Sequence[Method]], Engine]
    fail: Callable[[RunningCell, str], None]
    _engines: dict[tuple[str, ...], Engine] = field(default_factory=dict)
    _too_large: list[tuple[int, int]] = field(default_factory=list)  # (longest prompt, tokens x cells)

    def answers(
        self, prompts: Mapping[int, Prompt], cells: Sequence[RunningCell]
    ) -> Iterator[tuple[Sequence[RunningCell], Found]]:
        """Answer every prompt under every cell.

        Where memory runs out, half of the prompts are tried at once, then half of the cells; a prompt that
        does not fit alone, under one cell, has no answer. Where anything else fails, half of the cells are
        tried: one bad cell fails alone.

        Raises:
            RuntimeError: the GPU is in an error state, in which nothing can be computed any more.
        """
        if not prompts or not cells:
            return
        size = (
            max(one.tokens for one in prompts.values()),
            len(cells) * sum(one.tokens for one in prompts.values()),
        )
        several = len(prompts) > 1 or len(cells) > 1
        if several and any(size[0] >= longest and size[1] >= load for longest, load in self._too_large):
            yield from self._parts(prompts, cells)
            return
        places = list(prompts)
        try:
            rows = self._engine(cells).answer([prompts[place] for place in places])
        except Exception as error:
            if not is_out_of_memory(error):
                if is_broken_gpu(error):
                    raise
                yield from self._without_bad_cell(prompts, cells, error)
                return
            reason = f"out of memory: {_first_line(error)}"
        else:
            yield cells, dict(zip(places, rows, strict=True))
            return
        _free_memory()  # outside the except clause, whose traceback holds the tensors
        if not several:
            yield cells, dict.fromkeys(places, f"{reason}. One prompt under one cell does not fit.")
            return
        said = f"{len(prompts)} prompts of up to {size[0]} tokens under {len(cells)} cells"
        print(f"Out of memory with {said}: trying fewer at once.", file=sys.stderr)
        self._too_large.append(size)
        yield from self._parts(prompts, cells)

    def _without_bad_cell(
        self, prompts: Mapping[int, Prompt], cells: Sequence[RunningCell], error: Exception
    ) -> Iterator[tuple[Sequence[RunningCell], Found]]:
        if len(cells) == 1:
            self.fail(cells[0], f"{type(error).__name__}: {error}")
            return
        for part in _halves(cells):
            yield from self.answers(prompts, part)

    def _parts(
        self, prompts: Mapping[int, Prompt], cells: Sequence[RunningCell]
    ) -> Iterator[tuple[Sequence[RunningCell], Found]]:
        """Halves of the prompts, and of the cells where there is one prompt."""
        if len(prompts) > 1:
            for places in _halves(list(prompts)):
                yield from self.answers({place: prompts[place] for place in places}, cells)
        else:
            for part in _halves(cells):
                yield from self.answers(prompts, part)

    def _engine(self, cells: Sequence[RunningCell]) -> Engine:
        """One engine per set of cells: it remembers what it planned."""
        key = tuple(cell.entry["fingerprint"] for cell in cells)
        if key not in self._engines:
            self._engines[key] = self.make_engine([cell.method for cell in cells])
        return self._engines[key]


def encode(loaded: LoadedModel, sample: Sample, answer_tokens: int) -> Prompt | str:
    """The prompt, or why there is none: what cannot be read, or is too long, fails its sample only."""
    try:
        prompt = loaded.prompt(sample.images(), sample.question)
        refuse_sliding(prompt.tokens + answer_tokens, loaded.sliding_window)
        return prompt
    except Exception as error:  # image decoders raise whatever they like
        if is_out_of_memory(error):
            return f"out of memory: {_first_line(error)}"
        if is_broken_gpu(error):
            raise
        return f"{type(error).__name__}: {error}"


def is_broken_gpu(error: BaseException) -> bool:
    """Whether every later call will fail as well."""
    return isinstance(error, RuntimeError) and "CUDA error" in str(error)


def _halves(items: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
    middle = (len(items) + 1) // 2
    return items[:middle], items[middle:]


def _free_memory() -> None:
    if torch.cuda.is_available():  # elsewhere the operating system takes back what is free
        gc.collect()
        torch.cuda.empty_cache()


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
