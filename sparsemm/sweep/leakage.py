"""No cell is evaluated on images that its head scores were found on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from sparsemm.heads.data.base import image_id
from sparsemm.heads.files import read_head_file
from sparsemm.sweep.head_files import head_files
from sparsemm.tasks.base import Task

SHOWN = 3  # documents that are named
SYNTHETIC = "synthetic-"  # data ids of rendered pages
COCO = "coco/"  # data ids of COCO's images
# benchmarks of COCO's photographs: how a document's name gives COCO's id, None where it cannot
COCO_IDS: Mapping[str, Callable[[str], str] | None] = {
    "vqav2": lambda document: document.rpartition("_")[2].lstrip("0"),
    "gqa": None,
}


@cache
def _content(path: str) -> dict[str, Any]:
    return read_head_file(path)


def apart_by_construction(content: Mapping[str, Any], data_id: str) -> bool:
    """Whether head search and task cannot share an image: rendered pages of two namespaces, or none known."""
    pages = str(content.get("data", "")).startswith(SYNTHETIC) and data_id.startswith(SYNTHETIC)
    return pages or not content.get("images")


def notes(path: str, task: Task) -> list[str]:
    """What a head-score file does not rule out, in words."""
    content, said = _content(path), []
    if content.get("model") is None:
        said.append(
            f"{path} does not say on which model its scores were found; only their shape was checked."
        )
    name = task.name.partition(" ")[0]
    if not str(content.get("data", "")).startswith(COCO) or name not in COCO_IDS:
        return said
    coco_id = COCO_IDS[name]
    if coco_id is None:
        return [
            *said,
            f"{path} was found on COCO images, and some of {name}'s images are COCO's: its ids are Visual "
            "Genome's, so which ones is not known here.",
        ]
    theirs = {str(one).lstrip("0") for one in content.get("ids", ())}
    documents = {task.ids(index)[1] for index in range(len(task))}
    shared = sum(coco_id(document) in theirs for document in documents)
    return [
        *said,
        f"{path} was found on {len(theirs)} COCO images: {shared} of the {len(documents)} images of {name} "
        "are among them, by COCO's ids.",
    ]


@dataclass
class Leakage:
    """Looks at the images of a task, each once, and only where a head search may have seen them."""

    task: Task
    indexes: Sequence[int]
    _known: dict[str, str] = field(default_factory=dict)

    def reason(self, settings: Mapping[str, Any]) -> str | None:
        """Why a cell must not run; None where it may."""
        for path in head_files(settings):
            content = _content(path)
            if apart_by_construction(content, self.task.data_id()):
                continue
            images = set(content["images"])
            if shared := [document for document, found in self._images().items() if found in images]:
                more = ", ..." if len(shared) > SHOWN else ""
                return (
                    f"model.head_scores={path}: its scores were found on {len(shared)} of the images that "
                    f"task={self.task.name} asks about ({', '.join(shared[:SHOWN])}{more}). "
                    "Find the scores on other data."
                )
        return None

    def _images(self) -> Mapping[str, str]:
        """Document -> hash of its first image; one that cannot be read is nobody's."""
        if not self._known:
            for index in self.indexes:
                document = self.task.ids(index)[1]
                if document in self._known:
                    continue
                self._known[document] = ""
                try:
                    self._known[document] = image_id(self.task.sample(index).images()[0])
                except (
                    Exception
                ):  # image decoders raise whatever they like; the sample says so when it is asked
                    continue
        return self._known
