"""Prefill ranking in Triton equals the plain version in float64."""

import pytest
import torch
from sparsemm.kernels import window_scores_triton as module
from sparsemm.kernels.window_scores_ref import window_scores as slow
from sparsemm.kernels.window_scores_triton import window_scores

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def expected(queries, keys, scaling, candidates, pool_kernel):
    """The plain version's formula in float64."""
    heads, tokens, dim = keys.shape
    window = queries.shape[1]
    logits = scaling * queries.double().reshape(heads, -1, dim) @ keys.double().transpose(1, 2)
    logits = logits.view(heads, -1, window, tokens)
    logits[..., tokens - window :].masked_fill_(torch.ones(window, window).triu(1).bool(), float("-inf"))
    attention = torch.softmax(logits, -1)[..., :candidates].mean(2).mean(1)
    return torch.nn.functional.avg_pool1d(attention, pool_kernel, 1, pool_kernel // 2)


@pytest.fixture(autouse=True)
def poisoned_outputs(monkeypatch):
    monkeypatch.setattr(module.torch, "empty", lambda *shape, **kind: torch.full(shape, float("nan"), **kind))


@pytest.mark.parametrize("heads, group", [(2, 1), (2, 3), (1, 7)])
@pytest.mark.parametrize(
    "tokens, window, pool_kernel, dim",
    [(33, 32, 5, 64), (300, 32, 5, 128), (2100, 8, 3, 80), (65, 64, 1, 96), (257, 1, 7, 256)],
)
def test_scores_equal_float64(heads, group, tokens, window, pool_kernel, dim):
    torch.manual_seed(tokens)
    whole = torch.randn(tokens, heads * group, dim).transpose(0, 1)  # as the model's layers give them
    keys = torch.randn(tokens, heads, dim).transpose(0, 1)
    queries = whole[:, -window:]
    arguments = (0.3, tokens - window, pool_kernel)
    got = window_scores(queries.to(DEVICE), keys.to(DEVICE), *arguments)
    assert got.dtype == torch.float32
    assert torch.allclose(got.cpu().double(), expected(queries, keys, *arguments), atol=1e-7, rtol=2e-5)


def test_the_formula_of_this_test_is_the_slow_references():
    queries, keys = torch.randn(4, 3, 8), torch.randn(2, 19, 8)
    assert torch.allclose(
        slow(queries, keys, 0.4, 16, 5).double(), expected(queries, keys, 0.4, 16, 5), atol=1e-6
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inputs_are_ranked_in_float32(dtype):
    queries, keys = torch.randn(4, 32, 64).to(dtype), torch.randn(2, 130, 64).to(dtype)
    got = window_scores(queries.to(DEVICE), keys.to(DEVICE), 0.125, 98, 5)
    assert torch.allclose(got.cpu().double(), expected(queries, keys, 0.125, 98, 5), atol=1e-7, rtol=2e-5)
