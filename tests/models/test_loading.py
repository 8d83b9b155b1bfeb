"""What is loaded, with which settings; what is refused, in words that help."""

import json
import types
from importlib import import_module
from pathlib import Path

import pytest
import sparsemm.conf
import torch
import transformers
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, LlamaConfig, MistralConfig

from sparsemm.api import make_cache
from sparsemm.methods.base import ModelShape
from sparsemm.models.base import ARCHITECTURES
from sparsemm.models.llava_next import TEXT_MODELS
from sparsemm.models.loading import refuse_offloaded

CPU = torch.device("cpu")


def test_the_shape_comes_from_config_json_alone(family, folders, make_adapter, tmp_path):
    (tmp_path / "config.json").write_bytes((folders[family] / "config.json").read_bytes())
    text = AutoConfig.from_pretrained(folders[family]).get_text_config()
    assert make_adapter(family, tmp_path).shape() == ModelShape(2, 4, text.num_key_value_heads, 16)


def test_every_architecture_has_its_files_in_conf_and_they_their_architecture():
    for kind, names in ARCHITECTURES.items():
        for name in names:
            node = yaml.safe_load((Path(sparsemm.conf.__path__[0]) / "model" / f"{name}.yaml").read_text())
            module, _, cls = node["_target_"].rpartition(".")
            found = getattr(import_module(module), cls)
            assert found.model_type == kind
            assert node["revision"] is None  # open until prefetch has read one


@pytest.mark.parametrize(("kind", "config"), [("llama", LlamaConfig()), ("mistral", MistralConfig())])
def test_where_the_ports_config_is_silent_transformers_defaults_apply(kind, config, make_adapter, tmp_path):
    """The hub's LLaVA ports write only what differs from the defaults."""
    assert all(getattr(config, key) == value for key, value in TEXT_MODELS[kind].items())
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "llava_next", "text_config": {"model_type": kind}})
    )
    wanted = ModelShape(32, 32, config.num_key_value_heads, 128)
    assert make_adapter("llava_next", tmp_path).shape() == wanted


def test_generate_takes_a_compressed_cache(family, load, noise):
    """The README's example, for every family."""
    loaded = load(family)
    prompt = loaded.prompt(noise(200, 150), "What is it?")
    inputs = {name: value for name, value in prompt.inputs.items() if name != "position_ids"}
    plain = loaded.model.generate(**inputs, max_new_tokens=6, do_sample=False)
    full = make_cache(loaded.model, "full")
    again = loaded.model.generate(**inputs, max_new_tokens=6, do_sample=False, past_key_values=full)
    assert torch.equal(again, plain)
    small = make_cache(loaded.model, "snapkv", "budget=32", "method.window=8")
    answer = loaded.model.generate(**inputs, max_new_tokens=6, do_sample=False, past_key_values=small)
    assert answer.shape[1] == prompt.tokens + 6
    assert bool((small.kept_lengths == 32 + 5).all())  # five answer tokens were appended


def test_end_tokens_are_the_tokenizers_or_those_of_the_generation_config(family, load):
    assert load(family).eos_ids == (2,)
    assert load(family, eos="generation_config").eos_ids == ((2, 0) if family.startswith("qwen") else (2,))


def test_end_tokens_that_are_not_there_are_not_invented(load, copy):
    folder = copy("qwen2_vl", "generation_config.json", eos_token_id=None)
    with pytest.raises(ValueError, match=r"model.eos=generation_config: .* has no eos_token_id"):
        load("qwen2_vl", path=folder, eos="generation_config")


def test_the_repetition_penalty_applies_only_where_asked_for(load, make_adapter, copy, folders):
    assert load("qwen2_vl").repetition_penalty == 1.0
    assert load("qwen2_vl", generation_config=True).repetition_penalty == 1.05
    (copied := copy("qwen2_vl")).joinpath("generation_config.json").unlink()
    assert make_adapter("qwen2_vl", copied, generation_config=True).generation_settings() == (1.0, ())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("no_repeat_ngram_size", 3),
        ("suppress_tokens", [5]),
        ("min_new_tokens", 2),
        ("num_beams", 4),
        ("encoder_repetition_penalty", 1.2),
        ("forced_eos_token_id", 2),
        ("stop_strings", ["\n"]),
        ("a_setting_of_tomorrow", "x"),
    ],
)
def test_generation_settings_that_change_greedy_decoding_are_refused(make_adapter, copy, key, value):
    folder = copy("qwen2_vl", "generation_config.json", **{key: value})
    make_adapter("qwen2_vl", folder).check()  # not asked for: not read
    with pytest.raises(ValueError, match=rf"generation_config.json of .* sets {key}=") as error:
        make_adapter("qwen2_vl", folder, generation_config=True).check()
    assert "model.generation_config=false" in str(error.value)


def test_generation_settings_that_change_nothing_here_are_accepted(make_adapter, copy):
    harmless = {"do_sample": True, "top_p": 0.8, "top_k": 20, "num_beams": 1, "no_repeat_ngram_size": 0}
    harmless |= {"suppress_tokens": None, "max_length": 20, "max_new_tokens": 2048, "use_cache": True}
    folder = copy("qwen2_vl", "generation_config.json", **harmless)
    adapter = make_adapter("qwen2_vl", folder, generation_config=True)
    adapter.check()
    assert adapter.generation_settings()[0] == 1.05


@pytest.mark.parametrize("penalty", [0, -1.0, "high"])
def test_an_impossible_repetition_penalty_is_refused(make_adapter, copy, penalty):
    folder = copy("qwen2_vl", "generation_config.json", repetition_penalty=penalty)
    with pytest.raises(ValueError, match=r"repetition_penalty=.* must be above 0"):
        make_adapter("qwen2_vl", folder, generation_config=True).check()


def test_missing_tensors_are_an_error_that_names_them(family, load, copy):
    folder = copy(family)
    weights = load_file(folder / "model.safetensors")
    gone = [name for name in weights if "layers.1.self_attn.q_proj" in name or "layers.0.mlp.down" in name]
    kept = {name: tensor for name, tensor in weights.items() if name not in gone}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"the weights are incomplete, \d tensors are missing: .*down_proj"):
        load(family, path=folder)


def test_tensors_of_another_shape_are_an_error(family, load, copy):
    folder = copy(family)
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "layers.0.mlp.down_proj" in name)
    weights[name] = weights[name][:5].clone()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"the weights have other shapes than config.json says"):
        load(family, path=folder)


def test_a_truncated_file_is_an_error(load, copy):
    folder = copy("qwen2_vl")
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(5000)
    with pytest.raises(ValueError, match=r"model.path=.*: the weights are corrupt"):
        load("qwen2_vl", path=folder)


def test_weights_in_several_files_load_and_missing_ones_are_named(load, models, copy, make_adapter):
    folder = copy("llava_next_mistral")
    (folder / "model.safetensors").unlink()
    models["llava_next_mistral"].model.save_pretrained(folder, max_shard_size="200KB")
    parts = sorted(folder.glob("model-*.safetensors"))
    assert len(parts) > 2
    assert load("llava_next_mistral", path=folder).shape.layers == 2
    parts[1].unlink()
    with pytest.raises(ValueError, match=rf"weights are incomplete, 1 files are missing: {parts[1].name}"):
        make_adapter("llava_next_mistral", folder).check()
    for part in parts:
        part.unlink(missing_ok=True)
    with pytest.raises(ValueError, match=r"weights are incomplete, \d files are missing: .*, \.\.\."):
        make_adapter("llava_next_mistral", folder).check()


@pytest.mark.parametrize("content", ["{", "[]", '{"weight_map": 3}'])
def test_an_unreadable_index_counts_as_missing(make_adapter, copy, content):
    folder = copy("qwen2_vl")
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ValueError, match=r"1 files are missing: model.safetensors.index.json"):
        make_adapter("qwen2_vl", folder).check()


def test_weights_that_are_not_safetensors_are_refused(family, make_adapter, copy):
    folder = copy(family)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"no model.safetensors there, .* Convert the weights"):
        make_adapter(family, folder).load(CPU)


def test_an_architecture_without_adapter_says_which_there_are(make_adapter, copy):
    folder = copy("qwen2_vl", model_type="internvl")
    with pytest.raises(
        ValueError, match=r"model_type=internvl, expected llava_next. There are adapters"
    ) as e:
        make_adapter("llava_next", folder).check()
    assert "qwen2_5_vl (model=qwen2_5_vl_7b)" in str(e.value)
    assert "auto_map" not in str(e.value)


def test_an_architecture_with_another_adapter_says_which(make_adapter, folders):
    with pytest.raises(ValueError, match=r"expected qwen2_vl. Choose its adapter: model=qwen2_5_vl_7b"):
        make_adapter("qwen2_vl", folders["qwen2_5_vl"]).check()


def test_code_that_comes_with_weights_is_never_run(make_adapter, copy, tmp_path):
    own = {"AutoModel": "modeling_x.X", "AutoConfig": "configuration_x.X"}
    foreign = copy("qwen2_vl", model_type="x", auto_map=own)
    with pytest.raises(ValueError, match=r"Its code comes with its weights \(auto_map\), and .* never run"):
        make_adapter("qwen2_vl", foreign).load(CPU)
    known = copy("qwen2_vl", auto_map=own)  # of an architecture that transformers has: its own code is used
    (known / "modeling_x.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    (known / "configuration_x.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert make_adapter("qwen2_vl", known).load(CPU).shape.layers == 2
    assert not (tmp_path / "ran").exists()


def test_a_text_model_that_llava_next_is_not_tested_with_is_refused(make_adapter, copy):
    folder = copy("llava_next_vicuna", text_config__model_type="qwen2")
    with pytest.raises(ValueError, match=r"the text model is qwen2, expected llama or mistral"):
        make_adapter("llava_next", folder).check()


def test_another_choice_of_vision_features_is_refused(make_adapter, copy):
    folder = copy("llava_next_vicuna", vision_feature_select_strategy="full")
    with pytest.raises(ValueError, match=r"vision_feature_select_strategy=full is not supported"):
        make_adapter("llava_next", folder).check()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: weights are spread over GPUs")
def test_a_device_map_spreads_the_weights(family, folders, make_adapter, noise):
    page = noise(60, 50)
    logits = []
    for device_map in ("auto", None):
        one = make_adapter(family, folders[family], device_map=device_map).load(torch.device("cuda"))
        assert one.device.type == "cuda"
        logits.append(one.model(**one.prompt(page, "k?").inputs, logits_to_keep=1).logits)
    assert torch.equal(*logits)


def test_a_device_map_needs_accelerate(folders, make_adapter, monkeypatch):
    monkeypatch.setattr("sparsemm.models.loading.find_spec", lambda name: None)
    adapter = make_adapter("qwen2_vl", folders["qwen2_vl"], device_map="auto")
    with pytest.raises(ValueError, match=r"model.device_map=auto: needs accelerate. Run: pip install"):
        adapter.load(torch.device("cuda"))


def test_a_device_map_on_the_cpu_is_refused(load):
    with pytest.raises(
        ValueError, match=r"model.device_map=auto: .* model.device_map=null, or engine.device"
    ):
        load("qwen2_vl", device_map="auto")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has room for the small model")
@pytest.mark.parametrize("device_map", ["auto", "sequential"])
def test_weights_that_fit_on_no_gpu_are_refused_and_not_offloaded(folders, make_adapter, device_map):
    """Without a GPU accelerate leaves everything on the CPU, and says nothing."""
    adapter = make_adapter("qwen2_vl", folders["qwen2_vl"], device_map=device_map)
    refused = rf"model.device_map={device_map}: ([\d.]+) of \1 GB of the weights did not fit .* float32"
    with pytest.raises(ValueError, match=refused):
        adapter.load(torch.device("cuda"))


def test_weights_on_gpus_alone_are_accepted_and_the_others_are_counted(make_adapter):
    def weights(**places):
        return [
            types.SimpleNamespace(nbytes=size, device=torch.device(place)) for place, size in places.items()
        ]

    adapter = make_adapter("qwen2_vl", "x", device_map="auto")
    refuse_offloaded(adapter, types.SimpleNamespace(parameters=lambda: weights(cuda=12 * 10**9)))
    some = weights(cuda=12 * 10**9, meta=3 * 10**9, cpu=10**9)
    with pytest.raises(ValueError, match=r"model.device_map=auto: 4 of 16 GB of the weights did not fit"):
        refuse_offloaded(adapter, types.SimpleNamespace(parameters=lambda: some))


def test_a_map_that_wants_a_folder_to_offload_into_is_refused_in_our_words(
    folders, make_adapter, monkeypatch
):
    def wants_a_folder(*args, **kwargs):
        raise ValueError("The current `device_map` had weights offloaded to the disk. Please provide ...")

    monkeypatch.setattr(transformers.Qwen2VLForConditionalGeneration, "from_pretrained", wants_a_folder)
    adapter = make_adapter("qwen2_vl", folders["qwen2_vl"], device_map="auto")
    with pytest.raises(ValueError, match=r"model.device_map=auto: some of the weights did not fit"):
        adapter.load(torch.device("cuda"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"device_map": "cuda:0"}, r"model.device_map=cuda:0: must be null or one of auto, balanced"),
        ({"min_pixels": 0}, r"model.min_pixels=0: must be a positive number"),
        ({"min_pixels": 9, "max_pixels": 8}, r"model.min_pixels=9: must not be above model.max_pixels=8"),
        ({"jpeg_quality": 0}, r"model.jpeg_quality=0: must be from 1 to 100"),
        ({"max_new_tokens": 0}, r"model.max_new_tokens=0: must be at least 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(make_adapter, changes, message):
    with pytest.raises(ValueError, match=message):
        make_adapter("qwen2_vl", "x", **changes)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_pixels_come_in_the_models_precision(family, load, noise, dtype):
    loaded = load(family, dtype=dtype)
    prompt = loaded.prompt(noise(60, 50), "k?")
    assert prompt.inputs["pixel_values"].dtype == loaded.model.dtype == getattr(torch, dtype)
