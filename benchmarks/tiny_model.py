"""How well the tiny model reads with the full cache, on pages that it never saw.

python benchmarks/tiny_model.py [model folder] [samples]
"""

import sys

import torch
from tqdm import tqdm

from sparsemm.engine.generate import Engine
from sparsemm.methods.allocators.keep_all import KeepAll
from sparsemm.methods.base import Method
from sparsemm.methods.scorers.none import NoScorer
from sparsemm.models.base import LoadedModel
from sparsemm.models.qwen2_vl import Qwen2VL
from sparsemm.tasks.pages import EVAL_ONLY_FONTS, SHARED_FONTS
from sparsemm.tasks.synthetic import Charts, Documents, Reading, SyntheticTask

FULL = Method(name="full", scorer=NoScorer(), allocator=KeepAll(), window=1, budget=None)
BATCH = 16


def tasks(samples: int) -> list[SyntheticTask]:
    shared = {"fonts": list(SHARED_FONTS)}

    def documents(side: int, entries: int, fonts: tuple[str, ...] = SHARED_FONTS) -> Documents:
        page = {"width": side, "height": side, "entries": [entries, entries], "fonts": list(fonts)}
        unseen = ", in the font that training never saw" if fonts == EVAL_ONLY_FONTS else ""
        name = f"documents, {side}x{side}, {entries} entries{unseen}"
        return Documents(name=name, max_new_tokens=8, limit=samples // 2, questions=2, first=0, page=page)

    return [
        documents(256, 12),
        documents(256, 12, EVAL_ONLY_FONTS),
        documents(384, 16),
        Reading(
            name="reading",
            max_new_tokens=48,
            limit=samples,
            questions=1,
            first=0,
            page={"entries": [3, 3], **shared},
        ),
        Charts(
            name="charts",
            max_new_tokens=8,
            limit=samples // 2,
            questions=2,
            first=0,
            page={"entries": [4, 8], **shared},
        ),
    ]


def evaluate(loaded: LoadedModel, task: SyntheticTask) -> tuple[float, float, int]:
    """(exact match, the task's score, prompt tokens)."""
    engine, exact, score, tokens = Engine(loaded, [FULL], task.max_new_tokens), 0, 0.0, 0
    for start in tqdm(range(0, len(task), BATCH), desc=task.name):
        samples = [task.sample(index) for index in range(start, min(start + BATCH, len(task)))]
        prompts = [loaded.prompt(sample.images()[0], sample.question) for sample in samples]
        for sample, (answer,) in zip(samples, engine.answer(prompts), strict=True):
            text = loaded.text(answer.token_ids)
            exact += text in sample.references
            score += task.score(sample, text)
            tokens = answer.prompt_tokens
    return exact / len(task), score / len(task), tokens


def main() -> None:
    path = sys.argv[1] if len(sys.argv) > 1 else "pkg://sparsemm.data/tiny"
    samples = int(sys.argv[2]) if len(sys.argv) > 2 else 500
    adapter = Qwen2VL(name="tiny", path=path, dtype="float32", attention="sdpa", max_pixels=2**20)
    loaded = adapter.load(torch.device("cpu"))
    print("| task | n | prompt tokens | exact match | score | metric |\n|---|---|---|---|---|---|")
    for task in tasks(samples):
        exact, score, tokens = evaluate(loaded, task)
        print(
            f"| {task.name} | {len(task)} | {tokens} | {exact:.3f} | {score:.3f} | {task.metric} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
