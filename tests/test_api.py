"""One method with model.generate, without sweeps."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_module
from transformers import Qwen2VLForConditionalGeneration

from sparsemm.api import make_cache, make_method
from sparsemm.models.qwen2_vl import LoadedQwen2VL
from sparsemm.tasks.pages import PageSpec, make_page


@pytest.fixture(scope="module")
def model(random_model_folder: Path) -> Qwen2VLForConditionalGeneration:
    return Qwen2VLForConditionalGeneration.from_pretrained(random_model_folder).eval()


@pytest.fixture(scope="module")
def inputs(loaded: LoadedQwen2VL) -> dict[str, torch.Tensor]:
    prompt = loaded.prompt(make_page("eval", PageSpec("document", 96, 64, (2, 2)), 0).image, "ab?")
    return {name: value for name, value in prompt.inputs.items() if name != "position_ids"}


def test_generate_with_the_full_method_equals_generate_without_a_cache_of_ours(model, inputs):
    plain = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    cache = make_cache(model, "full")
    assert torch.equal(
        model.generate(**inputs, max_new_tokens=8, do_sample=False, past_key_values=cache), plain
    )
    assert torch.equal(model.generate(**inputs, max_new_tokens=8, do_sample=False), plain)


def test_a_method_by_name_keeps_its_budget(model, inputs):
    cache = make_cache(model, "snapkv", "budget=9", "method.window=4")
    model.generate(**inputs, max_new_tokens=3, do_sample=False, past_key_values=cache)
    assert bool((cache.kept_lengths == 9 + 2).all())  # two answer tokens were appended


def test_a_method_can_be_made_inside_a_hydra_application():
    with initialize_config_module("sparsemm.conf", version_base="1.3"):
        assert make_method("snapkv", "budget=64").budget == 64
        assert (
            compose("run", ["hydra/sweeper=basic", "budget=33"]).budget == 33
        )  # the application's Hydra is back


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("snapkw", "budget=64", "Did you mean snapkv"),
        ("snapkv", "budgett=64", "Could not override 'budgett'"),
        ("snapkv", "budget=3", "budget=3: must be at least 32"),
        ("snapkv", "rounding=up", "rounding=up: must be exact or paper"),
    ],
)
def test_a_mistake_is_named(name, override, message):
    with pytest.raises(ValueError, match=message):
        make_method(name, override)
