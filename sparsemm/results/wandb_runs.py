"""Runs of W&B as offline files, which its own `wandb sync` sends. W&B is a mirror: the store is what counts.

<output>/wandb/offline-run-<time>-<id>/   one folder per run; an id comes from a fingerprint
<output>/wandb/sparsemm.json              what each run held when it was written, where, and who shows it

A cell belongs to every report that shows it: W&B has their names as tags. Its group is the first of them, so
that reports which share cells do not take them from each other.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsemm.results.files import read_json, write_atomically
from sparsemm.results.page import HeadMap
from sparsemm.results.page_samples import Images
from sparsemm.results.wandb_content import SAMPLE, RunContent, tags_of
from sparsemm.results.wandb_settings import OF_RUNS, Tracking, import_wandb

IMAGE_SIDE = 512  # pixels
MOST_IMAGES = 100  # kept in memory


@dataclass(frozen=True)
class Mirror:
    """The folder of offline runs."""

    root: Path  # of the store
    tracking: Tracking

    @property
    def folder(self) -> Path:
        """Return where the runs are."""
        return self.root / "wandb"

    def write(
        self,
        runs: Iterable[RunContent],
        images: Images,
        head_maps: Sequence[HeadMap] = (),
        files: Mapping[str, Path] | None = None,
    ) -> list[Path]:
        """Write every run whose content is new, in place of its older folder; return the new folders.

        Args:
            runs: of cells and of a report.
            images: of samples.
            head_maps: go to the report's run.
            files: name -> file: the artifact of a report's or a benchmark's run. A benchmark's run is also
                written where these are new, and stays where none are given.
        """
        state = Written(self.folder / "sparsemm.json")
        small = Thumbnails(images)
        wandb, written = None, []
        try:
            for run in runs:
                key = f"{self.tracking.entity or ''}/{self.tracking.project}/{run.id}"
                known = state.of(key)
                attached = _digest(files) if files and run.job_type == "bench" else None
                same = known and known["digest"] == run.digest and attached in (None, known.get("files"))
                reports = list(known.get("reports", ())) if known else []
                shown = run.report in reports
                if known and same and shown and (self.folder / known["folder"]).is_dir():
                    continue
                reports += [] if shown else [run.report]
                wandb = wandb or self._prepared()
                with _hidden(OF_RUNS):
                    folder = self._write(wandb, run, reports, small, head_maps, files or {})
                if known and known["folder"] != folder.name:
                    shutil.rmtree(self.folder / known["folder"], ignore_errors=True)
                holds = {"digest": run.digest, "folder": folder.name, "reports": reports}
                state.put(key, holds | ({"files": attached} if attached else {}))
                written.append(folder)
        finally:
            state.save()
        return written

    def _prepared(self) -> Any:
        """Keep what W&B stages inside the store: a login node may not see this machine's home."""
        wandb = import_wandb("tracking")
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_ARTIFACT_DIR"):
            os.environ[name] = str(self.folder / "staged")
        return wandb

    def _write(
        self,
        wandb: Any,
        run: RunContent,
        reports: Sequence[str],
        images: Thumbnails,
        head_maps: Sequence[HeadMap],
        files: Mapping[str, Path],
    ) -> Path:
        settings = wandb.Settings(
            mode="offline",
            root_dir=str(self.root),
            silent=True,
            console="off",
            save_code=False,
            disable_code=True,
            disable_git=True,
            disable_job_creation=True,
            host="",
            x_disable_meta=True,  # no command line, no machine, no environment
            x_disable_stats=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
        )
        started = wandb.init(
            project=self.tracking.project,
            entity=self.tracking.entity,
            id=run.id,
            name=run.name,
            group=reports[0],
            job_type=run.job_type,
            tags=list(tags_of(*reports, *run.tags)),
            config=dict(run.config),
            settings=settings,
        )
        folder = Path(started.settings.sync_dir)
        with tempfile.TemporaryDirectory() as aside:
            logged: dict[str, Any] = {}
            if run.samples:
                rows = [_sample(wandb, images.of(run, index), row) for index, row in run.samples]
                logged["samples"] = wandb.Table(columns=list(SAMPLE), data=rows)
            for key, (columns, rows) in run.tables.items():
                logged[key] = wandb.Table(columns=columns, data=rows, allow_mixed_types=True)
            for key, curve in run.curves.items():
                logged[key] = wandb.plot.line_series(
                    xs=curve["xs"],
                    ys=curve["ys"],
                    keys=curve["names"],
                    title=curve["title"],
                    xname=curve["xname"],
                )
            if run.job_type == "report":
                for one in head_maps:
                    file = Path(aside) / f"{len(logged)}.png"
                    file.write_bytes(one.light)
                    logged[f"heads/{one.model}"] = wandb.Image(str(file), caption=one.caption)
            started.log({**{key: run.summary[key] for key in run.summary}, **logged}, step=0)
            for section in sorted({key.partition("/")[0] for point in run.history for key in point}):
                started.define_metric(f"{section}/*", step_metric=run.step, step_sync=False)
            for step, point in enumerate(run.history, 1):
                started.log(dict(point), step=step)
            started.summary.update(dict(run.summary))
            if run.job_type in ("report", "bench") and files:
                artifact = wandb.Artifact(run.id, type=run.job_type, metadata={"report": run.report})
                for name, file in files.items():
                    artifact.add_file(str(file), name=name)
                started.log_artifact(artifact)
            started.finish()
        return folder


@contextlib.contextmanager
def _hidden(names: Iterable[str]) -> Iterator[None]:
    """Take variables out of the environment for a while."""
    found = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(found)


def _digest(files: Mapping[str, Path]) -> str:
    known = {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items()}
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def _sample(wandb: Any, image: Any, row: tuple[Any, ...]) -> list[Any]:
    values = dict(zip(SAMPLE, row, strict=True))
    if image is not None:
        values["image"] = wandb.Image(image, file_type="jpg")
    return list(values.values())


class Thumbnails:
    """Small images of samples; the cells of a task share them."""

    def __init__(self, images: Images) -> None:
        self.images = images
        self._known: dict[tuple[str, int], Any] = {}

    def of(self, run: RunContent, index: int) -> Any:
        """Return the first image of a sample; None where it is not at hand: the page says why."""
        key = (run.images_of, index)
        if key not in self._known:
            if len(self._known) >= MOST_IMAGES:
                self._known.clear()
            self._known[key] = self._made(run.fingerprint, index)
        return self._known[key]

    def _made(self, fingerprint: str, index: int) -> Any:
        try:
            found = list(self.images(fingerprint, index))[:1]
        except Exception:  # a copy must not fail where data is not at hand
            return None
        if not found:
            return None
        small = found[0].convert("RGB")
        small.thumbnail((IMAGE_SIDE, IMAGE_SIDE))
        return small


class Written:
    """What runs held when they were written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, Any] = read_json(path) or {}
        self._new = False

    def of(self, key: str) -> dict[str, Any] | None:
        """Return digest and folder of a run."""
        found = self._known.get(key)
        return found if isinstance(found, dict) else None

    def put(self, key: str, value: dict[str, Any]) -> None:
        """Remember a run."""
        self._known[key] = value
        self._new = True

    def save(self) -> None:
        """Write what was remembered."""
        if self._new:
            write_atomically(self.path, json.dumps(self._known, indent=1, sort_keys=True) + "\n")
