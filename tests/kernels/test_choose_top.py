"""The highest scores are chosen as by sorting, ties by index."""

import pytest
import torch
from sparsemm.kernels import choose_top as module
from sparsemm.kernels.backends import TORCH
from sparsemm.kernels.choose_top import choose_top
from sparsemm.kernels.choose_top_ref import choose_top as reference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("n, held", [(1, None), (130, None), (128, 128), (130, 128)])
def test_the_chosen_are_those_of_sorting(n, held, monkeypatch):
    """Also where a program holds fewer than there are, and reads them again."""
    monkeypatch.setattr(module, "LARGEST", held or module.LARGEST)
    generator = torch.Generator().manual_seed(n)
    scores = torch.randn(4, n, generator=generator)
    scores[1] = scores[1].round()  # many ties, zeros of both signs
    scores[2, ::2] = float("-inf")
    scores[3] = 0.25
    counts = torch.stack(
        [torch.tensor([0, n, n // 2, 1]), torch.randint(0, n + 1, (4,), generator=generator)]
    )
    counts = torch.cat([counts, counts[:1].flip(1)])
    expected = reference(scores, counts)
    assert torch.equal(expected.sum(2), counts)
    for choose in (choose_top, TORCH.choose):
        assert torch.equal(choose(scores.to(DEVICE), counts.to(DEVICE)).cpu(), expected)


def test_no_candidates_are_no_choice():
    assert choose_top(torch.empty(3, 0, device=DEVICE), torch.zeros(2, 3).long().to(DEVICE)).shape == (
        2,
        3,
        0,
    )
