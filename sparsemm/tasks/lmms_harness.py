"""lmms-eval 0.7.3's own documents, prompts, images and scoring: the one place that imports it.

Prompts are those that its wrappers of LLaVA-NeXT and Qwen2-VL get: none of the eight benchmarks has a variant
for them, so `default` of a task's lmms_eval_specific_kwargs.
"""

import contextlib
import inspect
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from PIL import Image, ImageFile

from sparsemm.tasks import lmms_data
from sparsemm.tasks.lmms_shares import quiet

Config = dict[str, Any]
_reading = threading.RLock()  # what a function in a YAML file means to lmms-eval holds for the process
GREEDY = {"do_sample": (False, None), "temperature": (0, None), "num_beams": (1, None)}


@cache
def _library() -> Any:
    """lmms_eval.tasks, without the messages that it writes for developers.

    Importing it lets Pillow fill the missing half of a torn image with grey; here that stays an error.
    """
    import datasets

    torn = ImageFile.LOAD_TRUNCATED_IMAGES
    import lmms_eval.api.task
    import lmms_eval.tasks
    from loguru import logger

    ImageFile.LOAD_TRUNCATED_IMAGES = torn
    with contextlib.suppress(ValueError):
        logger.remove(0)  # the handler that prints everything
        logger.add(sys.stderr, level="ERROR")
    datasets.disable_progress_bars()
    return lmms_eval.tasks


@cache
def _index(folder: Path | None) -> Any:
    """The tasks below a folder of lmms-eval's; None: all of them, which takes seconds."""
    tasks = _library()
    if folder is None:
        return tasks.TaskManager("ERROR")
    return tasks.TaskManager("ERROR", include_path=str(folder), include_defaults=False)


def read_config(name: str) -> Config:
    """A task's configuration with functions that nobody else holds: some keep counts in their module.

    Raises:
        ValueError: no such task, a group of tasks, or a task that is a class.
    """
    with _reading:
        return _read_config(name)


def _read_config(name: str) -> Config:
    near = Path(_library().__file__).parent / name.split("_")[0]
    index = _index(near) if near.is_dir() else _index(None)
    if name not in index.all_tasks:
        index = _index(None)
    kind = index.task_index.get(name, {}).get("type")
    if kind == "task":
        return dict(index._get_config(name))
    if kind is None:
        import difflib

        close = difflib.get_close_matches(name, index.all_subtasks, n=3)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise ValueError(f"task.task={name}: lmms-eval has no such task.{hint}")
    if kind == "python_task":
        raise ValueError(f"task.task={name}: lmms-eval makes it with a class of its own. Choose another.")
    inside = index.task_index[name]["task"]
    names = index._get_config(name).get("task", []) if inside == -1 else inside
    raise ValueError(f"task.task={name}: a group of tasks. Choose one: {', '.join(map(str, names))}.")


def check_config(name: str, config: Mapping[str, Any]) -> None:
    """Raise ValueError for a task that is not answered by one greedy generation."""
    kind = config.get("output_type", "generate_until")
    if kind != "generate_until":
        raise ValueError(
            f"task.task={name}: its output_type is {kind}, and only generate_until can be answered here. "
            "Choose a generation task."
        )
    asked = config.get("generation_kwargs") or {}
    for key, allowed in GREEDY.items():
        if asked.get(key, allowed[0]) not in allowed:
            raise ValueError(
                f"task.task={name}: it asks for {key}={asked[key]}, and answers are greedy here. "
                "Choose a task that does not sample."
            )


def with_post_prompt(name: str, config: Config, text: str) -> Config:
    """The configuration with other words after every question.

    Raises:
        ValueError: a task that adds nothing to its questions.
    """
    variants = dict(config.get("lmms_eval_specific_kwargs") or {})
    default = dict(variants.get("default") or {})
    if "post_prompt" not in {**variants, **default}:
        raise ValueError(f"task.post_prompt: {name} has no place for it. Set task.post_prompt=null.")
    variants["default"] = {**default, "post_prompt": text}
    return {**config, "lmms_eval_specific_kwargs": variants}


def with_files(config: Config, files: Sequence[Path]) -> Config:
    """The configuration with a table of parquet files instead of a repository."""
    kwargs: Config = {"data_files": {lmms_data.split_of(config): [str(file) for file in files]}}
    if features := _features(files[0]):
        kwargs["features"] = features
    return {**config, "dataset_path": "parquet", "dataset_name": None, "dataset_kwargs": kwargs}


def at_folder(config: Config, folder: Path) -> Config:
    """The configuration with a copy of its repository; nothing is downloaded."""
    kwargs = dict(config.get("dataset_kwargs") or {})
    kwargs.pop("token", None)
    return {**config, "dataset_path": str(folder), "dataset_kwargs": kwargs}


def with_images(config: Config, files: Sequence[Path], key: str) -> Config:
    """The configuration with images from a table of their own (id, image); `key` is a document's column.

    lmms-eval's GQA copies the image into every row before it starts; here a row's image is looked up when it
    is asked for.
    """
    import datasets

    table = datasets.load_dataset("parquet", data_files={"images": [str(file) for file in files]})["images"]
    places = {name: place for place, name in enumerate(table["id"])}
    visual: Callable[..., Any] = config["doc_to_visual"]

    def doc_to_visual(doc: Mapping[str, Any]) -> Any:
        return visual({**doc, "image": table[places[doc[key]]]["image"]})

    return {**config, "process_docs": None, "doc_to_visual": doc_to_visual}


def _features(file: Path) -> Any:
    """The table's features where its file does not say that a column holds images; else None."""
    import datasets
    import pyarrow

    _, schema = lmms_data.metadata(file)
    arrow = schema.to_arrow_schema() if hasattr(schema, "to_arrow_schema") else schema
    features = datasets.Features.from_arrow_schema(arrow)
    found = {
        field.name: datasets.Image()
        for field in arrow
        if not isinstance(features[field.name], datasets.Image)
        and (
            (field.name == "image" and pyarrow.types.is_binary(field.type))
            or (
                pyarrow.types.is_struct(field.type)
                and {inner.name for inner in field.type} == {"bytes", "path"}
            )
        )
    }
    return datasets.Features({**features, **found}) if found else None


class Harness:
    """One lmms-eval task in memory.

    Args:
        name: lmms-eval's name of it.
        config: from `read_config`, with other data or prompts where wanted.
    """

    def __init__(self, name: str, config: Config):
        _library()
        from lmms_eval.api.task import ConfigurableMessagesTask

        self.name = name
        with _reading, _told(f"task.task={name}: its documents cannot be loaded"):
            self.task = ConfigurableMessagesTask(config={**config, "task": name})
        media = getattr(self.task.config, "process_results_use_image", False)
        self.docs = self.task.eval_docs
        self.texts = self.docs if media else self.task.eval_docs_no_media

    def __len__(self) -> int:
        """Number of documents."""
        return len(self.docs)

    @property
    def generation(self) -> Mapping[str, Any]:
        """The task's generation_kwargs; `until` is a blank line where the task names nothing."""
        return dict(self.task.config.generation_kwargs)

    def ask(self, place: int) -> tuple[list[Image.Image], str]:
        """Images and question of a document."""
        return from_messages(self.task.doc_to_messages(self.docs[place]))

    def references(self, place: int, column: str | None) -> tuple[str, ...]:
        """Answers that count as right, from a column; None: what the task calls its target."""
        doc = self.texts[place]
        found = self.task.doc_to_target(doc) if column is None else doc[column]
        several = found if isinstance(found, list | tuple) else [found]
        return tuple(str(one["answer"] if isinstance(one, Mapping) else one) for one in several)

    def values(self, place: int, answer: str) -> Mapping[str, Any]:
        """What the task makes of an answer: a value per metric, for `aggregate`."""
        from lmms_eval.api.reasoning import parse_reasoning_tags_config, strip_reasoning_tags

        request = SimpleNamespace(resps=[answer], filtered_resps={})
        ensemble = self.task._filters[0]
        ensemble.apply([request], self.task.task_docs)
        text = request.filtered_resps[ensemble.name]
        tags = parse_reasoning_tags_config(task_value=self.task.config.reasoning_tags)
        if tags is not None and isinstance(text, str):
            text = strip_reasoning_tags(text, tags)
        with _told(f"task.task={self.name}: the answer to document {place} cannot be scored"):
            return dict(self.task.process_results(self.texts[place], [text]))

    def metric(self, wanted: str | None) -> str:
        """The metric by name, or the task's first.

        Raises:
            ValueError: the task has no such metric.
        """
        known = list(self.task.aggregation())
        if wanted is not None and wanted not in known:
            raise ValueError(f"task.metric_key={wanted}: {self.name} has {', '.join(known)}.")
        return wanted or known[0]

    def aggregation(self, metric: str) -> Callable[[Sequence[Any]], float]:
        """The task's final score from its documents' values; files that it writes are thrown away.

        Counts that a benchmark keeps in its module begin at zero: take a new one for every score.
        """
        listed = read_config(self.name).get("metric_list") or []
        own = next((one.get("aggregation") for one in listed if one["metric"] == metric), None)
        function = own if callable(own) else self.task.aggregation()[metric]
        takes_args = "args" in inspect.signature(function).parameters

        def aggregate(values: Sequence[Any]) -> float:
            with quiet(), tempfile.TemporaryDirectory() as folder:
                extra = {"args": SimpleNamespace(output_path=folder)} if takes_args else {}
                return float(function(list(values), **extra))

        return aggregate


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """lmms-eval tries everything several times, and then says only that it did: give the reason."""
    from tenacity import RetryError

    try:
        yield
    except RetryError as error:
        cause = error.last_attempt.exception()
        raise ValueError(f"{what} ({type(cause).__name__}: {cause}).") from cause


def from_messages(messages: Sequence[Mapping[str, Any]]) -> tuple[list[Image.Image], str]:
    """Images and text of one user turn; images come first, as our prompts have them.

    Raises:
        ValueError: several turns, video or sound, or an image after text.
    """
    if len(messages) != 1 or messages[0]["role"] != "user":
        raise ValueError("the prompt has several turns; only one user turn can be asked here")
    images: list[Image.Image] = []
    texts: list[str] = []
    for part in messages[0]["content"]:
        if part["type"] == "text":
            texts.append(part["text"])
        elif part["type"] != "image":
            raise ValueError(f"the prompt holds {part['type']}; only images and text can be asked here")
        elif texts:
            raise ValueError("the prompt has an image after text; images come first here")
        else:
            image = part["url"]
            images.append(image if isinstance(image, Image.Image) else Image.open(image))
    return images, "".join(texts)
