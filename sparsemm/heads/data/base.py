"""What the head search needs of its data."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from PIL import Image

from sparsemm.models.base import Box
from sparsemm.needs import Need
from sparsemm.paths import is_hub_id
from sparsemm.tasks.base import Dataset
from sparsemm.tasks.lmms_data import snapshot
from sparsemm.tasks.pages import png_sha256


@dataclass(frozen=True)
class Region:
    """A part of an image and what it says or is; right and bottom of the box are outside."""

    text: str
    box: Box  # left, top, right, bottom in pixels of the image as it came


@dataclass(frozen=True)
class HeadSample:
    """One image and its regions.

    Args:
        id: names it within its source.
        image: reads it.
        regions: what is known of it.
    """

    id: str
    image: Callable[[], Image.Image]
    regions: tuple[Region, ...]


@dataclass(frozen=True, kw_only=True)
class HeadSource(ABC):
    """Where images with regions come from.

    Raises:
        ValueError: an answer of no tokens.
    """

    whole: ClassVar[bool] = False  # only a region's whole text counts: names of things, not lines of words
    question: str
    max_new_tokens: int  # of the answer

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"heads.max_new_tokens={self.max_new_tokens}: must be at least 1.")

    def needs(self) -> tuple[Need, ...]:
        """What must be brought before the data can be read."""
        return ()

    def datasets(self) -> tuple[Dataset, ...]:
        """Hub repositories that hold the images, where they are named by hub id."""
        data = getattr(self, "data", "")
        return ((data, None, None),) if is_hub_id(data) else ()

    @abstractmethod
    def __len__(self) -> int:
        """Samples that there are."""

    @abstractmethod
    def sample(self, index: int) -> HeadSample:
        """Sample `index` < len.

        Raises:
            ValueError: it cannot be read.
        """

    @abstractmethod
    def data_id(self) -> str:
        """Names the data and its version or content."""


def find_folder(data: str) -> Path:
    """The folder of a source: local, or the snapshot of a hub id in the hub's cache.

    Raises:
        ValueError: it is not there.
    """
    if is_hub_id(data):
        found = snapshot(data, None)
        if found is None:
            raise ValueError(f"heads.data={data}: it is not on this machine. {how_to_bring(data)}")
        return found
    folder = Path(data).expanduser()
    if not folder.is_dir():
        raise ValueError(f"heads.data={data}: no such folder. Give a local folder, or a hub id (owner/name).")
    return folder


def hub_needs(data: str) -> tuple[Need, ...]:
    """The need for a dataset that is named by hub id and is not in the hub's cache."""
    if not is_hub_id(data) or snapshot(data, None) is not None:
        return ()
    return (Need("data", f"images of {data}", how_to_bring(data)),)


def how_to_bring(data: str) -> str:
    """The command that brings a dataset of the hub."""
    return f"hf download --repo-type dataset {data}, or sparsemm prefetch model=... data=..."


def open_image(file: Path, sample: str) -> Image.Image:
    """An image in memory.

    Raises:
        ValueError: no such file, or not an image.
    """
    try:
        with Image.open(file) as image:
            image.load()
            return image
    except OSError as error:
        raise ValueError(
            f"heads.data: the image of sample {sample}, {file}: {error}. Fetch it again."
        ) from None


def image_id(image: Image.Image) -> str:
    """16 hex digits of the pixels; a grey image is known in colour, too."""
    if image.mode != "L":
        image = image.convert("RGB")
        red, green, blue = image.split()
        if red.tobytes() == green.tobytes() == blue.tobytes():
            image = red
    return png_sha256(image)[:16]
