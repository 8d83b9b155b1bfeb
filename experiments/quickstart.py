"""The quickstart: what compression costs on the tiny model that ships with the package."""

from __future__ import annotations

from sparsemm.results.tables import Claim

CLAIM = Claim(
    title="Quickstart: five compression methods and the full cache on the tiny model",
    sentence=(
        "Which method keeps a vision-language model reading, and at which budget, when all keep equally many "
        "entries. The tiny model shows how the machinery works; it is no evidence about 7B models."
    ),
    columns="budget",
    methods=("full", "snapkv", "pyramidkv", "adakv", "sparsemm", "random"),
)
