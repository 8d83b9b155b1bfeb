"""Which heads a mask switches off."""

import pytest
import torch

from sparsemm.methods.base import ModelShape
from sparsemm.methods.masks import NoMask, RandomHeadMask, VisualHeadMask

SHAPE = ModelShape(4, 10, 5, 16)
SCORES = torch.arange(40.0).view(4, 10) % 13  # with ties


def visual(share: float, **changes) -> VisualHeadMask:
    return VisualHeadMask(**{"share": share, "zero": "query", "head_scores": SCORES, **changes})


def test_the_visual_mask_takes_the_highest_scores_and_ties_from_the_front():
    heads = visual(0.1).heads(SHAPE)
    assert heads.dtype == torch.bool and heads.shape == (4, 10)
    assert heads.flatten().nonzero()[:, 0].tolist() == [11, 12, 25, 38]  # 12 three times, then the first 11


@pytest.mark.parametrize(("share", "count"), [(0.025, 1), (0.05, 2), (0.26, 10), (1.0, 40)])
def test_a_share_is_rounded_to_whole_heads(share, count):
    assert int(visual(share).heads(SHAPE).sum()) == count
    for seed in range(3):
        assert int(RandomHeadMask(share=share, zero="output", seed=seed).heads(SHAPE).sum()) == count


def test_a_random_mask_is_a_matter_of_its_seed():
    first, again, other = (
        RandomHeadMask(share=0.2, zero="query", seed=seed).heads(SHAPE) for seed in (3, 3, 4)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    larger = RandomHeadMask(share=0.4, zero="query", seed=3).heads(SHAPE)
    assert bool(larger[first].all())  # a larger share adds heads


def test_a_random_mask_spares_what_the_visual_mask_takes():
    for seed in range(20):
        drawn = RandomHeadMask(share=0.3, zero="query", seed=seed, spared=SCORES).heads(SHAPE)
        assert int(drawn.sum()) == 12 and not bool((drawn & visual(0.3).heads(SHAPE)).any())
    half = RandomHeadMask(share=0.5, zero="query", seed=0, spared=SCORES).heads(SHAPE)
    assert torch.equal(half, ~visual(0.5).heads(SHAPE))


def test_no_mask_fits_every_model():
    NoMask().check(ModelShape(1, 1, 1, 1))
    assert not bool(NoMask().heads(SHAPE).any())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: visual(0.0), r"mask.share=0.0: must be above 0.*mask=none"),
        (lambda: visual(1.2), r"mask.share=1.2: must be above 0 and at most 1"),
        (lambda: visual(0.5, zero="key"), r"mask.zero=key: must be query or output"),
        (
            lambda: visual(0.5, head_scores=SCORES - 1),
            r"head scores: every score must be a number of at least 0",
        ),
        (lambda: visual(0.01).check(SHAPE), r"mask.share=0.01: of 40 query heads that is none"),
        (lambda: visual(0.5).check(ModelShape(4, 8, 4, 16)), r"\[4, 10\], but the model has \[4, 8\]"),
        (
            lambda: RandomHeadMask(share=0.6, zero="query", seed=0, spared=SCORES).check(SHAPE),
            r"mask.share=0.6: 24 heads are to be drawn, but 16 of 40",
        ),
    ],
)
def test_masks_that_cannot_be_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
