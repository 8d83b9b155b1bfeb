"""Prefill a prompt once, decode every method's rows together."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsemm.cache import RaggedCache
from sparsemm.engine.select import RowPlan, Selector
from sparsemm.methods.base import Method
from sparsemm.models.base import LoadedModel, Prompt


@dataclass(frozen=True)
class Generation:
    """What one method answered to one prompt.

    Args:
        token_ids: generated tokens, without the end token.
        kept_entries: cache entries kept of the prompt, summed over layers and KV heads.
        prompt_tokens: T.
        rows: rows that were decoded for this prompt.
    """

    token_ids: tuple[int, ...]
    kept_entries: int
    prompt_tokens: int
    rows: int


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
    """

    def __init__(
        self,
        loaded: LoadedModel,
        methods: Sequence[Method],
        max_new_tokens: int,
        fixed_rows: int | None = None,
    ):
        self.loaded, self.max_new_tokens, self.fixed_rows = loaded, max_new_tokens, fixed_rows
        self.selector = Selector(methods, loaded.shape)

    @torch.inference_mode()
    def answer(self, prompts: Sequence[Prompt]) -> list[list[Generation]]:
        """[prompt][method] -> what was generated."""
        caches, first, plans, kept = [], [], [], []
        for prompt in prompts:
            cache = RaggedCache(self.selector, self.loaded.shape.layers, hold=True)
            output = self.loaded.model(
                **prompt.inputs, past_key_values=cache, use_cache=True, logits_to_keep=1
            )
            plan = self.selector.plan(prompt.tokens)
            caches.append(cache)
            plans.append(plan)
            kept.append(cache.kept_lengths.sum(dim=(0, 2)).tolist())
            first.append(output.logits[0, -1].argmax().expand(len(plan.methods)))
        positions = [
            torch.full((len(plan.methods),), p.next_position) for plan, p in zip(plans, prompts, strict=True)
        ]
        tokens = self._decode_all(caches, torch.cat(first), torch.cat(positions).to(self.loaded.device))
        return self._per_method(prompts, plans, kept, tokens)

    def _decode_all(self, caches: Sequence[RaggedCache], first: Tensor, positions: Tensor) -> list[list[int]]:
        """Generated tokens of every row, in chunks of `fixed_rows`."""
        total = len(first)
        chunk = self.fixed_rows or total
        answers: list[list[int]] = []
        for start in range(0, total, chunk):
            stop = min(start + chunk, total)
            empty = chunk - (stop - start)
            cache = RaggedCache.join(caches, (start, stop), self.max_new_tokens, empty)
            padding = first.new_zeros(empty)
            rows = self._decode(
                cache,
                torch.cat([first[start:stop], padding]),
                torch.cat([positions[start:stop], padding]),
                stop - start,
            )
            answers += rows
        return answers

    def _decode(self, cache: RaggedCache, tokens: Tensor, positions: Tensor, real: int) -> list[list[int]]:
        """Lock-step greedy decoding; a row is finished at its end token, the loop when all real rows are."""
        ends = torch.tensor(self.loaded.eos_ids, device=tokens.device)
        steps = [tokens[:real]]
        finished = torch.isin(tokens[:real], ends)
        for step in range(self.max_new_tokens - 1):
            if bool(finished.all()):
                break
            output = self.loaded.model(
                input_ids=tokens[:, None],
                position_ids=self.loaded.decode_positions(positions + step),
                past_key_values=cache,
                use_cache=True,
            )
            tokens = output.logits[:, -1].argmax(-1)
            steps.append(tokens[:real])
            finished |= torch.isin(tokens[:real], ends)
        rows: list[list[int]] = torch.stack(steps, dim=1).tolist()
        return [_until_end(row, self.loaded.eos_ids) for row in rows]

    @staticmethod
    def _per_method(
        prompts: Sequence[Prompt],
        plans: Sequence[RowPlan],
        kept: Sequence[list[int]],
        tokens: Sequence[list[int]],
    ) -> list[list[Generation]]:
        answers, start = [], 0
        for prompt, plan, entries in zip(prompts, plans, kept, strict=True):
            count = len(plan.methods)
            answers.append(
                [
                    Generation(tuple(tokens[start + row]), entries[row], prompt.tokens, count)
                    for row in plan.row_of
                ]
            )
            start += count
        return answers


def _until_end(row: list[int], ends: tuple[int, ...]) -> list[int]:
    for index, token in enumerate(row):
        if token in ends:
            return row[:index]
    return row
