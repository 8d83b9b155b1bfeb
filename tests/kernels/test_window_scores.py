"""Prefill ranking equals its slow reference."""

import pytest
import torch
from sparsemm.kernels.window_scores import window_scores
from sparsemm.kernels.window_scores_ref import window_scores as reference


@pytest.mark.parametrize("heads, group", [(2, 1), (2, 3), (1, 4)])
@pytest.mark.parametrize("tokens, window, pool_kernel", [(9, 1, 1), (23, 4, 5), (17, 8, 3), (5, 4, 7)])
def test_window_scores_equal_the_slow_reference(heads, group, tokens, window, pool_kernel):
    torch.manual_seed(tokens)
    queries, keys = torch.randn(heads * group, window, 6), torch.randn(heads, tokens, 6)
    arguments = (queries, keys, 0.4, tokens - window, pool_kernel)
    assert torch.allclose(window_scores(*arguments), reference(*arguments), atol=1e-6, rtol=1e-5)


def test_bfloat16_inputs_are_ranked_in_float32():
    torch.manual_seed(0)
    queries, keys = torch.randn(4, 3, 8).bfloat16(), torch.randn(2, 19, 8).bfloat16()
    got = window_scores(queries, keys, 0.35, 16, 5)
    assert got.dtype == torch.float32
    assert torch.equal(got, window_scores(queries.float(), keys.float(), 0.35, 16, 5))


def test_inputs_are_not_changed():
    queries, keys = torch.randn(4, 3, 8), torch.randn(2, 19, 8)
    before = queries.clone(), keys.clone()
    window_scores(queries, keys, 0.35, 16, 5)
    assert torch.equal(queries, before[0]) and torch.equal(keys, before[1])
