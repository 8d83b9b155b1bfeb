"""What each part of SparseMM adds: the window, tokens chosen by attention, heads by visual score."""

from __future__ import annotations

from sparsemm.results.statements import Above, NotBelow, Statement, pairs
from sparsemm.results.tables import Claim

MODELS = ("qwen2_vl_7b",)
SMALL = (128, 96, 64, 48)

CLAIM = Claim(
    title="Table 2: the window alone, the same for all heads, by visual-head score",
    sentence=(
        "Each part adds (arXiv:2506.05344, Table 2): keep the last tokens only (Window), choose tokens by "
        "attention with the same number for all heads (SnapKV), share by visual-head score (SparseMM)."
    ),
    methods=("window", "snapkv", "sparsemm"),
    paper="table2",
    statements=(
        Statement(
            sentence="Choosing tokens by attention (SnapKV) is above the window alone, at budgets up to 128.",
            models=MODELS,
            benchmarks=("mmbench",),
            check=Above(pairs("snapkv", ("window",), SMALL)),
        ),
        Statement(
            sentence="Sharing by visual-head score (SparseMM) is above SnapKV, at budgets up to 128.",
            models=MODELS,
            benchmarks=("mmbench",),
            check=Above(pairs("sparsemm", ("snapkv",), SMALL)),
        ),
        Statement(
            sentence="At budgets of 256 and 512 SparseMM is not significantly below the others.",
            models=MODELS,
            benchmarks=("mmbench",),
            check=NotBelow(pairs("sparsemm", ("window", "snapkv"), (256, 512))),
        ),
    ),
)
