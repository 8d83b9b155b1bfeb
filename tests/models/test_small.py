"""Small random models are real ones in everything but size."""

import pytest
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer, GenerationConfig

from sparsemm.models.small import FAMILIES, save_small


def content(folder) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_the_same_seed_writes_the_same_files_and_another_seed_other_weights(family, folders, tmp_path):
    save_small(family, tmp_path / "same")
    save_small(family, tmp_path / "other", seed=1)
    first, same, other = content(folders[family]), content(tmp_path / "same"), content(tmp_path / "other")
    assert same == first
    assert {name for name in first if first[name] != other[name]} == {"model.safetensors"}
    assert sum(map(len, first.values())) < 2_000_000


def test_transformers_loads_them_as_what_they_are(family, folders):
    model = AutoModelForImageTextToText.from_pretrained(folders[family])
    assert model.config.model_type == ("llava_next" if family.startswith("llava") else family)
    assert AutoTokenizer.from_pretrained(folders[family]).eos_token in ("</s>", "<|im_end|>")
    ends = GenerationConfig.from_pretrained(folders[family]).eos_token_id
    assert ends == (2 if family.startswith("llava") else [2, 0])


@pytest.mark.parametrize("family", FAMILIES[:2])
def test_the_joint_processor_of_llava_loads_without_torchvision(family, folders):
    processor = AutoProcessor.from_pretrained(folders[family])
    assert type(processor).__name__ == "LlavaNextProcessor"
    assert type(processor.image_processor).__name__ == "LlavaNextImageProcessorPil"


def test_prompts_are_small_and_text_round_trips(family, models, noise):
    loaded = models[family]
    prompt = loaded.prompt(noise(200, 150), "k?")
    assert 50 <= int((prompt.inputs["input_ids"] == loaded.image_id).sum()) <= 200
    assert loaded.text(loaded.tokenizer("Größe: 5 m²\nand 3.7 %")["input_ids"]) == "Größe: 5 m²\nand 3.7 %"


def test_an_unknown_family_is_refused(tmp_path):
    with pytest.raises(ValueError, match="family=llama: must be one of llava_next_vicuna"):
        save_small("llama", tmp_path)
