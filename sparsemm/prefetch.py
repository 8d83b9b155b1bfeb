"""Bring weights and data from the hub to this machine's cache, and record the commits that were found there.

Files that have arrived whole are kept: the same call again fetches the rest.
"""

import errno
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from sparsemm.models.base import ModelAdapter
from sparsemm.models.folder import FILES, folder_of
from sparsemm.paths import is_hub_id
from sparsemm.results.files import read_json, write_atomically

RECORD = "prefetched.json"
Dataset = tuple[str, str | None] | tuple[str, str | None, Sequence[str] | None]
Records = dict[str, dict[str, str | None]]  # repository -> requested revision, commit


class PrefetchFailed(ValueError):
    """Something could not be brought; one line for each."""


def run_prefetch(models: Sequence[ModelAdapter], datasets: Sequence[Dataset], output: Path) -> None:
    """Bring all of these, and add what was found to <output>/prefetched.json.

    Args:
        models: those with a hub id as path are brought; others are here.
        datasets: (repository, revision) or (repository, revision, patterns of the files that are enough).
        output: the store's folder.

    Raises:
        PrefetchFailed: some could not be brought; the others were, and are recorded.
    """
    steps: list[tuple[str, Callable[[], Records]]] = [
        *(("models", partial(prefetch_models, [adapter])) for adapter in models),
        *(("datasets", partial(prefetch_datasets, [dataset])) for dataset in datasets),
    ]
    records: dict[str, Records] = {"models": {}, "datasets": {}}
    failed: list[str] = []
    for kind, bring in steps:
        try:
            records[kind] |= bring()
        except PrefetchFailed as error:
            failed.append(str(error))
    _record(output / RECORD, records)
    if failed:
        raise PrefetchFailed("\n".join(dict.fromkeys(failed)))


def prefetch_models(adapters: Sequence[ModelAdapter]) -> Records:
    """Bring the safetensors, settings and tokenizers of models; repositories that share files share them.

    Returns:
        For each repository the revision that was asked for, and the commit that it was.

    Raises:
        PrefetchFailed: what cannot be brought, why, and what to do.
    """
    records: Records = {}
    for adapter in adapters:
        if not is_hub_id(adapter.path):
            print(f"{adapter.path}: a local folder, nothing to bring", flush=True)
            continue
        folder = _bring(adapter.path, adapter.revision, "model", FILES)
        if folder_of(adapter.path, adapter.revision) is None:
            raise PrefetchFailed(
                f"model.path={adapter.path}: the repository lacks config.json or safetensors that its index "
                "lists. Take another model or revision."
            )
        records[adapter.path] = {"revision": adapter.revision, "commit": folder.name}
    return records


def prefetch_datasets(datasets: Sequence[Dataset]) -> Records:
    """Bring the files of data sets: (repository, revision), or (repository, revision, patterns).

    Returns:
        For each repository the revision that was asked for, and the commit that it was.

    Raises:
        PrefetchFailed: what cannot be brought, why, and what to do.
    """
    records: Records = {}
    for dataset in datasets:
        repo, revision = dataset[:2]
        folder = _bring(repo, revision, "dataset", dataset[2] if len(dataset) == 3 else None)
        records[repo] = {"revision": revision, "commit": folder.name}
    return records


def _bring(repo: str, revision: str | None, kind: str, patterns: Sequence[str] | None) -> Path:
    from huggingface_hub import snapshot_download

    download: Callable[..., Any] = snapshot_download
    print(f"{repo}: looking at {revision or 'main'} ...", flush=True)
    try:
        folder = Path(
            download(
                repo,
                repo_type=kind,
                revision=revision,
                allow_patterns=None if patterns is None else list(patterns),
            )
        )
    except Exception as error:
        reason = _explained(error, repo, revision, kind)
        if reason is None:
            raise
        raise PrefetchFailed(reason) from error
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"{repo}: commit {folder.name}, {size / 1e9:.2f} GB in {folder}", flush=True)
    return folder


def _explained(error: Exception, repo: str, revision: str | None, kind: str) -> str | None:
    """Why a repository could not be brought, in our words; None for errors that are ours."""
    from huggingface_hub import constants, errors

    name = f"model.path={repo}" if kind == "model" else f"dataset {repo}"
    page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{repo}"
    if isinstance(error, errors.GatedRepoError):
        return (
            f"{name}: gated, and this account has no access. Ask for access on {page}, log in with "
            "`hf auth login` (or set HF_TOKEN), and run the command again."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{name}: there is no revision {revision}. Give a branch, tag or commit that {page} lists."
    if isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError):
        return (
            f"{name}: the hub has no such repository, or it is private. Correct the name, or log in with "
            "`hf auth login`. A local folder of that name is not here either."
        )
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, errors.OfflineModeIsEnabled):
            return f"{name}: HF_HUB_OFFLINE is set. Unset it, and run the command where there is internet."
        if getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            return (
                f"{name}: no space left in {constants.HF_HUB_CACHE}. Make room there or set HF_HOME to a "
                "larger disk, and run the command again: what has arrived is kept."
            )
        cause = cause.__cause__ or cause.__context__
    what = (str(error).strip() or type(error).__name__).splitlines()[0].removeprefix("Got: ")
    if isinstance(error, errors.LocalEntryNotFoundError):
        return (
            f"{name}: the hub at {constants.ENDPOINT} cannot be reached ({what}). "
            "Run the command where there is internet, such as a login node."
        )
    if isinstance(error, OSError) or type(error).__module__.startswith("httpx"):
        return (
            f"{name}: the download from {constants.ENDPOINT} broke off ({what}). "
            "Run the command again: files that have arrived are kept."
        )
    return None


def _record(file: Path, records: Mapping[str, Records]) -> None:
    before = read_json(file) or {}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    for kind, found in records.items():
        timed = {repo: {**record, "time": now} for repo, record in found.items()}
        before[kind] = {**before.get(kind, {}), **timed}
    write_atomically(file, json.dumps(before, indent=2, sort_keys=True) + "\n")
