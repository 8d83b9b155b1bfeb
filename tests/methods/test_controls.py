"""The controls beside the paper's methods: StreamingLLM, HeadKV's allocation, permuted head scores."""

import pytest
import torch

from sparsemm.methods.allocators.headkv import HeadKV
from sparsemm.methods.base import ModelShape

TOKENS = 61


@pytest.mark.parametrize("budget", [5, 6, 17, 60])
@pytest.mark.parametrize("rounding", ["exact", "paper"])
def test_streamingllm_keeps_the_first_4_tokens_and_the_last_ones(make_method, keep, budget, rounding):
    method = make_method("streamingllm", budget, window=1, sinks=4, rounding=rounding)
    tokens = torch.arange(TOKENS)
    expected = (tokens < 4) | (tokens >= TOKENS - (budget - 4))
    assert int(expected.sum()) == budget
    assert torch.equal(keep([method], TOKENS)[0], expected.expand(3, 4, -1))


def test_streamingllm_keeps_the_same_whatever_its_window(make_method, keep):
    methods = [make_method("streamingllm", 20, window=window, sinks=4) for window in (1, 7, 16)]
    one, other, last = keep(methods, TOKENS)
    assert torch.equal(one, other) and torch.equal(one, last)


def test_headkv_by_hand(make_method):
    """2 layers, 2 KV heads of 2 query heads, capacity 10, beta 1.5: 10 // 1.5 = 6 of every head are lent."""
    shape = ModelShape(2, 4, 2, 8)
    scores = torch.tensor([[4.0, 1.0, 0.0, 0.0], [2.0, 0.5, 2.0, 0.5]])  # of KV heads: 5 0 2.5 2.5
    allocator = HeadKV(head_scores=scores, beta=1.5)
    for rounding, expected in (("paper", [[16, 4], [10, 10]]), ("exact", [[16, 4], [10, 10]])):
        counts = make_method("headkv", 14, allocator=allocator, rounding=rounding).counts(shape, 500)
        assert counts.tolist() == expected
    scarce = make_method("headkv", 14, allocator=allocator, rounding="paper").counts(shape, 17)  # 13 exist
    assert scarce.tolist() == [[13, 4], [10, 10]]
    exact = make_method("headkv", 14, allocator=allocator).counts(shape, 17)
    assert exact.tolist() == [[13, 5], [11, 11]]  # 27 are left for wishes of 4, 10 and 10


def test_headkv_is_the_published_formula_on_random_scores(make_method):
    shape = ModelShape(4, 6, 6, 8)
    generator = torch.Generator().manual_seed(3)
    scores = torch.rand(4, 6, generator=generator)
    total_attention = scores.double() / scores.double().sum()
    for budget, window, beta in ((64, 4, 1.005), (128, 8, 1.2), (35, 4, 2), (90, 32, 10)):
        base_capacity = budget - window
        pool = (base_capacity // beta) * 4 * 6
        least = base_capacity - base_capacity // beta
        published = torch.round(total_attention * pool + least).int()
        allocator = HeadKV(head_scores=scores, beta=beta)
        method = make_method("headkv", budget, window=window, allocator=allocator, rounding="paper")
        assert method.counts(shape, 5000).tolist() == published.tolist()


def test_headkv_at_beta_1_is_sparsemm_at_rho_0(make_method, head_scores, shape):
    everything = make_method("headkv", 24, allocator=HeadKV(head_scores=head_scores, beta=1))
    assert torch.equal(everything.counts(shape, 400), make_method("sparsemm", 24, rho=0.0).counts(shape, 400))


@pytest.mark.parametrize("rounding", ["exact", "paper"])
def test_permuted_heads_get_sparsemms_budgets_in_another_order(make_method, shape, rounding):
    own = make_method("sparsemm", 24, rounding=rounding).counts(shape, 400)
    permuted = [
        make_method("permuted", 24, seed=seed, rounding=rounding).counts(shape, 400) for seed in range(5)
    ]
    for counts in permuted:
        assert (counts.flatten().sort().values - own.flatten().sort().values).abs().max() <= 1
        assert not torch.equal(counts, own)
    assert len({tuple(counts.flatten().tolist()) for counts in permuted}) == 5
    assert torch.equal(permuted[3], make_method("permuted", 24, seed=3, rounding=rounding).counts(shape, 400))


def test_permuting_keeps_the_concentration_that_random_scores_lose(make_method, shape):
    largest = {
        name: int(make_method(name, 24).counts(shape, 4000).max())
        for name in ("sparsemm", "permuted", "random")
    }
    assert largest["permuted"] == largest["sparsemm"] > 1.5 * largest["random"]


def test_permuting_does_not_touch_the_global_generator(make_method, shape):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    make_method("permuted", 21, seed=12345).counts(shape, 301)
    assert torch.equal(torch.get_rng_state(), before)
