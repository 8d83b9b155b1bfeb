"""Where a benchmark's parquet files are and what they hold, without lmms-eval and without decoding images."""

import fnmatch
import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

_WHOLE_FILE = 64 * 2**20  # bytes; of larger files only size, first and last MiB enter the content id
_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})(.*)")  # as the hub names the parts of a table


def snapshot(
    repo: str, revision: str | None, patterns: Sequence[str] | None = None
) -> tuple[Path, str] | None:
    """(folder, commit) of a dataset in the hub cache; None where it is not there, or not all that is needed.

    Nothing is downloaded.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(
            snapshot_download(
                repo,
                repo_type="dataset",
                revision=revision,
                local_files_only=True,
                allow_patterns=None if patterns is None else list(patterns),
            )
        )
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    return folder, folder.name


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
    """A hash of what the files hold, wherever they lie; read once per process."""
    whole = hashlib.sha256()
    for file in files:
        facts = file.stat()
        whole.update(_file_hash(file, facts.st_size, facts.st_mtime))
    return whole.hexdigest()[:20]


@lru_cache(maxsize=4096)
def _file_hash(file: Path, size: int, _changed: float) -> bytes:
    one = hashlib.sha256(f"{size}:".encode())
    with file.open("rb") as stream:
        if size <= _WHOLE_FILE:
            one.update(stream.read())
        else:
            one.update(stream.read(2**20))
            stream.seek(-(2**20), 2)
            one.update(stream.read())
    return one.digest()
