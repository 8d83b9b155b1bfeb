"""Progress of a worker: a bar in a terminal, plain lines in a log."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

LINE_EVERY_S = 20.0  # between progress lines in a log file
SIZE = (80, 24)  # columns and rows of a terminal that does not say how large it is


@contextlib.contextmanager
def progress(
    total: int, done: int, what: str, unit: str = "sample", after_s: float = 0.0
) -> Iterator["tqdm[Any]"]:
    """A progress bar with rate and time left in a terminal, a plain line now and then in a log.

    Args:
        total: units of work.
        done: those that were done before.
        what: is going on.
        unit: of work, in one word.
        after_s: work that ends sooner shows nothing.
    """
    live = sys.stderr.isatty()
    columns, rows = SIZE if live and _sizeless() else (None, None)
    with tqdm(
        total=total, initial=done, unit=unit, desc=what, dynamic_ncols=live and not columns,
        delay=after_s, mininterval=0.2 if live else LINE_EVERY_S, ascii=not live,
        file=sys.stderr if live else _Lines(), ncols=columns, nrows=rows,
    ) as bar:  # fmt: skip
        yield bar


def _sizeless() -> bool:
    """Say whether the terminal claims to have no columns, as below `script`: tqdm would show nothing."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns == 0
    except OSError:
        return False


class _Lines:
    """A file that gets whole lines where tqdm would redraw one."""

    def write(self, text: str) -> int:
        line = text.replace("\r", "").strip()
        if line:
            sys.stderr.write(line + "\n")
        return len(text)

    def flush(self) -> None:
        sys.stderr.flush()
