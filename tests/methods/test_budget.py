"""Budgets are read strictly and shared out in whole numbers with an exact sum."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsemm.methods.budget import parse_budget, share_out

wishes = st.lists(st.one_of(st.just(0), st.integers(0, 1000)), min_size=1, max_size=40)


@settings(deadline=None)
@given(wishes, st.integers(0, 50), st.integers(0, 2500))
def test_shares_have_the_exact_sum_and_stay_in_bounds(wishes, most, total):
    shares = share_out(torch.tensor(wishes, dtype=torch.float64), most, total)
    assert int(shares.sum()) == min(total, most * len(wishes))
    assert int(shares.min()) >= 0 and int(shares.max()) <= most


@settings(deadline=None)
@given(wishes, st.integers(0, 50), st.integers(0, 2500))
def test_who_wishes_more_gets_no_less_and_ties_go_to_the_lower_index(wishes, most, total):
    shares = share_out(torch.tensor(wishes, dtype=torch.float64), most, total).tolist()
    ranked = sorted(range(len(wishes)), key=lambda head: (-wishes[head], head))
    for better, worse in pairwise(ranked):
        assert shares[better] >= shares[worse]
        assert wishes[better] != wishes[worse] or shares[better] - shares[worse] <= 1


@settings(deadline=None)
@given(wishes, st.integers(1, 50), st.integers(0, 2500))
def test_a_head_without_wishes_gets_something_only_when_all_others_are_full(wishes, most, total):
    shares = share_out(torch.tensor(wishes, dtype=torch.float64), most, total).tolist()
    if any(wishes) and any(share for share, wish in zip(shares, wishes, strict=True) if not wish):
        assert all(share == most for share, wish in zip(shares, wishes, strict=True) if wish)


@settings(deadline=None)
@given(wishes, st.integers(1, 50), st.integers(0, 2500), st.data())
def test_wishing_for_more_never_gives_less(wishes, most, total, data):
    head = data.draw(st.integers(0, len(wishes) - 1))
    more = list(wishes)
    more[head] += data.draw(st.integers(1, 1000))
    before = share_out(torch.tensor(wishes, dtype=torch.float64), most, total)
    after = share_out(torch.tensor(more, dtype=torch.float64), most, total)
    assert int(after[head]) >= int(before[head])


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=30), st.integers(0, 5000), st.integers(0, 10**6))
def test_real_wishes_of_any_size_have_the_exact_sum(wishes, most, total):
    shares = share_out(torch.tensor(wishes, dtype=torch.float64), most, total)
    assert int(shares.sum()) == min(total, most * len(wishes))
    assert int(shares.min()) >= 0 and int(shares.max()) <= most


@pytest.mark.parametrize(
    "wishes, most, total, expected",
    [
        ([1, 1, 1], 10, 7, [3, 2, 2]),  # ties to the lower index
        ([0, 0, 0], 10, 4, [2, 1, 1]),  # nobody wishes: equal shares
        ([9, 1, 0], 5, 8, [5, 3, 0]),  # what the first cannot use goes to the second
        ([9, 1, 0], 5, 12, [5, 5, 2]),  # and then to those without wishes
        ([1, 2, 3], 10, 0, [0, 0, 0]),
        ([1, 2, 3], 2, 99, [2, 2, 2]),
        ([0.5, 0.3, 0.2], 100, 10, [5, 3, 2]),
    ],
)
def test_shares_by_hand(wishes, most, total, expected):
    assert share_out(torch.tensor(wishes), most, total).tolist() == expected


@pytest.mark.parametrize("value, at_200", [(64, 64), ("64", 64), ("10%", 20), ("12.5%", 25), ("100%", 200)])
def test_a_budget_is_a_number_or_a_share_of_the_prompt(value, at_200):
    assert parse_budget(value).at(200) == at_200


def test_a_share_is_rounded_half_up():
    assert [parse_budget("10%").at(tokens) for tokens in (14, 15, 24, 25)] == [1, 2, 2, 3]


@pytest.mark.parametrize(
    "value", [0, -5, "0", "-5", "ten", "", "0%", "-1%", "101%", "10 %x", "%", 1.5, "1e3", True]
)
def test_other_budgets_are_refused(value):
    with pytest.raises(ValueError, match=r"^budget=.*: must be a positive number .* share of the prompt"):
        parse_budget(value)
