"""COCO: the model names the objects of a photograph, and an object's region is its box."""

import hashlib
import json
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from sparsemm.heads.data.base import HeadSample, HeadSource, Region, find_folder, hub_needs, open_image
from sparsemm.heads.data.tables import Table, decode
from sparsemm.needs import Need


@dataclass(frozen=True, kw_only=True)
class Coco(HeadSource):
    """COCO's own files (annotations/instances_*.json and images), or the tables of detection-datasets/coco.

    Only objects that are alone of their kind in an image have a region: which of three dogs is meant by "dog"
    nobody can say. Boxes are [left, top, width, height] in COCO's files and corners in the tables.

    Source: arXiv:2506.05344, whose code reads the tables.
    """

    whole: ClassVar[bool] = True
    data: str  # hub id or local folder
    split: str  # val or train

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.split not in ("val", "train"):
            raise ValueError(f"heads.split={self.split}: must be val or train.")

    @cached_property
    def _own(self) -> Path | None:
        """COCO's own annotations, where the folder has them."""
        found = sorted(find_folder(self.data).glob(f"annotations/instances_{self.split}*.json"))
        return found[0] if found else None

    @cached_property
    def _photographs(self) -> list[tuple[str, tuple[Region, ...]]]:
        assert self._own is not None
        try:
            content = json.loads(self._own.read_text())
            names = {kind["id"]: str(kind["name"]) for kind in content["categories"]}
            objects: dict[int, list[Region]] = defaultdict(list)
            for one in content["annotations"]:
                left, top, width, height = one["bbox"]
                box = (left, top, left + width, top + height)
                several = 2 if one.get("iscrowd") else 1
                objects[one["image_id"]] += [Region(names[one["category_id"]], box)] * several
            images = sorted(content["images"], key=lambda image: int(image["id"]))
            return [(str(image["file_name"]), _alone(objects[image["id"]])) for image in images]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"heads.data: {self._own} is not a file of COCO's object annotations ({error!r}). "
                "Fetch it again."
            ) from None

    @cached_property
    def _table(self) -> Table:
        return Table(find_folder(self.data), f"data/{self.split}-*.parquet", ["image_id", "image", "objects"])

    @cached_property
    def _names(self) -> list[str]:
        """Names of the categories: in the tables' metadata, or in the dataset_infos.json beside them."""
        known: list[Any] = [json.loads(self._table.metadata.get(b"huggingface", b"null"))]
        for file in find_folder(self.data).glob("dataset_infos.json"):
            known.append(json.loads(file.read_text()))
        for content in known:
            names = _inside(_inside(content, "category"), "names")
            if names:
                return list(map(str, names))
        raise ValueError(
            f"heads.data={self.data}: neither its tables nor a dataset_infos.json say what the categories "
            "are called. Give COCO's own files."
        )

    def needs(self) -> tuple[Need, ...]:
        """The images, where the hub's cache does not hold them."""
        return hub_needs(self.data)

    def __len__(self) -> int:
        """Images, with and without regions."""
        return len(self._table) if self._own is None else len(self._photographs)

    def sample(self, index: int) -> HeadSample:
        """Image `index`, by COCO's ids."""
        if self._own is not None:
            name, regions = self._photographs[index]
            file = self._own.parent.parent / self._own.stem.removeprefix("instances_") / name
            return HeadSample(Path(name).stem.lstrip("0"), lambda: open_image(file, name), regions)
        row = self._table[index]
        name, objects = str(row["image_id"]), row["objects"]
        found = [
            Region(self._names[kind], tuple(box))
            for kind, box in zip(objects["category"], objects["bbox"], strict=True)
        ]
        return HeadSample(name, lambda: decode(row["image"], name), _alone(found))

    def data_id(self) -> str:
        """The split and the content of the annotations."""
        content = self._table.names.encode() if self._own is None else self._own.read_bytes()
        return f"coco/{self.split}/{hashlib.sha256(content).hexdigest()[:16]}"


def _alone(regions: list[Region]) -> tuple[Region, ...]:
    kinds = Counter(region.text for region in regions)
    return tuple(region for region in regions if kinds[region.text] == 1)


def _inside(node: Any, key: str) -> Any:
    """What stands under `key`, however deep; None where it is nowhere."""
    if isinstance(node, list):
        node = dict(enumerate(node))
    if not isinstance(node, dict):
        return None
    if node.get(key):
        return node[key]
    return next((found for value in node.values() if (found := _inside(value, key)) is not None), None)
