"""Folders laid out as the hub's repositories are, from before transformers 5."""

import json

import pytest
import torch

from sparsemm.models.small import FAMILIES

QWEN, LLAVA = FAMILIES[2:], FAMILIES[:2]


def change(file, **changes) -> None:
    """Set or (None) take out keys of a JSON file."""
    settings = {**(json.loads(file.read_text()) if file.is_file() else {}), **changes}
    file.write_text(json.dumps({key: value for key, value in settings.items() if value is not None}))


def logits(loaded, picture) -> torch.Tensor:
    prompt = loaded.prompt(picture, "What is it?")
    with torch.inference_mode():
        return loaded.model(**prompt.inputs, logits_to_keep=1).logits


@pytest.mark.parametrize("where", ["tokenizer_config.json", "chat_template.json"])
@pytest.mark.parametrize("family", QWEN)
def test_qwens_flat_config_and_its_template_in_json_are_read(family, load, copy, models, noise, where):
    folder = copy(family)
    config = json.loads((folder / "config.json").read_text())
    text = config.pop("text_config")
    for key in ("model_type", "dtype", "layer_types"):
        text.pop(key, None)
    rope = text.pop("rope_parameters")
    flat = {**text, **config, "rope_theta": rope["rope_theta"]}
    flat["rope_scaling"] = {"type": "mrope", "mrope_section": rope["mrope_section"]}
    (folder / "config.json").write_text(json.dumps(flat))
    change(folder / where, chat_template=(folder / "chat_template.jinja").read_text())
    (folder / "chat_template.jinja").unlink()
    pixels = {"size": None, "min_pixels": 3136, "max_pixels": 12845056}
    change(folder / "preprocessor_config.json", **pixels, processor_class="Qwen2VLProcessor")
    loaded = load(family, path=folder)
    assert loaded.shape == models[family].shape
    picture = noise(200, 150)
    assert torch.equal(logits(loaded, picture), logits(models[family], picture))


@pytest.mark.parametrize("family", LLAVA)
def test_llavas_processor_in_two_files_and_its_template_in_json_are_read(family, load, copy, models, noise):
    folder = copy(family)
    nested = json.loads((folder / "processor_config.json").read_text())["image_processor"]
    nested |= {"image_processor_type": "LlavaNextImageProcessor", "aspect_ratio_setting": "anyres"}
    change(folder / "preprocessor_config.json", **nested, processor_class="LlavaNextProcessor")
    change(folder / "processor_config.json", image_processor=None)
    change(folder / "chat_template.json", chat_template=(folder / "chat_template.jinja").read_text())
    (folder / "chat_template.jinja").unlink()
    picture = noise(200, 150)
    assert torch.equal(logits(load(family, path=folder), picture), logits(models[family], picture))
