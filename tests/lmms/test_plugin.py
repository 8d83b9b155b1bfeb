"""lmms-eval's command line runs our models, and model_args hold every setting of a cell."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sparsemm.tasks.schemas import FILES

from .conftest import evaluate, make_task

ARGUMENTS = "dtype=float32,device=cpu"


@pytest.fixture(scope="module")
def lmms_plugin():
    return importlib.import_module("sparsemm.lmms_plugin")


def test_lmms_eval_finds_the_model_by_its_entry_point(lmms_plugin):
    from lmms_eval.models import get_model

    assert get_model("sparsemm") is lmms_plugin.SparseMM


def test_model_args_are_the_settings_of_a_cell(lmms_plugin, small_model):
    settings = lmms_plugin.settings_of(
        {
            "pretrained": str(small_model), "method": "adakv", "budget": 48, "rounding": "paper",
            "window": 16, "dtype": "float32", "attention": "sdpa", "protocol": "lmms_eval", "seed": 3,
            "rho": 0.2, "head_scores": "/a folder/heads, mine.json",
            "overrides": "model.max_pixels=4096; method.sinks=2",
        }
    )  # fmt: skip
    assert settings["model"]["_target_"] == "sparsemm.models.qwen2_vl.Qwen2VL"
    assert settings["model"]["path"] == str(small_model)
    assert settings["model"]["head_scores"] == "/a folder/heads, mine.json"
    assert (settings["model"]["max_pixels"], settings["model"]["jpeg"]) == (4096, True)
    assert settings["method"] == {
        "name": "adakv", "window": 16, "sinks": 2, "budget": 48, "rounding": "paper",
    }  # fmt: skip
    assert (settings["seed"], settings["rho"]) == (3, 0.2)


@pytest.mark.parametrize(
    ("text", "option"), [("llama", "llava_next_vicuna_7b"), ("mistral", "llava_next_mistral_7b")]
)
def test_the_family_is_read_from_config_json(lmms_plugin, tmp_path, text, option):
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "llava_next", "text_config": {"model_type": text}})
    )
    (tmp_path / "model.safetensors").touch()
    assert lmms_plugin._option({"pretrained": str(tmp_path)}) == option


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"budgett": 64}, r"model_args budgett=64: must be one of pretrained, .*, overrides"),
        ({"method": "snapkw"}, "Did you mean snapkv"),
        ({"method": "snapkv", "budget": 3}, "budget=3: must be at least 32"),
        ({"overrides": "model.max_pixel=4"}, "Could not override 'model.max_pixel'"),
        ({"method": "full", "device": "cuda"}, "PyTorch sees no GPU here"),
    ],
)
def test_a_mistake_in_model_args_is_named(lmms_plugin, small_model, arguments, words):
    import torch

    if "device" in arguments and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(ValueError, match=words):
        lmms_plugin.SparseMM(pretrained=str(small_model), **arguments)


def test_a_model_that_is_not_here_or_of_no_family_is_named(lmms_plugin, tmp_path):
    with pytest.raises(ValueError, match=r"pretrained: must be given"):
        lmms_plugin.SparseMM(method="full")
    with pytest.raises(ValueError, match=r"pretrained=some/model: its weights are not on this machine"):
        lmms_plugin.SparseMM(pretrained="some/model")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(ValueError, match=r"model_type=gpt2, must be one of llava_next, qwen2_vl"):
        lmms_plugin.SparseMM(pretrained=str(tmp_path))


def test_the_response_cache_keeps_methods_apart(data, small_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def answers(method: str) -> list[str]:
        results = evaluate(
            "sparsemm", "docvqa", data, model_args=f"pretrained={small_model},{method},{ARGUMENTS}",
            use_cache=str(tmp_path / "cache"), log_samples=True, limit=3, gen_kwargs="max_new_tokens=4",
        )  # fmt: skip
        return [one["filtered_resps"][0] for one in results["samples"]["docvqa_val"]]

    full, window = answers("method=full"), answers("method=window,budget=33")
    assert full != window
    assert answers("method=full") == full


def test_sampling_is_ignored_with_words(lmms_plugin, small_model, capsys):
    model = lmms_plugin.SparseMM(pretrained=str(small_model), method="full", dtype="float32", device="cpu")
    engine = model._engine({"max_new_tokens": 5, "temperature": 0.7, "do_sample": False, "num_beams": 1})
    assert engine is model._engine({"max_new_tokens": 5, "temperature": 0.7})
    assert capsys.readouterr().out == "sparsemm: the task's temperature=0.7 is ignored: answers are greedy.\n"


def test_several_turns_and_video_are_refused():
    from sparsemm.tasks.lmms_harness import from_messages

    text, video = {"type": "text", "text": "What is this?"}, {"type": "video", "url": "a.mp4"}
    image = {"type": "image", "url": None}
    for messages, words in (
        ([{"role": "user", "content": [text]}, {"role": "assistant", "content": [text]}], "several turns"),
        ([{"role": "user", "content": [video, text]}], "holds video"),
        ([{"role": "user", "content": [text, image]}], "an image after text"),
    ):
        with pytest.raises(ValueError, match=words):
            from_messages(messages)


def test_lmms_evals_command_line_runs_our_model(lmms_plugin, data, small_model, tmp_path):
    import lmms_eval.tasks

    inside = Path(lmms_eval.tasks.__file__).parent / "docvqa" / "docvqa_val.yaml"
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "small.yaml").write_text(
        f"include: {inside}\ntask: docvqa_small\ndataset_path: parquet\ndataset_name: null\n"
        f"dataset_kwargs: {{data_files: {{validation: {data / 'docvqa' / FILES['docvqa']}}}}}\n"
    )
    arguments = f"pretrained={small_model},method=snapkv,budget=64,{ARGUMENTS}"
    command = [sys.executable, "-m", "lmms_eval", "--model", "sparsemm", "--model_args", arguments]
    command += ["--tasks", "docvqa_small", "--include_path", str(tasks), "--limit", "2"]
    command += ["--output_path", str(tmp_path / "out"), "--log_samples", "--gen_kwargs", "max_new_tokens=5"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "|docvqa_small|none" in done.stdout
    (results,) = (tmp_path / "out").rglob("*_results.json")
    found = json.loads(results.read_text())
    assert isinstance(found["results"]["docvqa_small"]["anls,none"], int | float)
    assert found["config"]["model_args"] == arguments
    (samples,) = (tmp_path / "out").rglob("*_samples_docvqa_small.jsonl")
    logged = [json.loads(line)["filtered_resps"] for line in samples.read_text().splitlines()]
    task = make_task("task=docvqa", f"task.data={data / 'docvqa'}")
    model = lmms_plugin.SparseMM(
        pretrained=str(small_model), method="snapkv", budget=64, dtype="float32", device="cpu"
    )
    engine = model._engine({"max_new_tokens": 5, "until": ["\n\n"]})
    for index, line in enumerate(logged):
        sample = task.sample(index)
        ((answer,),) = engine.answer([model.loaded.prompt(sample.images(), sample.question)])
        assert line == model.loaded.text(answer.token_ids, answer.stop_strings)
