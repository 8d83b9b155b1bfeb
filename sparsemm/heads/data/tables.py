"""Parquet files of a dataset, row by row; one row group is in memory at a time."""

import io
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image


class Table:
    """Rows of the parquet files below a folder that match a pattern.

    Raises:
        ValueError: no such file, a broken one, or one without the columns.
    """

    def __init__(self, folder: Path, pattern: str, columns: Sequence[str]):
        try:
            from pyarrow import ArrowException, parquet
        except ImportError:
            raise ValueError("heads.data: parquet files need pyarrow. Run: pip install pyarrow") from None

        self.columns = list(columns)
        files = sorted(folder.glob(pattern)) or sorted(folder.glob(f"**/{Path(pattern).name}"))
        if not files:
            raise ValueError(f"heads.data={folder}: no file {pattern} there. Give the dataset's own folder.")
        self._groups: list[tuple[Any, int, int]] = []  # file, its row group, rows
        for file in files:
            try:
                opened = parquet.ParquetFile(file)
            except (ArrowException, OSError) as error:
                raise ValueError(f"heads.data: {file} cannot be read ({error}). Fetch it again.") from None
            missing = [name for name in columns if name not in opened.schema_arrow.names]
            if missing:
                raise ValueError(
                    f"heads.data: {file} has no column {', '.join(missing)}. "
                    f"It has: {', '.join(opened.schema_arrow.names)}."
                )
            groups = range(opened.metadata.num_row_groups)
            self._groups += [(opened, group, opened.metadata.row_group(group).num_rows) for group in groups]
        self.metadata: Mapping[bytes, bytes] = self._groups[0][0].schema_arrow.metadata or {}
        self.names = ", ".join(f"{file.name}:{file.stat().st_size}" for file in files)
        self._read = lru_cache(maxsize=1)(self._read_group)

    def __len__(self) -> int:
        """Rows."""
        return sum(rows for _, _, rows in self._groups)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """A row as plain values."""
        for place, (_, _, rows) in enumerate(self._groups):
            if index < rows:
                row: dict[str, Any] = self._read(place).slice(index, 1).to_pylist()[0]
                return row
            index -= rows
        raise IndexError(index)

    def _read_group(self, place: int) -> Any:
        file, group, _ = self._groups[place]
        return file.read_row_group(group, columns=self.columns)


def decode(cell: Any, sample: str) -> Image.Image:
    """The image of a hub table's cell, {"bytes": ..., "path": ...}.

    Raises:
        ValueError: no bytes, or not an image.
    """
    try:
        image = Image.open(io.BytesIO(cell["bytes"]))
        image.load()
        return image
    except (OSError, TypeError, KeyError) as error:
        raise ValueError(
            f"heads.data: the image of sample {sample} cannot be read ({error!r}). Fetch it again."
        ) from None
