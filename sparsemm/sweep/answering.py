"""Answers of a group of cells; what fails, or does not fit into memory, is tried in smaller parts."""

import gc
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from sparsemm.engine.attention import refuse_sliding
from sparsemm.engine.generate import Engine, Generation
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
    _most: dict[str, int] = field(default_factory=dict)  # prompts or cells that fitted into memory

    def answers(
        self, prompts: Mapping[int, Prompt], cells: Sequence[RunningCell]
    ) -> Iterator[tuple[Sequence[RunningCell], Found]]:
        """Answer every prompt under every cell.

        Where memory runs out, half of the prompts are tried at once, then half of the cells; a prompt that
        does not fit alone, under one cell, has no answer. Where anything else fails, half of the cells are
        tried: one bad cell fails alone.
        """
        if not prompts or not cells:
            return
        places = list(prompts)
        if len(prompts) > self._most.get("prompts", len(prompts)):
            yield from self._parts_of_prompts(prompts, cells)
            return
        if len(cells) > self._most.get("cells", len(cells)):
            yield from self._parts_of_cells(prompts, cells)
            return
        try:
            rows = self._engine(cells).answer([prompts[place] for place in places])
        except torch.OutOfMemoryError as error:
            reason = f"out of memory: {_first_line(error)}"
        except Exception as error:
            if len(cells) == 1:
                self.fail(cells[0], f"{type(error).__name__}: {error}")
            else:
                yield from self._parts_of_cells(prompts, cells)
            return
        else:
            yield cells, dict(zip(places, rows, strict=True))
            return
        _free_memory()  # outside the except clause, whose traceback holds the tensors
        if len(prompts) > 1:
            self._remember("prompts", len(prompts) // 2)
            yield from self._parts_of_prompts(prompts, cells)
        elif len(cells) > 1:
            self._remember("cells", len(cells) // 2)
            yield from self._parts_of_cells(prompts, cells)
        else:
            yield cells, dict.fromkeys(places, f"{reason}. One prompt under one cell does not fit.")

    def _remember(self, what: str, most: int) -> None:
        if most < self._most.get(what, most + 1):
            print(f"Out of memory: from here on at most {most} {what} at once.", file=sys.stderr)
            self._most[what] = most

    def _parts_of_prompts(
        self, prompts: Mapping[int, Prompt], cells: Sequence[RunningCell]
    ) -> Iterator[tuple[Sequence[RunningCell], Found]]:
        for part in _halves(list(prompts)):
            yield from self.answers({place: prompts[place] for place in part}, cells)

    def _parts_of_cells(
        self, prompts: Mapping[int, Prompt], cells: Sequence[RunningCell]
    ) -> Iterator[tuple[Sequence[RunningCell], Found]]:
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
        return f"{type(error).__name__}: {error}"


def _halves(items: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
    middle = (len(items) + 1) // 2
    return items[:middle], items[middle:]


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
