"""Long work shows itself: a bar with rate and time left in a terminal, plain lines in a log file."""

import io
import os
import re
import sys

import pytest

from sparsemm.sweep import progress as module
from sparsemm.sweep.progress import progress

RATE_AND_LEFT = re.compile(r"3 cells: +\d+%\|.*\| (\d+)/8 \[\d\d:\d\d<[\d:?]+, .*(?:sample/s|s/sample)\]")


class Stream(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


def shown(monkeypatch: pytest.MonkeyPatch, terminal: bool, every_s: float) -> str:
    """What a work of 8 samples writes, 2 of which were done before."""
    stream = Stream(terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(module, "LINE_EVERY_S", every_s)
    with progress(8, 2, "3 cells") as bar:
        for _ in range(3):
            bar.update(2)
            bar.refresh() if terminal else None
    return stream.getvalue()


def test_a_terminal_has_one_line_with_rate_and_time_left(monkeypatch):
    text = shown(monkeypatch, True, 20.0)
    assert text.count("\n") == 1 and text.count("\r") >= 4  # drawn anew in place
    drawn = [match[1] for line in text.split("\r") if (match := RATE_AND_LEFT.search(line))]
    assert drawn[0] == "2" and drawn[-1] == "8"


def test_a_terminal_that_does_not_say_its_width_has_the_line_too(monkeypatch):
    pty = pytest.importorskip("pty", reason="needs a system with pseudo-terminals")
    ours, theirs = pty.openpty()  # its width is 0
    with os.fdopen(theirs, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        with progress(8, 2, "3 cells") as bar:
            bar.update(6)
        terminal.flush()
        text = os.read(ours, 65536).decode()
    os.close(ours)
    assert RATE_AND_LEFT.search(text)


def test_short_work_shows_nothing(monkeypatch):
    stream = Stream(terminal=True)
    monkeypatch.setattr(sys, "stderr", stream)
    with progress(8, 0, "3 cells", after_s=60.0) as bar:
        bar.update(8)
    assert stream.getvalue() == ""


def test_a_log_has_whole_lines_with_rate_and_time_left(monkeypatch):
    text = shown(monkeypatch, False, 0.0)
    assert "\r" not in text and "\x1b" not in text
    lines = text.splitlines()
    assert [RATE_AND_LEFT.search(line)[1] for line in lines][:4] == ["2", "4", "6", "8"]
    assert text.isascii()


def test_a_log_is_not_flooded(monkeypatch):
    assert len(shown(monkeypatch, False, 20.0).splitlines()) == 2  # when it begins and when it ends
