"""Synthetic tasks on rendered pages: no download, ground truth and boxes for every word.

Difficulty is the page: its size, the number of entries, font sizes, contrast and fonts. Everything that is
evaluated comes from the eval namespace of `sparsemm.tasks.pages`, which shares no string and no seed with
the data of training and of the head search.
"""

import random
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

from PIL import Image

from sparsemm.tasks.base import Sample, Task
from sparsemm.tasks.metrics import anls, contains, relaxed_accuracy
from sparsemm.tasks.pages import Kind, Namespace, Page, PageSpec, make_page

DATA_VERSION = "synthetic-1"  # raise it when the same seed draws another page
CHECKED_PAGES = 16  # rendered while planning
READ_ALL = "read?"  # asks the tiny model for all words in reading order


@lru_cache(maxsize=512)
def _page(namespace: Namespace, spec: PageSpec, index: int) -> Page:
    return make_page(namespace, spec, index)


@dataclass(frozen=True, kw_only=True)
class SyntheticTask(Task):
    """Pages first, first + 1, ... of the eval namespace, some questions about each."""

    kind: ClassVar[Kind]
    max_new_tokens: int
    limit: int  # pages
    questions: int  # per page
    first: int  # index of the first page
    page: Mapping[str, Any] = field(hash=False)  # fields of PageSpec: the difficulty

    def __post_init__(self) -> None:
        for key, value, least in (
            ("limit", self.limit, 1), ("questions", self.questions, 1), ("first", self.first, 0),
            ("max_new_tokens", self.max_new_tokens, 1),
        ):  # fmt: skip
            if value < least:
                raise ValueError(f"task.{key}={value}: must be at least {least}.")
        try:
            spec = self.spec
        except (ValueError, TypeError) as error:
            raise ValueError(f"task.page: {error}") from None
        if self.kind != "words" and self.questions > spec.entries[0]:
            raise ValueError(
                f"task.questions={self.questions}: a page may have as few as {spec.entries[0]} entries"
                " (task.page.entries)."
            )

    @property
    def spec(self) -> PageSpec:
        """The page's difficulty."""
        plain: dict[str, Any] = {
            key: tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
            for key, value in self.page.items()
        }
        return PageSpec(kind=self.kind, **plain)

    def check(self) -> None:
        """Render the first pages, so that a page without room is found before any work."""
        for number in range(min(self.limit, CHECKED_PAGES)):
            self._page(number)

    def data_id(self) -> str:
        """The generator's version; the settings stand in the configuration."""
        return DATA_VERSION

    def __len__(self) -> int:
        """Pages times questions."""
        return self.limit * self.questions

    def _page(self, number: int) -> Page:
        page = _page("eval", self.spec, self.first + number)
        found, wanted = len(page.words if self.kind == "words" else page.pairs), self.spec.entries[0]
        if found < wanted:
            raise ValueError(
                f"task.page.entries={wanted}: page {self.first + number} has room for {found} only. "
                "Use a larger page, a smaller font_size or fewer entries."
            )
        return page

    def ids(self, index: int) -> tuple[str, str]:
        """(sample, document); the same whatever the task is called."""
        number, which = divmod(index, self.questions)
        document = f"{self.kind}-{self.first + number:06d}"
        return f"{document}-{which}", document

    def sample(self, index: int) -> Sample:
        """Question index % questions of page index // questions."""
        number, which = divmod(index, self.questions)
        question, references = self.ask(self._page(number), number, which)
        return Sample(*self.ids(index), question, references, lambda: [self._image(number)])

    def _image(self, number: int) -> Image.Image:
        return self._page(number).image.convert("RGB")

    @abstractmethod
    def ask(self, page: Page, number: int, which: int) -> tuple[str, tuple[str, ...]]:
        """Question and references."""


@dataclass(frozen=True, kw_only=True)
class _KeyValue(SyntheticTask):
    def ask(self, page: Page, number: int, which: int) -> tuple[str, tuple[str, ...]]:
        """One of the page's keys; its value answers."""
        order = random.Random(f"questions/{self.kind}/{self.first + number}").sample(
            range(len(page.pairs)), len(page.pairs)
        )
        key, value = page.pairs[order[which]]
        return f"{key}?", (value,)


@dataclass(frozen=True, kw_only=True)
class Documents(_KeyValue):
    """Questions about a page of "key: value" entries, scored with ANLS as DocVQA is."""

    kind = "document"
    metric = "anls"

    def score(self, sample: Sample, answer: str) -> float:
        """ANLS of the answer."""
        return anls(answer, sample.references)


@dataclass(frozen=True, kw_only=True)
class Charts(_KeyValue):
    """Questions about the bars of a chart, scored with relaxed accuracy as ChartQA is."""

    kind = "chart"
    metric = "relaxed_accuracy"

    def score(self, sample: Sample, answer: str) -> float:
        """Relaxed accuracy of the answer."""
        return relaxed_accuracy(answer, sample.references)


@dataclass(frozen=True, kw_only=True)
class Reading(SyntheticTask):
    """Read all words of a page in order, scored as OCRBench counts text recognition."""

    kind = "words"
    metric = "accuracy"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.questions != 1:
            raise ValueError(
                f"task.questions={self.questions}: the reading task asks one question per page. Set it to 1."
            )

    def ask(self, page: Page, number: int, which: int) -> tuple[str, tuple[str, ...]]:
        """Everything that the page says."""
        return READ_ALL, (page.text,)

    def score(self, sample: Sample, answer: str) -> float:
        """1 where the answer contains the page's text."""
        return contains(answer, sample.references)
