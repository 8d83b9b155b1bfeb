"""Print the targets of speed and memory beside what bench.json files hold.

python benchmarks/efficiency.py [FILE ...]     without files: outputs/bench/**/bench.json
"""

import sys
from pathlib import Path

from sparsemm.results.efficiency import read
from sparsemm.results.efficiency_targets import to_markdown

files = [Path(name) for name in sys.argv[1:]] or sorted(Path("outputs/bench").rglob("bench.json"))
print(to_markdown(read(files)), end="")
