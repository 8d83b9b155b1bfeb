"""Data that is told to show what a random model says, so that its words match."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image

from sparsemm.heads.data.base import HeadSample, HeadSource, Region
from sparsemm.heads.match import pieces
from sparsemm.heads.watch import read
from sparsemm.models.base import LoadedModel, ModelAdapter
from sparsemm.models.llava_next import LlavaNext
from sparsemm.models.qwen2_5_vl import Qwen2_5_VL
from sparsemm.models.qwen2_vl import Qwen2VL
from sparsemm.models.small import save_small
from sparsemm.tasks.pages import PageSpec, make_page

QUESTION = "Provide all the OCR results of this image."
ADAPTERS = {
    "tiny": Qwen2VL,
    "llava_next_mistral": LlavaNext,
    "llava_next_vicuna": LlavaNext,
    "qwen2_vl": Qwen2VL,
    "qwen2_5_vl": Qwen2_5_VL,
}


@dataclass(frozen=True, kw_only=True)
class Given(HeadSource):
    """Samples as they are given."""

    samples: Sequence[HeadSample]
    name: str = "given"

    def __len__(self) -> int:
        return len(self.samples)

    def sample(self, index: int) -> HeadSample:
        return self.samples[index]

    def data_id(self) -> str:
        return self.name


@pytest.fixture(scope="session")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ModelAdapter]:
    """The tiny model, or a small random model of a family."""
    found: dict[str, ModelAdapter] = {}

    def adapter(family: str) -> ModelAdapter:
        if family not in found:
            path = "pkg://sparsemm.data/tiny"
            if family != "tiny":
                path = str(tmp_path_factory.mktemp(family))
                save_small(family, Path(path))
            found[family] = ADAPTERS[family](name=family, path=path, dtype="float32", attention="sdpa")
        return found[family]

    return adapter


@pytest.fixture(scope="session")
def models(adapters) -> Callable[[str], LoadedModel]:
    """In memory, and never at an end: random models would stop at once."""
    found: dict[str, LoadedModel] = {}

    def load(family: str) -> LoadedModel:
        if family not in found:
            found[family] = adapters(family).load(torch.device("cpu"))
            if family != "tiny":
                found[family].eos_ids = (-1,)
        return found[family]

    return load


def page(index: int = 0) -> Image.Image:
    """A page of 160 x 112 pixels."""
    return make_page("heads", PageSpec("document", 160, 112, (3, 3), (12, 14)), index).image


def as_said(loaded: LoadedModel, image: Image.Image, tokens: int, question: str = QUESTION) -> HeadSample:
    """A sample whose regions are the words that the model says, in boxes of their own."""
    text, _ = pieces(loaded.tokenizer, read(loaded, loaded.prompt(image, question), tokens).tokens)
    width, height = image.size
    boxes = itertools.cycle([(0, 0, width, height), (3, 5, 81, 33), (30.5, 2, 150, 60), (-9, 50, 200, 300)])
    regions = tuple(Region(word, next(boxes)) for word in dict.fromkeys(text.split()))
    return HeadSample("said", lambda: image, regions)


@pytest.fixture
def given() -> Callable[..., Given]:
    """A source of the samples."""

    def make(samples: Sequence[HeadSample], tokens: int = 12, question: str = QUESTION, **more) -> Given:
        return Given(question=question, max_new_tokens=tokens, samples=tuple(samples), **more)

    return make
