"""What every method keeps: its protection, the exact total, and nothing that does not exist."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsemm.methods.allocators.adaptive import Adaptive
from sparsemm.methods.allocators.headkv import HeadKV
from sparsemm.methods.allocators.permuted_heads import PermutedHeads
from sparsemm.methods.allocators.pyramid import Pyramid
from sparsemm.methods.allocators.random_heads import RandomHeads
from sparsemm.methods.allocators.uniform import Uniform
from sparsemm.methods.allocators.visual_heads import VisualHeads
from sparsemm.methods.base import Method, ModelShape
from sparsemm.methods.scorers.window_attention import WindowAttention

COMPRESSING = ("window", "snapkv", "pyramidkv", "adakv", "sparsemm", "random", "headkv", "permuted")
TOKENS = 61


@pytest.mark.parametrize("budget", [4, 5, 12, 33, 60, 61, 62, 500, "15%", "50%"])
@pytest.mark.parametrize("sinks", [0, 3])
def test_every_method_keeps_exactly_the_budget_times_all_heads(make_method, keep, shape, budget, sinks):
    budget = max(7, budget) if sinks and isinstance(budget, int) else budget
    methods = [make_method(name, budget, sinks=sinks) for name in COMPRESSING]
    kept = keep(methods, TOKENS)
    entries = min(TOKENS, methods[0].limit.at(TOKENS))
    assert kept.sum((1, 2, 3)).tolist() == [entries * shape.layers * shape.kv_heads] * len(methods)
    assert bool(kept[..., -4:].all()) and bool(kept[..., :sinks].all())


def test_a_share_of_the_prompt_below_the_window_is_refused(make_method, keep):
    with pytest.raises(ValueError, match=r"budget=5%: 3 entries of a prompt of 61 tokens, but 4 are always"):
        keep([make_method("snapkv", "5%")], TOKENS)


@settings(max_examples=150, deadline=None)
@given(
    layers=st.integers(1, 5), heads=st.integers(1, 6), group=st.integers(1, 3), tokens=st.integers(1, 400),
    window=st.integers(1, 40), sinks=st.integers(0, 5), extra=st.integers(0, 300),
    rho=st.floats(0, 1), beta=st.integers(1, 40), floor=st.floats(0, 1), seed=st.integers(0, 99),
)  # fmt: skip
def test_exact_totals_for_any_model_prompt_and_budget(
    layers, heads, group, tokens, window, sinks, extra, rho, beta, floor, seed
):
    shape = ModelShape(layers, heads * group, heads, 8)
    torch.manual_seed(seed)
    scores = torch.rand(layers, heads * group) ** 9
    allocators = [
        Uniform(), Pyramid(beta=beta), Adaptive(floor=floor), RandomHeads(seed=seed, rho=rho),
        VisualHeads(head_scores=scores, rho=rho), PermutedHeads(head_scores=scores, rho=rho, seed=seed),
        HeadKV(head_scores=scores, beta=1 + 10 * rho),
    ]  # fmt: skip
    budget = window + sinks + extra
    for allocator in allocators:
        method = Method(
            name="any", scorer=WindowAttention(pool_kernel=5), allocator=allocator,
            window=window, sinks=sinks, budget=budget,
        )  # fmt: skip
        candidates = max(0, tokens - window - sinks)
        counts = method.counts(shape, tokens)
        if counts is None:
            ranked = torch.rand(layers, heads, candidates).sort(dim=2, descending=True).values
            counts = torch.stack([method.layer_counts(layer, tokens) for layer in ranked])
            assert counts.sum(1).tolist() == [extra * heads] * layers  # exact in every layer
        assert int(counts.sum()) == min(extra, candidates) * layers * heads
        assert int(counts.min()) >= 0 and int(counts.max()) <= candidates


@pytest.mark.parametrize("rounding", ["exact", "paper"])
@pytest.mark.parametrize("budget", [9, 30])
def test_sparsemm_at_rho_1_keeps_what_snapkv_keeps(make_method, keep, rounding, budget):
    methods = [make_method("sparsemm", budget, rho=1.0, rounding=rounding)]
    methods += [make_method("snapkv", budget, rounding=rounding)]
    alone = [keep([method], TOKENS)[0] for method in methods]
    assert torch.equal(*alone)
    assert torch.equal(keep(methods, TOKENS)[0], alone[0])


def test_sparsemm_gives_more_to_higher_scores_and_the_floor_to_all(make_method, head_scores, shape):
    counts = make_method("sparsemm", 24, rho=0.25).counts(shape, 500)
    by_score = head_scores.view(shape.layers, shape.kv_heads, -1).sum(2).flatten().argsort()
    assert bool((counts.flatten()[by_score].diff() >= 0).all())
    assert int(counts.min()) >= 5  # int(0.25 * 20)
    assert int(counts.max()) > 40


def test_pyramid_falls_linearly_over_the_layers(make_method):
    shape = ModelShape(5, 2, 2, 8)
    counts = make_method("pyramidkv", 44, rounding="paper").counts(shape, 500)
    assert counts[:, 0].tolist() == [78, 59, 40, 21, 2]  # capacity 40: from 2 * 40 - 2 down to 40 // 20
    assert torch.equal(counts[:, 0], counts[:, 1])


def test_random_follows_its_seed_and_has_the_same_total(make_method, shape):
    def counts(seed: int) -> torch.Tensor:
        return make_method("random", 20, seed=seed).counts(shape, 300)

    assert torch.equal(counts(3), counts(3))
    assert not torch.equal(counts(3), counts(4))
    assert {int(counts(seed).sum()) for seed in range(8)} == {16 * shape.layers * shape.kv_heads}


def test_random_does_not_touch_the_global_generator(make_method, shape):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    make_method("random", 21, seed=12345).counts(shape, 301)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", COMPRESSING)
def test_a_budget_that_equals_the_window_keeps_only_the_window(make_method, keep, name):
    expected = torch.zeros(TOKENS, dtype=torch.bool)
    expected[-4:] = True
    assert torch.equal(keep([make_method(name, 4)], TOKENS)[0], expected.expand(3, 4, -1))


@pytest.mark.parametrize("name", ["full", *COMPRESSING])
@pytest.mark.parametrize("rounding", ["exact", "paper"])
def test_a_budget_that_covers_the_prompt_keeps_everything(make_method, keep, name, rounding):
    for budget in (TOKENS, TOKENS + 1, 10_000, "100%") if name != "full" else (None,):
        assert bool(keep([make_method(name, budget, rounding=rounding)], TOKENS).all())


@pytest.mark.parametrize("tokens", [1, 2, 3, 4])
def test_prompts_within_the_window_are_kept_whole(make_method, keep, tokens):
    methods = [make_method(name, budget) for name in COMPRESSING for budget in (4, 9, "1%")]
    assert bool(keep(methods, tokens).all())


@pytest.mark.parametrize("budget", [4, 17, 60])
@pytest.mark.parametrize("rounding", ["exact", "paper"])
def test_the_window_ablation_keeps_exactly_the_last_tokens(make_method, keep, budget, rounding):
    expected = torch.arange(TOKENS) >= TOKENS - budget
    kept = keep([make_method("window", budget, rounding=rounding)], TOKENS)[0]
    assert torch.equal(kept, expected.expand(3, 4, -1))


def test_methods_choose_the_same_alone_and_together(make_method, keep):
    methods = [make_method(name, budget) for name in COMPRESSING for budget in (6, 20, 61)]
    methods += [
        make_method("snapkv", 20, window=9),
        make_method("snapkv", 20, sinks=2),
        make_method("full", None),
    ]
    together = keep(methods, TOKENS)
    for method, kept in zip(methods, together, strict=True):
        assert torch.equal(keep([method], TOKENS)[0], kept), method.name


def test_a_larger_budget_keeps_what_a_smaller_one_keeps(make_method, keep):
    kept = keep([make_method("snapkv", budget) for budget in range(4, 62, 3)], TOKENS)
    for smaller, larger in pairwise(kept):
        assert bool((larger | ~smaller).all())


def test_equal_scores_keep_the_lower_index(make_method, keep, shape):
    queries = torch.zeros(shape.layers, shape.query_heads, 4, shape.head_dim)
    keys = torch.zeros(shape.layers, shape.kv_heads, 30, shape.head_dim)
    method = make_method("snapkv", 14, scorer=WindowAttention(pool_kernel=1))
    expected = (torch.arange(30) < 10) | (torch.arange(30) >= 26)
    assert torch.equal(keep([method], queries, keys)[0], expected.expand(3, 4, -1))


def test_paper_rounding_loses_what_heads_cannot_use_and_exact_gives_it_to_others(make_method, keep, shape):
    methods = [make_method("sparsemm", 50, rho=0.0, rounding=rounding) for rounding in ("paper", "exact")]
    paper, exact = keep(methods, TOKENS)
    assert int(paper.sum()) < int(exact.sum()) == 50 * shape.layers * shape.kv_heads


def test_counts_of_one_allocator_are_never_taken_for_another(head_scores, shape):
    """Counts are remembered per method: allocators that differ in anything must not be equal."""
    other = head_scores.flip(0)
    allocators = [
        VisualHeads(head_scores=head_scores, rho=0.1),
        VisualHeads(head_scores=head_scores, rho=0.9),
    ]
    allocators += [VisualHeads(head_scores=other, rho=0.1), Pyramid(beta=20), Pyramid(beta=2)]
    allocators += [RandomHeads(seed=0, rho=0.1), RandomHeads(seed=1, rho=0.1), RandomHeads(seed=0, rho=0.9)]
    allocators += [PermutedHeads(head_scores=head_scores, rho=0.1, seed=seed) for seed in (0, 1)]
    allocators += [HeadKV(head_scores=head_scores, beta=beta) for beta in (1.5, 2)]
    scorer = WindowAttention(pool_kernel=5)
    counts = [
        Method(name="same", scorer=scorer, allocator=allocator, window=4, budget=20).counts(shape, 200)
        for allocator in allocators
    ]
    assert len({tuple(each.flatten().tolist()) for each in counts}) == len(allocators)
    assert len(set(allocators)) == len(allocators)


def test_a_head_that_looks_only_at_the_window_gets_the_floor():
    """Its scores are all zero in float32; it must not win the layer's competition."""
    ranked = torch.rand(3, 50).sort(dim=1, descending=True).values
    ranked[1] = 0.0
    wishes = Adaptive(floor=0.2).layer_wishes(ranked, 10)
    assert wishes[1] == 2 and bool((wishes[[0, 2]] > 5).all())
