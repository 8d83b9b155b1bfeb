"""`model.generate(past_key_values=RaggedCache(...))` works without the engine: batches, turns, ends."""

import pytest
import torch
from transformers import DynamicCache

from sparsemm.cache import RaggedCache
from sparsemm.engine.generate import Engine
from sparsemm.engine.select import Selector

NEW = 8


@pytest.fixture
def ragged(loaded):
    """A cache for one method."""
    return lambda method, room=5: RaggedCache(Selector([method], loaded.shape), loaded.shape.layers, room)


def generate(loaded, inputs, cache, **settings):
    """New tokens [B, new]; finished rows go on with the pad token."""
    settings = {"max_new_tokens": NEW, "do_sample": False, **settings}
    with torch.inference_mode():
        out = loaded.model.generate(**inputs, past_key_values=cache, **settings)
    return out[:, inputs["input_ids"].shape[1] :]


def until_end(loaded, row) -> tuple[int, ...]:
    ends = {*loaded.eos_ids, loaded.tokenizer.pad_token_id}
    tokens = row.tolist()
    return tuple(tokens[: next((at for at, token in enumerate(tokens) if token in ends), len(tokens))])


METHODS = [("snapkv", 12), ("adakv", 9), ("sparsemm", 20), ("window", 7), ("random", "40%")]


@pytest.mark.parametrize("name, budget", METHODS)
def test_generate_equals_the_engine(loaded, prompts, ragged, as_inputs, make_method, name, budget):
    method = make_method(name, budget)
    for prompt, (answer,) in zip(prompts, Engine(loaded, [method], NEW).answer(prompts), strict=True):
        tokens = generate(loaded, as_inputs(prompt), ragged(method))
        assert until_end(loaded, tokens[0]) == answer.token_ids


@pytest.mark.parametrize("name, budget", METHODS)
def test_a_left_padded_batch_equals_each_prompt_alone(
    loaded, prompts, ragged, as_inputs, make_method, name, budget
):
    method = make_method(name, budget)
    cache = ragged(method)
    tokens = generate(loaded, as_inputs(*prompts), cache)
    for row, prompt in enumerate(prompts):
        alone = ragged(method)
        one = generate(loaded, as_inputs(prompt), alone)
        assert until_end(loaded, tokens[row]) == until_end(loaded, one[0])
        more = tokens.shape[1] - one.shape[1]  # a row that ended early is padded
        assert torch.equal(cache.kept_lengths[:, row], alone.kept_lengths[:, 0] + more)


def test_full_generate_equals_a_dynamic_cache(loaded, prompts, ragged, as_inputs, full):
    for batch in ([prompts[0]], [prompts[2]], prompts):
        inputs = as_inputs(*batch)
        settings = {"output_logits": True, "return_dict_in_generate": True, "max_new_tokens": NEW}
        ours, plain = (
            loaded.model.generate(**inputs, past_key_values=cache, do_sample=False, **settings)
            for cache in (ragged(full), DynamicCache())
        )
        assert torch.equal(ours.sequences, plain.sequences)
        alive = torch.ones(len(batch), dtype=torch.bool)
        for step, (left, right) in enumerate(zip(ours.logits, plain.logits, strict=True)):
            assert torch.allclose(left[alive], right[alive], atol=1e-5, rtol=0)
            token = plain.sequences[:, inputs["input_ids"].shape[1] + step]
            alive &= token != loaded.tokenizer.eos_token_id


def conversation(loaded, inputs, cache, questions, ends):
    """Tokens of three turns with one cache; each later turn adds a question [B, q] to what was said."""
    settings = {"eos_token_id": ends, "pad_token_id": loaded.tokenizer.pad_token_id}
    answers = [generate(loaded, inputs, cache, **settings)]
    ids, mask = torch.cat([inputs["input_ids"], answers[0]], 1), inputs["attention_mask"]
    for question in questions:
        said = (answers[-1] != loaded.tokenizer.pad_token_id).long()
        mask = torch.cat([mask, said, torch.ones_like(question)], 1)
        ids = torch.cat([ids, question], 1)
        turn = {"input_ids": ids, "attention_mask": mask, "mm_token_type_ids": torch.zeros_like(ids)}
        turn["mm_token_type_ids"][:, : inputs["input_ids"].shape[1]] = inputs["mm_token_type_ids"]
        answers.append(generate(loaded, turn, cache, **settings))
        ids = torch.cat([ids, answers[-1]], 1)
    return answers


def questions_for(loaded, rows: int) -> list[torch.Tensor]:
    texts = ["and b2?", "why so?"]
    return [loaded.tokenizer([text] * rows, return_tensors="pt")["input_ids"] for text in texts]


def test_a_conversation_equals_a_dynamic_cache(loaded, prompts, ragged, as_inputs, full):
    inputs, questions = as_inputs(prompts[1]), questions_for(loaded, 1)
    ours = conversation(loaded, inputs, ragged(full), questions, -1)
    plain = conversation(loaded, inputs, DynamicCache(), questions, -1)
    assert len(ours) == 3 and all(torch.equal(*pair) for pair in zip(ours, plain, strict=True))


def test_a_padded_conversation_with_early_ends_equals_a_dynamic_cache(
    loaded, prompts, ragged, as_inputs, full
):
    inputs, questions = as_inputs(*prompts), questions_for(loaded, len(prompts))
    free = conversation(loaded, inputs, DynamicCache(), questions, -1)
    end = int(free[0][0, 2])  # row 0 ends here: its further tokens are padding in the middle
    ours = conversation(loaded, inputs, ragged(full), questions, end)
    plain = conversation(loaded, inputs, DynamicCache(), questions, end)
    assert bool((ours[0] == loaded.tokenizer.pad_token_id).any())
    assert all(torch.equal(*pair) for pair in zip(ours, plain, strict=True))


def test_a_compressed_conversation_keeps_the_later_turns_in_full(
    loaded, prompts, ragged, as_inputs, make_method
):
    cache = ragged(make_method("sparsemm", 12))
    answers = conversation(loaded, as_inputs(prompts[1]), cache, questions_for(loaded, 1), -1)
    later = sum(answer.shape[1] for answer in answers) + 14 - 1  # the last token is never fed
    assert int(cache.kept_lengths.sum()) == (12 + later) * loaded.shape.layers * loaded.shape.kv_heads
    assert cache.get_seq_length() == prompts[1].tokens + later


def test_a_model_that_was_not_prepared_is_refused(prompts, ragged, as_inputs, full, make_model):
    plain = make_model()
    plain.model.set_attn_implementation("sdpa")
    with pytest.raises(RuntimeError, match=r"does not read RaggedCache. Call .*use_ragged_attention"):
        generate(plain, as_inputs(prompts[0]), ragged(full))


def test_several_methods_are_refused(loaded, prompts, as_inputs, full, make_method):
    cache = RaggedCache(Selector([full, make_method("snapkv", 9)], loaded.shape), loaded.shape.layers)
    with pytest.raises(
        ValueError, match=r"2 methods make 2 rows of one prompt. Give the selector one method"
    ):
        generate(loaded, as_inputs(prompts[0]), cache)


def test_beam_search_is_refused(loaded, prompts, ragged, as_inputs, full):
    with pytest.raises(NotImplementedError, match=r"does not support beam search. Use num_beams=1"):
        generate(loaded, as_inputs(prompts[0]), ragged(full), num_beams=2)


def test_right_padding_is_refused(loaded, prompts, ragged, as_inputs, full):
    inputs = as_inputs(*prompts[:2])
    for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
        missing = prompts[1].tokens - prompts[0].tokens
        inputs[name][0] = inputs[name][0].roll(-missing)
    with pytest.raises(ValueError, match=r"attention_mask: a prompt may be padded on the left only"):
        generate(loaded, inputs, ragged(full))


def test_a_reset_cache_is_as_new(loaded, prompts, ragged, as_inputs, make_method):
    cache = ragged(make_method("snapkv", 12))
    first = generate(loaded, as_inputs(prompts[0]), cache)
    cache.reset()
    assert cache.get_seq_length() == 0
    assert torch.equal(generate(loaded, as_inputs(prompts[0]), cache), first)
