"""Benchmarks through lmms-eval's own tasks and metrics; answers are our engine's.

Planning reads files and settings only; lmms-eval is imported when the first question is asked.
"""

import math
import shutil
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from sparsemm.needs import Need
from sparsemm.tasks import lmms_data
from sparsemm.tasks.base import Dataset, Sample, Task, Total
from sparsemm.tasks.lmms_harness import (
    Config,
    Harness,
    at_folder,
    check_config,
    read_config,
    with_files,
    with_images,
    with_post_prompt,
)
from sparsemm.tasks.lmms_shares import cider, circular

Tables = tuple[tuple[Path, ...], tuple[Path, ...]]  # files with the questions, files with the images
PACKAGES = ("lmms_eval", "datasets", "pyarrow")
INSTALL = 'pip install "sparsemm[eval]" && pip install --no-deps lmms-eval==0.7.3'


@dataclass(frozen=True, kw_only=True)
class LmmsTask(Task):
    """One lmms-eval generation task.

    Args:
        task: lmms-eval's name of it.
        max_new_tokens: longest answer; None: what the task says, or else the model's.
        until: an answer ends before the first of these; None: what the task says.
        post_prompt: text after every question; None: the task's own.
        data: local folder of parquet files; None: the hub cache.
        repo: dataset on the hub; None: what the task says, and all of it.
        revision: of `repo`.
        files: patterns of the table's files, in the repository or in `data`.
        image_files: patterns of the files with the images, where they have a table of their own (id, image).
        columns: what the task reads of a row.
        references: column with the answers that count as right, to be shown; None: the task's target.
        document: column that says which rows share an image; `image`: the same bytes; None: none do.
        limit: first documents only; None: all.
        full_samples: documents of the whole split; None: unknown.
        metric: as tables show it.
        metric_key: lmms-eval's name of it; None: the task's first.
        scale: factor on lmms-eval's score, so that fractions are in [0, 1].
        out_of: number of documents that lmms-eval's score is divided by whatever their number is; None: it
            divides by their number.
        shares: what a sample contributes. sample: its own value; cider: its caption's CIDEr among all;
            circular: a question counts once, and only where all rotations of its options were answered right.
    """

    task: str
    until: tuple[str, ...] | None
    post_prompt: str | None
    data: str | None
    repo: str | None
    revision: str | None
    files: tuple[str, ...] | None
    image_files: tuple[str, ...] | None
    columns: tuple[str, ...] | None
    references: str | None
    document: str | None
    limit: int | None
    full_samples: int | None
    metric: str
    metric_key: str | None
    scale: float
    out_of: int | None
    shares: Literal["sample", "cider", "circular"]

    def __post_init__(self) -> None:
        for key in ("limit", "max_new_tokens"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"task.{key}={value}: must be at least 1. Set task.{key}.")
        for key in ("until", "files", "image_files", "columns"):
            value = getattr(self, key)
            if value is not None:
                object.__setattr__(self, key, tuple(value))

    @property
    def whole(self) -> bool:
        """Whether this is every question of the published split."""
        return self.full_samples is not None and len(self) == self.full_samples

    def needs(self) -> tuple[Need, ...]:
        """lmms-eval, Java for captions, and data that is not in the hub cache."""
        found = []
        packages = PACKAGES + (("pycocoevalcap",) if self.shares == "cider" else ())
        if missing := [name for name in packages if find_spec(name) is None]:
            found.append(Need("package", f"packages {', '.join(missing)}", INSTALL))
        if self.shares == "cider" and shutil.which("java") is None:
            found.append(
                Need("program", "Java", "install a Java runtime: CIDEr's tokenizer is written in it")
            )
        if self.data is None and (self.repo or not missing) and self._cached() is None:
            known = f"task={self.name}" if self.repo else f"task=lmms task.name={self.task}"
            for repo, _, patterns in self.datasets():
                what = ", ".join([repo, *(patterns or ())])
                found.append(Need("data", f"data of {self.task} ({what})", f"sparsemm prefetch {known}"))
        return tuple(found)

    def datasets(self) -> tuple[Dataset, ...]:
        """The repository that the hub must bring; a local folder needs nothing."""
        if self.data is not None:
            return ()
        enough = (*self.files, *(self.image_files or ())) if self.repo and self.files else None
        repo = self.repo or str(read_config(self.task)["dataset_path"])
        return ((repo, self.revision, enough),)

    def check(self) -> None:
        """Raise ValueError for a folder, a file, or a task that cannot be used."""
        if self.data is not None or self.repo:
            tables = self._tables()
            inside = ["image"] if self.image_files and not tables[1] else []
            keys = [] if self.document in (None, "image") else [str(self.document)]
            lmms_data.check_columns(tables[0], [*(self.columns or ()), *keys, *inside])
            if tables[1]:
                lmms_data.check_columns(tables[1], ["id", "image"])
        if self.repo is None:
            check_config(self.task, read_config(self.task))

    def data_id(self) -> str:
        """lmms-eval's version, and the content of the files that are read, local or in the hub cache."""
        table, images = self._tables()
        return f"lmms-eval {version('lmms-eval')} {lmms_data.content_id([*table, *images])}"

    def __len__(self) -> int:
        """Number of questions."""
        total = lmms_data.rows(self._tables()[0]) if self.repo else len(self._harness)
        return total if self.limit is None else min(self.limit, total)

    def ids(self, index: int) -> tuple[str, str]:
        """(sample, document) without decoding an image."""
        name = f"{self.task}-{index:06d}"
        return name, name if self.document is None else str(self._documents[index])

    def sample(self, index: int) -> Sample:
        """The question and the images as lmms-eval asks them."""
        try:
            images, question = self._harness.ask(index)
        except Exception as error:  # image decoders raise whatever they like
            raise ValueError(f"{type(error).__name__}: {error}") from None
        return Sample(
            *self.ids(index), question, self._harness.references(index, self.references), lambda: images
        )

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """An answer ends before the first of these."""
        if self.until is not None:
            return self.until
        until = self._harness.generation.get("until") or ()
        return (until,) if isinstance(until, str) else tuple(until)

    @property
    def answer_tokens(self) -> int | None:
        """Longest answer."""
        if self.max_new_tokens is not None:
            return self.max_new_tokens
        own = self._harness.generation.get("max_new_tokens")
        return None if own is None else int(own)

    def score(self, sample: Sample, answer: str) -> float | None:
        """The answer's own value, in the scale of the score."""
        if self.shares != "sample":
            return None
        return self._number(self._harness.values(_place(sample.id), answer).get(self._metric))

    def total(self, records: Sequence[Mapping[str, Any]]) -> Total:
        """lmms-eval's own score of all answers; what a sample has no share in has None.

        Cells with the same answers, as those whose budget is above every prompt, are scored once.
        """
        answers = tuple((record["sample"], record["answer"], record["error"] is None) for record in records)
        with self._scoring:
            if answers not in self._known:
                self._known[answers] = self._total(records)
            return self._known[answers]

    def _total(self, records: Sequence[Mapping[str, Any]]) -> Total:
        good = [place for place, record in enumerate(records) if record["error"] is None]
        values = {
            place: self._harness.values(_place(records[place]["sample"]), records[place]["answer"])
            for place in good
        }
        counted = {place: value[self._metric] for place, value in values.items() if self._metric in value}
        if not counted:
            return None, [None] * len(records)
        aggregate = self._harness.aggregation(self._metric)
        score = self._scaled(aggregate(list(counted.values())), len(counted))
        found = self._share(counted)
        return score, [found.get(place) for place in range(len(records))]

    def _share(self, values: Mapping[int, Any]) -> Mapping[int, float | None]:
        if self.shares == "sample":
            return {place: self._number(value) for place, value in values.items()}
        own = cider if self.shares == "cider" else circular
        return dict(zip(values, own(list(values.values())), strict=True))

    def _scaled(self, score: float, count: int) -> float | None:
        score = score * self.scale
        if self.out_of is not None:
            score = score * self.out_of / count
        return score if math.isfinite(score) else None

    def _number(self, value: Any) -> float | None:
        plain: Any = value.get("score") if isinstance(value, Mapping) else value
        try:
            number = float(plain)
        except (TypeError, ValueError):
            return None
        return number * self.scale if math.isfinite(number) else None

    def _folder(self) -> Path | None:
        """The repository in the hub cache, or what there is of it."""
        ((repo, revision, patterns),) = self.datasets()
        return lmms_data.snapshot(repo, revision, patterns)

    def _cached(self) -> Tables | None:
        """The tables in the hub cache; None where a part of them is missing."""
        folder = self._folder()
        if folder is None:
            return None
        images = lmms_data.matching(folder, self.image_files or ())
        if self.repo:
            table = lmms_data.matching(folder, self.files or ("**/*.parquet",))
        else:
            table = lmms_data.split_files(folder, read_config(self.task))
        needed = [table, *([images] if self.image_files else [])]
        return (table, images) if all(map(lmms_data.complete, needed)) else None

    def _tables(self) -> Tables:
        """(files with the questions, files with the images where these have their own)."""
        if self.data is not None:
            others = self.image_files or ()
            images = lmms_data.matching(Path(self.data).expanduser(), others)
            return lmms_data.local_files(self.data, self.files or (), others), images
        found = self._cached()
        if found is None:
            raise ValueError(f"task={self.name}: {self.needs()[0]}.")
        return found

    @cached_property
    def _known(self) -> dict[Any, Total]:
        """Scores by answers."""
        return {}

    @cached_property
    def _scoring(self) -> threading.Lock:
        return threading.Lock()

    @cached_property
    def _documents(self) -> list[Any]:
        if self.repo:
            return lmms_data.read_column(self._tables()[0], str(self.document))
        return list(self._harness.texts[str(self.document)])

    @cached_property
    def _metric(self) -> str:
        return self._harness.metric(self.metric_key)

    @cached_property
    def _harness(self) -> Harness:
        config: Config = read_config(self.task)
        check_config(self.task, config)
        table, images = self._tables()
        if self.data is not None or self.repo:
            config = with_files(config, table)
            if images:
                config = with_images(config, images, str(self.document))
            elif self.image_files:
                config["process_docs"] = None
        elif folder := self._folder():
            config = at_folder(config, folder)
        if self.post_prompt is not None:
            config = with_post_prompt(self.task, config, self.post_prompt)
        return Harness(self.task, config)


def _place(sample: str) -> int:
    return int(sample.rpartition("-")[2])
