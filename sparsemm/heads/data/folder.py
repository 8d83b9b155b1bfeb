"""A folder of images with one JSON file: the way in for data of any other form."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sparsemm.heads.data.base import HeadSample, HeadSource, Region, find_folder, open_image


@dataclass(frozen=True, kw_only=True)
class Folder(HeadSource):
    """Images beside a JSON file that lists them with their regions.

    [{"image": "1.jpg", "regions": [{"text": "EXIT", "box": [left, top, right, bottom]}]}]
    """

    data: str  # the folder
    labels: str  # the JSON file, within the folder

    @cached_property
    def _file(self) -> Path:
        file = find_folder(self.data) / self.labels
        if not file.is_file():
            raise ValueError(
                f"heads.labels={self.labels}: no such file in {self.data}. Name the JSON file there."
            )
        return file

    @cached_property
    def _entries(self) -> list[dict[str, Any]]:
        try:
            entries = json.loads(self._file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(
                f"heads.labels={self.labels}: not valid JSON ({error}). Write it again."
            ) from None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise ValueError(
                f'heads.labels={self.labels}: expected a list of {{"image": ..., "regions": [...]}}.'
            )
        return entries

    def __len__(self) -> int:
        """Images that are listed."""
        return len(self._entries)

    def sample(self, index: int) -> HeadSample:
        """Image `index` of the list."""
        entry = self._entries[index]
        try:
            name = str(entry["image"])
            regions = tuple(Region(str(region["text"]), _box(region["box"])) for region in entry["regions"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"heads.labels={self.labels}: entry {index} needs image and regions with text and box "
                f"[left, top, right, bottom] ({error!r}). Correct it."
            ) from None
        file = self._file.parent / name
        return HeadSample(name, lambda: open_image(file, name), regions)

    def data_id(self) -> str:
        """The folder's name and the content of its list."""
        digest = hashlib.sha256(self._file.read_bytes()).hexdigest()[:16]
        return f"folder/{self._file.parent.name}/{digest}"


def _box(values: Any) -> tuple[float, float, float, float]:
    left, top, right, bottom = map(float, values)
    return left, top, right, bottom
