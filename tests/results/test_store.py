"""What the store promises: nothing that was written is lost, whatever stops the writer."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsemm.results.files import StorageError
from sparsemm.results.store import FORMAT, Store

FP = "ab" + "0" * 18


def record(sample: str, index: int = 0, **extra: Any) -> dict[str, Any]:
    return {"sample": sample, "document": "d", "index": index, "score": 1.0, "error": None, **extra}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_lowest_attempt_wins_and_samples_are_ordered_by_index(store: Store) -> None:
    cell = store.cell(FP)
    first, second = cell.begin_attempt("a"), cell.begin_attempt("b")
    second.append([record("s2", 2, answer="second"), record("s1", 1, answer="second")])
    first.append([record("s1", 1, answer="first"), record("s1", 1, answer="again")])
    merged = cell.samples()
    assert {name: r["answer"] for name, r in merged.records.items()} == {"s1": "first", "s2": "second"}
    assert list(merged.records) == ["s1", "s2"]
    assert (merged.attempts, merged.torn, merged.unreadable) == (2, 0, 0)


def test_attempts_get_their_own_numbered_files(store: Store) -> None:
    cell = store.cell(FP)
    numbers = [cell.begin_attempt(f"w{k}").number for k in range(3)]
    assert numbers == [1, 2, 3]
    (cell.path / "samples-0002.jsonl").unlink()
    assert cell.begin_attempt("late").number == 4


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 1))
def test_a_file_cut_anywhere_keeps_every_whole_line(
    tmp_path_factory: pytest.TempPathFactory, share: float
) -> None:
    cell = Store(tmp_path_factory.mktemp("store")).cell(FP)
    with cell.begin_attempt("w") as attempt:
        attempt.append([record(f"s{k}", k, answer="é🙂") for k in range(5)])
    whole = attempt.path.read_bytes()
    cut = round(share * len(whole))
    attempt.path.write_bytes(whole[:cut])
    merged = cell.samples()
    lines = whole[:cut].count(b"\n")
    assert list(merged.records) == [f"s{k}" for k in range(max(lines - 1, 0))]
    assert merged.torn == (cut > 0 and whole[cut - 1 : cut] != b"\n")
    assert merged.unreadable == 0


def test_unreadable_lines_are_counted_and_their_samples_taken_from_later_attempts(store: Store) -> None:
    cell = store.cell(FP)
    first, second = cell.begin_attempt("a"), cell.begin_attempt("b")
    first.append([record("s0")])
    with first.path.open("ab") as file:
        file.write(b'\x00\x00\n{"sample": "s1", "sco\n[1]\n\xff\xfe\n')
    second.append([record("s1", 1)])
    merged = cell.samples()
    assert list(merged.records) == ["s0", "s1"]
    assert (merged.unreadable, merged.torn) == (4, 0)


def test_result_comes_back_as_written_and_clears_the_failure(store: Store) -> None:
    cell = store.cell(FP)
    assert cell.result() is None and cell.failure() is None
    cell.write_failure("out of memory")
    assert cell.failure() == "out of memory" and store.failures([FP]) == {FP: "out of memory"}
    cell.write_result({"score": 0.5})
    assert cell.result() == {"format": FORMAT, "fingerprint": FP, "score": 0.5}
    assert cell.failure() is None
    assert store.results() == store.results([FP]) == [cell.result()]


def test_truncated_result_counts_as_not_finished(store: Store) -> None:
    cell = store.cell(FP)
    cell.write_result({"score": 0.5, "documents": {"scores": [0.25] * 50}})
    path = cell.path / "result.json"
    whole = path.read_bytes()
    for size in (0, 1, len(whole) // 2, len(whole) - 2):
        path.write_bytes(whole[:size])
        assert cell.result() is None
        assert store.finished([FP]) == set()
    path.write_bytes(bytes(len(whole)))  # what a crash leaves on some file systems
    assert cell.result() is None


def test_result_of_a_newer_version_says_what_to_do(store: Store) -> None:
    cell = store.cell(FP)
    cell.write_result({"format": FORMAT + 1})
    for read in (cell.result, store.results):
        with pytest.raises(ValueError, match=r"result.json: format=2: .*update this one"):
            read()


def test_results_skips_cells_that_are_not_there(store: Store) -> None:
    store.cell(FP).write_result({"score": 1.0})
    store.cell("cd" * 10).begin_attempt("w").close()
    assert [r["fingerprint"] for r in store.results(["ff" * 10, "cd" * 10, FP])] == [FP]
    assert [r["fingerprint"] for r in store.results()] == [FP]
    assert Store(store.root / "empty").results() == []


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Store(Path("~/outputs")).cells == tmp_path / "outputs" / "cells"


def test_config_is_yaml_for_people(store: Store) -> None:
    settings = {"budget": "10%", "model": {"name": "tiny", "revision": None}}
    store.cell(FP).write_config(settings)
    text = (store.cell(FP).path / "config.yaml").read_text()
    assert yaml.safe_load(text) == settings and text.startswith("budget: 10%\n")


def test_not_a_number_never_reaches_a_file(store: Store) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        store.cell(FP).write_result({"score": float("nan")})
    assert store.cell(FP).result() is None


def test_killed_writer_leaves_every_synced_batch(store: Store) -> None:
    code = f"""
import os, signal
from pathlib import Path
from sparsemm.results.store import Store
attempt = Store(Path({str(store.root)!r})).cell({FP!r}).begin_attempt("w")
for k in range(3):
    attempt.append([{{"sample": f"s{{k}}-{{i}}", "index": k}} for i in range(4)])
os.write(attempt._descriptor, b'{{"sample": "half')
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=300).returncode == -9
    merged = store.cell(FP).samples()
    assert (len(merged.records), merged.torn, merged.unreadable) == (12, 1, 0)
    assert store.cell(FP).begin_attempt("next").number == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 64 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_full_disk_keeps_what_was_written_and_says_what_to_do(small_disk: Path) -> None:
    store = Store(small_disk)
    cell = store.cell(FP)
    attempt = cell.begin_attempt("w")
    batches = 0
    with pytest.raises(StorageError, match=r"samples-0001.jsonl: .*No space left.*output=FOLDER") as caught:
        while True:
            attempt.append([record(f"s{batches}-{k}", batches, answer="x" * 300) for k in range(10)])
            batches += 1
    assert caught.value.errno == 28 and batches > 3
    merged = cell.samples()
    assert len(merged.records) >= 10 * batches and merged.unreadable == 0
    with pytest.raises(ValueError, match="attempt is closed"):
        attempt.append([record("more")])
    with pytest.raises(StorageError, match=r"result\.json"):
        cell.write_result({"documents": {"scores": [0.123] * 20000}})
    assert cell.result() is None and not list(cell.path.glob(".tmp-*"))

    (small_disk / "ballast").unlink(missing_ok=True)
    subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)  # space is freed
    again = cell.begin_attempt("w2")
    again.append([record("after", 10**6)])
    assert again.number == 2 and "after" in cell.samples().records
    assert merged.records.items() <= cell.samples().records.items()
    cell.write_result({"score": 1.0})
    assert cell.result() is not None


def test_a_write_that_stops_in_the_middle_of_a_line_is_one_torn_line(tmp_path: Path) -> None:
    """RLIMIT_FSIZE stops a real write after some of its bytes, as a full disk does, without root."""
    code = f"""
import resource, signal
from pathlib import Path
from sparsemm.results.store import Store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
attempt = Store(Path({str(tmp_path)!r})).cell({FP!r}).begin_attempt("w")
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    attempt.append([{{"sample": f"s{{k}}", "index": k, "answer": "x" * 90}} for k in range(20)])
except OSError as error:
    print(error)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert "File too large" in ran.stdout and "run the same command again" in ran.stdout, ran.stderr
    merged = Store(tmp_path).cell(FP).samples()
    assert merged.torn == 1 and merged.unreadable == 0 and 3 < len(merged.records) < 12
