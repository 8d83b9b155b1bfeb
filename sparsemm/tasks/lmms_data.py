"""Where a benchmark's parquet files are and what they hold, without lmms-eval and without decoding images."""

import fnmatch
import hashlib
import re
import tempfile
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from sparsemm.content import file_digest

# as the hub names the parts of a table; older uploads end in a hash of each part
_PART = re.compile(r"(.*)-(\d+)-of-(\d+)(?:-[0-9a-f]{16})?(\.[^/]*)")


def snapshot(repo: str, revision: str | None, patterns: Sequence[str] | None = None) -> Path | None:
    """The folder of a dataset in the hub cache; None where it is not there, or known to be a part.

    Nothing is downloaded. The hub's client does not know every part to be one: see `complete`.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        found = snapshot_download(
            repo,
            repo_type="dataset",
            revision=revision,
            local_files_only=True,
            allow_patterns=None if patterns is None else list(patterns),
        )
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    return Path(found)


def matching(folder: Path, patterns: Sequence[str]) -> tuple[Path, ...]:
    """Files below `folder` that match one of the patterns, in order."""
    found = {file for pattern in patterns for file in folder.glob(pattern) if file.is_file()}
    return tuple(sorted(found))


def complete(files: Sequence[Path]) -> bool:
    """Whether every part of every table is there: 00001-of-00003 asks for three files."""
    tables: dict[tuple[str, str, str], set[str]] = {}
    for file in files:
        if part := _PART.fullmatch(str(file)):
            tables.setdefault((part[1], part[3], part[4]), set()).add(part[2])
    return bool(files) and all(len(parts) == int(total) for (_, total, _), parts in tables.items())


def split_of(config: Mapping[str, Any]) -> str:
    """The split that a task asks about."""
    return str(config.get("test_split") or config.get("validation_split"))


def split_files(folder: Path, config: Mapping[str, Any]) -> tuple[Path, ...]:
    """Files of a repository's copy that `datasets` reads for the task's split, in order.

    None where nothing of the split is there.
    """
    import datasets

    given = (config.get("dataset_kwargs") or {}).get("data_files")
    with tempfile.TemporaryDirectory() as cache:
        try:
            builder = datasets.load_dataset_builder(
                str(folder), config.get("dataset_name"), data_files=given, cache_dir=cache
            )
        except (OSError, ValueError):  # no data at all, or none of the task's own
            return ()
    splits = {str(split): files for split, files in (builder.config.data_files or {}).items()}
    return tuple(Path(file) for file in splits.get(split_of(config), ()))


def local_files(data: str, patterns: Sequence[str], others: Sequence[str] = ()) -> tuple[Path, ...]:
    """Files anywhere in a local folder that match the patterns; else all its parquet files but `others`.

    Raises:
        ValueError: no such folder, or no parquet file in it.
    """
    folder = Path(data).expanduser()
    if not folder.is_dir():
        raise ValueError(f"task.data={data}: no such folder. Give a folder of parquet files.")
    every = matching(folder, ["**/*.parquet"])
    if not every:
        raise ValueError(f"task.data={data}: no parquet file there. Give a folder of parquet files.")
    rest = tuple(
        file
        for file in every
        if not any(fnmatch.fnmatch(str(file.relative_to(folder)), pattern) for pattern in others)
    )
    names = {Path(pattern).name for pattern in patterns} - {"*.parquet"}
    anywhere = [f"**/{name}" for name in sorted(names)]
    return matching(folder, patterns) or matching(folder, anywhere) or rest


@lru_cache(maxsize=4096)
def _metadata(file: Path, _changed: float) -> Any:
    from pyarrow import ArrowException, parquet

    try:
        return parquet.read_metadata(file), parquet.read_schema(file)
    except (ArrowException, OSError) as error:
        raise ValueError(
            f"task.data: {file} is not a parquet file that can be read "
            f"({str(error).splitlines()[0]}). Fetch it again."
        ) from None


def metadata(file: Path) -> Any:
    """(metadata, schema) of a parquet file; its content is not read.

    Raises:
        ValueError: the file is broken.
    """
    return _metadata(file, file.stat().st_mtime)


def rows(files: Sequence[Path]) -> int:
    """Rows of a table."""
    return sum(metadata(file)[0].num_rows for file in files)


def check_columns(files: Sequence[Path], columns: Sequence[str]) -> None:
    """Raise ValueError for a broken file, for missing columns, or where no row can hold an image."""
    for file in files:
        _, schema = metadata(file)
        if missing := [name for name in columns if name not in schema.names]:
            raise ValueError(
                f"task.data: {file} has no column {', '.join(missing)}. It has: {', '.join(schema.names)}. "
                "Give files in the benchmark's own schema."
            )
    if not rows(files):
        raise ValueError(f"task.data: no rows in {files[0].parent}. Fetch the files again.")
    if "image" in columns and not any(_has_images(file) for file in files):
        raise ValueError(
            f"task.data: no images in {files[0].parent}: column image is empty. "
            "Give files that hold the images' bytes."
        )


def _has_images(file: Path) -> bool:
    """Whether any row of column `image` may hold bytes, from the file's statistics."""
    found, _ = metadata(file)
    for group in range(found.num_row_groups):
        for place in range(found.num_columns):
            column = found.row_group(group).column(place)
            if column.path_in_schema in ("image", "image.bytes"):
                known = column.statistics
                if known is None or known.null_count is None or known.null_count < column.num_values:
                    return True
    return False


def read_column(files: Sequence[Path], column: str) -> list[Any]:
    """One column of a table; an image's value is a hash of its bytes.

    Raises:
        ValueError: a file is broken.
    """
    from pyarrow import ArrowException, parquet

    values: list[Any] = []
    for file in files:
        try:
            for batch in parquet.ParquetFile(file).iter_batches(256, columns=[column]):
                found = batch.column(0).to_pylist()
                values += [_image_hash(value) if column == "image" else value for value in found]
        except (ArrowException, OSError) as error:
            raise ValueError(
                f"task.data: {file} cannot be read ({str(error).splitlines()[0]}). Fetch it again."
            ) from None
    return values


def _image_hash(value: Any) -> str:
    content = value.get("bytes") or str(value.get("path")).encode() if isinstance(value, dict) else value
    return hashlib.sha256(content or b"").hexdigest()[:16]


def content_id(files: Sequence[Path]) -> str:
    """A hash of what the files hold, in the order they are read; names and places do not matter."""
    return hashlib.sha256("".join(map(file_digest, files)).encode()).hexdigest()[:20]
