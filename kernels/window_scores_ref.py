"""Slow and obvious: the attention that the last queries pay to earlier tokens, one product at a time."""

import math

import torch
from torch import Tensor


def window_scores(queries: Tensor, keys: Tensor, scaling: float, candidates: int, pool_kernel: int) -> Tensor:
    """See `sparsemm.kernels.window_scores.window_scores`; the same signature, in Python loops."""
    heads, tokens, _ = keys.shape
    query_heads, window, _ = queries.shape
    group = query_heads // heads
    scores = torch.zeros(heads, candidates)
    for head in range(heads):
        attention = [0.0] * tokens
        for query_head in range(head * group, (head + 1) * group):
            for step in range(window):
                sees = tokens - window + step + 1
                logits = [
                    scaling * float(queries[query_head, step].float() @ keys[head, token].float())
                    for token in range(sees)
                ]
                weights = [math.exp(logit - max(logits)) for logit in logits]
                for token, weight in enumerate(weights):
                    attention[token] += weight / sum(weights) / (group * window)
        for token in range(candidates):
            near = range(token - pool_kernel // 2, token + pool_kernel // 2 + 1)
            scores[head, token] = sum(attention[at] for at in near if 0 <= at < candidates) / pool_kernel
    return scores
