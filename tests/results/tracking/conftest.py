"""W&B without W&B: a server on this machine that speaks its protocol."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sparsemm.results.store import Store
from sparsemm.results.wandb_runs import Mirror
from sparsemm.results.wandb_settings import Tracking
from tests.results.tracking.offline import ReadRun, read_run


@pytest.fixture
def read() -> Callable[[Path], dict[str, ReadRun]]:
    """Reads every offline run of a folder, by id."""

    def runs(folder: Path) -> dict[str, ReadRun]:
        found = [read_run(one) for one in sorted(folder.glob("offline-run-*"))]
        assert len({one.id for one in found}) == len(found), "a run is there twice"
        return {one.id: one for one in found}

    return runs


VIEWERS = ("Viewer", "DefaultEntity", "GetDefaultEntity", "SyncViewer")  # queries for who is logged in


@dataclass
class Server:
    """A W&B of our own. `down` cuts the line; `deleted` ids are refused as W&B refuses them."""

    url: str = ""
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    streams: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    artifacts: list[dict[str, Any]] = field(default_factory=list)
    upserts: list[str] = field(default_factory=list)
    views: list[dict[str, Any]] = field(default_factory=list)  # workspaces and reports
    operations: list[str] = field(default_factory=list)
    seen: bytearray = field(default_factory=bytearray)
    down: bool = False
    down_after: int | None = None  # runs
    deleted: set[str] = field(default_factory=set)

    def summary(self, run: str) -> dict[str, Any]:
        """The last summary that was streamed."""
        found: dict[str, Any] = {}
        for one in self.streams.get(run, []):
            for line in one.get("files", {}).get("wandb-summary.json", {}).get("content", []):
                found = json.loads(line)
        return found

    def graphql(self, query: str, values: dict[str, Any]) -> dict[str, Any]:
        """Answer what wandb 0.25 to 0.31 asks."""
        name = (re.search(r"(?:query|mutation)\s+(\w+)", query) or ["", "?"])[1]
        self.operations.append(name)
        if "upsertBucket" in query:
            run = values.get("name") or values.get("id")
            if run in self.deleted:
                raise LookupError(f"run {run} was previously created and deleted; try a new run name")
            self.upserts.append(run)
            if self.down_after is not None and len(set(self.upserts)) > self.down_after:
                self.down = True
            known = self.runs.setdefault(run, {})
            known |= {key: value for key, value in values.items() if value is not None}
            project = {"name": values.get("project") or "p", "entity": {"name": "me"}}
            bucket = {"id": f"id-{run}", "name": run, "displayName": run, "description": "", "config": None}
            bucket |= {"sweepName": None, "project": project, "historyLineCount": 0}
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if "upsertView(" in query:
            self.views.append(values)
            view = {"id": f"view-{len(self.views)}", "name": values["name"], "spec": values["spec"]}
            view |= {"displayName": values["displayName"], "description": values["description"]}
            view |= {"project": {"id": "1", "name": values["projectName"], "entityName": "me"}}
            return {"upsertView": {"view": view, "inserted": True}}
        if "models(" in query:
            page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
            return {"models": {"pageInfo": page, "edges": []}}
        if "upsertModel(" in query:
            return {"result": {"project": None, "model": None, "inserted": True}}
        if "viewer" in query.lower() and name in VIEWERS:
            return {
                "viewer": {"id": "1", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}
            }
        if "serverInfo" in query:
            versions = {"max_cli_version": "9.9.9"}
            return {
                "serverInfo": {"cliVersionInfo": versions, "latestLocalVersionInfo": None, "features": []}
            }
        if "createRunFiles" in query:
            files = [
                {"name": file, "uploadUrl": f"{self.url}/upload/{values.get('run', '')}/{file}"}
                for file in values["files"]
            ]
            return {"createRunFiles": {"runID": values.get("run"), "uploadHeaders": [], "files": files}}
        if "createArtifactManifest" in query:
            manifest = {"id": "m", "file": {"id": "f", "name": "m", "displayName": "m", "uploadHeaders": []}}
            manifest["file"]["uploadUrl"] = f"{self.url}/upload/manifest/{len(self.uploads)}"
            return {"createArtifactManifest": {"artifactManifest": manifest}}
        if "createArtifactFiles" in query:
            edges = [
                {"node": dict.fromkeys(("id", "name", "displayName"), one["name"]) | {"uploadHeaders": []}
                 | {"uploadUrl": f"{self.url}/upload/artifact/{one['name']}", "artifact": {"id": "a"}}
                 | {"storagePath": one["name"], "uploadMultipartUrls": None}}
                for one in values.get("artifactFiles", [])
            ]  # fmt: skip
            return {"createArtifactFiles": {"files": {"edges": edges}}}
        if "createArtifact" in query:
            self.artifacts.append(values)
            made = {"id": "a", "state": "COMMITTED", "artifactSequence": {"id": "s", "latestArtifact": None}}
            return {"createArtifact": {"artifact": made}}
        return {"__type": None}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """Runs on the loopback address while a test lasts."""
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _body(self) -> bytes:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Content-Encoding") == "gzip":
                import gzip

                body = gzip.decompress(body)
            state.seen.extend(body)
            return body

        def _answer(self, code: int, value: Any) -> None:
            data = json.dumps(value).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_POST(self) -> None:
            body = self._body()
            if state.down:
                self.close_connection = True
                self.connection.close()
            elif self.path.startswith("/graphql"):
                asked = json.loads(body)
                try:
                    self._answer(200, {"data": state.graphql(asked["query"], asked.get("variables") or {})})
                except LookupError as error:
                    self._answer(410, {"errors": [{"message": str(error)}], "data": None})
            elif not self.path.endswith("/file_stream"):  # wandb's own telemetry
                self._answer(404, {})
            else:
                run = self.path.split("/")[-2]
                state.streams.setdefault(run, []).append(json.loads(body))
                self._answer(200, {"exitcode": None, "limits": {}})

        def do_PUT(self) -> None:
            body = self._body()
            state.uploads[self.path.removeprefix("/upload/")] = body
            self._answer(200, {})

        def do_GET(self) -> None:
            self._answer(200, {})

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("WANDB_BASE_URL", state.url)
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    yield state
    http.shutdown()
    http.server_close()


@pytest.fixture
def mirror(tmp_path: Path) -> Mirror:
    """Offline runs below a test's folder."""
    tracking = Tracking(mode="offline", project="p", entity=None, samples=4, suffix="")
    return Mirror(tmp_path / "outputs", tracking)


@pytest.fixture
def images() -> Callable[[str, int], list[Image.Image]]:
    """A small image per sample."""
    return lambda _, index: [Image.new("RGB", (40, 30), (index * 7 % 255, 80, 90))]


@pytest.fixture
def store(grid: list[dict[str, Any]], tmp_path: Path) -> Store:
    """The store of the made-up grid, with ten samples per cell."""
    found = Store(tmp_path / "outputs")
    for result in grid:
        group = {"wall_s": 12.5, "peak_memory_bytes": 1000, "rows": 20, "cells": 25, "samples_timed": 40}
        result["group"] = group
        cell = found.cell(result["fingerprint"])
        with cell.begin_attempt("worker") as attempt:
            attempt.append(
                {
                    "sample": f"s{n}",
                    "document": f"d{n}",
                    "index": n,
                    "question": f"q{n}?",
                    "references": ["a", "b"],
                }
                | {
                    "answer": f"answer {n}",
                    "score": n / 10,
                    "kept_entries": 25,
                    "full_entries": 100,
                    "error": None,
                }
                for n in range(10)
            )
        cell.write_result(result)
    return found
