"""Decoding from the ragged cache equals dense attention with everything that was dropped masked out."""

import pytest
import torch
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from sparsemm.cache import RaggedCache
from sparsemm.engine.select import Selector


class Oracle:
    """Attention over a full cache in which each head sees only what the selector kept of the prompt."""

    def __init__(self, selector: Selector):
        self.selector, self.keep = selector, {}

    def __call__(self, module, query, key, value, attention_mask, scaling=None, **kwargs):
        layer, (heads, tokens) = module.layer_idx, key.shape[1:3]
        if query.shape[2] > 1:
            kept = self.selector.select(layer, query[0], key[0], value[0], scaling)
            keep = torch.zeros(heads, tokens, dtype=torch.bool)
            keep[torch.repeat_interleave(torch.arange(heads), kept.lengths[0]), kept.tokens] = True
            self.keep[layer] = keep
            return ALL_ATTENTION_FUNCTIONS["sdpa"](
                module, query, key, value, attention_mask, scaling=scaling, **kwargs
            )
        group = query.shape[1] // heads
        prompt = self.keep[layer]
        visible = torch.cat([prompt, torch.ones(heads, tokens - prompt.shape[1], dtype=torch.bool)], dim=1)
        logits = query[0] @ key[0].repeat_interleave(group, 0).transpose(1, 2) * scaling
        logits = logits.masked_fill(~visible.repeat_interleave(group, 0)[:, None], float("-inf"))
        output = torch.softmax(logits, dim=-1) @ value[0].repeat_interleave(group, 0)
        return output.transpose(0, 1)[None], None


@pytest.mark.parametrize("name", ["window", "snapkv", "pyramidkv", "adakv", "sparsemm", "random"])
@pytest.mark.parametrize("budget, sinks", [(6, 0), (15, 2)])
def test_decode_equals_dense_attention_with_dropped_entries_masked(
    loaded, make_model, prompts, make_method, name, budget, sinks
):
    selector = Selector([make_method(name, budget, sinks=sinks)], loaded.shape)
    oracle, dense = Oracle(selector), make_model()
    AttentionInterface.register("oracle", oracle)
    AttentionMaskInterface.register("oracle", ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    dense.model.set_attn_implementation({"text_config": "oracle"})
    prompt = prompts[1]
    ours, theirs = RaggedCache(selector, loaded.shape.layers, room=3), DynamicCache()
    with torch.inference_mode():
        first = loaded.model(**prompt.inputs, past_key_values=ours, use_cache=True)
        assert torch.equal(dense.model(**prompt.inputs, past_key_values=theirs, use_cache=True)[0], first[0])
        token = int(first.logits[0, -1].argmax())
        for step in range(7):
            inputs = {
                "input_ids": torch.tensor([[token]]),
                "position_ids": loaded.decode_positions(torch.tensor([prompt.next_position + step])),
                "use_cache": True,
            }
            got = loaded.model(**inputs, past_key_values=ours).logits[0, -1]
            expected = dense.model(**inputs, past_key_values=theirs).logits[0, -1]
            assert torch.allclose(got, expected, atol=1e-5, rtol=0), f"step {step}"
            token = int(got.argmax())
    kept = torch.stack([keep.sum(1) for keep in oracle.keep.values()])
    assert torch.equal(ours.kept_lengths[:, 0], kept + 7)
