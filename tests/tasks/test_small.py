"""Small local data has each benchmark's own columns, and is the same every time."""

import hashlib

import pytest

from sparsemm.tasks.schemas import BENCHMARKS, FILES, SCHEMAS
from sparsemm.tasks.small import write_small

parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow reads the benchmarks' files: sparsemm[eval]")
SHARING = {"docvqa": "docId", "textvqa": "image_id", "vqav2": "image_id", "gqa": "imageId"}


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_rows_have_the_benchmark_s_columns_and_are_the_same_every_time(benchmark, tmp_path):
    for folder in ("one", "two"):
        write_small(benchmark, tmp_path / folder)
    one, two = (tmp_path / folder / FILES[benchmark] for folder in ("one", "two"))
    table = parquet.read_table(one)
    assert table.column_names == list(SCHEMAS[benchmark])
    assert len(table) == 4
    assert hashlib.sha256(one.read_bytes()).digest() == hashlib.sha256(two.read_bytes()).digest()


@pytest.mark.parametrize(("benchmark", "column"), SHARING.items())
def test_two_questions_share_an_image_where_the_benchmark_has_that(benchmark, column, tmp_path):
    write_small(benchmark, tmp_path, samples=4)
    rows = parquet.read_table(tmp_path / FILES[benchmark]).to_pylist()
    assert [row[column] for row in rows][0::2] == [row[column] for row in rows][1::2]
    assert len({row[column] for row in rows}) == 2
    if benchmark != "gqa":
        assert rows[0]["image"] == rows[1]["image"] != rows[2]["image"]


def test_gqa_keeps_its_images_in_a_table_of_their_own(tmp_path):
    write_small("gqa", tmp_path)
    asked = {row["imageId"] for row in parquet.read_table(tmp_path / FILES["gqa"]).to_pylist()}
    assert asked == {row["id"] for row in parquet.read_table(tmp_path / FILES["gqa_images"]).to_pylist()}


def test_an_unknown_benchmark_is_refused(tmp_path):
    with pytest.raises(ValueError, match="benchmark=docvq: must be one of docvqa, "):
        write_small("docvq", tmp_path)
