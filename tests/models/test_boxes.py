"""The image tokens of a box are those that painting the box changes."""

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from transformers import LlavaNextConfig, LlavaNextImageProcessorPil, LlavaNextProcessor
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

from sparsemm.models.llava_next import Layout
from sparsemm.models.small import FAMILIES

QWEN, LLAVA = FAMILIES[2:], FAMILIES[:2]
BOX_FILTER = Image.Resampling.BOX  # no pixel is mixed into its neighbours where sizes divide


def painted(sizes, image, box) -> list[Image.Image]:
    pictures = [Image.new("RGB", size, "white") for size in sizes]
    left, top, right, bottom = box
    ImageDraw.Draw(pictures[image]).rectangle((left, top, right - 1, bottom - 1), fill="black")
    return pictures


def changed_tokens(loaded, family, sizes, image, box) -> set[int]:
    """Places in the prompt whose patches change when a box is painted; the model itself orders patches."""
    before, after = (
        loaded.prompt(pictures, "k?")
        for pictures in (
            [Image.new("RGB", size, "white") for size in sizes],
            painted(sizes, image, box),
        )
    )
    assert torch.equal(before.inputs["input_ids"], after.inputs["input_ids"])
    places = (after.inputs["input_ids"][0] == loaded.image_id).nonzero()[:, 0]
    differs = before.inputs["pixel_values"] != after.inputs["pixel_values"]
    if family in QWEN:  # four rows of pixel_values are merged into a token
        tokens = differs.any(dim=1).view(-1, 4).any(dim=1)
        return set(places[tokens].tolist())
    side = loaded.model.config.vision_config.image_size // 14
    patches = (
        differs.any(dim=2).unfold(2, 14, 14).unfold(3, 14, 14).any(dim=(4, 5)).flatten(2)
    )  # [n, tiles, s*s]
    features = []
    for index, size in enumerate(after.inputs["image_sizes"].tolist()):
        target = tiles_of(loaded, size)
        numbers = torch.arange(target * side**2).view(target, side**2, 1).float() + 1
        features.append(torch.where(patches[index, :target, :, None], -numbers, numbers))
    packed, _ = loaded.model.model.pack_image_features(
        features, after.inputs["image_sizes"], "default", torch.zeros(1)
    )
    return set(places[torch.cat(packed)[:, 0] < 0].tolist())


def tiles_of(loaded, size) -> int:
    config = loaded.model.config
    return image_size_to_num_patches(size, config.image_grid_pinpoints, config.vision_config.image_size)


def found(loaded, sizes, image, box) -> set[int]:
    prompt = loaded.prompt([Image.new("RGB", size, "white") for size in sizes], "k?")
    tokens = loaded.box_tokens(prompt, box, image).tolist()
    assert len(tokens) == len(set(tokens)) > 0
    return set(tokens)


def boxes(width, height, step=1, count=12):
    """Boxes with corners on multiples of `step`, small and large."""
    draw = np.random.default_rng(width * 1000 + height)
    yield (0, 0, width, height)
    for _ in range(count):
        left, right = sorted(draw.choice(width // step + 1, 2, replace=False) * step)
        top, bottom = sorted(draw.choice(height // step + 1, 2, replace=False) * step)
        yield tuple(map(int, (left, top, right, bottom)))


@pytest.mark.parametrize("family", QWEN)
@pytest.mark.parametrize("sizes", [[(200, 160)], [(60, 240)], [(100, 80), (240, 60), (80, 80)]])
def test_boxes_of_pages_that_qwen_does_not_resize_are_exact(family, models, sizes):
    image = len(sizes) // 2
    for box in boxes(*sizes[image]):
        assert found(models[family], sizes, image, box) == changed_tokens(
            models[family], family, sizes, image, box
        )


@pytest.mark.parametrize("family", LLAVA)
@pytest.mark.parametrize(
    ("sizes", "step"),
    [
        ([(112, 112)], 2),  # two by two tiles, no padding
        ([(168, 56)], 3),  # three tiles beside each other
        ([(56, 168), (112, 112), (112, 56)], 2),
        ([(28, 28)], 1),  # scaled up
    ],
)
def test_boxes_of_images_that_fill_llavas_tiles_are_exact(family, models, monkeypatch, sizes, step):
    monkeypatch.setattr(models[family].processor.image_processor, "resample", BOX_FILTER)
    image = len(sizes) // 2
    for box in boxes(*sizes[image], step):
        assert found(models[family], sizes, image, box) == changed_tokens(
            models[family], family, sizes, image, box
        )


@pytest.mark.parametrize(
    "sizes", [[(200, 150)], [(300, 40)], [(31, 170)], [(90, 200), (140, 131)], [(111, 113)], [(24, 20)]]
)
def test_boxes_of_any_image_are_exact_but_for_the_reach_of_resizing(family, models, sizes):
    """The processors' bicubic filter reaches 2 pixels (of the resized image, where that is smaller)."""
    image = len(sizes) - 1
    width, height = sizes[image]
    reach = math.ceil(2 * max(1, width / 56, height / 56)) + 1
    for box in boxes(width, height, count=8):
        changed = changed_tokens(models[family], family, sizes, image, box)
        left, top, right, bottom = box
        grown = (
            max(0, left - reach),
            max(0, top - reach),
            min(width, right + reach),
            min(height, bottom + reach),
        )
        assert changed <= found(models[family], sizes, image, grown)
        within = (left + 1, top + 1, right - 1, bottom - 1)
        if within[0] < within[2] and within[1] < within[3]:
            assert found(models[family], sizes, image, within) <= changed


def test_newline_tokens_belong_to_no_box(models):
    loaded = models["llava_next_mistral"]
    prompt = loaded.prompt(Image.new("RGB", (112, 112)), "k?")
    everything = loaded.box_tokens(prompt, (0, 0, 112, 112))
    assert int((prompt.inputs["input_ids"] == loaded.image_id).sum()) == 16 + 8 * 9
    assert len(everything) == 16 + 8 * 8


def test_the_layout_counts_what_the_processor_counts_with_the_real_models_settings(models):
    """336-pixel tiles of 24 x 24 patches: LLaVA-1.6 takes 2928 tokens at most."""
    config = LlavaNextConfig()
    processor = LlavaNextProcessor(
        LlavaNextImageProcessorPil(image_grid_pinpoints=config.image_grid_pinpoints),
        models["llava_next_vicuna"].tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    counts = set()
    for width in range(40, 2500, 37):
        for height in range(40, 2500, 193):
            counts.add(Layout(config, (width, height)).tokens)
            assert Layout(config, (width, height)).tokens == (
                processor._get_number_of_features(height, width, 336, 336) - 1
            )
    assert max(counts) == Layout(config, (672, 672)).tokens == 576 + 48 * 49 == 2928


@pytest.mark.parametrize("box", [(0, 0, 0, 5), (-1, 0, 5, 5), (0, 0, 51, 5), (9, 0, 5, 5)])
def test_a_box_outside_the_image_is_refused(models, box, noise):
    for family in ("llava_next_vicuna", "qwen2_vl"):
        prompt = models[family].prompt(noise(50, 50), "k?")
        with pytest.raises(ValueError, match=r"must be left < right and top < bottom within 50 x 50 pixels"):
            models[family].box_tokens(prompt, box)


def test_an_image_that_is_not_there_is_refused(models, noise):
    prompt = models["qwen2_vl"].prompt(noise(50, 50), "k?")
    with pytest.raises(ValueError, match=r"image=1: the prompt has 1 images"):
        models["qwen2_vl"].box_tokens(prompt, (0, 0, 5, 5), image=1)
