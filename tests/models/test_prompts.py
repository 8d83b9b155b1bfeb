"""Prompts are those of the families' own processors."""

import math

import pytest
import torch
from PIL import Image
from transformers import LlavaNextProcessor, Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from sparsemm.models.small import FAMILIES

QWEN, LLAVA = FAMILIES[2:], FAMILIES[:2]
SIZES = [[(200, 150)], [(37, 91)], [(200, 150), (60, 300), (33, 20)]]
LLAVA_TEXT = {
    "llava_next_vicuna": "USER: {images}What is it? ASSISTANT:",
    "llava_next_mistral": "[INST] {images}What is it? [/INST]",
}
QWEN_TEXT = (
    "<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{images}What is it?<|im_end|>\n"
    "<|im_start|>assistant\n"
)
HELPFUL = "You are a helpful assistant."


@pytest.fixture
def images(noise):
    def make(sizes):
        return [noise(*size, seed) for seed, size in enumerate(sizes)]

    return make


def rope_of_generate(loaded, inputs) -> torch.Tensor:
    """The positions [3, 1, T] that generate() gives the language model."""
    seen = []

    def note(_module, _args, kwargs):
        seen.append(kwargs["position_ids"])

    hook = loaded.model.model.language_model.register_forward_pre_hook(note, with_kwargs=True)
    inputs = {name: value for name, value in inputs.items() if name != "position_ids"}
    loaded.model.generate(**inputs, max_new_tokens=2, do_sample=False)
    hook.remove()
    return seen[0][-3:]


@pytest.mark.parametrize("family", LLAVA)
@pytest.mark.parametrize("sizes", SIZES)
def test_llava_prompts_are_those_of_its_processor(family, models, folders, images, sizes):
    pictures = images(sizes)
    text = LLAVA_TEXT[family].format(images="<image>\n" * len(sizes))
    theirs = LlavaNextProcessor.from_pretrained(folders[family])(
        images=pictures, text=text, return_tensors="pt"
    )
    prompt = models[family].prompt(pictures, "What is it?")
    assert int(prompt.inputs["input_ids"][0, 0]) == models[family].tokenizer.bos_token_id
    for name in ("input_ids", "pixel_values", "image_sizes"):
        assert torch.equal(prompt.inputs[name], theirs[name]), name
    assert prompt.tokens == prompt.next_position == theirs["input_ids"].shape[1]
    assert prompt.image_sizes == tuple(sizes)


@pytest.mark.parametrize("family", QWEN)
@pytest.mark.parametrize("sizes", SIZES)
def test_qwen_prompts_are_its_template_with_every_image_expanded(family, models, folders, images, sizes):
    loaded, pictures = models[family], images(sizes)
    processor = Qwen2VLImageProcessorPil.from_pretrained(folders[family])
    theirs = processor(images=pictures, return_tensors="pt")
    expanded = "".join(
        "<|vision_start|>" + "<|image_pad|>" * (grid[1] * grid[2] // 4) + "<|vision_end|>"
        for grid in theirs["image_grid_thw"].tolist()
    )
    text = QWEN_TEXT.format(system=HELPFUL, images=expanded)
    prompt = loaded.prompt(pictures, "What is it?")
    assert prompt.inputs["input_ids"][0].tolist() == loaded.tokenizer(text)["input_ids"]
    for name in ("pixel_values", "image_grid_thw"):
        assert torch.equal(prompt.inputs[name], theirs[name]), name
    positions = prompt.inputs["position_ids"]
    assert torch.equal(positions, rope_of_generate(loaded, prompt.inputs))
    assert prompt.next_position == int(positions.max()) + 1 < prompt.tokens


def test_a_prompt_may_have_no_image(family, models):
    loaded = models[family]
    prompt = loaded.prompt([], "What is it?")
    text = (
        LLAVA_TEXT[family].format(images="")
        if family in LLAVA
        else QWEN_TEXT.format(system=HELPFUL, images="")
    )
    assert prompt.inputs["input_ids"][0].tolist() == loaded.tokenizer(text)["input_ids"]
    assert "pixel_values" not in prompt.inputs
    assert prompt.next_position == prompt.tokens


@pytest.mark.parametrize("family", QWEN)
def test_a_system_prompt_replaces_that_of_qwens_template(family, load):
    told = load(family, system="Read.")
    ids = told.prompt([], "What is it?").inputs["input_ids"][0].tolist()
    assert ids == told.tokenizer(QWEN_TEXT.format(system="Read.", images=""))["input_ids"]


def test_the_papers_system_prompt_makes_vicunas_prompt_that_of_the_original_repository(load, noise):
    """vicuna_v1 of llava/conversation.py: system, "USER: ", message, " ASSISTANT:"."""
    system = "A chat between a curious user and an artificial intelligence assistant."
    loaded = load("llava_next_vicuna", system=system)
    prompt = loaded.prompt(noise(50, 50), "What is it?")
    text = loaded.tokenizer.decode(prompt.inputs["input_ids"][0])
    before, *_, after = text.split("<image>")
    assert before == f"<s>{system} USER: "
    assert after == "\nWhat is it? ASSISTANT:"


def test_mistrals_system_prompt_is_wrapped_as_its_template_says(load):
    ids = load("llava_next_mistral", system="Read.").prompt([], "Go").inputs["input_ids"][0]
    text = load("llava_next_mistral").tokenizer.decode(ids)
    assert text == "<s><<SYS>>\nRead.\n<</SYS>>\n\n[INST] Go [/INST]"


def test_a_template_replaces_the_folders_own(family, load, noise):
    token = "<image>" if family in LLAVA else "<|image_pad|>"
    loaded = load(family, template="{{ '" + token + " ' + messages[0]['content'][1]['text'] }}")
    text = loaded.tokenizer.decode(loaded.prompt(noise(50, 50), "So?").inputs["input_ids"][0])
    assert text.replace(token, "").replace("<s>", "") == " So?"


@pytest.mark.parametrize("quality", [None, 85])
def test_images_are_re_encoded_as_pillow_saves_them(family, load, models, noise, tmp_path, quality):
    """Without a quality: Pillow's default."""
    settings = {} if quality is None else {"quality": quality}
    picture = noise(60, 40)
    picture.save(tmp_path / "page.jpg", **settings)
    again = Image.open(tmp_path / "page.jpg")
    changes = {f"jpeg_{key}": value for key, value in settings.items()}
    ours = load(family, jpeg=True, **changes).prompt(picture, "k?").inputs["pixel_values"]
    assert torch.equal(ours, models[family].prompt(again, "k?").inputs["pixel_values"])
    assert not torch.equal(ours, models[family].prompt(picture, "k?").inputs["pixel_values"])


@pytest.mark.parametrize("family", QWEN)
@pytest.mark.parametrize(
    ("low", "high"), [(400, 2000), (90000, 12845056), (25088, 12845056), (None, 4000), (20000, None)]
)
def test_the_pixel_limits_are_those_asked_for_whatever_the_folder_says(family, load, copy, noise, low, high):
    """The folder's own are 3136 and 10000 here: in some cases the limit lies beyond, in some within."""
    folder = copy(family, "preprocessor_config.json", size={"shortest_edge": 3136, "longest_edge": 10000})
    loaded = load(family, path=folder, min_pixels=low, max_pixels=high)
    for width, height in ((200, 150), (33, 20), (350, 90), (81, 240)):
        grid = loaded.prompt(noise(width, height), "k?").inputs["image_grid_thw"][0].tolist()
        wanted = smart_resize(height, width, 20, low or 3136, high or 10000)
        assert [10 * side for side in grid[1:]] == list(wanted)


@pytest.mark.parametrize("family", QWEN)
def test_the_hubs_older_way_to_write_pixel_limits_is_read(family, load, copy, noise):
    folder = copy(family, "preprocessor_config.json", size=None, min_pixels=3136, max_pixels=8000)
    grid = load(family, path=folder).prompt(noise(200, 150), "k?").inputs["image_grid_thw"][0]
    assert 0.7 * 8000 < 100 * int(grid.prod()) <= 8000


def test_the_number_of_image_tokens_is_what_the_model_takes_for_many_sizes(family, models, noise):
    """The model refuses a prompt whose image tokens are not as many as its features."""
    loaded = models[family]
    for index in range(24):
        width, height = 8 + (index * 97) % 313, 8 + (index * 59) % 271
        prompt = loaded.prompt([noise(width, height), noise(height, width + 5)], "k?")
        with torch.inference_mode():
            logits = loaded.model(**prompt.inputs, logits_to_keep=1).logits
        assert math.isfinite(float(logits.sum()))


def test_decode_positions_fit_what_the_model_takes(family, models):
    positions = models[family].decode_positions(torch.tensor([4, 9]))
    assert positions.tolist() == ([[4], [9]] if family in LLAVA else [[[4], [9]]] * 3)


def test_a_question_that_holds_the_image_token_is_refused(family, models, noise):
    token = models[family].image_token
    with pytest.raises(ValueError, match=r"the question holds .* which stands for an image"):
        models[family].prompt(noise(50, 50), f"What is {token}?")


def test_a_folder_without_chat_template_is_refused(family, load, copy):
    folder = copy(family)
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match=r"no chat template there. Give one: model.template="):
        load(family, path=folder).prompt([], "k?")


def test_prompts_beyond_the_context_are_refused(family, load, copy, noise):
    folder = copy(family, text_config__max_position_embeddings=100)
    loaded = load(family, path=folder)
    assert loaded.context == 100
    assert loaded.prompt(noise(50, 50), "k?").tokens <= 100
    with pytest.raises(
        ValueError, match=r"a prompt of \d+ tokens \(images of 300x300 pixels\): .* at most 100"
    ):
        loaded.prompt(noise(300, 300), "k?")


def test_a_sliding_window_shorter_than_the_prompt_is_refused(load, copy, noise):
    folder = copy("llava_next_mistral", text_config__sliding_window=60)
    loaded = load("llava_next_mistral", path=folder)
    assert loaded.prompt([], "What is it?").tokens <= 60
    refused = r"sliding_window=60: .* but the prompt \(images of 200x150 pixels\) takes \d+, and"
    with pytest.raises(ValueError, match=refused):
        loaded.prompt(noise(200, 150), "k?")


def test_qwens_sliding_window_counts_only_where_layers_use_it(load, copy, noise):
    """Hub copies carry sliding_window=32768 with use_sliding_window=false."""
    changes = {"text_config__sliding_window": 60, "text_config__layer_types": None}
    off = copy("qwen2_vl", text_config__use_sliding_window=False, **changes)
    assert load("qwen2_vl", path=off).prompt(noise(200, 150), "k?").tokens > 60
    late = {**changes, "text_config__use_sliding_window": True, "text_config__max_window_layers": 2}
    assert load("qwen2_vl", path=copy("qwen2_vl", **late)).sliding_window is None
    used = {**late, "text_config__max_window_layers": 1}
    with pytest.raises(ValueError, match=r"sliding_window=60: .* the prompt"):
        load("qwen2_vl", path=copy("qwen2_vl", **used)).prompt(noise(200, 150), "k?")
