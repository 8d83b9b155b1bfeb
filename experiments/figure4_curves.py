"""Score against budget, one panel per model and benchmark: the cells of table3_main, drawn."""

from __future__ import annotations

from sparsemm.experiments.table3_main import METHODS, STATEMENTS

from sparsemm.results.tables import Claim

CLAIM = Claim(
    title="Figure 4: score against budget",
    sentence=(
        "SparseMM stays near the full cache at budgets where the other methods fall (arXiv:2506.05344, "
        "Figure 4). The cells are table3_main's; the hollow points are the paper's Table 3."
    ),
    methods=METHODS,
    paper="table3",
    beside="table3_exact",
    statements=STATEMENTS,
    figure=True,
)
