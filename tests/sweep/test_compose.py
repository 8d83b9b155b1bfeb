import json
import random

import pytest

CHOICES = {
    "method": ["full", "snapkv", "pyramidkv", "adakv", "sparsemm", "random", "window", "sparsmm"],
    "scorer": ["window_attention", "recent", "none"],
    "allocator": ["uniform", "pyramid", "random_heads", "visual_heads"],
    "task": ["documents", "reading", "charts", "textvqa"],
    "model": ["tiny", "qwen2_vl_7b", "llava_next_vicuna_7b"],
    "protocol": ["paper", "lmms_eval"],
    "budget": ["8", "64", "25%", "'64'", "0.5", "null", "abc", "${seed}"],
    "rho": ["0", "1", "0.1", "x", "true"],
    "seed": ["0", "3", "1.5"],
    "rounding": ["exact", "paper"],
    "method.window": ["4", "${seed}", "many"],
    "engine.threads": ["null", "2", "two"],
    "model.head_scores": ["/a.json", "${output}/b.json"],
    "task.page.entries": ["[3,4]", "5"],
    "+experiment": ["quickstart", "components", "table3_main"],
    "+note": ["1"],
    "metod": ["full"],
    "task.page": ["{width: 100}"],
}


def _grid(draw: random.Random) -> list[str]:
    keys = draw.sample(list(CHOICES), draw.randint(1, 5))
    arguments = []
    for key in keys:
        values = draw.sample(
            CHOICES[key], min(len(CHOICES[key]), draw.choice([1, 2]) if key[0] != "+" else 1)
        )
        arguments.append(f"{key}={','.join(values)}")
    return arguments


def _assert_equal(make_composer, grid, *settings):
    fast = list(make_composer(*settings).points(grid))
    full = list(make_composer(*settings, fast=False).points(grid))
    assert [json.dumps(point.settings) for point in fast] == [json.dumps(point.settings) for point in full]
    return fast


@pytest.mark.parametrize("seed", range(8))
def test_fast_composition_equals_full_composition(make_composer, seed):
    arguments = _grid(random.Random(seed))
    fast = list(make_composer().points(arguments))
    full = list(make_composer(fast=False).points(arguments))
    assert [point.settings for point in fast] == [point.settings for point in full], arguments
    assert [json.dumps(point.settings) for point in fast] == [json.dumps(point.settings) for point in full]
    assert [point.error is None for point in fast] == [point.error is None for point in full]


def test_a_wrong_value_spoils_only_its_own_points(make_composer):
    points = list(make_composer().points(["rounding=exact,paper", "budget=0.5,8", "rho=0.1,x"]))
    assert [point.error is None for point in points] == [False, False, True, False] * 2


def test_an_experiment_brings_its_grid_and_the_command_line_replaces_it(make_composer):
    composer = make_composer("+experiment=quickstart")
    grid = [f"{key}={value}" for key, value in composer.master.hydra.sweeper.params.items()]
    points = list(composer.points([*grid, "+experiment=quickstart", "budget=32", "seed=0"]))
    assert {point.settings["method"]["budget"] for point in points} == {32, None}
    assert {point.settings["method"]["window"] for point in points} == {4}
    assert len(points) == 6


def test_a_scorer_can_be_replaced_in_several_methods_at_once(make_composer):
    points = list(make_composer().points(["method=full,snapkv", "scorer=recent"]))
    assert all(point.settings["scorer"]["_target_"].endswith(".Recent") for point in points)


def test_values_keep_the_types_of_the_schema(make_composer):
    (point,) = make_composer().points(["rho=1", "budget=25%"])
    assert point.settings["rho"] == 1.0 and type(point.settings["rho"]) is float
    assert point.settings["method"]["budget"] == "25%"


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("method=sparsmm,full", "method=sparsmm: there is no such method. Did you mean sparsemm?"),
        ("metod=full,snapkv", "metod: there is no such setting. Did you mean method?"),
        ("window=4,8", "window: there is no such setting. Did you mean method.window?"),
        ("rho=x,0.1", "rho=x: must be a number"),
        ("budget=0.5,1", "budget=0.5: must be a whole number, or a share such as 10%"),
        ("engine.threads=two,2", "engine.threads=two: must be a whole number"),
    ],
)
@pytest.mark.parametrize("fast", [True, False])
def test_a_wrong_override_says_what_is_expected(make_composer, argument, words, fast):
    first, _ = make_composer(fast=fast).points([argument])
    assert first.settings is None
    assert words in first.error


def test_an_interval_cannot_be_swept(make_composer):
    with pytest.raises(ValueError, match="interval"):
        list(make_composer().points(["rho=interval(0,1)"]))


@pytest.mark.parametrize(
    "grid",
    [
        ["model=llava_next_vicuna_7b,qwen2_vl_7b", "task=docvqa,textcaps,documents", "method=full,sparsemm"],
        ["protocol=paper,lmms_eval", "model=qwen2_vl_7b,tiny", "task=vqav2,mmbench"],  # axes that meet
        ["mask=none,visual", "allocator=uniform,headkv", "method=snapkv,random", "seed=0,1"],
    ],
)
def test_combinations_of_choices_equal_full_composition(make_composer, grid):
    grid = [*grid, "budget=64,25%"]
    _assert_equal(make_composer, grid)


@pytest.mark.parametrize(
    ("argument", "values"),
    [
        ("+model.extra=1,1.0,true", [1, 1.0, True]),
        ("+model.extra={a:1},{a:true}", [{"a": 1}, {"a": True}]),
        ("+model.extra=0.0,-0.0", [0.0, -0.0]),
        ("rho=0.0,-0.0", [0.0, -0.0]),
    ],
)
def test_values_that_python_takes_as_equal_stay_apart(make_composer, argument, values):
    found = _assert_equal(make_composer, [argument, "task=documents,reading"])
    kept = [point.settings["rho" if "rho" in argument else "model"] for point in found[::2]]
    assert repr([one["extra"] if isinstance(one, dict) else one for one in kept]) == repr(values)


def test_a_file_chosen_by_another_choice_changes_its_own_combination_alone(make_composer, tmp_path):
    (tmp_path / "model").mkdir()
    listed = "defaults: [tiny, {optional /tweak@_here_: 'foo_${task}'}, _self_]\n"
    (tmp_path / "model" / "foo.yaml").write_text(listed)
    (tmp_path / "tweak").mkdir()
    (tmp_path / "tweak" / "foo_reading.yaml").write_text("note: tweaked\n")
    grid = ["model=tiny,foo,qwen2_vl_7b", "task=documents,reading,charts", "method=full,snapkv"]
    found = _assert_equal(make_composer, grid, f"hydra.searchpath=[file://{tmp_path}]")
    notes = [point.settings and point.settings["model"].get("note") for point in found]
    assert notes == [None] * 8 + ["tweaked"] * 2 + [None] * 8
