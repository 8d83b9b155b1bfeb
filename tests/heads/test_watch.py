"""The search that forms the last query's attention alone gives the scores of full attention matrices."""

import pytest
import torch

from sparsemm.heads.match import match, pieces
from sparsemm.heads.search import region_tokens, score_sample
from sparsemm.heads.watch import WatchedCache, read
from sparsemm.tasks.synthetic import READ_ALL
from tests.heads.conftest import QUESTION, as_said, page

FAMILIES = ("tiny", "llava_next_vicuna", "llava_next_mistral", "qwen2_vl", "qwen2_5_vl")
TOKENS = 24


def question(family: str) -> str:
    return READ_ALL if family == "tiny" else QUESTION


@pytest.fixture(params=FAMILIES)
def family(request) -> str:
    return request.param


def answer(loaded, prompt, tokens):
    """Tokens [n] of transformers' own generate()."""
    mask = torch.ones_like(prompt.inputs["input_ids"])
    inputs = {name: value for name, value in prompt.inputs.items() if name != "position_ids"}
    ends = (
        list(loaded.eos_ids) if loaded.eos_ids[0] >= 0 else [loaded.model.config.get_text_config().vocab_size]
    )
    said = loaded.model.generate(
        **inputs, attention_mask=mask, max_new_tokens=tokens, do_sample=False, repetition_penalty=1.0,
        eos_token_id=ends, pad_token_id=0,
    )  # fmt: skip
    return [token for token in said[0, prompt.tokens :].tolist() if token not in loaded.eos_ids]


def full_attention(loaded, prompt, tokens):
    """[n, L, Hq] places with the strongest attention, from matrices of one pass over prompt and answer."""
    ids = torch.tensor([tokens])
    positions = [
        loaded.decode_positions(torch.tensor([prompt.next_position + step])) for step in range(len(tokens))
    ]
    inputs = {
        **prompt.inputs,
        "input_ids": torch.cat([prompt.inputs["input_ids"], ids], dim=1),
        "position_ids": torch.cat([prompt.inputs["position_ids"], *positions], dim=-1),
    }
    if "mm_token_type_ids" in inputs:
        inputs["mm_token_type_ids"] = torch.cat(
            [inputs["mm_token_type_ids"], torch.zeros_like(ids, dtype=torch.int)], dim=1
        )
    before = loaded.model.config.get_text_config()._attn_implementation
    loaded.model.set_attn_implementation({"text_config": "eager"})
    try:
        with torch.inference_mode():
            matrices = loaded.model(**inputs, use_cache=False, output_attentions=True).attentions
    finally:
        loaded.model.set_attn_implementation({"text_config": before})
    whole = torch.stack([matrix[0] for matrix in matrices])  # [L, Hq, T + n, T + n]
    assert whole.shape[2] == prompt.tokens + len(tokens)
    return whole[:, :, prompt.tokens - 1 : -1].argmax(-1).permute(2, 0, 1)


def test_scores_equal_those_of_full_attention_matrices(models, given, family):
    loaded = models(family)
    sample = as_said(loaded, page(1), TOKENS, question(family))
    prompt = loaded.prompt(page(1), question(family))
    tokens = answer(loaded, prompt, TOKENS)
    looks = full_attention(loaded, prompt, tokens)
    text, spans = pieces(loaded.tokenizer, tokens)
    found = match(text, spans, [region.text for region in sample.regions])
    expected = torch.zeros(loaded.shape.layers, loaded.shape.query_heads)
    for step, one in enumerate(found):
        if one.region is not None:
            wanted = region_tokens(loaded, prompt, sample.regions[one.region].box).tolist()
            for layer in range(loaded.shape.layers):
                for head in range(loaded.shape.query_heads):
                    expected[layer, head] += (int(looks[step, layer, head]) in wanted) / len(wanted)
    scored = score_sample(loaded, sample, given([sample], TOKENS, question(family)))
    assert (scored.scores - expected).abs().max() < 1e-6
    assert scored.counts["matched"] >= 4 and scored.counts["hits"] >= 4
    assert scored.counts["tokens"] == len(tokens)


def test_the_reading_is_what_generate_says(models, family):
    loaded = models(family)
    prompt = loaded.prompt(page(1), question(family))
    reading = read(loaded, prompt, TOKENS)
    assert list(reading.tokens) == answer(loaded, prompt, TOKENS)
    assert reading.looks.shape == (len(reading.tokens), loaded.shape.layers, loaded.shape.query_heads)
    assert reading.cut == (len(reading.tokens) == TOKENS)


def test_nothing_of_the_size_of_the_prompt_squared_is_kept(models):
    loaded = models("qwen2_vl")
    prompt = loaded.prompt(page(), QUESTION)
    cache = WatchedCache(loaded.shape.layers)
    with torch.inference_mode():
        loaded.model(**prompt.inputs, past_key_values=cache, use_cache=True)
    for layer in cache.layers:
        sizes = {value.numel() for value in vars(layer).values() if isinstance(value, torch.Tensor)}
        assert max(sizes) == loaded.shape.kv_heads * prompt.tokens * loaded.shape.head_dim
    assert cache.get_seq_length() == prompt.tokens
    assert bool((cache.looks() < prompt.tokens).all())


def test_an_answer_ends_where_the_model_has_no_room_left(models, monkeypatch):
    loaded = models("qwen2_vl")
    prompt = loaded.prompt(page(), QUESTION)
    monkeypatch.setattr(loaded, "context", prompt.tokens + 3)
    reading = read(loaded, prompt, TOKENS)
    assert len(reading.tokens) == 3 and reading.cut


def test_an_answer_of_nothing_has_no_looks(models, monkeypatch):
    loaded = models("qwen2_vl")
    prompt = loaded.prompt(page(), QUESTION)
    first = read(loaded, prompt, 1).tokens
    monkeypatch.setattr(loaded, "eos_ids", first)
    reading = read(loaded, prompt, TOKENS)
    assert reading.tokens == () and not reading.cut
    assert reading.looks.shape == (0, loaded.shape.layers, loaded.shape.query_heads)
