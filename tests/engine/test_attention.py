"""The attentions that read prompts, and what they refuse."""

import sys
import types

import pytest
import torch
import torch.nn.functional as F
from sparsemm.kernels.ragged_attention import attend
from transformers import DynamicCache

from sparsemm.cache import RaggedCache
from sparsemm.engine.attention import NAMES, use_ragged_attention
from sparsemm.engine.flash import check_flash_attention, flash_attention
from sparsemm.engine.generate import Engine
from sparsemm.engine.select import Selector
from sparsemm.models.base import ATTENTIONS
from sparsemm.models.llava_next import LlavaNext
from sparsemm.models.small import save_small


@pytest.fixture
def flash_calls(monkeypatch) -> list[dict]:
    """flash-attn itself needs a GPU: here sdpa stands in for its function, and every call is looked at.

    What cannot be seen here: that the real flash_attn_func takes these arguments and gives these values.
    """
    calls = []

    def flash_attn_func(q, k, v, *, softmax_scale, causal):
        calls.append({"q": q.shape, "k": k.shape, "v": v.shape, "scale": softmax_scale, "causal": causal})
        q, k, v = (one.transpose(1, 2) for one in (q, k, v))
        seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(k.shape[2] - q.shape[2])
        out = F.scaled_dot_product_attention(q, k, v, seen, scale=softmax_scale, enable_gqa=True)
        return out.transpose(1, 2)

    fake = types.ModuleType("flash_attn")
    fake.flash_attn_func = flash_attn_func
    monkeypatch.setitem(sys.modules, "flash_attn", fake)
    return calls


@pytest.fixture
def flash_model(make_model):
    """Without the checks of GPU and dtype, and with sdpa in the vision tower."""
    loaded = make_model()
    loaded.model.set_attn_implementation({"text_config": NAMES["flash_attention_2"]})
    return loaded


def test_every_attention_of_the_configuration_has_a_name():
    assert tuple(NAMES) == ATTENTIONS


def test_flash_attention_reads_prompts_and_the_ragged_cache_is_decoded_as_ever(
    loaded, flash_model, flash_calls, prompts, grid
):
    cells = grid[::5]
    expected = Engine(loaded, cells, 8).answer(prompts)
    assert Engine(flash_model, cells, 8).answer(prompts) == expected
    shape = loaded.shape
    assert len(flash_calls) == len(prompts) * shape.layers  # prompts only, each alone
    for number, call in enumerate(flash_calls):
        tokens = prompts[number // shape.layers].tokens
        assert call["q"] == (1, tokens, shape.query_heads, shape.head_dim)
        assert call["k"] == call["v"] == (1, tokens, shape.kv_heads, shape.head_dim)
        assert call["scale"] == shape.head_dim**-0.5 and call["causal"] is True


def test_flash_attention_decodes_a_dynamic_cache_as_before(
    loaded, flash_model, flash_calls, prompts, as_inputs
):
    settings = {"max_new_tokens": 6, "do_sample": False}
    inputs = as_inputs(prompts[0])
    expected = loaded.model.generate(**inputs, past_key_values=DynamicCache(), **settings)
    out = flash_model.model.generate(**inputs, past_key_values=DynamicCache(), **settings)
    assert torch.equal(out, expected)
    assert {call["q"][1] for call in flash_calls} == {prompts[0].tokens, 1}


def test_flash_attention_refuses_padding(flash_model, flash_calls, prompts, as_inputs, full):
    cache = RaggedCache(Selector([full], flash_model.shape), flash_model.shape.layers)
    words = r"attention_mask: flash_attention_2 reads prompts without padding"
    with pytest.raises(ValueError, match=words):
        flash_model.model.generate(**as_inputs(*prompts), past_key_values=cache, max_new_tokens=2)
    cache.reset()
    flash_model.model(**prompts[0].inputs, past_key_values=cache, use_cache=True)
    hidden = torch.ones(1, prompts[0].tokens + 1, dtype=torch.long)
    hidden[0, 2] = 0
    with pytest.raises(ValueError, match=words):  # in a later turn
        flash_model.model(
            input_ids=torch.tensor([[7]]), attention_mask=hidden, past_key_values=cache, use_cache=True
        )


def test_flash_attention_refuses_what_a_sliding_window_would_hide(flash_calls):
    q, k = torch.rand(1, 4, 1, 8), torch.rand(1, 2, 6, 8)
    assert flash_attention(q, k, k, 0.3, window=6).shape == (1, 1, 4, 8)
    with pytest.raises(ValueError, match=r"sliding_window=5: shorter than the 6 tokens"):
        flash_attention(q, k, k, 0.3, window=5)


def test_flash_attention_switches_the_vision_tower_too(make_model, monkeypatch):
    model, asked = make_model().model, []
    monkeypatch.setattr("sparsemm.engine.attention.check_flash_attention", lambda *_: None)
    monkeypatch.setattr(model, "set_attn_implementation", asked.append)
    use_ragged_attention(model, "flash_attention_2")
    assert asked == [{"text_config": "ragged_fa2", "vision_config": "flash_attention_2"}]


def test_flash_attention_says_what_it_needs(make_model, monkeypatch):
    with pytest.raises(ValueError, match=r"attention=flash_attention_2: needs an NVIDIA GPU.*attention=sdpa"):
        use_ragged_attention(make_model("bfloat16").model, "flash_attention_2")
    with pytest.raises(ValueError, match=r"but the model is torch.float32. Set model.dtype=bfloat16"):
        check_flash_attention(torch.device("cuda"), torch.float32)
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    with pytest.raises(ValueError, match=r"flash-attn cannot be imported .*Install it .*or set"):
        check_flash_attention(torch.device("cuda"), torch.bfloat16)


def test_eager_attention_builds_no_mask_for_single_tokens(make_model, prompts, as_inputs, full, monkeypatch):
    """Decoding would look it up for every entry."""
    loaded, masks = make_model(), []
    use_ragged_attention(loaded.model, "eager")

    def look(arena, queries, scaling, mask):
        masks.append(mask)
        return attend(arena, queries, scaling, mask)

    monkeypatch.setattr("sparsemm.kernels.ragged_attention.attend", look)
    Engine(loaded, [full], 4).answer(prompts)
    assert masks and not [mask for mask in masks if mask is not None]


@pytest.fixture(scope="module")
def sliding(tmp_path_factory):
    """Mistral with a window of 110 tokens."""
    folder = tmp_path_factory.mktemp("mistral")
    save_small("llava_next_mistral", folder)
    adapter = LlavaNext(name="small", path=str(folder), dtype="float32", attention="sdpa")

    def load(window):
        loaded = adapter.load(torch.device("cpu"))
        loaded.model.config.get_text_config().sliding_window = loaded.sliding_window = window
        return loaded

    return load


def test_a_window_as_long_as_prompt_and_answer_changes_nothing(sliding, pages, full, make_method):
    methods = [full, make_method("snapkv", 12)]
    free, slid = sliding(None), sliding(110)
    prompts = [free.prompt(page, "k?") for page in pages]
    longest = max(prompt.tokens for prompt in prompts)
    expected = Engine(free, methods, 110 - longest).answer(prompts)
    assert Engine(slid, methods, 110 - longest).answer(prompts) == expected


def test_a_prompt_whose_answer_may_leave_the_window_is_refused_alone(sliding, pages, full):
    slid = sliding(110)
    short, long = sorted((slid.prompt(page, "k?") for page in pages), key=lambda prompt: prompt.tokens)
    engine = Engine(slid, [full], 111 - long.tokens)
    engine.check(short)
    with pytest.raises(ValueError, match=r"sliding_window=110: .* prompt and answer take up to 111"):
        engine.check(long)
    with pytest.raises(ValueError, match=r"sliding_window=110"):
        engine.answer([short, long])


def test_generate_with_a_ragged_cache_refuses_what_a_sliding_window_would_hide(sliding, pages, full):
    """transformers' mask hides the first tokens there, which must not pass for padding."""
    prompt = sliding(None).prompt(pages[1], "k?")
    inputs = {name: tensor for name, tensor in prompt.inputs.items() if name != "position_ids"}
    for window, settings in ((prompt.tokens - 5, {}), (prompt.tokens + 2, {"eos_token_id": -1})):
        slid = sliding(window)
        cache = RaggedCache(Selector([full], slid.shape), slid.shape.layers)
        with pytest.raises(ValueError, match=rf"sliding_window={window}"):
            slid.model.generate(**inputs, past_key_values=cache, max_new_tokens=8, **settings)
