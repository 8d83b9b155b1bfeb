"""Which token comes next and when a row ends: greedy decoding as `model.generate` does it."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from transformers import StopStringCriteria

from sparsemm.models.base import LoadedModel


@lru_cache(maxsize=8)
def _stop_criteria(tokenizer: Any, stops: tuple[str, ...]) -> StopStringCriteria:
    """A second of work with a vocabulary of 150,000, and engines are made often."""
    return StopStringCriteria(tokenizer, list(stops))


class Greedy:
    """The model's repetition penalty and end tokens, and the stop strings of a task.

    A stop string counts where it stands in the answer; for generate() it may also begin in the prompt.
    """

    def __init__(self, loaded: LoadedModel, stop_strings: Sequence[str]):
        self.loaded = loaded
        stops = tuple(one for one in stop_strings if one)
        self.stops = _stop_criteria(loaded.tokenizer, stops) if stops else None

    def seen(self, prompt: Tensor, logits: Tensor) -> Tensor | None:
        """[1, V] bool: tokens of a prompt [1, T], image placeholders included; None without a penalty.

        `logits` [1, V] says how many tokens there are; ids beyond cannot be generated.
        """
        if self.loaded.repetition_penalty == 1.0:
            return None
        vocabulary = logits.shape[1]
        seen = torch.zeros(1, vocabulary + 1, dtype=torch.bool, device=logits.device)
        return seen.scatter_(1, prompt.to(logits.device).clamp(max=vocabulary), True)[:, :vocabulary]

    def choose(self, logits: Tensor, seen: Tensor | None) -> Tensor:
        """Next tokens [R] from logits [R, V], given the tokens `seen` [R, V], where they are then marked."""
        if seen is None:
            return logits.argmax(-1)
        logits, penalty = logits.float(), self.loaded.repetition_penalty
        penalised = torch.where(logits < 0, logits * penalty, logits / penalty)
        tokens = torch.where(seen, penalised, logits).argmax(-1)
        seen.scatter_(1, tokens[:, None], True)
        return tokens


class Answers:
    """The tokens of rows that are decoded together; a row ends at an end token or a stop string.

    Args:
        greedy: when rows end.
        first: [R] the tokens that the prompts led to.
    """

    def __init__(self, greedy: Greedy, first: Tensor):
        self.stops = greedy.stops
        self.ends = torch.tensor(greedy.loaded.eos_ids, device=first.device)
        self.steps: list[Tensor] = []
        self.lengths = torch.zeros_like(first)  # of the answers, without end tokens
        self.finished = torch.zeros_like(first, dtype=torch.bool)
        self.add(first)

    def add(self, tokens: Tensor) -> None:
        """One more token [R] per row; rows that have ended ignore theirs."""
        self.steps.append(tokens)
        ended = torch.isin(tokens, self.ends)
        self.lengths = torch.where(self.finished, self.lengths, len(self.steps) - ended.long())
        self.finished |= ended
        if self.stops is not None:
            recent = self.steps[-self.stops.maximum_token_len :]  # a token has at least one character
            self.finished |= self.stops(torch.stack(recent, dim=1), None)

    def tokens(self) -> list[tuple[int, ...]]:
        """Every row's answer: without its end token, with the token that completed a stop string."""
        rows = torch.stack(self.steps, dim=1).tolist()
        return [tuple(row[:length]) for row, length in zip(rows, self.lengths.tolist(), strict=True)]
