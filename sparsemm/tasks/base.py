"""What a task is: documents, questions about them, and a score for an answer."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from sparsemm.needs import Need

# repository, revision, patterns of the files that are enough (None: all)
Dataset = tuple[str, str | None, tuple[str, ...] | None]
Total = tuple[float | None, Sequence[float | None]]  # a benchmark's score, and every record's share


@dataclass(frozen=True)
class Sample:
    """One question. Samples with the same `document` share their images, and are resampled together.

    Args:
        id: unique in the task.
        document: the image's id.
        question: what is asked, without any chat template.
        references: answers that count as right.
        images: makes or reads the images; may raise where one cannot be read.
    """

    id: str
    document: str
    question: str
    references: tuple[str, ...]
    images: Callable[[], Sequence[Image.Image]] = field(compare=False)


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """A benchmark as configuration. Scores are fractions in [0, 1], where the metric has that range.

    Args:
        name: as tables show it.
        max_new_tokens: longest answer; None where the task leaves it to the model.
    """

    name: str
    max_new_tokens: int | None
    metric = "accuracy"

    @property
    def answer_tokens(self) -> int | None:
        """Longest answer; None where the task leaves it to the model."""
        return self.max_new_tokens

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """An answer ends before the first of these."""
        return ()

    @property
    def whole(self) -> bool:
        """Whether this is all of a published benchmark: its own data, every document of the split."""
        return False

    def needs(self) -> tuple[Need, ...]:
        """What must be brought before this task can be asked; its data is known only where it is empty."""
        return ()

    def datasets(self) -> tuple[Dataset, ...]:
        """Hub repositories that hold the data, for `sparsemm prefetch`."""
        return ()

    def check(self) -> None:
        """Raise ValueError where the task's data cannot be had."""

    @abstractmethod
    def data_id(self) -> str:
        """What identifies the data: a version, or a hash of the files."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @abstractmethod
    def ids(self, index: int) -> tuple[str, str]:
        """(sample id, document id) of sample `index`, without reading it."""

    @abstractmethod
    def sample(self, index: int) -> Sample:
        """Sample `index`; its image is made or read on demand.

        Raises:
            ValueError: this sample cannot be had; the others may.
        """

    @abstractmethod
    def score(self, sample: Sample, answer: str) -> float | None:
        """Score of one answer; None where only all answers together have one (see `total`)."""

    def total(self, records: Sequence[Mapping[str, Any]]) -> Total:
        """The benchmark's score of a finished cell, and each record's share in it.

        Args:
            records: of all samples in order, with `sample`, `answer`, `score` and `error`.

        Returns:
            The score (None: the mean of the shares), and one share per record for intervals and tests (None
            for a record with an error).
        """
        return None, [record["score"] for record in records]
