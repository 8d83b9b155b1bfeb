"""A small model of random weights and its prompt."""

import pytest
import torch

from sparsemm.api import make_method
from sparsemm.bench.models import make_model
from sparsemm.bench.prompts import make_prompt

TOLD = {"shape": "tiny", "prompt_tokens": 160, "image_tokens": 128}


@pytest.fixture(scope="session")
def tiny():
    """The tiny shape on the CPU."""
    return make_model("tiny", "random", torch.device("cpu"), torch.float32, 400)


@pytest.fixture(scope="session")
def prompt(tiny):
    """Pages and words, 160 tokens."""
    return make_prompt(tiny, 160)


@pytest.fixture(scope="session")
def methods():
    """The full cache and one that keeps a quarter."""
    return [make_method("full"), make_method("snapkv", "budget=40")]
