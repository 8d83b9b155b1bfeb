"""Few heads carry the visual score, and the same ones whatever is read: figure 2 of the paper."""

from __future__ import annotations

from sparsemm.heads.compare import HeadsClaim

CLAIM = HeadsClaim(
    title="Figure 2: where the visual score is",
    sentence=(
        "A few heads carry most of the visual score, and other data, or other samples, name the same ones "
        "(arXiv:2506.05344, Figure 2). The tiny model has 48 heads, and is no evidence about 7B models."
    ),
)
