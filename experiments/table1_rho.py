"""How much of the budget every head should get whatever its score: rho."""

from __future__ import annotations

from sparsemm.experiments.table3_main import MODELS

from sparsemm.results.statements import Above, Keeps, NotBelow, Statement
from sparsemm.results.tables import Claim

RHOS = (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.8, 1)

CLAIM = Claim(
    title="Table 1: SparseMM at budget 256, by the share that every head gets",
    sentence=(
        "A small floor for every head is enough, and some floor is needed (arXiv:2506.05344, supplement, "
        "Table 1): rho 0 shares everything by visual-head score, rho 1 gives every head the same, as SnapKV."
    ),
    columns="rho",
    methods=("sparsemm",),
    paper="table1",
    statements=(
        Statement(
            sentence="rho 0.1 is not significantly below any other rho.",
            models=MODELS,
            benchmarks=("ocrbench",),
            check=NotBelow(
                tuple((("sparsemm", 0.1), ("sparsemm", rho)) for rho in RHOS if rho != 0.1),
            ),
        ),
        Statement(
            sentence="Sharing by visual-head score (rho 0.1) is above giving every head the same (rho 1).",
            models=MODELS,
            benchmarks=("ocrbench",),
            check=Above(((("sparsemm", 0.1), ("sparsemm", 1)),)),
        ),
        Statement(
            sentence="Without any floor (rho 0) LLaVA-NeXT-Mistral falls behind rho 0.1.",
            models=("llava_next_mistral_7b",),
            benchmarks=("ocrbench",),
            check=Above(((("sparsemm", 0.1), ("sparsemm", 0)),)),
        ),
        Statement(
            sentence="Up to rho 0.5 the choice matters little: at least 98 % of the score at rho 0.1 stay.",
            models=MODELS,
            benchmarks=("ocrbench",),
            check=Keeps(
                tuple(("sparsemm", rho) for rho in RHOS if 0.1 < rho <= 0.5), of=("sparsemm", 0.1), share=0.98
            ),
        ),
    ),
)
