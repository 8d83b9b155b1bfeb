"""The component ablation of the paper: window, window + uniform, window + uniform + score."""

from __future__ import annotations

from sparsemm.results.tables import Claim

CLAIM = Claim(
    title="Components: the window alone, the same for all heads, by visual-head score",
    sentence=(
        "What each part adds (arXiv:2506.05344, Table 2): keep the last tokens only (window), choose tokens "
        "by attention with the same number for all heads (SnapKV), share by visual-head score (SparseMM)."
    ),
    columns="budget",
    methods=("full", "window", "snapkv", "sparsemm"),
)
