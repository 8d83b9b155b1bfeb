"""Equal content has equal digests, wherever it lies; other content never has."""

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from sparsemm import content
from sparsemm.content import file_digest

LONG_AGO = 1_600_000_000


@pytest.fixture
def kept(tmp_path, monkeypatch) -> Path:
    """An empty cache folder; every file counts as large, and as long unchanged."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(content, "_LARGE", 0)
    monkeypatch.setattr(content, "_SETTLED_NS", -1)
    monkeypatch.setattr(content, "_known", {})
    return tmp_path / "cache" / "sparsemm" / "digests"


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """Names of the files that are read whole."""
    seen: list[str] = []
    real = hashlib.file_digest

    def watched(stream, kind):
        seen.append(Path(stream.name).name)
        return real(stream, kind)

    monkeypatch.setattr(hashlib, "file_digest", watched)
    return seen


def blob(root: Path, name: str, data: bytes, repo: str = "models--someone--model") -> Path:
    """A file of a snapshot in a hub cache, and its blob."""
    (root / repo / "blobs").mkdir(parents=True)
    (root / repo / "snapshots" / "c").mkdir(parents=True)
    (root / repo / "blobs" / name).write_bytes(data)
    link = root / repo / "snapshots" / "c" / "model.safetensors"
    link.symlink_to(Path("../../blobs") / name)
    return link


def test_files_that_differ_in_one_byte_anywhere_differ(tmp_path):
    base = bytearray(3 * 2**20)
    digests = set()
    for place in (None, 0, len(base) // 2, len(base) - 1):
        data = bytearray(base)
        if place is not None:
            data[place] = 1
        (tmp_path / "weights").write_bytes(data)
        digests.add(file_digest(tmp_path / "weights"))
    assert len(digests) == 4


@pytest.mark.parametrize("repo", ["models--someone--model", "datasets--someone--data"])
def test_a_large_file_in_the_hub_cache_is_not_read_and_equals_its_local_copy(tmp_path, reads, repo):
    data = b"weights" * 100
    link = blob(tmp_path, hashlib.sha256(data).hexdigest(), data, repo)
    digest = file_digest(link)
    assert reads == []
    shutil.copy(link, tmp_path / "copy")
    assert file_digest(tmp_path / "copy") == digest
    assert reads == ["copy"]


def test_a_small_file_in_the_hub_cache_has_the_digest_of_its_content(tmp_path):
    """Its blob has git's name: 40 digits, not of the content alone."""
    assert file_digest(blob(tmp_path, "a" * 40, b"{}")) == hashlib.sha256(b"{}").hexdigest()


def test_a_link_to_a_file_that_only_looks_like_a_blob_is_read(tmp_path):
    (tmp_path / ("b" * 64)).write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / ("b" * 64))
    assert file_digest(tmp_path / "link") == hashlib.sha256(b"x").hexdigest()


def test_a_dead_link_into_the_hub_cache_has_no_digest(tmp_path):
    link = blob(tmp_path, "c" * 64, b"x")
    link.resolve().unlink()
    with pytest.raises(FileNotFoundError):
        file_digest(link)


def test_a_large_file_is_read_once_for_all_processes(tmp_path, kept, reads):
    (tmp_path / "weights").write_bytes(b"one")
    digest = file_digest(tmp_path / "weights")
    assert len(list(kept.iterdir())) == 1
    content._known.clear()  # as another process would find it
    assert file_digest(tmp_path / "weights") == digest
    assert reads == ["weights"]


def test_a_file_replaced_by_another_of_the_same_size_and_time_is_read_again(tmp_path, kept, reads):
    """Archives and copies set time stamps; the inode and the time of change are the machine's own."""
    file = tmp_path / "weights"
    digests = []
    for data in (b"one", b"two"):
        new = tmp_path / data.decode()
        new.write_bytes(data)
        os.utime(new, (LONG_AGO, LONG_AGO))
        new.replace(file)
        digests.append(file_digest(file))
    assert digests == [hashlib.sha256(data).hexdigest() for data in (b"one", b"two")]


def test_a_file_that_was_just_written_is_not_remembered(tmp_path, kept, monkeypatch):
    """Time stamps are coarse: it may change again and look the same."""
    monkeypatch.setattr(content, "_SETTLED_NS", 3600 * 10**9)
    (tmp_path / "weights").write_bytes(b"one")
    file_digest(tmp_path / "weights")
    assert content._known == {}
    assert not kept.exists()


def test_a_spoiled_or_unwritable_cache_only_costs_time(tmp_path, kept):
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    digest = file_digest(file)
    for spoiled in (b"", b"\xff\xfe", b"no digest"):
        next(kept.iterdir()).write_bytes(spoiled)
        content._known.clear()
        assert file_digest(file) == digest
    shutil.rmtree(kept.parent)
    kept.parent.write_text("a file where the folder should be")
    content._known.clear()
    assert file_digest(file) == digest
