"""Beyond reading text: general benchmarks."""

from __future__ import annotations

from sparsemm.experiments.table3_main import METHODS, RIVALS, best_everywhere

from sparsemm.results.statements import Above, Keeps, Statement, pairs
from sparsemm.results.tables import Claim

MODELS = ("qwen2_vl_7b",)
BENCHMARKS = ("mmbench", "gqa", "vqav2")
BUDGETS = (512, 256, 128, 96, 64, 48)

CLAIM = Claim(
    title="Table 4: general benchmarks",
    sentence=(
        "Sharing by visual-head score also helps where little text is read, at small budgets "
        "(arXiv:2506.05344, Table 4)."
    ),
    methods=METHODS,
    paper="table4",
    statements=(
        best_everywhere(MODELS, BENCHMARKS, BUDGETS),
        Statement(
            sentence="On MMBench SparseMM is above every other method at budgets 96, 64 and 48.",
            models=MODELS,
            benchmarks=("mmbench",),
            check=Above(pairs("sparsemm", RIVALS, (96, 64, 48))),
        ),
        Statement(
            sentence="At budget 64 SparseMM keeps at least 96 % of its score at budget 512.",
            models=MODELS,
            benchmarks=BENCHMARKS,
            check=Keeps((("sparsemm", 64),), of=("sparsemm", 512), share=0.96),
        ),
    ),
)
