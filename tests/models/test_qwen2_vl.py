"""The adapter: what it reads without weights, how it prompts, what it refuses."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig

from sparsemm.methods.base import ModelShape
from sparsemm.models.qwen2_vl import Qwen2VL
from sparsemm.tasks.pages import PageSpec, make_page


def adapter(folder, **changes) -> Qwen2VL:
    fields = {"name": "x", "path": str(folder), "dtype": "float32", "attention": "sdpa"}
    return Qwen2VL(**{**fields, "max_pixels": 2**20, **changes})


@pytest.fixture
def copy(random_model_folder, tmp_path):
    """Copies of the random model's folder, each to be changed."""

    def make(name: str):
        return shutil.copytree(random_model_folder, tmp_path / name)

    return make


def image(width: int, height: int) -> Image.Image:
    return make_page("train", PageSpec("document", width, height, (2, 4), (10, 12)), 0).image


@pytest.mark.parametrize("size", [(64, 48), (48, 64), (256, 256), (128, 32)])
def test_a_prompt_has_one_token_per_merged_patch(loaded, size):
    prompt = loaded.prompt(image(*size), "ab?")
    ids = prompt.inputs["input_ids"][0]
    image_tokens = int((ids == loaded.image_id).sum())
    assert image_tokens == size[0] // 16 * (size[1] // 16)
    assert image_tokens == int(prompt.inputs["image_grid_thw"].prod()) // 4
    assert prompt.tokens == len(ids) == image_tokens + 2 + 3  # vision start and end, "ab?"
    assert prompt.next_position == int(prompt.inputs["position_ids"].max()) + 1
    assert prompt.next_position == 1 + max(size) // 16 + 1 + 3


def test_a_page_reaches_the_model_pixel_by_pixel_in_the_order_of_its_tokens(loaded):
    """Rows of pixel_values are 8 x 8 patches, four of a token together, tokens row by row."""
    page = image(64, 48)
    values = loaded.prompt(page, "k?").inputs["pixel_values"]
    ink = (np.asarray(page.convert("RGB")) / 255 - 1.0) / 0.5  # [48, 64, 3]
    patches = ink.reshape(3, 2, 8, 4, 2, 8, 3).transpose(0, 3, 1, 4, 6, 2, 5)  # token, patch, channel, pixel
    assert torch.allclose(values, torch.from_numpy(patches.reshape(48, 192).astype(np.float32)), atol=1e-6)


def test_a_grey_and_a_colour_page_make_the_same_prompt(loaded):
    page = image(64, 48)
    grey, colour = loaded.prompt(page, "k?"), loaded.prompt(page.convert("RGB"), "k?")
    assert all(torch.equal(grey.inputs[name], colour.inputs[name]) for name in grey.inputs)


@pytest.mark.parametrize("pixels, most", [(2**20, 256), (128 * 128, 64), (64 * 64, 16)])
def test_max_pixels_limit_the_image_tokens(random_model_folder, pixels, most):
    model = adapter(random_model_folder, max_pixels=pixels).load(torch.device("cpu"))
    ids = model.prompt(image(256, 256), "k?").inputs["input_ids"]
    assert int((ids == model.image_id).sum()) == most


def test_the_shape_is_read_from_the_configuration_alone(random_model_folder, tmp_path):
    shutil.copy(random_model_folder / "config.json", tmp_path)
    config = AutoConfig.from_pretrained(tmp_path).text_config
    shape = adapter(tmp_path).shape()
    assert shape == ModelShape(2, 8, 4, 16)
    assert shape.layers == config.num_hidden_layers and shape.kv_heads == config.num_key_value_heads


def test_the_shape_is_read_from_a_flat_configuration_too(tmp_path):
    """Hub copies of Qwen2-VL from before transformers 4.52 have no text_config."""
    flat = {"model_type": "qwen2_vl", "num_hidden_layers": 28, "num_attention_heads": 28}
    flat |= {"num_key_value_heads": 4, "hidden_size": 3584}
    (tmp_path / "config.json").write_text(json.dumps(flat))
    assert adapter(tmp_path).shape() == ModelShape(28, 28, 4, 128)


def test_decode_positions_are_the_same_in_all_parts(loaded):
    assert loaded.decode_positions(torch.tensor([4, 9])).tolist() == [[[4], [9]]] * 3


def test_text_of_an_answer_has_no_special_tokens(loaded):
    ids = loaded.tokenizer("ab 12")["input_ids"]
    assert loaded.text([*ids, *loaded.eos_ids]) == "ab 12"
    assert loaded.text([]) == ""
    assert loaded.text([loaded.model.config.text_config.vocab_size - 1]) == ""  # an id without a token


def test_the_content_id_follows_weights_and_configuration(copy, random_model_folder):
    original = adapter(random_model_folder).content_id()
    same, scored, weights, config = copy("same"), copy("scored"), copy("weights"), copy("config")
    (scored / "heads.json").write_text("{}")
    (scored / "README.md").write_text("card")
    data = bytearray((weights / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (weights / "model.safetensors").write_bytes(data)
    text = (config / "config.json").read_text()
    (config / "config.json").write_text(text.replace("10000.0", "10001.0"))
    assert (config / "config.json").read_text() != text
    assert adapter(same).content_id() == original
    assert adapter(scored).content_id() == original
    assert len({original, adapter(weights).content_id(), adapter(config).content_id()}) == 3


@pytest.mark.parametrize(
    "name",
    [
        "notes.txt",
        "trainer_state.json",
        "training_args.json",
        "training.json",
        "heads.json",
        "all_results.json",
    ],
)
def test_files_that_nobody_reads_leave_the_content_id_alone(copy, random_model_folder, name):
    folder = copy("with-more")
    (folder / name).write_text("{}")
    assert adapter(folder).content_id() == adapter(random_model_folder).content_id()


@pytest.mark.parametrize(
    "name",
    [
        *("adapter_config.json", "adapter_model.safetensors", "added_tokens.json", "chat_template.json"),
        *("merges.txt", "processor_config.json", "special_tokens_map.json", "tokenizer.model", "vocab.json"),
    ],
)
def test_files_that_can_change_an_answer_change_the_content_id(copy, random_model_folder, name):
    folder = copy("with-more")
    assert not (folder / name).exists()
    (folder / name).write_text("{}")
    assert adapter(folder).content_id() != adapter(random_model_folder).content_id()


def test_weights_of_equal_size_that_differ_in_one_byte_in_the_middle_have_another_content_id(copy):
    """Two fine-tunes of one model have the same file sizes."""
    ids = []
    for name, value in (("one", 1), ("two", 2)):
        folder = copy(name)
        with (folder / "model-00002-of-00002.safetensors").open("wb") as file:
            file.truncate(6 * 2**20)
            file.seek(3 * 2**20)
            file.write(bytes([value]))
        ids.append(adapter(folder).content_id())
    assert ids[0] != ids[1]


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    for act in (Qwen2VL.check, Qwen2VL.shape, lambda one: one.load(torch.device("cpu"))):
        with pytest.raises(ValueError, match=r"model.path=.*none: no such folder. Give a folder with config"):
            act(adapter(tmp_path / "none"))


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"model.path=.*: not a model, config.json is missing"):
        adapter(tmp_path).check()
    for text in (b"{", b"[]", b'"text"', b"\xff", b'{"model_type": "qwen2_vl"}'):
        (tmp_path / "config.json").write_bytes(text)
        with pytest.raises(ValueError, match=r"model.path=.*: config.json (is not|has no)"):
            adapter(tmp_path).check()


def test_a_model_of_another_family_is_refused(copy):
    folder = copy("llama")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(
        ValueError, match=r"model_type=llama, expected qwen2_vl. There are adapters for llava_next"
    ):
        adapter(folder).check()


def test_unsafe_weights_are_refused(copy):
    folder = copy("unsafe")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    for act in (Qwen2VL.check, lambda one: one.load(torch.device("cpu"))):
        with pytest.raises(ValueError, match=r"no model.safetensors there, .* Convert the weights"):
            act(adapter(folder))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"dtype": "int8"}, r"model.dtype=int8: must be one of float32, bfloat16, float16"),
        ({"max_pixels": 0}, r"model.max_pixels=0: must be a positive number of pixels"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        adapter(tmp_path, **change)


def test_an_unknown_attention_is_refused(random_model_folder):
    with pytest.raises(ValueError, match=r"model.attention=flash: must be one of"):
        adapter(random_model_folder, attention="flash").load(torch.device("cpu"))


def test_package_paths_are_found():
    from sparsemm.paths import resolve

    assert resolve("pkg://sparsemm.data/tiny").parts[-3:] == ("sparsemm", "data", "tiny")
    assert resolve("pkg://sparsemm.conf/run.yaml").is_file()
    assert str(resolve("~/x")).startswith("/")
