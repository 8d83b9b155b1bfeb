"""CUDA graphs that live side by side: each is captured on a stream that no other living graph has.

PyTorch keeps one cuBLAS workspace for every handle and stream, and gives a stream's back with any graph that
was captured on it (pytorch/pytorch issues 193402, 175276): another graph of that stream would go on writing
there. A stream is used again once its graph is gone, so that graphs made one after the other need one
workspace, not one each. Memory of its own is what every graph has anyway: nothing is captured into a shared
pool.
"""

import threading
import weakref
from collections.abc import Callable

import torch

FROM_ONE_POOL = 32  # streams of a device and priority that PyTorch hands out, in turn


def _new(device: int) -> torch.cuda.Stream:
    """Of the streams of high priority: others capture on ordinary ones."""
    return torch.cuda.Stream(device, priority=-1)


class Streams:
    """Streams of which every one has one user; those that are given back are taken first.

    Args:
        new: makes a stream of a device; it may give one again.
    """

    def __init__(self, new: Callable[[int], torch.cuda.Stream] = _new):
        self.new = new
        self.known: set[tuple[int, int]] = set()  # device, the driver's handle
        self.free: dict[int, list[torch.cuda.Stream]] = {}
        self.taking = threading.Lock()

    def take(self, device: int) -> torch.cuda.Stream:
        """A stream of the device that nobody else has.

        Raises:
            RuntimeError: all are taken.
        """
        free = self.free.setdefault(device, [])
        with self.taking:
            if free:
                return free.pop()
            for _ in range(FROM_ONE_POOL):
                stream = self.new(device)
                key = device, stream.cuda_stream
                if key not in self.known:
                    self.known.add(key)
                    return stream
        raise RuntimeError(
            f"engine.decode: {FROM_ONE_POOL} captured steps live at once, and each needs its own stream. "
            "Keep fewer engines, or set engine.decode=eager."
        )

    def give_back(self, device: int, stream: torch.cuda.Stream) -> None:
        """Let others have it. No lock is needed, nor could it be had: a search for garbage may call this."""
        self.free[device].append(stream)


STREAMS = Streams()  # two engines of one process share PyTorch's workspaces too


class Captured:
    """A graph, and the stream that is its own until it is gone.

    Args:
        graph: not captured yet.
        device: number of its device.
        streams: where the stream comes from.
    """

    def __init__(self, graph: torch.cuda.CUDAGraph, device: int, streams: Streams = STREAMS):
        self.graph, self.stream = graph, streams.take(device)
        gone = weakref.finalize(self, _release, graph, streams, device, self.stream)
        gone.atexit = False  # the driver may be gone before

    def replay(self) -> None:
        """On the current stream."""
        self.graph.replay()


def _release(graph: torch.cuda.CUDAGraph, streams: Streams, device: int, stream: torch.cuda.Stream) -> None:
    """The graph first: its end clears the workspaces of the stream, which may be another's afterwards."""
    try:
        graph.reset()
    finally:
        streams.give_back(device, stream)


def capture(work: Callable[[], object], between: Callable[[], None]) -> Captured:
    """Do the work once, then record it; on the current device.

    Args:
        work: done on a stream of its own, so that kernels are compiled and libraries have their workspaces.
        between: called before it is recorded.
    """
    held = Captured(torch.cuda.CUDAGraph(), torch.cuda.current_device())
    here = torch.cuda.current_stream()
    held.stream.wait_stream(here)
    with torch.cuda.stream(held.stream):
        work()
    here.wait_stream(held.stream)
    between()
    with torch.cuda.graph(held.graph, stream=held.stream):
        work()
    return held
