"""The kernel benchmark does the same work every way."""

import torch

from sparsemm.bench.kernel import PUBLISHED, LayerShape, copy_gb_per_s, time_layer

CPU = torch.device("cpu")


def test_lengths_are_skewed_about_the_mean():
    lengths = LayerShape(3, 32, 1, 64, 256).lengths()
    assert lengths.shape == (3, 32)
    assert bool(((lengths.float().mean(1) - 256).abs() < 1).all())
    assert int(lengths.max()) > 8 * int(lengths.min())


def test_every_way_is_timed():
    shape = LayerShape(2, 4, 2, 16, 40)
    found = time_layer(
        shape, ["torch", "triton"] if not torch.cuda.is_available() else ["torch"], CPU, torch.float32, 3
    )
    assert [one.name for one in found][-1] == PUBLISHED
    assert {one.read_bytes for one in found} == {2 * int(shape.lengths().sum()) * 16 * 4}
    assert all(one.us > 0 and one.gb_per_s > 0 for one in found)


def test_bandwidth_counts_what_is_read_and_written():
    assert copy_gb_per_s(CPU, 1 << 20) > 0
