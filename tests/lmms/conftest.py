"""Small local data of every benchmark, lmms-eval run on it without our task classes, and a small model."""

import importlib.util
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sparsemm.api import compose_settings
from sparsemm.config import build_task
from sparsemm.models.small import save_small
from sparsemm.tasks.lmms import LmmsTask
from sparsemm.tasks.schemas import BENCHMARKS, FILES
from sparsemm.tasks.small import write_small

SAMPLES = 6
PACKAGES = ("lmms_eval", "datasets", "pyarrow", "pycocoevalcap")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    for item in items:
        if "tests/lmms" in str(item.path) and missing:
            item.add_marker(pytest.mark.skip(reason=f"needs sparsemm[eval]: {', '.join(missing)} is missing"))


def needs_java(benchmark: str) -> Any:
    """The benchmark as a test's parameter; CIDEr's tokenizer is written in Java."""
    skip = pytest.mark.skipif(
        benchmark == "textcaps" and shutil.which("java") is None, reason="Java is missing"
    )
    return pytest.param(benchmark, marks=skip)


ALL = [needs_java(benchmark) for benchmark in BENCHMARKS]


@pytest.fixture(scope="session", autouse=True)
def _offline(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Nothing here may ask the network, or leave files in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_DATASETS_OFFLINE", "1")
        patch.setenv("LMMS_EVAL_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))
        yield


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """<benchmark>/ with its parquet files."""
    folder = tmp_path_factory.mktemp("benchmarks")
    for benchmark in BENCHMARKS:
        write_small(benchmark, folder / benchmark, SAMPLES)
    return folder


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random Qwen2-VL."""
    folder = tmp_path_factory.mktemp("small") / "qwen2_vl"
    save_small("qwen2_vl", folder)
    return folder


def rewrite(file: Path, change: Callable[[Any], Any]) -> None:
    """Write a parquet file anew with its rows changed."""
    from pyarrow import parquet

    table = parquet.read_table(file)
    parquet.write_table(change(table), file)


def make_task(*overrides: str) -> LmmsTask:
    """A task as the command line makes it."""
    return build_task(compose_settings(*overrides))


@pytest.fixture(scope="session")
def task_of(data: Path) -> Callable[..., LmmsTask]:
    """(benchmark, overrides) -> our task on the local data; made once."""
    made: dict[tuple[str, ...], LmmsTask] = {}

    def task(benchmark: str, *overrides: str) -> LmmsTask:
        if (benchmark, *overrides) not in made:
            made[benchmark, *overrides] = make_task(
                f"task={benchmark}", f"task.data={data / benchmark}", *overrides
            )
        return made[benchmark, *overrides]

    return task


def evaluate(model: Any, benchmark: str, data: Path, **kwargs: Any) -> Mapping[str, Any]:
    """lmms-eval's simple_evaluate() of a model on the local data, with lmms-eval's own loading.

    The working directory must be a temporary one: metrics write files there.
    """
    import datasets
    import lmms_eval.tasks
    from lmms_eval.evaluator import simple_evaluate

    task = make_task(f"task={benchmark}")
    inside = Path(lmms_eval.tasks.__file__).parent / task.task.split("_")[0]
    manager = lmms_eval.tasks.TaskManager("ERROR", include_path=str(inside), include_defaults=False)
    base = manager._get_config(task.task)
    config = {
        "task": task.task,
        "dataset_path": "parquet",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {base["test_split"]: str(data / benchmark / FILES[benchmark])}},
        "metric_list": [one for one in base["metric_list"] if one["metric"] == task.metric_key],
    }
    with pytest.MonkeyPatch.context() as patch:
        if benchmark == "gqa":  # it fetches its images from the hub, and copies them into the rows
            images = datasets.load_dataset(
                "parquet", data_files={"testdev": str(data / "gqa" / FILES["gqa_images"])}
            )
            load, copy = datasets.load_dataset, datasets.Dataset.map

            def load_local(path: str, *arguments: Any, **options: Any) -> Any:
                local = path == "lmms-lab-encoder/GQA"
                return images["testdev"] if local else load(path, *arguments, **options)

            patch.setattr(datasets, "load_dataset", load_local)
            patch.setattr(datasets.Dataset, "map", lambda self, function, num_proc: copy(self, function))
        tasks = list(manager.load_task_or_group([config], "chat").values())
    return simple_evaluate(
        model, tasks=tasks, task_manager=manager, bootstrap_iters=0, process_docs_parallel=1, **kwargs
    )


def score_of(results: Mapping[str, Any], task: LmmsTask) -> float:
    """lmms-eval's number."""
    return float(results["results"][task.task][f"{task.metric_key},none"])


class Given:
    """Makes the lmms-eval model that gives fixed answers, by document."""

    def __new__(cls, answers: Sequence[str]) -> Any:
        from lmms_eval.api.model import lmms

        class Model(lmms):
            is_simple = False

            def generate_until(self, requests: Any) -> list[str]:
                return [answers[request.args[3]] for request in requests]

            def loglikelihood(self, requests: Any) -> Any:
                raise NotImplementedError

            def generate_until_multi_round(self, requests: Any) -> Any:
                raise NotImplementedError

        return Model()


def records_of(task: LmmsTask, answers: Sequence[str]) -> list[dict[str, Any]]:
    """As a worker writes them."""
    records = []
    for index, answer in enumerate(answers):
        sample = task.sample(index)
        kept = SimpleNamespace(id=sample.id, document=sample.document)
        records.append(
            {"sample": kept.id, "document": kept.document, "answer": answer,
             "score": task.score(sample, answer), "error": None}
        )  # fmt: skip
    return records
