"""conf/protocol/lmms_eval.yaml is what the installed lmms-eval does: its sources are read, not imported."""

import ast
import re
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import sparsemm.conf
import yaml

from sparsemm.models.base import ARCHITECTURES

CONF = Path(sparsemm.conf.__path__[0])
INSTALLED = find_spec("lmms_eval")
# section of the protocol -> the model's name there, and whether its chat wrapper is the one that runs
WRAPPERS = {
    "qwen2_vl": ("qwen2_vl", False),
    "qwen2_5_vl": ("qwen2_5_vl", True),
    "llava_next": ("llava_hf", True),
}
needs_lmms_eval = pytest.mark.skipif(
    INSTALLED is None or version("lmms_eval") != "0.7.3", reason="lmms-eval 0.7.3 is not installed"
)


def section(name: str) -> dict[str, Any]:
    found = yaml.safe_load((CONF / "protocol" / "lmms_eval.yaml").read_text())[name]
    return dict(found)


def parsed(file: str) -> ast.Module:
    assert INSTALLED is not None and INSTALLED.submodule_search_locations
    return ast.parse((Path(INSTALLED.submodule_search_locations[0]) / "models" / file).read_text())


def function(tree: ast.AST, name: str) -> ast.FunctionDef:
    return next(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == name)


def value(node: ast.expr) -> Any:
    """Of an expression without names, such as 256 * 28 * 28."""
    return eval(compile(ast.Expression(node), "default", "eval"), {"__builtins__": {}})


def defaults(name: str) -> dict[str, Any]:
    """Of a wrapper's __init__, which chat wrappers inherit."""
    arguments = function(parsed(f"simple/{name}.py"), "__init__").args
    named = arguments.args[len(arguments.args) - len(arguments.defaults) :]
    return {argument.arg: value(default) for argument, default in zip(named, arguments.defaults, strict=True)}


@pytest.fixture(params=WRAPPERS)
def wrapper(request) -> tuple[str, dict[str, Any], ast.FunctionDef]:
    """(the model's name there, our section, the function that answers there)"""
    name, chat = WRAPPERS[request.param]
    file = f"{'chat' if chat else 'simple'}/{name}.py"
    return name, section(request.param), function(parsed(file), "generate_until")


def calls(node: ast.AST, name: str) -> list[ast.Call]:
    return [
        one
        for one in ast.walk(node)
        if isinstance(one, ast.Call) and isinstance(one.func, ast.Attribute) and one.func.attr == name
    ]


def keywords(call: ast.Call) -> dict[str, str]:
    return {one.arg: ast.unparse(one.value) for one in call.keywords if one.arg}


@needs_lmms_eval
@pytest.mark.parametrize("family", WRAPPERS)
def test_the_wrapper_is_the_one_that_the_models_name_runs(family):
    """`--model NAME` takes the chat wrapper where there is one."""
    tables = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in parsed("__init__.py").body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Dict)
    }
    name, chat = WRAPPERS[family]
    assert name in tables["AVAILABLE_SIMPLE_MODELS"]
    assert (name in tables["AVAILABLE_CHAT_TEMPLATE_MODELS"]) is chat


@needs_lmms_eval
@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
def test_the_pixel_limits_are_the_wrappers_defaults(family):
    ours, theirs = section(family), defaults(WRAPPERS[family][0])
    assert (ours["min_pixels"], ours["max_pixels"]) == (theirs["min_pixels"], theirs["max_pixels"])


@needs_lmms_eval
def test_the_system_prompt_is_the_wrappers_where_it_uses_one(wrapper):
    name, ours, answers = wrapper
    used = any(isinstance(node, ast.Attribute) and node.attr == "system_prompt" for node in ast.walk(answers))
    wanted = defaults(name)["system_prompt"] if used else None
    assert {ours[key] for key in ours if key.endswith("system")} == {wanted}


@needs_lmms_eval
def test_answers_are_cut_at_until_where_the_wrapper_does(wrapper):
    _, ours, answers = wrapper
    cuts = any(
        isinstance(node, ast.For) and isinstance(node.iter, ast.Name) and node.iter.id == "until"
        for node in ast.walk(answers)
    )
    (generate,) = calls(answers, "generate")
    assert not {"stop_strings", "stopping_criteria"} & keywords(generate).keys()
    assert ours["stop_strings"] is cuts


@needs_lmms_eval
def test_an_answer_may_be_as_long_as_in_the_wrapper_where_the_task_names_nothing(wrapper):
    _, ours, answers = wrapper
    found = []
    for node in ast.walk(answers):
        if isinstance(node, ast.Dict):
            found += [
                value(limit)
                for key, limit in zip(node.keys, node.values, strict=True)
                if isinstance(key, ast.Constant) and key.value == "max_new_tokens"
            ]
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "gen_kwargs['max_new_tokens']":
            found.append(value(node.value))
    assert found == [ours["max_new_tokens"]]


@needs_lmms_eval
def test_the_end_token_is_the_tokenizers_and_generate_reads_the_models_generation_config(wrapper):
    name, ours, answers = wrapper
    (generate,) = calls(answers, "generate")
    given = keywords(generate)
    if given["eos_token_id"] == "self.eot_token_id":
        given["eos_token_id"] = ast.unparse(function(parsed(f"simple/{name}.py"), "eot_token_id").body[-1])
    assert given["eos_token_id"].removeprefix("return ") == "self.tokenizer.eos_token_id"
    assert ours["eos"] == "tokenizer"
    overridden = bool({"generation_config", "repetition_penalty"} & given.keys())
    assert ours["generation_config"] is not overridden


@needs_lmms_eval
def test_images_are_re_encoded_where_the_wrapper_does_and_in_its_quality(wrapper):
    name, ours, answers = wrapper
    assert ours["jpeg"] is bool(calls(answers, "_encode_image_data_url"))
    if ours["jpeg"]:
        body = function(parsed(f"simple/{name}.py"), "_encode_image_data_url")
        (encode,) = [node for node in ast.walk(body) if isinstance(node, ast.Call)]
        given = keywords(encode)
        assert (given["image_format"], int(given["quality"])) == ("'JPEG'", ours["jpeg_quality"])


@needs_lmms_eval
def test_the_precision_is_the_wrappers_or_where_it_says_auto_that_of_the_hubs_weights(wrapper):
    name, ours, _ = wrapper
    source = ast.unparse(function(parsed(f"simple/{name}.py"), "__init__"))
    said = set(re.findall(r"torch_dtype'?[=:] ?(?:'(\w+)'|dtype)", source))
    said = {one or defaults(name)["dtype"] for one in said}
    hub = {"qwen2_vl": "bfloat16", "llava_hf": "float16"}  # torch_dtype of the hub's config.json
    assert said == ({"auto"} if name in hub else {ours["dtype"]})
    assert ours["dtype"] == hub.get(name, ours["dtype"])


@pytest.mark.parametrize("protocol", ["paper", "lmms_eval"])
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_every_model_takes_all_of_its_own_familys_section(kind, protocol):
    keys = yaml.safe_load((CONF / "protocol" / f"{protocol}.yaml").read_text())[kind].keys()
    taken = set()
    for name in ARCHITECTURES[kind]:
        text = (CONF / "model" / f"{name}.yaml").read_text()
        found = re.findall(r"\$\{protocol\.(\w+)\.(\w+)\}", text)
        assert {family for family, _ in found} == {kind}
        taken |= {key for _, key in found}
    assert taken == set(keys)
