"""CUDA graphs for batch shapes that recur: all kernels of a forward pass are launched at once.

A forward pass has about sixty kernels. Launched one by one, each needs Python's global lock, which
another thread that packs, copies or measures may hold while the GPU is idle. A graph needs the lock
four times.
"""

from __future__ import annotations

import gc
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from unet_ray.errors import one_line
from unet_ray.imaging.geometry import Box

_Compute = Callable[[Tensor, Box], Sequence[Tensor]]
"""Function of a batch, (N, H, W, channels) on the device, and the wanted part of the output. It
returns the results on the device."""
_Key = tuple[tuple[int, ...], torch.dtype, Box, bool]
"""Shape and type of a batch, the wanted part of the output, and whether it is rounded."""

_SEEN_BEFORE = 2
"""Batches of a shape that a lane launches kernel by kernel before it makes a graph. A shape that
does not recur is not worth a graph, and the first batch also builds and chooses kernels, which must
not be captured."""
_MAX_GRAPHS = 32
"""Largest number of graphs per lane. The first shapes that recur get one, batches of other shapes
are launched kernel by kernel. The buffers of a graph stay allocated, about 8 MB on the device and
as much on the host. All graphs share memory for activations, as far as a shape fits into the memory
of earlier ones."""
_MAX_COUNTED_SHAPES = 1000
"""Largest number of shapes counted at a time; an archive may have as many shapes as images."""
_capturing = threading.Lock()
"""Lock around a capture: a process may capture one graph at a time."""


@contextmanager
def _no_collection() -> Iterator[None]:
    """Turn Python's cyclic garbage collection off.

    The collection could free, and so unload, a kernel or a graph on the thread that captures, which
    must not happen during a capture.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class BatchGraph:
    """A captured forward pass: copy to the device, network, copy back, all in fixed buffers.

    Args:
        compute: Function to capture. Everything that it reads must live as long as the graph.
        key: Shape and type of the batch, the wanted part of the output, and whether it is rounded.
        stream: Stream to capture in; not the default stream of the device.
        pool: Memory shared with graphs that never run at the same time.
    """

    def __init__(self, compute: _Compute, key: _Key, stream: torch.cuda.Stream, pool: Any) -> None:
        shape, dtype, wanted, _ = key
        self.pixels = torch.empty(shape, dtype=dtype, pin_memory=True)
        """Pinned buffer of the batch; callers fill it before each call."""
        self._given = torch.empty(shape, dtype=dtype, device=stream.device)
        self._graph = torch.cuda.CUDAGraph()
        # Other lanes go on allocating while this one captures, which the default mode forbids.
        capture = torch.cuda.graph(self._graph, pool, stream, capture_error_mode="thread_local")
        with _capturing, _no_collection(), capture:
            self._results = compute(self._given, wanted)
        self._found = [
            torch.empty(result.shape, dtype=result.dtype, pin_memory=True)
            for result in self._results
        ]

    def __call__(self) -> list[NDArray[Any]]:
        """Return the results for the batch in `pixels`; they are valid until the next call."""
        self._given.copy_(self.pixels, non_blocking=True)
        self._graph.replay()
        for found, result in zip(self._found, self._results, strict=True):
            found.copy_(result, non_blocking=True)
        torch.cuda.current_stream().synchronize()
        return [found.numpy() for found in self._found]


class BatchGraphs(threading.local):
    """The graphs of a lane; each thread has its own.

    Args:
        device: GPU that the graphs run on.
    """

    def __init__(self, device: torch.device) -> None:
        self._seen: Counter[_Key] = Counter()
        self._graphs: dict[_Key, BatchGraph] = {}
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()
        self._most = _MAX_GRAPHS

    def of(self, compute: _Compute, key: _Key) -> BatchGraph | None:
        """Return the graph for batches of a shape; captures it when the shape recurs.

        Args:
            compute: Function to capture.
            key: Shape and type of the batch, the wanted part of the output, and whether it is
                rounded.

        Returns:
            The graph; None if the shape came too rarely, or the lane has its largest number of
            graphs.
        """
        if key in self._graphs or len(self._graphs) >= self._most:
            return self._graphs.get(key)
        if len(self._seen) == _MAX_COUNTED_SHAPES:
            self._seen.clear()
        self._seen[key] += 1
        if self._seen[key] <= _SEEN_BEFORE:
            return None
        try:
            self._graphs[key] = BatchGraph(compute, key, self._stream, self._pool)
        except RuntimeError as error:  # usually: memory ran out
            self._most = 0
            warnings.warn(
                "no CUDA graph could be captured, so kernels are launched one at a time, which is "
                f"slower: {one_line(error)}",
                stacklevel=2,
            )
        return self._graphs.get(key)
