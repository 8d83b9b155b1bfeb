"""Random models of the published sizes, and prompts of exact lengths with real image tokens."""

import pytest
import torch
import transformers

from sparsemm.bench import models
from sparsemm.bench.models import make_model, save_folder
from sparsemm.bench.prompts import image_tokens, make_prompt, sizes_of
from sparsemm.bench.shapes import SHAPES, Shape
from sparsemm.models.small import TEXT

CPU = torch.device("cpu")
PUBLISHED = {  # billions of parameters, as the hub shows them
    "qwen2_vl_7b": (transformers.Qwen2VLForConditionalGeneration, 8.29),
    "llava_next_vicuna_7b": (transformers.LlavaNextForConditionalGeneration, 7.06),
    "llava_next_mistral_7b": (transformers.LlavaNextForConditionalGeneration, 7.57),
}


@pytest.fixture(scope="module")
def small():
    """Models with images, each of a small size of its family."""
    shapes = {
        name: one if name == "tiny" else Shape(one.source, one.family, _sizes(name))
        for name, one in SHAPES.items()
        if one.reads_images
    }
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(models, "SHAPES", shapes)
        return {name: make_model(name, "random", CPU, torch.float32, 3000) for name in shapes}


def _sizes(name):
    return {**TEXT, "num_key_value_heads": 4 if "vicuna" in name else 2}


@pytest.mark.parametrize("name", PUBLISHED)
def test_shapes_have_as_many_parameters_as_the_published_models(name, tmp_path):
    save_folder(name, tmp_path, 33_000)
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    kind, billions = PUBLISHED[name]
    with torch.device("meta"):
        model = kind._from_config(config)
    assert round(sum(one.numel() for one in model.parameters()) / 1e9, 2) == billions
    text = config.get_text_config()
    found = SHAPES[name].attention
    assert (found.layers, found.kv_heads, found.head_dim) == (
        text.num_hidden_layers,
        text.num_key_value_heads,
        128,
    )


def test_the_tiny_shape_is_the_shipped_models(tmp_path):
    from sparsemm.models.qwen2_vl import Qwen2VL

    shipped = Qwen2VL(name="tiny", path="pkg://sparsemm.data/tiny", dtype="float32", attention="sdpa")
    assert shipped.shape() == SHAPES["tiny"].attention
    ours, theirs = save_folder("tiny", tmp_path, 4096).to_dict(), shipped.config()
    assert {key: ours["text_config"][key] for key in theirs["text_config"]} == theirs["text_config"]


@pytest.mark.parametrize("name", [name for name, one in SHAPES.items() if one.reads_images])
def test_prompts_have_the_length_asked_for_and_their_image_tokens_see_pages(small, name):
    loaded = small[name]
    for tokens in (180, 701):
        prompt = make_prompt(loaded, tokens)
        ids, positions = prompt.inputs["input_ids"], prompt.inputs["position_ids"]
        assert ids.shape == (1, tokens) and positions.shape[-1] == tokens == prompt.tokens
        images = image_tokens(loaded, prompt)
        assert images >= tokens / 3
        assert int(positions.max()) + 1 == prompt.next_position
        with torch.inference_mode():  # transformers refuses placeholders that are not as many as features
            loaded.model(**prompt.inputs, logits_to_keep=1)
    assert len(prompt.image_sizes) > 1
    assert set(prompt.image_sizes) <= set(sizes_of(loaded))


@pytest.mark.parametrize("name", ["tiny", "llava_next_vicuna_7b"])
def test_words_that_fill_a_prompt_are_positioned_as_the_model_would(small, name):
    loaded = small[name]
    prompt = make_prompt(loaded, 300)
    inputs = prompt.inputs
    if name != "tiny":
        assert inputs["position_ids"].tolist() == [list(range(300))]
        return
    wanted, _ = loaded.model.model.get_rope_index(
        inputs["input_ids"],
        image_grid_thw=inputs["image_grid_thw"],
        mm_token_type_ids=inputs["mm_token_type_ids"],
    )
    assert torch.equal(inputs["position_ids"], wanted)


def test_a_prompt_without_images_and_one_that_is_too_short(small):
    loaded = small["tiny"]
    prompt = make_prompt(loaded, 300, images=False)
    assert (prompt.tokens, image_tokens(loaded, prompt)) == (300, 0)
    with pytest.raises(ValueError, match="prompts=4: this model's chat template and a question take"):
        make_prompt(loaded, 4)
    with pytest.raises(ValueError, match=r"the smallest page takes 4\d tokens"):
        make_prompt(loaded, 35)


def test_real_weights_come_through_their_adapter():
    loaded = make_model("tiny", "pkg://sparsemm.data/tiny", CPU, torch.float32, 400)
    assert loaded.adapter.path == "pkg://sparsemm.data/tiny"
    assert loaded.eos_ids == () and loaded.context is None
    assert make_prompt(loaded, 200).tokens == 200
    with pytest.raises(ValueError, match=r"6 layers.*but shape=qwen2_vl_7b has 28 layers"):
        make_model("qwen2_vl_7b", "pkg://sparsemm.data/tiny", CPU, torch.float32, 400)


def test_a_model_that_this_machine_cannot_hold_is_refused_before_it_is_made(monkeypatch):
    monkeypatch.setattr(models, "_available_bytes", lambda: 20e9)
    with pytest.raises(torch.OutOfMemoryError, match=r"the weights take 33\.2 GB, and 20 GB are free"):
        make_model("qwen2_vl_7b", "random", CPU, torch.float32, 400)
