"""Progress of a worker: a bar in a terminal, plain lines in a log."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

LINE_EVERY_S = 20.0  # between progress lines in a log file


@contextlib.contextmanager
def progress(total: int, done: int, what: str, unit: str = "sample") -> Iterator["tqdm[Any]"]:
    """A progress bar with rate and time left in a terminal, a plain line now and then in a log."""
    live = sys.stderr.isatty()
    with tqdm(
        total=total, initial=done, unit=unit, desc=what, dynamic_ncols=live,
        mininterval=0.2 if live else LINE_EVERY_S, ascii=not live, file=sys.stderr if live else _Lines(),
    ) as bar:  # fmt: skip
        yield bar


class _Lines:
    """A file that gets whole lines where tqdm would redraw one."""

    def write(self, text: str) -> int:
        line = text.replace("\r", "").strip()
        if line:
            sys.stderr.write(line + "\n")
        return len(text)

    def flush(self) -> None:
        sys.stderr.flush()
