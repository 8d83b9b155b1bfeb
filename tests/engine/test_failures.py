"""An error in the middle of an answer leaves the engine as it was, and no tensor alive."""

import gc

import pytest
import torch

from sparsemm.engine.generate import Engine


def big_tensors() -> int:
    """Tensors with as many elements as a layer's keys of a prompt, or more."""
    gc.collect()
    return sum(issubclass(type(one), torch.Tensor) and one.numel() >= 500 for one in gc.get_objects())


@pytest.mark.parametrize("step", [0, 1, 2, 5])  # 0 to 2 are prompts, 5 is a decode step
def test_out_of_memory_leaves_the_engine_reusable(loaded, prompts, grid, monkeypatch, step):
    engine = Engine(loaded, grid, 8)
    expected = engine.answer(prompts)
    before, calls = big_tensors(), []
    layer = loaded.model.model.language_model.layers[-1]
    forward = layer.forward

    def fails(*args, **kwargs):
        calls.append(args)
        if len(calls) == step + 1:
            calls.clear()
            raise torch.OutOfMemoryError("no memory left")
        calls[-1] = None
        return forward(*args, **kwargs)

    with monkeypatch.context() as broken:
        broken.setattr(layer, "forward", fails)
        with pytest.raises(torch.OutOfMemoryError, match="no memory left") as caught:
            engine.answer(prompts)
    # the error is still held here, traceback and all
    assert caught.tb is not None
    assert big_tensors() <= before
    assert engine.answer(prompts) == expected
