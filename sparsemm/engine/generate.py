"""Prefill a prompt once, decode every method's rows together."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from traceback import clear_frames

import torch
from torch import Tensor

from sparsemm.cache import MaskedHeads, RaggedCache
from sparsemm.engine.attention import refuse_sliding
from sparsemm.engine.graph import make_decoder
from sparsemm.engine.greedy import Answers, Greedy
from sparsemm.engine.memory import does_not_fit
from sparsemm.engine.select import RowPlan, Selector
from sparsemm.kernels.backends import resolve
from sparsemm.methods.base import Method
from sparsemm.methods.masks import HeadMask
from sparsemm.models.base import LoadedModel, Prompt


@dataclass(frozen=True)
class Generation:
    """What one method answered to one prompt.

    Args:
        token_ids: generated tokens, without the end token, with the token that completed a stop string.
        kept_entries: cache entries kept of the prompt, summed over layers and KV heads.
        prompt_tokens: T.
        rows: rows that were decoded for this prompt.
        stop_strings: the answer's text ends before the first of these (see `LoadedModel.text`).
    """

    token_ids: tuple[int, ...]
    kept_entries: int
    prompt_tokens: int
    rows: int
    stop_strings: tuple[str, ...] = ()


class Engine:
    """Answers prompts under several methods at once, greedily.

    A prompt is always prefilled alone and ranked in float32, so nothing depends on which prompts and methods
    share a call. In float32 all rows are decoded in one batch; in bfloat16 and float16, where a product
    depends on the number of rows, every decode step has `fixed_rows` rows, filled up with empty ones.

    Args:
        loaded: the model.
        methods: one per cell.
        max_new_tokens: longest answer.
        fixed_rows: rows of a decode step, or None for as many as there are.
        stop_strings: an answer ends where it holds one of these.
        mask: query heads that are switched off in prompt and answer.
        backend: who computes the cache's operations (see `sparsemm.kernels.backends`).
        decode: eager; graph: a decode step is captured once for a shape and replayed (a GPU only); compiled:
            that step compiled by PyTorch first, captured where there is a GPU.

    Raises:
        ValueError: a method or a mask that does not fit the model, a backend or a way to decode that cannot
            run here.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        methods: Sequence[Method],
        max_new_tokens: int,
        fixed_rows: int | None = None,
        stop_strings: Sequence[str] = (),
        mask: HeadMask | None = None,
        backend: str = "auto",
        decode: str = "eager",
    ):
        self.loaded, self.max_new_tokens, self.fixed_rows = loaded, max_new_tokens, fixed_rows
        self.selector = Selector(methods, loaded.shape)
        self.backend = backend
        self.resolved = resolve(backend, loaded.device, loaded.model.dtype, loaded.shape.head_dim).name
        logging.getLogger(__name__).info("engine.cache_backend=%s: %s", backend, self.resolved)
        self.stop_strings = tuple(one for one in stop_strings if one)
        self.greedy = Greedy(loaded, self.stop_strings)
        self.graphs = make_decoder(decode, loaded, self.greedy)
        heads = None if mask is None else mask.heads(loaded.shape)
        self.masked = MaskedHeads(heads, mask.zero) if mask and heads is not None and heads.any() else None

    def check(self, prompt: Prompt) -> None:
        """Raise ValueError where this prompt and its answer are more than the model's layers can see."""
        refuse_sliding(prompt.tokens + self.max_new_tokens, self.loaded.sliding_window)

    def answer(self, prompts: Sequence[Prompt]) -> list[list[Generation]]:
        """[prompt][method] -> what was generated.

        An error (out of memory, above all) leaves the engine as it was, and holds none of its tensors.

        Raises:
            ValueError: a prompt that `check` refuses.
        """
        for prompt in prompts:
            self.check(prompt)
        try:
            return self._answer(prompts)
        except (RuntimeError, MemoryError) as error:
            if self.graphs is not None:
                self.graphs.steps.clear()
            failed: BaseException | None = error
            while failed is not None:
                clear_frames(failed.__traceback__)
                failed = failed.__context__
            raise

    @torch.inference_mode()
    def _answer(self, prompts: Sequence[Prompt]) -> list[list[Generation]]:
        caches, first, seen, plans, kept = [], [], [], [], []
        for prompt in prompts:
            cache = RaggedCache(
                self.selector, self.loaded.shape.layers, hold=True, masked=self.masked, backend=self.backend
            )
            output = self.loaded.model(
                **prompt.inputs, past_key_values=cache, use_cache=True, logits_to_keep=1
            )
            plan = self.selector.plan(prompt.tokens)
            caches.append(cache)
            plans.append(plan)
            kept.append(cache.kept_lengths.sum(dim=(0, 2)).tolist())
            logits = output.logits[:, -1]
            seen.append(self.greedy.seen(prompt.inputs["input_ids"], logits))
            first.append(self.greedy.choose(logits, seen[-1]).expand(len(plan.methods)))
        positions = [
            torch.full((len(plan.methods),), p.next_position) for plan, p in zip(plans, prompts, strict=True)
        ]
        prompt_of = [place for place, plan in enumerate(plans) for _ in plan.methods]
        tokens = self._decode_all(
            caches, torch.cat(first), torch.cat(positions).to(self.loaded.device), seen, prompt_of
        )
        return self._per_method(prompts, plans, kept, tokens)

    def _decode_all(
        self,
        caches: Sequence[RaggedCache],
        first: Tensor,
        positions: Tensor,
        seen: Sequence[Tensor | None],
        prompt_of: Sequence[int],
    ) -> list[tuple[int, ...]]:
        """Generated tokens of every row, in chunks of `fixed_rows`."""
        total = len(first)
        chunk = self.fixed_rows or total
        answers: list[tuple[int, ...]] = []
        for start in range(0, total, chunk):
            stop = min(start + chunk, total)
            empty = chunk - (stop - start)
            here = [one for place in prompt_of[start:stop] if (one := seen[place]) is not None]
            answers += self._decode(
                self._join(caches, (start, stop), empty, last=stop == total),
                first[start:stop],
                torch.cat([positions[start:stop], positions.new_zeros(empty)]),
                torch.cat(here) if here else None,
            )
        return answers

    def _join(
        self, caches: Sequence[RaggedCache], rows: tuple[int, int], empty: int, last: bool
    ) -> RaggedCache:
        try:
            return RaggedCache.join(caches, rows, self.max_new_tokens, empty, release=last)
        except torch.OutOfMemoryError as error:
            raise does_not_fit(error, self.loaded, caches, rows, self.max_new_tokens) from error

    def _decode(
        self, cache: RaggedCache, first: Tensor, positions: Tensor, seen: Tensor | None
    ) -> list[tuple[int, ...]]:
        """Lock-step decoding of rows (empty ones follow) until all have ended."""
        if self.graphs is not None:
            return self.graphs.decode(cache, first, positions, seen, self.max_new_tokens)
        real = len(first)
        padding = first.new_zeros(len(positions) - real)
        answers = Answers(self.greedy, first)
        for step in range(self.max_new_tokens - 1):
            if bool(answers.finished.all()):
                break
            output = self.loaded.model(
                input_ids=torch.cat([answers.steps[-1], padding])[:, None],
                position_ids=self.loaded.decode_positions(positions + step),
                past_key_values=cache,
                use_cache=True,
            )
            answers.add(self.greedy.choose(output.logits[:real, -1], seen))
        return answers.tokens()

    def _per_method(
        self,
        prompts: Sequence[Prompt],
        plans: Sequence[RowPlan],
        kept: Sequence[list[int]],
        tokens: Sequence[tuple[int, ...]],
    ) -> list[list[Generation]]:
        answers, start = [], 0
        for prompt, plan, entries in zip(prompts, plans, kept, strict=True):
            count = len(plan.methods)
            answers.append(
                [
                    Generation(tokens[start + row], entries[row], prompt.tokens, count, self.stop_strings)
                    for row in plan.row_of
                ]
            )
            start += count
        return answers
