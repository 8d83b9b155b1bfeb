"""What watching the heads costs beside plain greedy generation of the same tokens, in one process.

    python benchmarks/head_search.py [samples]

The search reads a page, matches every token and scores every head; plain generation is transformers' own
generate() with its own cache. Both sides take turns; the figure is the median over rounds.
"""

import platform
import statistics
import sys
import time
from pathlib import Path

import sparsemm.conf
import torch
import transformers
import yaml

from sparsemm.config import build
from sparsemm.heads.search import score_sample
from sparsemm.heads.watch import read

ROUNDS = 7


def main() -> None:
    samples = int(sys.argv[1]) if len(sys.argv) > 1 else 4
    conf = Path(sparsemm.conf.__path__[0])
    adapter = build(yaml.safe_load((conf / "model" / "tiny.yaml").read_text()))
    source = build(yaml.safe_load((conf / "data" / "synthetic.yaml").read_text()))
    loaded = adapter.load(torch.device("cpu"))
    chosen = [source.sample(index) for index in range(samples)]
    images = [sample.image() for sample in chosen]

    def plain() -> tuple[float, list[list[int]]]:
        began, said = time.perf_counter(), []
        for image in images:
            prompt = loaded.prompt(image, source.question)
            inputs = {name: value for name, value in prompt.inputs.items() if name != "position_ids"}
            tokens = loaded.model.generate(
                **inputs, attention_mask=torch.ones_like(inputs["input_ids"]), do_sample=False,
                max_new_tokens=source.max_new_tokens, eos_token_id=list(loaded.eos_ids), pad_token_id=0,
            )  # fmt: skip
            said.append(
                [token for token in tokens[0, prompt.tokens :].tolist() if token not in loaded.eos_ids]
            )
        return time.perf_counter() - began, said

    def search() -> float:
        began = time.perf_counter()
        for sample in chosen:
            score_sample(loaded, sample, source)
        return time.perf_counter() - began

    _, said = plain()
    watched = [
        list(read(loaded, loaded.prompt(image, source.question), source.max_new_tokens).tokens)
        for image in images
    ]
    assert watched == said, "the two sides did not say the same"
    prompt_tokens = loaded.prompt(images[0], source.question).tokens
    rounds = [(plain()[0], search()) for _ in range(ROUNDS)]
    ratio = statistics.median(search_s / plain_s for plain_s, search_s in rounds)
    tokens = sum(map(len, said))
    plain_ms, search_ms = (1000 * statistics.median(side) / tokens for side in zip(*rounds, strict=True))
    print(f"search / plain generation: {ratio:.2f}, median of {ROUNDS} rounds")
    print(f"{samples} pages of {prompt_tokens} tokens, {tokens} tokens said")
    print(f"per token: {search_ms:.2f} ms against {plain_ms:.2f} ms")
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads")
    print(f"torch {torch.__version__}, transformers {transformers.__version__}")


if __name__ == "__main__":
    main()
