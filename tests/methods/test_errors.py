"""Every method that cannot be is refused with the key, what is expected and the next step."""

import pytest
import torch

from sparsemm.methods.allocators.adaptive import Adaptive
from sparsemm.methods.allocators.headkv import HeadKV
from sparsemm.methods.allocators.permuted_heads import PermutedHeads
from sparsemm.methods.allocators.pyramid import Pyramid
from sparsemm.methods.allocators.random_heads import RandomHeads
from sparsemm.methods.allocators.visual_heads import VisualHeads
from sparsemm.methods.base import ModelShape
from sparsemm.methods.scorers.none import NoScorer
from sparsemm.methods.scorers.window_attention import WindowAttention


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"budget": 3},
            r"budget=3: must be at least 4: method.window=4, which is always kept. Raise budget",
        ),
        ({"budget": 6, "sinks": 3}, r"budget=6: must be at least 7: method.window=4 and method.sinks=3 are"),
        ({"budget": 0}, r"budget=0: must be a positive number"),
        ({"budget": -8}, r"budget=-8: must be a positive number"),
        ({"budget": "0%"}, r"budget=0%: must be"),
        ({"budget": "150%"}, r"budget=150%: must be"),
        ({"budget": "many"}, r"budget=many: must be"),
        ({"budget": None}, r"budget=None: method=snapkv needs a budget, such as 64 or 10%"),
        ({"budget": 9, "window": 0}, r"method.window=0: must be at least 1"),
        ({"budget": 9, "window": -1}, r"method.window=-1: must be at least 1"),
        ({"budget": 9, "sinks": -1}, r"method.sinks=-1: must be 0 or more"),
        ({"budget": 9, "rounding": "up"}, r"rounding=up: must be exact or paper"),
    ],
)
def test_a_method_that_cannot_be_is_refused(make_method, changes, message):
    with pytest.raises(ValueError, match=message):
        make_method("snapkv", **changes)


@pytest.mark.parametrize("budget", [0, 64, "10%"])
def test_the_full_cache_takes_no_budget(make_method, budget):
    with pytest.raises(ValueError, match=rf"budget={budget}: method=full keeps everything and takes no"):
        make_method("full", budget)


@pytest.mark.parametrize("rho", [-0.01, 1.01, float("nan"), float("inf")])
def test_rho_outside_0_and_1_is_refused(rho):
    for build in (
        lambda: RandomHeads(seed=0, rho=rho),
        lambda: VisualHeads(head_scores=torch.ones(2, 4), rho=rho),
        lambda: PermutedHeads(head_scores=torch.ones(2, 4), rho=rho, seed=0),
    ):
        with pytest.raises(ValueError, match=r"rho=.*: must be between 0 and 1"):
            build()


@pytest.mark.parametrize(
    "scores, message",
    [
        (torch.ones(8), r"head scores have shape \[8\]: expected \[layers, query heads\]"),
        (torch.ones(2, 4, 1), r"expected \[layers, query heads\]"),
        (torch.tensor([[1.0, -0.1]]), r"must be a number of at least 0"),
        (torch.tensor([[1.0, float("nan")]]), r"must be a number of at least 0"),
        (torch.tensor([[1.0, float("inf")]]), r"must be a number of at least 0"),
        (torch.zeros(2, 4), r"all are zero, so there is no visual head"),
        (torch.zeros(0, 4), r"all are zero"),
    ],
)
def test_head_scores_that_mean_nothing_are_refused(scores, message):
    for build in (
        lambda: VisualHeads(head_scores=scores, rho=0.1),
        lambda: PermutedHeads(head_scores=scores, rho=0.1, seed=0),
        lambda: HeadKV(head_scores=scores, beta=2),
    ):
        with pytest.raises(ValueError, match=message):
            build()


@pytest.mark.parametrize("scores", [torch.ones(2, 8), torch.ones(3, 4), torch.ones(8, 3)])
def test_head_scores_of_another_model_are_refused(make_method, shape, scores):
    for allocator in (
        VisualHeads(head_scores=scores, rho=0.1),
        PermutedHeads(head_scores=scores, rho=0.1, seed=0),
        HeadKV(head_scores=scores, beta=2),
    ):
        method = make_method("sparsemm", 9, allocator=allocator)
        with pytest.raises(ValueError, match=r"model.head_scores has shape .* but the model has \[3, 8\]"):
            method.check(shape)


@pytest.mark.parametrize("pool_kernel", [0, -1, 2, 4])
def test_an_even_pool_is_refused(pool_kernel):
    with pytest.raises(ValueError, match=rf"scorer.pool_kernel={pool_kernel}: must be a positive odd number"):
        WindowAttention(pool_kernel=pool_kernel)


@pytest.mark.parametrize("beta", [0, -20])
def test_a_pyramid_below_1_is_refused(beta):
    with pytest.raises(ValueError, match=rf"allocator.beta={beta}: must be at least 1"):
        Pyramid(beta=beta)


@pytest.mark.parametrize("beta", [0, 0.99, -2, float("inf"), float("nan")])
def test_a_pool_of_more_than_all_is_refused(beta):
    with pytest.raises(ValueError, match=rf"allocator.beta={beta}: must be at least 1 \(1 lends everything"):
        HeadKV(head_scores=torch.ones(2, 4), beta=beta)


@pytest.mark.parametrize("floor", [-0.1, 1.1, float("nan")])
def test_a_floor_that_is_no_share_is_refused(floor):
    with pytest.raises(ValueError, match=r"allocator.floor=.*: must be between 0 and 1"):
        Adaptive(floor=floor)


def test_a_method_that_ranks_needs_a_scorer(make_method, keep):
    with pytest.raises(ValueError, match=r"scorer=none: this method ranks tokens. Choose a scorer"):
        keep([make_method("snapkv", 9, scorer=NoScorer())], 30)


def test_model_shapes_know_their_group():
    assert ModelShape(2, 8, 4, 16).group == 2
