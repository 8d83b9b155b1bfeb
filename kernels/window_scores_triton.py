"""Prefill ranking in Triton: two passes over the keys, nothing of size [Hq, W, T] is kept.

The first pass finds the softmax's normaliser of every query of the window, the second sums the weights of the
window and the group for every token. Products of half-precision inputs are exact in float32, as in the plain
version; pooling is PyTorch's, on [H, n].
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from .products import dot

SPAN = 1024  # keys of one program of the first pass: two for each multiprocessor at 8K; not measured


@triton.jit
def _logits(
    queries, keys, at, row, token, window, tokens, factor, query_token, key_token, D, BLOCK_D: tl.constexpr
):
    """[W block, T block] logits to base 2, -inf where a query may not see a key."""
    dims = tl.arange(0, BLOCK_D)
    inside = (dims < D)[None, :]
    query = tl.load(
        queries + row[:, None] * query_token + dims[None, :], mask=(row < window)[:, None] & inside, other=0.0
    )
    key = tl.load(
        keys + token.to(tl.int64)[:, None] * key_token + dims[None, :],
        mask=(token < tokens)[:, None] & inside,
        other=0.0,
    )
    seen = token[None, :] <= (tokens - window + row)[:, None]
    return tl.where(seen & (row < window)[:, None], dot(query, tl.trans(key)) * factor, float("-inf"))


@triton.jit
def window_sums(
    queries,
    keys,
    sums,
    scaling,
    tokens,
    window,
    query_head,
    query_token,
    key_head,
    key_token,
    spans,
    G: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_T: tl.constexpr,
    SPAN: tl.constexpr,
):
    """Log-sum-exp (base 2) of one span of keys for a block of the window's queries -> sums [Hq, spans, W]."""
    head, span = tl.program_id(0), tl.program_id(1)
    row = tl.program_id(2) * BLOCK_W + tl.arange(0, BLOCK_W)
    my_queries = queries + head.to(tl.int64) * query_head
    my_keys = keys + (head // G).to(tl.int64) * key_head
    top = tl.full([BLOCK_W], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_W], tl.float32)
    for at in range(span * SPAN, tl.minimum(span * SPAN + SPAN, tokens), BLOCK_T):
        token = at + tl.arange(0, BLOCK_T)
        logits = _logits(
            my_queries, my_keys, at, row, token, window, tokens, scaling * 1.4426950408889634,
            query_token, key_token, D, BLOCK_D,
        )  # fmt: skip
        higher = tl.maximum(top, tl.max(logits, axis=1))
        safe = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp2(top - safe) + tl.sum(tl.exp2(logits - safe[:, None]), axis=1)
        top = higher
    found = tl.where(total > 0, top + tl.log2(tl.maximum(total, 1e-37)), float("-inf"))
    tl.store(sums + (head * spans + span) * window + row, found, mask=row < window)


@triton.jit
def window_means(
    queries,
    keys,
    sums,
    means,
    scaling,
    tokens,
    window,
    candidates,
    query_head,
    query_token,
    key_head,
    key_token,
    G: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    """Mean attention of window and group to a block of tokens -> means [H, n]; sums are [Hq, W] here."""
    head, at = tl.program_id(0), tl.program_id(1) * BLOCK_T
    token = at + tl.arange(0, BLOCK_T)
    my_keys = keys + head.to(tl.int64) * key_head
    mean = tl.zeros([BLOCK_T], tl.float32)
    for member in range(0, G):
        query = head * G + member
        for first in range(0, window, BLOCK_W):
            row = first + tl.arange(0, BLOCK_W)
            logits = _logits(
                queries + query.to(tl.int64) * query_head, my_keys, at, row, token, window, tokens,
                scaling * 1.4426950408889634, query_token, key_token, D, BLOCK_D,
            )  # fmt: skip
            whole = tl.load(sums + query * window + row, mask=row < window, other=0.0)
            mean += tl.sum(tl.exp2(logits - whole[:, None]), axis=0)
    tl.store(means + head.to(tl.int64) * candidates + token, mean / (window * G), mask=token < candidates)


def blocks(window: int, dim: int, dtype: torch.dtype) -> dict[str, int]:
    """Tile sizes."""
    block_d = max(16, triton.next_power_of_2(dim))
    block_w = min(32, max(16, triton.next_power_of_2(window)))
    block_t = 64 if dtype.itemsize == 2 else 32 if block_d < 256 else 16  # more spills registers on sm_90
    return {"BLOCK_D": block_d, "BLOCK_W": block_w, "BLOCK_T": block_t}


def window_scores(queries: Tensor, keys: Tensor, scaling: float, candidates: int, pool_kernel: int) -> Tensor:
    """See `sparsemm.kernels.window_scores.window_scores`; the same signature.

    The last dimension of queries and keys must be contiguous.
    """
    heads, tokens, dim = keys.shape
    query_heads, window, _ = queries.shape
    spans = triton.cdiv(tokens, SPAN)
    tile = blocks(window, dim, keys.dtype)
    strides = (*queries.stride()[:2], *keys.stride()[:2])
    shape = {"G": query_heads // heads, "D": dim, **tile}
    sums = torch.empty(query_heads, spans, window, device=keys.device)
    means = torch.empty(heads, candidates, device=keys.device)
    window_sums[(query_heads, spans, triton.cdiv(window, tile["BLOCK_W"]))](
        queries, keys, sums, scaling, tokens, window, *strides, spans, **shape, SPAN=SPAN, num_warps=4
    )
    # log-sum-exp over the spans, to base 2
    top = sums.amax(1, keepdim=True)
    whole = (top + torch.exp2(sums - top).sum(1, keepdim=True).log2()).squeeze(1)
    if candidates:
        window_means[(heads, triton.cdiv(candidates, tile["BLOCK_T"]))](
            queries, keys, whole, means, scaling, tokens, window, candidates, *strides, **shape, num_warps=4
        )
    return F.avg_pool1d(means, pool_kernel, stride=1, padding=pool_kernel // 2)
