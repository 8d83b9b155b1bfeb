"""Which part of SparseMM helps: other allocations, and its own with scores that say nothing."""

from __future__ import annotations

from sparsemm.results.tables import Claim

CLAIM = Claim(
    title="Controls: is it the visual heads?",
    sentence=(
        "SparseMM's own scores, permuted over the heads, concentrate the cache as much, but on the wrong "
        "heads: only if SparseMM is above Permuted heads do the visual heads matter. Random draws nearly "
        "equal scores and tests concentration alone. The tiny model is no evidence about 7B models."
    ),
    methods=("full", "streamingllm", "snapkv", "headkv", "sparsemm", "permuted", "random"),
)
