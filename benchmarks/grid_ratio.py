"""What a whole grid costs beside its full-cache cell alone: 5 methods x 6 budgets + full, in one process.

    python benchmarks/grid_ratio.py [model folder] [batch of prompts]

Both sides run the same prompts through the same engine in turn; the figure is the median over rounds
(`sparsemm bench measure=grid` does so for any shape and prompt).
Also printed: how many of the grid's answers differ from each cell answered alone.
"""

import platform
import statistics
import sys

import torch
import transformers

from sparsemm.bench.grid import time_grid
from sparsemm.engine.generate import Engine
from sparsemm.methods.allocators.adaptive import Adaptive
from sparsemm.methods.allocators.keep_all import KeepAll
from sparsemm.methods.allocators.pyramid import Pyramid
from sparsemm.methods.allocators.random_heads import RandomHeads
from sparsemm.methods.allocators.uniform import Uniform
from sparsemm.methods.allocators.visual_heads import VisualHeads
from sparsemm.methods.base import Method
from sparsemm.methods.scorers.none import NoScorer
from sparsemm.methods.scorers.window_attention import WindowAttention
from sparsemm.models.qwen2_vl import Qwen2VL
from sparsemm.tasks.synthetic import Documents

BUDGETS = (6, 8, 12, 16, 32, 64)
PROMPTS, ROUNDS, WINDOW, NEW_TOKENS = 32, 7, 4, 6


def grid(layers: int, heads: int) -> list[Method]:
    scores = torch.rand(layers, heads, generator=torch.Generator().manual_seed(0)) ** 4
    allocators = {
        "snapkv": Uniform(),
        "pyramidkv": Pyramid(beta=20),
        "adakv": Adaptive(floor=0.2),
        "sparsemm": VisualHeads(head_scores=scores, rho=0.1),
        "random": RandomHeads(seed=0, rho=0.1),
    }
    full = Method(name="full", scorer=NoScorer(), allocator=KeepAll(), window=1, budget=None)
    scorer = WindowAttention(pool_kernel=5)
    return [full] + [
        Method(name=name, scorer=scorer, allocator=allocator, window=WINDOW, budget=budget)
        for budget in BUDGETS
        for name, allocator in allocators.items()
    ]


def main() -> None:
    path = sys.argv[1] if len(sys.argv) > 1 else "pkg://sparsemm.data/tiny"
    batch = int(sys.argv[2]) if len(sys.argv) > 2 else 8
    adapter = Qwen2VL(name="tiny", path=path, dtype="float32", attention="sdpa", max_pixels=2**20)
    loaded = adapter.load(torch.device("cpu"))
    page = {"entries": [12, 12], "font_size": [18, 20]}
    task = Documents(
        name="documents", max_new_tokens=NEW_TOKENS, limit=PROMPTS, questions=1, first=0, page=page
    )
    prompts = [loaded.prompt(task.sample(i).images()[0], task.sample(i).question) for i in range(PROMPTS)]
    methods = grid(loaded.shape.layers, loaded.shape.query_heads)
    together = Engine(loaded, methods, NEW_TOKENS)
    found = time_grid(loaded, prompts, methods[0], methods, NEW_TOKENS, ROUNDS, batch)
    one_ms, grid_ms = (1000 * statistics.median(one) / PROMPTS for one in (found.full_s, found.grid_s))
    at_once = together.answer(prompts[:batch])
    separate = [Engine(loaded, [method], NEW_TOKENS).answer(prompts[:batch]) for method in methods]
    differ = sum(
        at_once[p][c].token_ids != separate[c][p][0].token_ids
        for p in range(batch)
        for c in range(len(methods))
    )
    print(f"{len(methods)} cells, {PROMPTS} prompts of {prompts[0].tokens} tokens in batches of {batch}")
    print(f"medians of {ROUNDS} rounds, both sides in turn")
    print(f"grid / full cache alone: {found.ratio:.2f} (31 separate runs: about 31)")
    print(f"per prompt: {one_ms:.1f} ms alone, {grid_ms:.1f} ms for the grid")
    print(f"answers that differ from the cell answered alone: {differ} of {batch * len(methods)}")
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads")
    print(f"torch {torch.__version__}, transformers {transformers.__version__}")


if __name__ == "__main__":
    main()
