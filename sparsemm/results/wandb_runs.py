"""Runs of W&B as offline files, which its own `wandb sync` sends. W&B is a mirror: the store is what counts.

<output>/wandb/offline-run-<time>-<id>/   one folder per run; an id comes from a fingerprint
<output>/wandb/sparsemm.json              what each run held when it was written, and where
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsemm.results.files import read_json, write_atomically
from sparsemm.results.page import HeadMap
from sparsemm.results.page_samples import Images
from sparsemm.results.wandb_content import SAMPLE, RunContent

MODES = ("none", "offline", "online")
FORBIDDEN = re.compile(r"[/\\#?%:]")  # what W&B refuses in names of projects
LONGEST_NAME = 128
IMAGE_SIDE = 512  # pixels


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """conf/tracking."""

    mode: str
    project: str
    entity: str | None
    samples: int
    suffix: str

    def check(self) -> None:
        """Raise ValueError for what W&B would refuse, before any work is done."""
        if self.mode not in MODES:
            raise ValueError(f"tracking.mode={self.mode}: must be one of {', '.join(MODES)}.")
        if self.mode == "none":
            return
        check_name("project", self.project)
        if self.entity is not None:
            check_name("entity", self.entity)
        if self.samples < 0:
            raise ValueError(f"tracking.samples={self.samples}: must be 0 or more. Set tracking.samples.")
        wandb = import_wandb(f"tracking={self.mode}")
        if self.mode == "online" and not has_key(wandb):
            raise ValueError(
                "tracking=online: W&B has no API key here. Log in with `wandb login` (or set WANDB_API_KEY), "
                "or choose tracking=offline and run `sparsemm sync` later."
            )


def check_name(key: str, name: str) -> None:
    """Raise ValueError for a project or entity name that W&B refuses."""
    if not name or len(name) > LONGEST_NAME or FORBIDDEN.search(name):
        raise ValueError(
            f"tracking.{key}={name}: W&B takes 1 to {LONGEST_NAME} letters without / \\ # ? % and colons. "
            f"Set tracking.{key}."
        )


def import_wandb(asked: str) -> Any:
    """Return the module.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import wandb
    except ImportError as error:
        raise ValueError(
            f'{asked}: needs wandb ({error}). Install it with pip install "sparsemm[wandb]", '
            "or leave tracking out."
        ) from error
    return wandb


def has_key(wandb: Any) -> bool:
    """Say whether somebody is logged in to W&B on this machine; nothing is asked of the network."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    try:
        return bool(wandb.login(prompt=False))
    except TypeError:  # before 0.31 there was no such argument
        return bool(wandb.api.api_key)


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
            files: name -> file: the artifact of the report's run.
        """
        state = Written(self.folder / "sparsemm.json")
        wandb, written = None, []
        try:
            for run in runs:
                key = f"{self.tracking.entity or ''}/{self.tracking.project}/{run.id}"
                known = state.of(key)
                if known and known["digest"] == run.digest and (self.folder / known["folder"]).is_dir():
                    continue
                wandb = wandb or self._prepared()
                folder = self._write(wandb, run, images, head_maps, files or {})
                if known and known["folder"] != folder.name:
                    shutil.rmtree(self.folder / known["folder"], ignore_errors=True)
                state.put(key, {"digest": run.digest, "folder": folder.name})
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
        images: Images,
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
            group=run.group,
            job_type=run.job_type,
            tags=list(run.tags),
            config=dict(run.config),
            settings=settings,
        )
        folder = Path(started.settings.sync_dir)
        with tempfile.TemporaryDirectory() as aside:
            logged: dict[str, Any] = {}
            if run.samples:
                rows = [self._sample(wandb, run.fingerprint, images, *one) for one in run.samples]
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
            started.summary.update(dict(run.summary))
            if run.job_type == "report" and files:
                artifact = wandb.Artifact(run.id, type="report", metadata={"report": run.group})
                for name, file in files.items():
                    artifact.add_file(str(file), name=name)
                started.log_artifact(artifact)
            started.finish()
        return folder

    def _sample(
        self, wandb: Any, fingerprint: str, images: Images, index: int, row: tuple[Any, ...]
    ) -> list[Any]:
        values = dict(zip(SAMPLE, row, strict=True))
        try:
            found = list(images(fingerprint, index))[:1]
        except Exception:  # a copy must not fail where data is not at hand; the page says why
            found = []
        if found:
            small = found[0].convert("RGB")
            small.thumbnail((IMAGE_SIDE, IMAGE_SIDE))
            values["image"] = wandb.Image(small, file_type="jpg")
        return list(values.values())


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
