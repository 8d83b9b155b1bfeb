"""Prefill ranking: the attention that the last queries pay to earlier tokens, pooled over neighbours."""

import torch
import torch.nn.functional as F
from torch import Tensor

AT_ONCE = 2**25  # float32 numbers of keys and logits in memory at a time, where one head has fewer: 128 MB


def window_scores(queries: Tensor, keys: Tensor, scaling: float, candidates: int, pool_kernel: int) -> Tensor:
    """Softmax of the last W queries over all keys (causal), mean over window and group, average pooling.

    Args:
        queries: [Hq, W, D], the last W queries.
        keys: [H, T, D].
        scaling: factor on the dot products.
        candidates: n, how many first tokens are scored.
        pool_kernel: tokens, odd; the mean is always over `pool_kernel`, zeros beyond the ends.

    Returns:
        [H, n] float32.
    """
    heads, tokens, dim = keys.shape
    group, window = len(queries) // heads, queries.shape[1]
    together = max(1, AT_ONCE // (tokens * (group * window + dim)))
    if together < heads:
        parts = zip(queries.split(together * group), keys.split(together), strict=True)
        return torch.cat([window_scores(q, k, scaling, candidates, pool_kernel) for q, k in parts])
    grouped = queries.reshape(heads, -1, dim).float()  # [H, G * W, D]
    logits = torch.matmul(grouped, keys.float().transpose(1, 2)).mul_(scaling).view(heads, -1, window, tokens)
    later = torch.ones(window, window, dtype=torch.bool, device=keys.device).triu_(1)
    logits[..., tokens - window :].masked_fill_(later, float("-inf"))
    attention = torch.softmax(logits, dim=-1)[..., :candidates].mean(dim=2).mean(dim=1)
    return F.avg_pool1d(attention, pool_kernel, stride=1, padding=pool_kernel // 2)
