"""Weights and data come from a hub that speaks huggingface_hub's protocol; here it is a loopback server."""

import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from sparsemm.models.qwen2_vl import Qwen2VL
from sparsemm.models.small import save_small
from sparsemm.prefetch import PrefetchFailed, prefetch_datasets, prefetch_models, run_prefetch
from sparsemm.tasks import lmms_data

MODEL, DATA = "someone/small-model", "someone/small-data"
COMMIT = "c0ffee" + 34 * "0"


@dataclass
class Hub:
    """What the server has, and what it was asked for."""

    files: dict[str, dict[str, bytes]] = field(default_factory=dict)  # repository -> path -> content
    gated: set[str] = field(default_factory=set)
    break_off: dict[str, int] = field(default_factory=dict)  # path -> times that its transfer ends half-way
    fetched: list[tuple[str, str | None]] = field(default_factory=list)  # path, Range
    url: str = ""

    def error(self, repo: str, revision: str, path: str | None = None) -> tuple[int, str] | None:
        if repo in self.gated:
            return 403, "GatedRepo"
        if repo not in self.files:
            return 404, "RepoNotFound"
        if revision not in ("main", "v1", COMMIT):
            return 404, "RevisionNotFound"
        return (404, "EntryNotFound") if path is not None and path not in self.files[repo] else None


class Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        route = self.path.partition("?")[0].removeprefix("/")
        parts = route.removeprefix("api/").removeprefix("models/").removeprefix("datasets/").split("/")
        repo, verb, revision, path = "/".join(parts[:2]), parts[2], parts[3], "/".join(parts[4:])
        if error := self.hub.error(repo, revision, path if verb == "resolve" else None):
            self.reply(error[0], b"", {"X-Error-Code": error[1]}, body)
        elif verb == "revision":
            self.reply(200, json.dumps({"id": repo, "sha": COMMIT, "siblings": []}).encode(), {}, body)
        elif verb == "tree":
            listing = [
                {"type": "file", "path": name, "size": len(data), "oid": sha1(data).hexdigest()}
                for name, data in self.hub.files[repo].items()
            ]
            self.reply(200, json.dumps(listing).encode(), {}, body)
        else:
            self.file(path, self.hub.files[repo][path], body)

    def file(self, path: str, data: bytes, body: bool) -> None:
        headers = {"ETag": f'"{sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
        asked = self.headers.get("Range")
        if body:
            self.hub.fetched.append((path, asked))
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        if asked:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        left = self.hub.break_off.get(path, 0)
        if body and left:
            self.hub.break_off[path] = left - 1
        self.reply(206 if asked else 200, data[start:], headers, body, half=body and left > 0)

    def reply(self, code: int, data: bytes, headers: dict[str, str], body: bool, half: bool = False) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data[: len(data) // 2] if half else data)
        if half:
            self.close_connection = True

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[Hub]:
    """A hub, and an empty cache."""
    hub = Hub()
    handler = type("Handler", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + template[template.index("/{repo_id}") :]
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _seconds: None, raising=False)
    yield hub
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("model")
    save_small("qwen2_vl", folder)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def adapter(path: str = MODEL, revision: str | None = None) -> Qwen2VL:
    return Qwen2VL(name="x", path=path, revision=revision, dtype="float32", attention="sdpa")


def test_a_model_is_brought_and_its_commit_recorded(hub, weights, capsys, tmp_path):
    others = {"README.md": b"card", "pytorch_model.bin": b"pickle", "figures/page.png": b"picture"}
    hub.files[MODEL] = {**weights, **others}
    assert adapter().needs()
    assert prefetch_models([adapter()]) == {MODEL: {"revision": None, "commit": COMMIT}}
    assert not adapter().needs()
    assert adapter().shape().layers == 2
    assert sorted(name for name, _ in hub.fetched) == sorted(weights)  # and nothing else
    assert f"{MODEL}: commit {COMMIT}, 0.00 GB in {tmp_path}" in capsys.readouterr().out


def test_what_is_here_is_not_fetched_again(hub, weights):
    hub.files[MODEL] = weights
    prefetch_models([adapter()])
    hub.fetched.clear()
    prefetch_models([adapter(), adapter(revision="v1"), adapter(revision=COMMIT)])
    assert hub.fetched == []
    assert not adapter(revision="v1").needs()


def test_a_transfer_that_breaks_off_goes_on_where_it_was(hub, weights, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    hub.files[MODEL], hub.break_off = weights, {"model.safetensors": 1}
    prefetch_models([adapter()])
    half = len(weights["model.safetensors"]) // 2 // 1000 * 1000  # whole chunks count
    asked = [byte_range for name, byte_range in hub.fetched if name == "model.safetensors"]
    assert asked == [None, f"bytes={half}-"]
    assert (adapter().folder / "model.safetensors").read_bytes() == weights["model.safetensors"]


def test_after_an_interruption_only_what_is_missing_is_fetched(hub, weights):
    hub.files[MODEL], hub.break_off = weights, {"model.safetensors": 1000}
    with pytest.raises(PrefetchFailed, match=rf"model.path={MODEL}: the download from .* broke off") as error:
        prefetch_models([adapter()])
    assert "Run the command again" in str(error.value)
    assert adapter().needs()
    arrived = {name for name, _ in hub.fetched} - {"model.safetensors"}
    hub.break_off.clear()
    hub.fetched.clear()
    prefetch_models([adapter()])
    assert {name for name, _ in hub.fetched}.isdisjoint(arrived)
    assert not adapter().needs()


def test_a_gated_repository_says_how_to_get_in(hub, weights):
    hub.files[MODEL], hub.gated = weights, {MODEL}
    with pytest.raises(PrefetchFailed, match=rf"model.path={MODEL}: gated") as error:
        prefetch_models([adapter()])
    assert f"{hub.url}/{MODEL}" in str(error.value)
    assert "hf auth login" in str(error.value)


def test_a_repository_that_the_hub_does_not_have_is_named(hub):
    with pytest.raises(PrefetchFailed, match=r"model.path=someone/other: the hub has no such repository"):
        prefetch_models([adapter("someone/other")])
    with pytest.raises(PrefetchFailed, match=r"dataset someone/other: the hub has no such repository"):
        prefetch_datasets([("someone/other", None)])


def test_a_revision_that_the_hub_does_not_have_is_named(hub, weights):
    hub.files[MODEL] = weights
    with pytest.raises(PrefetchFailed, match=rf"model.path={MODEL}: there is no revision v2"):
        prefetch_models([adapter(revision="v2")])


def test_a_repository_without_safetensors_is_refused(hub, weights):
    hub.files[MODEL] = {name: data for name, data in weights.items() if name != "model.safetensors"}
    with pytest.raises(PrefetchFailed, match=r"lacks config.json or safetensors"):
        prefetch_models([adapter()])


def test_without_internet_the_error_says_so_and_what_is_here_is_found(hub, weights, monkeypatch):
    hub.files[MODEL] = weights
    prefetch_models([adapter()])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert prefetch_models([adapter()])[MODEL]["commit"] == COMMIT
    with pytest.raises(PrefetchFailed, match=r"HF_HUB_OFFLINE is set. Unset it"):
        prefetch_models([adapter("someone/other")])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(PrefetchFailed, match=r"the hub at http://127.0.0.1:9 cannot be reached"):
        prefetch_models([adapter("someone/other")])


def test_a_full_disk_is_named(hub, weights, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    hub.files[MODEL] = weights
    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    with pytest.raises(PrefetchFailed, match=r"no space left in .*hub. Make room there or set HF_HOME"):
        prefetch_models([adapter()])


def test_a_local_folder_needs_nothing(tmp_path, capsys):
    assert prefetch_models([adapter(str(tmp_path))]) == {}
    assert "a local folder, nothing to bring" in capsys.readouterr().out


def test_data_is_brought_whole_or_by_patterns(hub):
    hub.files[DATA] = {"README.md": b"card", "data/val-0.parquet": b"one", "data/test-0.parquet": b"two"}
    wanted = {DATA: {"revision": None, "commit": COMMIT}}
    assert prefetch_datasets([(DATA, None, ["data/val-*.parquet"])]) == wanted
    assert [name for name, _ in hub.fetched] == ["data/val-0.parquet"]
    assert lmms_data.snapshot(DATA, None, ["data/val-*.parquet"]) is not None
    assert lmms_data.snapshot(DATA, None) is None  # known to be a part
    assert prefetch_datasets([(DATA, None)]) == wanted
    assert sorted(name for name, _ in hub.fetched) == sorted(hub.files[DATA])


def test_everything_is_recorded_and_one_failure_stops_nothing(hub, weights, tmp_path):
    hub.files |= {MODEL: weights, DATA: {"data/val-0.parquet": b"one"}}
    hub.gated = {"someone/gated"}
    output = tmp_path / "outputs"
    models = [adapter("someone/gated"), adapter("someone/missing"), adapter()]
    with pytest.raises(PrefetchFailed) as error:
        run_prefetch(models, [(DATA, "v1")], output)
    assert len(str(error.value).splitlines()) == 2
    assert "model.path=someone/gated: gated" in str(error.value)
    record = json.loads((output / "prefetched.json").read_text())
    assert record["models"].keys() == {MODEL}
    assert record["models"][MODEL].items() >= {"revision": None, "commit": COMMIT}.items()
    assert record["datasets"][DATA].items() >= {"revision": "v1", "commit": COMMIT}.items()
    run_prefetch([], [(DATA, None)], output)  # adds to what is recorded
    record = json.loads((output / "prefetched.json").read_text())
    assert record["models"].keys() == {MODEL}
    assert record["datasets"][DATA]["revision"] is None


def test_the_hub_is_the_one_that_hf_endpoint_names(hub, weights, tmp_path):
    """As on a cluster with a mirror: by environment variables, in a process of its own."""
    hub.files[MODEL] = weights
    code = f"""
from pathlib import Path
from sparsemm.models.qwen2_vl import Qwen2VL
from sparsemm.prefetch import run_prefetch
run_prefetch([Qwen2VL(name="x", path={MODEL!r}, dtype="float32", attention="sdpa")], [], Path("out"))
"""
    env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, check=True, capture_output=True)
    (snapshot,) = (tmp_path / "home/hub/models--someone--small-model/snapshots").iterdir()
    assert snapshot.name == COMMIT
    assert Path(snapshot / "config.json").read_bytes() == weights["config.json"]
    assert MODEL in json.loads((tmp_path / "out/prefetched.json").read_text())["models"]
