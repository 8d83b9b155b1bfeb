"""Choosing entries waits for the device as little as can be, and tells the host what it knows already."""

import pytest
import torch
from sparsemm.kernels.backends import TORCH, using

from sparsemm.engine.select import Selector
from sparsemm.methods.base import ModelShape

SHAPE = ModelShape(layers=2, query_heads=8, kv_heads=4, head_dim=16)


class Gathered(type(TORCH)):
    """Plain PyTorch; the gather itself is only noted, as a kernel would wait for nothing there."""

    def gather(self, keys, values, keep, lengths=None):
        self.noted = keep, lengths
        return keys[:0, 0], values[:0, 0], keep.new_zeros(0).long(), lengths


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(heads, 60, 16, generator=generator) for heads in (8, 4, 4)]


def test_methods_that_know_their_counts_never_wait_for_the_device(
    make_method, full, tensors, no_look_at_the_host
):
    """But once for every length of prompt: the first layer's counts are then on the device for all layers."""
    selector = Selector([full, make_method("sparsemm", 20), make_method("snapkv", 30)], SHAPE)
    noted = Gathered()
    with using(noted):
        selector.select(0, *tensors, 0.25)
        with no_look_at_the_host():
            selector.select(1, *tensors, 0.25)
    keep, lengths = noted.noted
    assert lengths.device.type == "cpu"
    assert torch.equal(keep.sum(2), lengths)
    assert lengths.sum(1).tolist()[0] == 4 * 60


def test_lengths_are_what_is_kept_of_methods_that_must_see_the_scores_too(make_method, tensors):
    selector, noted = Selector([make_method("snapkv", 30), make_method("adakv", 30)], SHAPE), Gathered()
    with using(noted):
        selector.select(0, *tensors, 0.25)
    keep, lengths = noted.noted
    assert torch.equal(keep.sum(2), lengths)
    assert lengths.sum(1).tolist() == [4 * 30, 4 * 30]
    assert lengths[1].tolist() != [30] * 4


def test_everything_is_kept_as_it_is_without_a_copy(full, tensors):
    kept = Selector([full], SHAPE).select(0, *tensors, 0.25)
    assert kept.keys.data_ptr() == tensors[1].data_ptr()
    assert torch.equal(kept.values, tensors[2].reshape(-1, 16))
    assert kept.tokens.tolist() == list(range(60)) * 4
    assert kept.lengths.tolist() == [[60] * 4]
