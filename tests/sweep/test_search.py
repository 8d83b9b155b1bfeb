"""The head search from the command line: on its own, and in front of the cells that lack a file."""

import json
from dataclasses import dataclass

import pytest

from sparsemm import cli
from sparsemm.sweep.errors import UnusableConfiguration
from sparsemm.sweep.grid import make_grid
from sparsemm.sweep.search import searches_for, sources

SMALL = ["model=tiny", "samples=1", "data.max_new_tokens=24"]


@dataclass(frozen=True)
class Done:
    """What a command printed, and its exit code."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def sparsemm(tmp_path, monkeypatch, capsys):
    """The command line in a folder of its own, in this process."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        with monkeypatch.context() as patch:
            patch.setattr("sys.argv", ["sparsemm"])
            code = cli.run(arguments)
        return Done(code, *capsys.readouterr())

    return call


def test_cells_without_head_scores_get_them_before_they_run(sparsemm, tmp_path):
    file = tmp_path / "found.json"
    grid = [*SMALL, f"model.head_scores={file}", "method=snapkv,sparsemm", "budget=8", "method.window=4"]
    grid += ["task.limit=2"]
    refused = sparsemm("run", *grid)
    assert refused.returncode == 2
    assert f"head scores of tiny ({file}): run with find_heads=true" in refused.stderr
    done = sparsemm("run", *grid, "find_heads=true")
    assert done.returncode == 0, done.stderr
    scores = json.loads(file.read_text())["scores"]
    assert [len(scores), len(scores[0])] == [6, 8]
    assert "SparseMM" in done.stdout
    again = sparsemm("run", *grid, "find_heads=true")
    assert "2 cells, all finished" in again.stdout


def test_a_head_file_is_searched_compared_and_refused_for_another_model(sparsemm, tmp_path):
    done = sparsemm("heads", *SMALL, "out=a.json")
    assert done.returncode == 0, done.stderr
    compared = sparsemm("heads", "compare", "a.json", "a.json")
    assert "rank correlation 1.000" in compared.stdout
    official = {f"{layer}-{head}": [0.1] for layer in range(32) for head in range(32)}
    (tmp_path / "official.json").write_text(json.dumps(official))
    refused = sparsemm("heads", "import", "official.json", "model=tiny")
    assert refused.returncode == 2
    assert "[32, 32] (layers, query heads), but model=tiny has [6, 8]" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["heads", "samples=0"], "samples=0: must be at least 1. The paper uses 1000."),
        (["heads", "data=synthdg"], "data=synthdg: there is no such data. Did you mean synthdog?"),
        (["heads", "data=synthdog"], "sparsemm"),
        (["heads", "smoke=true"], "smoke=true: a random model reads nothing. Leave smoke out."),
        (["heads", "import"], "heads import: name the file."),
        (["heads", "compare", "a.json"], "heads compare: name two files."),
        (["heads", "compare", "a.json", "b.json"], "model.head_scores=a.json: no such file."),
    ],
)
def test_what_no_search_could_use_is_refused(sparsemm, arguments, words, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    done = sparsemm(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_search_that_leaves_a_file_missing_is_not_repeated(sparsemm, tmp_path):
    """Scores that another key names are searched for there."""
    grid = [*SMALL, "method=sparsemm", "budget=8", "method.window=4", "task.limit=1", "find_heads=true"]
    done = sparsemm("run", *grid, f"allocator.head_scores.path={tmp_path / 'other.json'}")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "other.json").is_file()


@pytest.fixture
def one_cell_of(make_composer, model_folder, tmp_path):
    """Cells of a grid of one method, budget and task over these overrides."""

    def make(*arguments):
        base = [f"model.path={model_folder}", "method=sparsemm", "budget=64", "task=documents"]
        return [*base, *arguments], make_grid(make_composer(), [*base, *arguments]).cells

    return make


def test_a_grid_over_head_files_that_are_there_needs_no_search(make_composer, one_cell_of, model_folder):
    """Two files of one model: neither is searched for, and images to fetch are found."""
    other = model_folder / "other.json"
    other.write_text(json.dumps({"format": 1, "scores": [[4.0, 3.0, 2.0, 1.0]] * 2}))
    arguments, cells = one_cell_of(f"model.head_scores={model_folder}/heads.json,{other}")
    assert len(cells) == 2
    assert searches_for(cells, lambda: sources(make_composer(), arguments)) == []
    assert len(sources(make_composer(), arguments)) == 1
    other.unlink()
    arguments, cells = one_cell_of(f"model.head_scores={model_folder}/heads.json,{other}")
    assert [one.out for one in searches_for(cells, lambda: sources(make_composer(), arguments))] == [
        str(other)
    ]


@pytest.mark.parametrize("swept", ["model.dtype=float32,bfloat16", "samples=10,20"])
def test_two_searches_of_one_file_are_refused(make_composer, one_cell_of, tmp_path, swept):
    file = tmp_path / "missing.json"
    arguments, cells = one_cell_of(f"model.head_scores={file}", swept)
    with pytest.raises(UnusableConfiguration, match=f"out={file}: two of these searches would write it"):
        searches_for(cells, lambda: sources(make_composer(), arguments))
