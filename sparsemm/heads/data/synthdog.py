"""SynthDoG pages with boxes: the data of the paper's head search."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

from sparsemm.heads.data.base import HeadSample, HeadSource, Region, find_folder, hub_needs
from sparsemm.heads.data.tables import Table, decode
from sparsemm.needs import Need

COLUMN = "2_coord"  # [{"chunk": text, "coord": [[left, top], [right, bottom]]}], found by PaddleOCR


@dataclass(frozen=True, kw_only=True)
class SynthDog(HeadSource):
    """Tables of nnethercott/synthdog-en-detection, whose regions are lines and parts of lines.

    Source: the data of arXiv:2506.05344 (README of its code); columns as the dataset's card lists them.
    """

    data: str  # hub id or local folder
    files: str  # pattern of the parquet files in it

    @cached_property
    def _table(self) -> Table:
        return Table(find_folder(self.data), self.files, ["image", COLUMN])

    def needs(self) -> tuple[Need, ...]:
        """The images, where the hub's cache does not hold them."""
        return hub_needs(self.data)

    def __len__(self) -> int:
        """Pages."""
        return len(self._table)

    def sample(self, index: int) -> HeadSample:
        """Page `index`."""
        row = self._table[index]
        name = f"{index:06d}"
        regions = []
        for region in row[COLUMN] or ():
            (left, top), (right, bottom) = region["coord"]
            regions.append(Region(region["chunk"], (left, top, right, bottom)))
        return HeadSample(name, lambda: decode(row["image"], name), tuple(regions))

    def data_id(self) -> str:
        """The dataset, and the names and sizes of its files."""
        return f"synthdog/{hashlib.sha256(self._table.names.encode()).hexdigest()[:16]}"
