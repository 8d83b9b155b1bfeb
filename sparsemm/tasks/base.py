"""What a task is: documents, questions about them, and a score for an answer."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

from PIL import Image


@dataclass(frozen=True)
class Sample:
    """One question. Samples with the same `document` share an image, and are resampled together.

    Args:
        id: unique in the task.
        document: the image's id.
        question: what is asked, without any chat template.
        references: answers that count as right.
        image: makes or reads the image; may raise where it cannot be read.
    """

    id: str
    document: str
    question: str
    references: tuple[str, ...]
    image: Callable[[], Image.Image] = field(compare=False)


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """A benchmark as configuration."""

    name: str
    max_new_tokens: int
    metric = "accuracy"

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
    def score(self, sample: Sample, answer: str) -> float:
        """Score of one answer, in [0, 1]."""
