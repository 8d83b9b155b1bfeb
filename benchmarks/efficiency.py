"""Print the targets of speed and memory beside what bench.json files hold.

python benchmarks/efficiency.py [FILE ...] > benchmarks/EFFICIENCY.md

Without files it reads outputs/bench/**/bench.json.
"""

import sys
from pathlib import Path

from sparsemm.results.efficiency import read
from sparsemm.results.efficiency_targets import to_markdown

INTRO = r"""Printed by `python benchmarks/efficiency.py` from files of `sparsemm bench`, not by hand.
Models have the named shapes and random weights. The targets are of an H200. What fills the table:
```bash
sparsemm bench shape=tiny,qwen2_0_5b prompts=4096 budgets=128 tokens=16 threads=1 rounds=11

sparsemm bench device=cuda measure=kernel budgets=256,2048,4096 rows=1,32 \
  shape=qwen2_vl_7b,llava_next_vicuna_7b,llava_next_mistral_7b
sparsemm bench device=cuda backend=triton measure=prefill prompts=8192,32768 methods=sparsemm budgets=256 \
  shape=llava_next_vicuna_7b,qwen2_vl_7b
sparsemm bench device=cuda backend=triton measure=decode,memory prompts=32768 budgets=256 tokens=100 \
  decode=graph,compiled shape=llava_next_vicuna_7b,qwen2_vl_7b          # and with backend=cuda
```"""

files = [Path(name) for name in sys.argv[1:]] or sorted(Path("outputs/bench").rglob("bench.json"))
print(to_markdown(read(files), INTRO), end="")
