"""The engine answers every cell as if it were alone."""

import dataclasses
from collections.abc import Sequence

import pytest
import torch
from transformers import DynamicCache

from sparsemm.cache import RaggedCache
from sparsemm.engine.attention import use_ragged_attention
from sparsemm.engine.generate import Engine
from sparsemm.engine.select import Selector

NEW = 10


def steps(loaded, prompt, cache, count: int = 6) -> tuple[list[torch.Tensor], list[int]]:
    """Logits and tokens of a greedy decode with any cache."""
    with torch.inference_mode():
        output = loaded.model(**prompt.inputs, past_key_values=cache, use_cache=True)
        logits, tokens = [output.logits[0]], [int(output.logits[0, -1].argmax())]
        for step in range(count):
            position = torch.tensor([prompt.next_position + step])
            output = loaded.model(
                input_ids=torch.tensor([[tokens[-1]]]),
                position_ids=loaded.decode_positions(position),
                past_key_values=cache,
                use_cache=True,
            )
            logits.append(output.logits[0])
            tokens.append(int(output.logits[0, -1].argmax()))
    return logits, tokens


def answers(engine: Engine, prompts: Sequence) -> list[list[tuple[int, ...]]]:
    return [[one.token_ids for one in row] for row in engine.answer(prompts)]


def test_keep_everything_equals_dynamic_cache(loaded, prompts, full, make_model):
    plain = make_model()
    plain.model.set_attn_implementation("sdpa")
    for prompt in prompts:
        expected, expected_tokens = steps(plain, prompt, DynamicCache())
        got, tokens = steps(loaded, prompt, RaggedCache(Selector([full], loaded.shape), loaded.shape.layers))
        assert tokens == expected_tokens
        for ours, theirs in zip(got, expected, strict=True):
            assert torch.allclose(ours, theirs, atol=1e-5, rtol=0)
        engine = Engine(loaded, [full], len(tokens))
        (answer,) = engine.answer([prompt])[0]
        until = next((at for at, token in enumerate(tokens) if token in loaded.eos_ids), len(tokens))
        assert list(answer.token_ids) == tokens[:until]
        assert answer.kept_entries == prompt.tokens * loaded.shape.layers * loaded.shape.kv_heads


def test_the_prepared_model_reads_a_dynamic_cache_as_before(loaded, prompts, make_model):
    plain = make_model()
    plain.model.set_attn_implementation("sdpa")
    expected, ours = steps(plain, prompts[0], DynamicCache()), steps(loaded, prompts[0], DynamicCache())
    assert all(torch.equal(left, right) for left, right in zip(expected[0], ours[0], strict=True))


def test_cell_decoded_among_others_equals_alone(loaded, prompts, grid):
    together = answers(Engine(loaded, grid, NEW), prompts)
    assert len({row for rows in together for row in rows}) > 10  # the cells do differ
    for number, prompt in enumerate(prompts):
        for cell in range(number, len(grid), 3):
            alone = answers(Engine(loaded, [grid[cell]], NEW), [prompt])[0][0]
            assert together[number][cell] == alone, (number, grid[cell].name, grid[cell].budget)


def test_cell_decoded_among_others_equals_alone_in_bfloat16(prompts, grid, make_model):
    loaded = make_model("bfloat16")
    prompts = [
        dataclasses.replace(
            prompt, inputs={**prompt.inputs, "pixel_values": prompt.inputs["pixel_values"].bfloat16()}
        )
        for prompt in prompts
    ]
    together = answers(Engine(loaded, grid, NEW, fixed_rows=8), prompts)
    for number, prompt in enumerate(prompts):
        for cell in range(number, len(grid), 5):
            alone = answers(Engine(loaded, [grid[cell]], NEW, fixed_rows=8), [prompt])[0][0]
            assert together[number][cell] == alone, (number, grid[cell].name, grid[cell].budget)
    some = grid[4:17]  # another chunking
    again = answers(Engine(loaded, some, NEW, fixed_rows=8), prompts[1:])
    assert again == [row[4:17] for row in together[1:]]


@pytest.mark.parametrize("fixed_rows", [1, 5, 8, 64])
def test_the_number_of_fixed_rows_does_not_matter_in_float32(loaded, prompts, grid, fixed_rows):
    cells = grid[::4]
    expected = answers(Engine(loaded, cells, NEW), prompts)
    assert answers(Engine(loaded, cells, NEW, fixed_rows=fixed_rows), prompts) == expected


def test_methods_that_keep_the_same_share_a_row(loaded, prompts, full, make_method):
    methods = [full, make_method("snapkv", 500), make_method("adakv", 10_000), make_method("window", "100%")]
    for answer in Engine(loaded, methods, 4).answer(prompts):
        assert {one.rows for one in answer} == {1}
        assert len({one.token_ids for one in answer}) == 1
    methods = [make_method("snapkv", 12), make_method("sparsemm", 12, rho=1.0), make_method("sparsemm", 12)]
    for answer in Engine(loaded, methods, 4).answer(prompts):
        assert {one.rows for one in answer} == {2}
        assert answer[0] == answer[1]


def test_kept_entries_are_the_budget_for_every_method(loaded, prompts, grid):
    heads = loaded.shape.layers * loaded.shape.kv_heads
    for prompt, row in zip(prompts, Engine(loaded, grid, 1).answer(prompts), strict=True):
        for method, one in zip(grid, row, strict=True):
            assert one.kept_entries == min(method.budget or prompt.tokens, prompt.tokens) * heads
            assert one.prompt_tokens == prompt.tokens


@pytest.mark.parametrize("window", [30, 1000])
def test_prompts_shorter_than_the_window_are_kept_whole(loaded, prompts, full, make_method, window):
    short = make_method("snapkv", 2000, window=window)
    for ours, everything in Engine(loaded, [short, full], 6).answer(prompts):
        assert ours == everything


def test_a_row_ends_at_its_end_token(loaded, prompts, grid):
    """Any token may be declared the end token: answers then stop before it, each row on its own."""
    before = loaded.eos_ids
    try:
        loaded.eos_ids = (-1,)
        free = Engine(loaded, grid, NEW).answer(prompts)
        flat = [one.token_ids for row in free for one in row]
        assert {len(ids) for ids in flat} == {NEW}
        ends = loaded.eos_ids = tuple(sorted({token for ids in flat for token in ids[2:5]})[:3])
        stopped = Engine(loaded, grid, NEW).answer(prompts)
    finally:
        loaded.eos_ids = before
    lengths = set()
    for ids, one in zip(flat, (one for row in stopped for one in row), strict=True):
        until = next((at for at, token in enumerate(ids) if token in ends), len(ids))
        assert one.token_ids == ids[:until]
        lengths.add(until)
    assert len(lengths) > 2


def test_one_new_token_needs_no_decode_step(loaded, prompts, full):
    (one,) = Engine(loaded, [full], 1).answer(prompts[:1])[0]
    (more,) = Engine(loaded, [full], 3).answer(prompts[:1])[0]
    assert one.token_ids == more.token_ids[:1]


def test_an_unknown_prefill_attention_is_refused(loaded):
    with pytest.raises(ValueError, match=r"model.attention=paged: must be one of sdpa, eager, flash_attent"):
        use_ragged_attention(loaded.model, "paged")


def test_methods_that_do_not_fit_the_model_are_refused(loaded, make_method):
    from sparsemm.methods.allocators.visual_heads import VisualHeads

    other = VisualHeads(head_scores=torch.ones(28, 28), rho=0.1)
    with pytest.raises(ValueError, match="but the model has"):
        Engine(loaded, [make_method("sparsemm", 12, allocator=other)], 4)
