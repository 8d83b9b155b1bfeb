"""Where definitions agree, our methods keep the entries that kvpress 0.5.5 keeps of the same tensors.

The tensors and kvpress's entries are saved files (kvpress/make.py): the two libraries need different versions
of transformers.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sparsemm.methods.allocators.adaptive import Adaptive
from sparsemm.methods.allocators.pyramid import Pyramid
from sparsemm.methods.allocators.uniform import Uniform
from sparsemm.methods.base import Method, ModelShape
from sparsemm.methods.scorers.recent import Recent
from sparsemm.methods.scorers.window_attention import WindowAttention

CASES = ("grouped", "pyramid", "peaked")


class Saved:
    """What kvpress was given, and what it kept."""

    def __init__(self, case: str, keep):
        self.data = np.load(Path(__file__).parent / "kvpress" / f"{case}.npz")
        self.queries, self.keys = torch.from_numpy(self.data["queries"]), torch.from_numpy(self.data["keys"])
        self.shape = ModelShape(*self.queries.shape[:2], self.keys.shape[1], self.keys.shape[3])
        self.tokens, self.keep = self.keys.shape[2], keep
        self.snapkv = Method(
            name="snapkv",
            scorer=WindowAttention(pool_kernel=int(self.data["pool_kernel"])),
            allocator=Uniform(),
            window=int(self.data["window"]),
            budget=int(self.data["budget"]),
        )

    def theirs(self, press: str) -> Tensor:
        """[L, H, T] bool."""
        return torch.from_numpy(np.unpackbits(self.data[f"keep_{press}"], axis=-1)[..., : self.tokens]).bool()

    def ours(self, **changes) -> Tensor:
        """[L, H, T] bool: SnapKV with changes."""
        (kept,) = self.keep([replace(self.snapkv, **changes)], self.queries, self.keys, self.shape)
        return kept


@pytest.fixture
def saved(keep):
    return lambda case: Saved(case, keep)


@pytest.mark.parametrize("case", CASES)
def test_snapkv_keeps_what_kvpress_keeps(saved, case):
    both = saved(case)
    assert torch.equal(both.ours(), both.theirs("snapkv"))


@pytest.mark.parametrize("case", CASES)
def test_streamingllm_keeps_what_kvpress_keeps(saved, case):
    both = saved(case)
    ours = both.ours(scorer=Recent(), window=1, sinks=int(both.data["sinks"]))
    assert torch.equal(ours, both.theirs("streamingllm"))


@pytest.mark.parametrize("press", ["pyramidkv", "adakv", "adakv_no_safeguard"])
@pytest.mark.parametrize("case", CASES)
def test_a_head_of_kvpress_keeps_what_ours_keeps_with_as_many_entries(saved, case, press):
    """Tokens are ranked alike under every allocation; only how many each head gets may differ."""
    both = saved(case)
    theirs = both.theirs(press)
    for budget in theirs.sum(2).unique().tolist():
        here = theirs.sum(2) == budget
        assert torch.equal(both.ours(budget=budget)[here], theirs[here])


def test_adakv_keeps_what_kvpress_keeps_where_the_best_tokens_hold_all_attention(saved):
    """There our scaling by that share changes nothing, and without floor and safeguard the rules are one."""
    both = saved("peaked")
    theirs = both.theirs("adakv_no_safeguard")
    assert torch.equal(both.ours(allocator=Adaptive(floor=0.0)), theirs)
    assert len(theirs.sum(2).unique()) > 4


@pytest.mark.parametrize("case", CASES)
def test_adakv_differs_from_kvpress_by_its_scaling_and_its_floor(saved, case):
    """Layers have the same total. kvpress's safeguard does not bite here, while our floor always does."""
    both = saved(case)
    ours, theirs = both.ours(allocator=Adaptive(floor=0.2)).sum(2), both.theirs("adakv").sum(2)
    assert torch.equal(ours.sum(1), theirs.sum(1))
    assert torch.equal(both.theirs("adakv"), both.theirs("adakv_no_safeguard"))
    assert not torch.equal(ours, theirs)
    if case == "peaked":  # the scaling is 1 there: ours are theirs, drawn together by a fifth
        mean = both.snapkv.limit.entries
        assert (ours - (mean + 0.8 * (theirs - mean))).abs().max() < 1.5


def test_pyramidkv_differs_from_kvpress_in_what_it_shares_out(saved):
    """kvpress shares out the budget with its window among the layers, ours what is left outside it."""
    both = saved("pyramid")
    budget, window, layers = int(both.data["budget"]), both.snapkv.window, both.shape.layers
    allocator = Pyramid(beta=int(both.data["beta"]))
    ours = both.ours(allocator=allocator, rounding="paper")[:, 0].sum(1).tolist()
    theirs = both.theirs("pyramidkv")[:, 0].sum(1).tolist()
    most = both.tokens - window  # as many as there are; 2 * 82.5 - 82.5 / 20 would be more
    steps = (most - (2 * (budget + 0.5) - most)) / (layers - 1)
    assert theirs == [round(most - layer * steps) for layer in range(layers)]
    capacity = budget - window
    least = capacity // 20
    step = (2 * capacity - 2 * least) // (layers - 1)
    assert ours == [2 * capacity - least - layer * step + window for layer in range(layers)]
    assert ours != theirs


def test_kvpress_makes_no_pyramid_where_the_last_layer_would_not_hold_the_window(saved):
    both = saved("grouped")
    assert torch.equal(both.theirs("pyramidkv"), both.theirs("snapkv"))
    ours = both.ours(allocator=Pyramid(beta=int(both.data["beta"]))).sum((1, 2))
    assert bool((ours.diff() < 0).all())


def test_kvpress_makes_uniform_budgets_of_what_ours_does_with_beta_1(saved):
    both = saved("pyramid")
    assert torch.equal(both.ours(allocator=Pyramid(beta=1)), both.theirs("snapkv"))
