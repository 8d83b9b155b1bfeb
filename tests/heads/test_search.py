"""The search writes a file that methods read, goes on where it was stopped, and counts what it cannot use."""

from dataclasses import replace
from pathlib import Path

import pytest
import sparsemm.conf
import torch
import yaml
from PIL import Image

import sparsemm.heads.search
from sparsemm.config import build
from sparsemm.heads.compare import compare
from sparsemm.heads.data.base import HeadSample, Region, image_id
from sparsemm.heads.files import load_head_scores, read_head_file
from sparsemm.heads.search import find_heads, region_tokens, score_sample
from tests.heads.conftest import as_said, page

CPU = torch.device("cpu")


@pytest.fixture
def search(adapters, models, given, tmp_path, monkeypatch):
    """Search the small Qwen2-VL, which is loaded once for all tests, on three pages."""
    adapter, loaded = adapters("qwen2_vl"), models("qwen2_vl")
    samples = [replace(as_said(loaded, page(index), 12), id=f"page {index}") for index in range(1, 4)]
    opened = []

    def load(self, device):
        opened.append(device)
        return loaded

    monkeypatch.setattr(type(adapter), "load", load)

    def search(count=3, out="heads.json", samples=samples, shard=(0, 1), **changes):
        git = changes.pop("git", {"commit": "c", "dirty": False})
        source = given(samples, **changes)
        return find_heads(adapter, source, count, tmp_path / out, lambda: adapter.load(CPU), git, shard=shard)

    search.samples, search.loaded, search.opened, search.folder = samples, loaded, opened, tmp_path
    search.adapter, search.given = adapter, given
    return search


def test_scores_are_the_mean_over_samples(search):
    content = search()
    alone = [score_sample(search.loaded, sample, search.given([sample])) for sample in search.samples]
    expected = torch.stack([one.scores for one in alone]).mean(0)
    assert (torch.tensor(content["scores"]) - expected).abs().max() < 1e-6
    assert content["counts"]["matched"] == sum(one.counts["matched"] for one in alone) > 20
    assert content["counts"]["hits"] == sum(one.counts["hits"] for one in alone) > 0
    scores = load_head_scores(str(search.folder / "heads.json"))
    assert scores.shape == (search.loaded.shape.layers, search.loaded.shape.query_heads)


def test_the_file_says_where_it_comes_from(search):
    content = search(count=2)
    assert content["model"] == search.adapter.content_id() and content["name"] == "qwen2_vl"
    assert content["data"] == "given" and content["ids"] == ["page 1", "page 2"]
    assert content["images"] == [image_id(page(index)) for index in (1, 2)]
    assert content["samples"] == content["asked"] == 2 and content["unmatched"] == 0
    assert content["git"] == {"commit": "c", "dirty": False}
    assert content["settings"]["dtype"] == "float32" and "path" not in content["settings"]
    assert content["counts"]["tokens"] == 24 and content["counts"]["cut"] == 2


def test_a_search_that_was_stopped_goes_on_and_gives_the_same(search, monkeypatch):
    whole = search(out="whole.json")
    calls = []

    def stopped(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return score_sample(*arguments)

    monkeypatch.setattr(sparsemm.heads.search, "score_sample", stopped)
    with pytest.raises(KeyboardInterrupt):
        search()
    assert not (search.folder / "heads.json").exists()
    samples = search.folder / "heads" / "samples.jsonl"
    samples.write_text(samples.read_text() + '{"index": 2, "id": "pa')  # it was writing
    assert search() == whole
    assert len(calls) == 4  # the third sample only
    opened = len(search.opened)
    assert search() == whole and len(search.opened) == opened  # nothing is left to do


def test_shards_merge_to_the_file_of_one_job(search):
    whole = search(out="whole.json")
    assert search(shard=(1, 3)) is None and search(shard=(0, 3)) is None
    assert not (search.folder / "heads.json").exists()
    assert search(shard=(2, 3)) == whole == read_head_file(str(search.folder / "heads.json"))
    names = [f"samples-{number}-of-3.jsonl" for number in range(3)]
    assert sorted(path.name for path in (search.folder / "heads").iterdir()) == names


def test_a_search_goes_on_in_another_number_of_shards(search, monkeypatch):
    search(shard=(1, 2))
    done = []
    monkeypatch.setattr(
        sparsemm.heads.search, "score_sample", lambda *given: done.append(1) or score_sample(*given)
    )
    assert search() == search(out="whole.json")
    assert len(done) == 2 + 3


def test_halves_are_of_every_other_sample(search):
    content = search()
    odd, even = (torch.tensor(half) for half in content["halves"])
    expected = torch.tensor(search(samples=[search.samples[1]], out="one.json")["scores"])
    assert torch.equal(even, expected) and not torch.equal(odd, expected)
    assert ((2 * odd + even) / 3 - torch.tensor(content["scores"])).abs().max() < 2e-6
    assert "halves" not in search(count=1, out="alone.json")


def test_a_file_that_is_whole_keeps_the_commit_that_found_it(search):
    before = search()
    assert search(git={"commit": "later", "dirty": True}) == before
    assert search(git={"commit": "later", "dirty": True}, count=2)["git"]["commit"] == "later"


def test_a_file_must_be_called_json(search):
    with pytest.raises(ValueError, match=r"out=.*/heads: must end in .json. Try out="):
        search(out="heads")


def test_more_samples_are_added_to_those_that_are_there(search, monkeypatch):
    search(count=1)
    done = []
    monkeypatch.setattr(
        sparsemm.heads.search, "score_sample", lambda *given: done.append(1) or score_sample(*given)
    )
    assert search(count=3) == search(count=3, out="whole.json")
    assert len(done) == 2 + 3


@pytest.mark.parametrize("changes", [{"name": "other"}, {"tokens": 9}, {"question": "What is it?"}])
def test_samples_of_another_search_are_not_mixed_in(search, changes):
    search(count=1)
    with pytest.raises(
        ValueError, match=r"out=.*samples of another search \((data|max_new_tokens|question) differ"
    ):
        search(**changes)


def test_fewer_samples_than_asked_for_are_said(search, capsys):
    content = search(count=1000)
    assert content["samples"] == 3 and content["asked"] == 1000
    assert "given has 3 samples, 1000 were asked for" in capsys.readouterr().out


def test_a_sample_without_a_match_is_counted_and_not_scored(search):
    silent = HeadSample("silent", lambda: page(1), (Region("nobody says this", (0, 0, 9, 9)),))
    content = search(samples=[search.samples[0], silent])
    assert content["unmatched"] == 1 and content["samples"] == 1
    assert content["scores"] == search(count=1, out="one.json")["scores"]
    assert len(content["images"]) == 2


def test_a_search_that_finds_nothing_writes_nothing(search):
    silent = HeadSample("silent", lambda: page(1), ())
    with pytest.raises(
        ValueError, match=r"no head looked at what was said, so .* was not written. 0 of 12 tokens matched"
    ):
        search(samples=[silent])
    assert not (search.folder / "heads.json").exists()


@pytest.mark.parametrize("box", [(0, 0, 0, 9), (9, 0, 3, 9), (200, 0, 300, 9), (0, -9, 9, 0), (5, 5, 5, 5)])
def test_a_box_that_is_empty_or_outside_scores_nothing(search, box):
    whole = search.samples[0]
    moved = replace(whole, regions=tuple(Region(region.text, box) for region in whole.regions))
    scored = score_sample(search.loaded, moved, search.given([moved]))
    assert not scored.scores.any() and scored.counts["matched"] == 0
    assert (
        scored.counts["outside"]
        == score_sample(search.loaded, whole, search.given([whole])).counts["matched"]
    )


def test_a_box_that_passes_the_edge_ends_there(search):
    prompt = search.loaded.prompt(page(1), "Read.")
    inside = region_tokens(search.loaded, prompt, (100, 50, 160, 112))
    assert torch.equal(region_tokens(search.loaded, prompt, (100, 50, 999, 999.5)), inside) and len(inside)


@pytest.mark.parametrize(
    "samples, message", [([], "given has no samples"), (None, "samples=0: must be at least 1")]
)
def test_a_search_over_nothing_is_refused(search, samples, message):
    with pytest.raises(ValueError, match=message):
        search(samples=samples) if samples is not None else search(count=0)


def test_a_grey_image_is_known_in_colour_too():
    grey = page(1)
    assert grey.mode == "L" and image_id(grey) == image_id(grey.convert("RGB"))
    red = Image.new("RGB", grey.size, "red")
    assert len({image_id(grey), image_id(red), image_id(page(2))}) == 3


def test_the_shipped_scores_are_found_again(adapters, models):
    """From three of its 60 pages, asked as conf/data/synthetic.yaml asks."""
    shipped = read_head_file("pkg://sparsemm.data/tiny/heads.json")
    conf = Path(sparsemm.conf.__path__[0]) / "data" / "synthetic.yaml"
    source = build(yaml.safe_load(conf.read_text()))
    scored = [score_sample(models("tiny"), source.sample(index), source) for index in range(3)]
    assert shipped["model"] == adapters("tiny").content_id() and shipped["data"] == source.data_id()
    assert [one.image for one in scored] == shipped["images"][:3]
    scores = torch.stack([one.scores for one in scored]).mean(0)
    assert compare(scores, torch.tensor(shipped["scores"])).correlation > 0.8
