"""The compiled decode step: eager decoding's tokens, compiled once for all prompts."""

import logging
import shutil

import pytest
import torch
from torch._dynamo.utils import counters

from sparsemm.engine import compiled
from sparsemm.engine.compiled import compile_forward
from sparsemm.engine.generate import Engine
from sparsemm.engine.graph import GraphDecoder
from sparsemm.methods.masks import RandomHeadMask
from sparsemm.models.llava_next import LlavaNext
from sparsemm.models.small import save_small

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")


def engines(loaded, methods, tokens, **settings):
    """Eager decoding, and the traced step, which is run as it was traced: that compiles faster."""
    eager, traced = (Engine(loaded, methods, tokens, **settings) for _ in range(2))
    traced.graphs = GraphDecoder(loaded, traced.greedy, capture=loaded.device.type == "cuda")
    traced.graphs.forward = compile_forward(loaded, "eager")
    return eager, traced


@pytest.fixture(scope="module")
def methods(make_method, full):
    return [full, make_method("sparsemm", 9), make_method("adakv", 13)]


@pytest.fixture
def compiled_graphs(monkeypatch):
    """Counts the graphs that were compiled since it was last called."""
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "propagate", False)  # pytest would format it all
    torch._dynamo.reset()
    counters.clear()
    before = 0

    def count():
        nonlocal before
        now = counters["stats"]["unique_graphs"]
        found, before = now - before, now
        return found

    return count


def test_qwen_is_compiled_whole_and_once_for_all_prompts_and_engines(
    placed, placed_prompts, methods, compiled_graphs
):
    eager, traced = engines(placed, methods, 6)
    expected = [eager.answer([prompt]) for prompt in placed_prompts]
    assert traced.answer(placed_prompts[:1]) == expected[0]
    assert compiled_graphs() == 1
    assert not counters["graph_break"]
    assert len({prompt.tokens for prompt in placed_prompts}) == 3
    assert [traced.answer([prompt]) for prompt in placed_prompts[1:]] == expected[1:]
    mask = RandomHeadMask(share=0.3, seed=0, zero="output")
    eager, traced = engines(placed, methods, 4, mask=mask)
    masked = eager.answer(placed_prompts[:1])
    assert traced.answer(placed_prompts[:1]) == masked != expected[0]
    assert compiled_graphs() == 0


@pytest.mark.skipif(not GPU and shutil.which("g++") is None, reason="PyTorch compiles with g++ here")
def test_a_llava_model_compiled_by_inductor_answers_as_eager(tmp_path, pages, full, compiled_graphs):
    save_small("llava_next_mistral", tmp_path)
    loaded = LlavaNext(name="small", path=str(tmp_path), dtype="float32", attention="sdpa").load(DEVICE)
    eager, fast = (Engine(loaded, [full], 6, decode=decode) for decode in ("eager", "compiled"))
    prompts = [loaded.prompt(page, "what?") for page in pages]
    assert [fast.answer([prompt]) for prompt in prompts] == [eager.answer([prompt]) for prompt in prompts]
    assert compiled_graphs() == 1


def test_a_step_that_is_not_one_graph_is_refused(make_model, prompts, full):
    loaded = make_model()
    _, traced = engines(loaded, [full], 4)
    as_ever = loaded.decode_positions

    def broken(positions):
        torch._dynamo.graph_break()
        return as_ever(positions)

    loaded.decode_positions = broken
    with pytest.raises(ValueError, match=r"engine\.decode=compiled: this model's step is not one graph"):
        traced.answer(prompts[:1])


def test_without_a_compiler_it_is_refused(loaded, full, monkeypatch):
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    monkeypatch.setattr(compiled, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"engine\.decode=compiled: .* set engine\.decode=eager"):
        Engine(loaded, [full], 4, decode="compiled")


def test_another_name_is_refused(loaded, full):
    with pytest.raises(ValueError, match=r"engine\.decode=fast: must be one of eager, graph, compiled"):
        Engine(loaded, [full], 4, decode="fast")
