"""Graphs that live side by side have streams of their own; graphs made one after the other have one."""

import gc
from types import SimpleNamespace

import pytest
import torch

from sparsemm.engine import captured
from sparsemm.engine.captured import FROM_ONE_POOL, Captured, Streams


@pytest.fixture
def streams():
    """As PyTorch: some streams of the driver, handed out in turn."""
    given = iter(range(10_000))
    return Streams(lambda device: SimpleNamespace(cuda_stream=100 + next(given) % FROM_ONE_POOL))


class Graph:
    """Tells when it is reset, and which streams could be taken then."""

    def __init__(self, streams):
        self.streams, self.free_at_its_end = streams, None

    def reset(self):
        self.free_at_its_end = list(self.streams.free[0])


def test_no_two_living_graphs_have_one_stream_whoever_made_them(streams):
    engines = [[Captured(Graph(streams), 0, streams) for _ in range(FROM_ONE_POOL // 2)] for _ in range(2)]
    handles = [one.stream.cuda_stream for engine in engines for one in engine]
    assert len(set(handles)) == FROM_ONE_POOL
    with pytest.raises(RuntimeError, match=r"32 captured steps live at once.* set engine\.decode=eager"):
        streams.take(0)
    assert streams.take(1).cuda_stream, "another device has its own"
    del engines[0][3]
    assert streams.take(0).cuda_stream == handles[3]


def test_graphs_made_one_after_the_other_have_one_stream(streams):
    used = set()
    for _ in range(5):
        held = Captured(Graph(streams), 0, streams)
        used.add(held.stream.cuda_stream)
        del held
        gc.collect()
    assert len(used) == 1


def test_a_graph_ends_before_its_stream_can_be_taken(streams):
    """Its end clears the workspaces of the stream, which must not be the next graph's yet."""
    graph = Graph(streams)
    held = Captured(graph, 0, streams)
    stream = held.stream
    del held
    gc.collect()
    assert graph.free_at_its_end == [] and streams.free[0] == [stream]


def test_a_capture_that_fails_gives_its_stream_back(streams, monkeypatch):
    monkeypatch.setattr(captured, "Captured", lambda graph, device: Captured(Graph(streams), device, streams))
    cuda = SimpleNamespace(CUDAGraph=object, current_device=lambda: 0, current_stream=lambda: None)
    monkeypatch.setattr(captured, "torch", SimpleNamespace(cuda=cuda))
    with pytest.raises(AttributeError):  # these streams cannot wait for another
        captured.capture(list, list)
    gc.collect()
    assert len(streams.free[0]) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="streams need an NVIDIA GPU")
def test_streams_of_pytorch_come_again_after_as_many_as_are_told():
    device = torch.cuda.current_device()
    handles = [captured._new(device).cuda_stream for _ in range(2 * FROM_ONE_POOL)]
    assert len(set(handles)) == FROM_ONE_POOL
    held = Captured(torch.cuda.CUDAGraph(), device)
    assert held.stream.cuda_stream in handles
    assert held.stream.cuda_stream != torch.cuda.Stream(device).cuda_stream
