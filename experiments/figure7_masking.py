"""Are the visual heads needed? Score against the share of heads that are switched off."""

from __future__ import annotations

from sparsemm.results.tables import Claim

CLAIM = Claim(
    title="Figure 7: visual heads switched off, against random ones",
    sentence=(
        "If the visual heads are what reads the image, switching them off costs more than switching off as "
        "many random ones (arXiv:2506.05344). Query zeroed: the head attends to everything alike, as in the "
        "published code; output zeroed: what it reads is dropped. Random heads are drawn among all, random "
        "other heads among those that are not the visual ones. The tiny model is no evidence about 7B models."
    ),
    columns="mask_share",
    methods=("full",),
)
