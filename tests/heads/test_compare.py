"""Two sets of head scores are compared by rank, by their best heads, and by how few carry the score."""

import math

import pytest
import torch

from sparsemm.heads.compare import compare, cumulative, describe


def test_scores_agree_with_themselves_in_any_unit():
    scores = torch.rand(4, 10, generator=torch.Generator().manual_seed(0))
    for other in (scores, 7 * scores, scores**3):
        assert compare(scores, other).correlation == pytest.approx(1)
        assert compare(scores, other).overlap == 1
    assert compare(scores, -scores).correlation == pytest.approx(-1)
    assert compare(scores, -scores).overlap == 0


def test_correlation_by_hand_with_ties():
    one, other = torch.tensor([[1.0, 2.0], [2.0, 5.0]]), torch.tensor([[3.0, 1.0], [2.0, 9.0]])
    # ranks 0, 1.5, 1.5, 3 and 2, 0, 1, 3: sum of products 1.5, of squares 4.5 and 5
    assert compare(one, other).correlation == pytest.approx(1.5 / math.sqrt(4.5 * 5))


def test_overlap_is_of_the_best_heads():
    one = torch.arange(40.0).view(4, 10)
    other = one.clone()
    other[3, 9] = -1  # the best of one is the last of the other
    found = compare(one, other, share=0.05)
    assert found.heads == 2 and found.overlap == 0.5
    assert compare(one, other, share=0.001).heads == 1


def test_scores_of_different_models_cannot_be_compared():
    with pytest.raises(ValueError, match=r"shape \[2, 3\] and \[3, 2\] cannot be compared"):
        compare(torch.ones(2, 3), torch.ones(3, 2))


def test_the_curve_says_how_few_heads_carry_the_score():
    scores = torch.tensor([[6.0, 1.0], [3.0, 0.0]])
    assert cumulative(scores).tolist() == pytest.approx([0.6, 0.9, 1, 1])
    assert "4 heads" in describe(scores) and "best 50% (2): 90%" in describe(scores)
