"""A hub id is the snapshot in the hub's cache: no network, and planning says what is missing."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from sparsemm.models.small import save_small
from sparsemm.needs import Need

REPO = "someone/small-model"
FIRST, SECOND = "a" * 40, "b" * 40


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty hub cache."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def put(cache: Path, source: Path, commit: str = FIRST, ref: str = "main", repo: str = REPO) -> Path:
    """A snapshot as huggingface_hub lays it out: links to blobs."""
    place = cache / f"models--{repo.replace('/', '--')}"
    snapshot = place / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (place / "blobs").mkdir(exist_ok=True)
    (place / "refs").mkdir(exist_ok=True)
    (place / "refs" / ref).write_text(commit)
    for file in source.iterdir():
        blob = place / "blobs" / f"{commit[:4]}-{file.name}"
        shutil.copy(file, blob)
        (snapshot / file.name).symlink_to(blob)
    return snapshot


def test_a_repository_that_is_not_here_is_a_need_and_not_an_error(cache, make_adapter):
    adapter = make_adapter("qwen2_vl", REPO, name="mine")
    need = Need("weights", f"weights of {REPO}", "sparsemm prefetch model=mine")
    assert adapter.needs() == (need,)
    with pytest.raises(
        ValueError, match=r"its weights are not on this machine.*sparsemm prefetch model=mine"
    ):
        adapter.check()
    with pytest.raises(ValueError, match=r"its weights are not on this machine"):
        adapter.content_id()


def test_a_snapshot_is_loaded_and_has_the_content_of_the_same_folder(family, cache, make_adapter, folders):
    put(cache, folders[family])
    adapter = make_adapter(family, REPO)
    assert adapter.needs() == ()
    adapter.check()
    assert adapter.load(torch.device("cpu")).shape == adapter.shape()
    assert adapter.content_id() == make_adapter(family, folders[family]).content_id()


def test_a_revision_is_the_commit_that_the_cache_recorded(cache, make_adapter, folders, tmp_path):
    save_small("qwen2_vl", tmp_path / "other", seed=5)
    first = put(cache, folders["qwen2_vl"])
    second = put(cache, tmp_path / "other", SECOND, "v2")
    for revision, folder in (
        (None, first),
        ("main", first),
        (FIRST, first),
        ("v2", second),
        (SECOND, second),
    ):
        assert make_adapter("qwen2_vl", REPO, revision=revision).folder == folder
    (need,) = make_adapter("qwen2_vl", REPO, revision="v3").needs()
    assert need.what == f"weights of {REPO} at v3"
    ids = {make_adapter("qwen2_vl", REPO, revision=one).content_id() for one in (None, FIRST, "v2")}
    assert len(ids) == 2


def test_a_snapshot_without_all_its_weights_is_a_need(cache, make_adapter, folders, models, tmp_path):
    source = Path(shutil.copytree(folders["qwen2_vl"], tmp_path / "parts"))
    (source / "model.safetensors").unlink()
    models["qwen2_vl"].model.save_pretrained(source, max_shard_size="200KB")
    snapshot = put(cache, source)
    adapter = make_adapter("qwen2_vl", REPO)
    assert adapter.needs() == ()
    part = sorted(snapshot.glob("model-*.safetensors"))[1]
    for file in (snapshot / "config.json", snapshot / "model.safetensors.index.json", part):
        blob = file.resolve(strict=True)
        file.unlink()
        assert len(adapter.needs()) == 1, file.name
        file.symlink_to(blob)
        assert adapter.needs() == ()
    blob.unlink()  # a link to nothing, as an interrupted download may leave
    assert len(adapter.needs()) == 1


def test_a_local_folder_never_has_needs(make_adapter, folders, tmp_path):
    assert make_adapter("qwen2_vl", folders["qwen2_vl"]).needs() == ()
    assert make_adapter("qwen2_vl", tmp_path / "none").needs() == ()  # check() says that it is not there


def test_planning_a_hub_model_imports_neither_transformers_nor_the_hubs_client_for_a_local_one(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2_vl"}))
    code = f"""
import sys
from sparsemm.models.qwen2_vl import Qwen2VL
make = lambda path: Qwen2VL(name="x", path=path, dtype="float32", attention="sdpa")
assert not make({str(tmp_path)!r}).needs()
assert "huggingface_hub" not in sys.modules
assert make("no/such-repository").needs()
assert "transformers" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_large_shard_of_a_snapshot_is_known_by_its_blobs_name_and_equals_its_local_copy(
    cache, make_adapter, folders
):
    """Planning a model of 15 GB in the hub's cache reads none of them."""
    snapshot = put(cache, folders["qwen2_vl"])
    blob = (snapshot / "model.safetensors").resolve()
    named = blob.with_name(hashlib.sha256(blob.read_bytes()).hexdigest())
    blob.rename(named)
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to(named)
    local = make_adapter("qwen2_vl", folders["qwen2_vl"]).content_id()
    named.write_bytes(b"never read")
    assert make_adapter("qwen2_vl", REPO).content_id() == local
