"""Masked heads equal a model whose weights for them are zero, and nothing of a mask stays behind."""

import pytest
import torch
from transformers import DynamicCache

from sparsemm.cache import MaskedHeads, RaggedCache
from sparsemm.engine.generate import Engine
from sparsemm.engine.select import Selector
from sparsemm.methods.masks import NoMask, RandomHeadMask, VisualHeadMask

NEW = 8
SCORES = torch.rand(2, 8, generator=torch.Generator().manual_seed(5)) ** 4


def mask(zero: str, share: float = 0.3) -> VisualHeadMask:
    return VisualHeadMask(share=share, zero=zero, head_scores=SCORES)


@pytest.fixture
def without(make_model, loaded):
    """The random model with the projections of masked heads set to zero: no mask, no ragged cache."""

    def cut(zero: str, heads: torch.Tensor):
        changed = make_model()
        for layer, masked in zip(changed.model.model.language_model.layers, heads, strict=True):
            rows = masked.repeat_interleave(loaded.shape.head_dim)
            with torch.no_grad():
                if zero == "query":
                    layer.self_attn.q_proj.weight[rows] = 0
                    layer.self_attn.q_proj.bias[rows] = 0
                else:
                    layer.self_attn.o_proj.weight[:, rows] = 0
        return changed

    return cut


@pytest.mark.parametrize("zero", ["query", "output"])
def test_every_logit_equals_a_forward_without_these_heads(loaded, without, prompts, full, zero):
    heads = mask(zero).heads(loaded.shape)
    reference = without(zero, heads)
    reference.model.set_attn_implementation("sdpa")
    for prompt in prompts:
        cache = RaggedCache(
            Selector([full], loaded.shape), loaded.shape.layers, masked=MaskedHeads(heads, zero)
        )
        caches = {loaded: cache, reference: DynamicCache()}
        inputs = prompt.inputs
        for step in range(5):
            ours, theirs = (
                model.model(**inputs, past_key_values=its, use_cache=True).logits
                for model, its in caches.items()
            )
            assert torch.allclose(ours, theirs, atol=1e-5, rtol=0)
            inputs = {
                "input_ids": theirs[:, -1:].argmax(-1),
                "position_ids": loaded.decode_positions(torch.tensor([prompt.next_position + step])),
            }


@pytest.mark.parametrize("zero", ["query", "output"])
def test_every_cell_equals_that_of_a_model_without_these_heads(loaded, without, prompts, grid, zero):
    """Ranking included: heads with no query score all tokens alike, heads with no output as ever."""
    chosen = mask(zero)
    reference = Engine(without(zero, chosen.heads(loaded.shape)), grid, NEW).answer(prompts)
    assert Engine(loaded, grid, NEW, mask=chosen).answer(prompts) == reference
    assert Engine(loaded, grid, NEW).answer(prompts) != reference


def test_the_two_ways_to_mask_differ(loaded, prompts, full):
    by_query, by_output = (Engine(loaded, [full], NEW, mask=mask(zero)) for zero in ("query", "output"))
    assert by_query.answer(prompts) != by_output.answer(prompts)


def test_no_mask_is_no_mask(loaded, prompts, grid):
    assert Engine(loaded, grid, NEW, mask=NoMask()).masked is None
    assert Engine(loaded, grid, NEW, mask=NoMask()).answer(prompts) == Engine(loaded, grid, NEW).answer(
        prompts
    )


def test_a_mask_is_gone_when_the_engine_has_answered_or_failed(loaded, prompts, full, monkeypatch):
    plain, masked = Engine(loaded, [full], NEW), Engine(loaded, [full], NEW, mask=mask("query"))
    before = plain.answer(prompts)
    hidden = masked.answer(prompts)
    assert hidden != before
    assert plain.answer(prompts) == before
    with monkeypatch.context() as broken:
        broken.setattr(loaded, "decode_positions", lambda positions: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            masked.answer(prompts)
    assert plain.answer(prompts) == before
    assert masked.answer(prompts) == hidden


def test_generate_takes_a_cache_with_masked_heads(loaded, prompts, as_inputs, full):
    heads = MaskedHeads(mask("output").heads(loaded.shape), "output")
    cache = RaggedCache(Selector([full], loaded.shape), loaded.shape.layers, masked=heads)
    (answer,) = Engine(loaded, [full], NEW, mask=mask("output")).answer(prompts[:1])[0]
    out = loaded.model.generate(
        **as_inputs(prompts[0]), past_key_values=cache, max_new_tokens=NEW, do_sample=False
    )
    assert out[0, prompts[0].tokens :].tolist()[: len(answer.token_ids)] == list(answer.token_ids)


def test_chunks_with_empty_rows_are_masked_too(loaded, prompts, grid):
    chosen = RandomHeadMask(share=0.3, zero="query", seed=0)
    expected = Engine(loaded, grid[::4], NEW, mask=chosen).answer(prompts)
    assert Engine(loaded, grid[::4], NEW, fixed_rows=5, mask=chosen).answer(prompts) == expected


def test_a_mask_of_another_model_is_refused(loaded, full):
    other = VisualHeadMask(share=0.3, zero="query", head_scores=torch.ones(28, 28))
    with pytest.raises(ValueError, match=r"but the model has"):
        Engine(loaded, [full], 4, mask=other)
