"""The main result under fair conditions: the same total for every method, Random over five seeds."""

from __future__ import annotations

from sparsemm.experiments.table3_main import METHODS, STATEMENTS

from sparsemm.results.tables import Claim

CLAIM = Claim(
    title="Table 3, with the same total for every method",
    sentence=(
        "Whether the claims of table3_main hold when every method keeps exactly the same number of entries "
        "and Random is the mean of five seeds. The paper did not run these cells."
    ),
    methods=METHODS,
    paper="table3",
    rounding="exact",
    statements=STATEMENTS,
)
