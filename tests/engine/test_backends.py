"""The engine gives the same answers whoever computes the cache's operations."""

import pytest

from sparsemm.engine.generate import Engine


@pytest.fixture(scope="module")
def small_grid(make_method, full):
    return [full, make_method("sparsemm", 9), make_method("snapkv", 12), make_method("adakv", 20)]


def test_triton_answers_as_torch_does(placed, placed_prompts, small_grid):
    """In Triton's interpreter where there is no GPU: prefill ranking, gathering, appending, attending."""
    engines = [Engine(placed, small_grid, 5, backend=name) for name in ("torch", "triton")]
    assert [engine.resolved for engine in engines] == ["torch", "triton"]
    expected, got = (engine.answer(placed_prompts[:2]) for engine in engines)
    assert got == expected


def test_auto_is_torch(placed, full):
    assert Engine(placed, [full], 2).resolved == "torch"


def test_an_unknown_backend_is_refused(loaded, full):
    with pytest.raises(ValueError, match=r"engine\.cache_backend=numpy: must be one of"):
        Engine(loaded, [full], 2, backend="numpy")
