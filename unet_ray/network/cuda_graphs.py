"""CUDA graphs of the batch shapes that come again: all kernels of a forward pass launched at once.

One by one, some sixty kernels ask for Python's lock as often, and each time a thread that packs, copies or measures may
hold it, while the GPU has nothing to do. A graph asks four times.
"""

from __future__ import annotations

import gc
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from unet_ray.errors import one_line
from unet_ray.imaging.geometry import Box

_Compute = Callable[[Tensor, Box], Tensor]
"""(batch, H, W, channels) on the device, and the part wanted of the output → the result, there."""
_Key = tuple[tuple[int, ...], torch.dtype, Box]
"""Shape and type of a batch, and the part wanted of the output."""

_SEEN_BEFORE = 2
"""Batches that a lane launches kernel by kernel before it makes a graph: a shape that comes no more is not worth one;
the first also builds and chooses kernels, which must not be captured."""
_MOST_GRAPHS = 32
"""Of one lane: of the first shapes that come again. Their buffers stay, some 8 MB of each on the device and as much off
it; what activations take is shared, as far as a shape fits into what those before it took. Batches of further shapes
are launched kernel by kernel."""
_REMEMBERED = 1000
"""Shapes that are counted at a time: an archive may have as many as images."""
_capturing = threading.Lock()
"""A process may capture one graph at a time."""


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep Python from freeing cycles: the thread that captures may not unload a kernel or a graph among them."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class BatchGraph:
    """A batch's way to the device, through the network and back, in buffers that stay.

    Args:
        compute — what to capture; it may read nothing that is freed before the graph.
        key — of the batch.
        stream — to capture in; not the device's default one.
        pool — memory shared with graphs that never run at the same time.
    """

    def __init__(self, compute: _Compute, key: _Key, stream: torch.cuda.Stream, pool: Any) -> None:
        shape, dtype, wanted = key
        self.pixels = torch.empty(shape, dtype=dtype, pin_memory=True)
        """The batch; filled before each call."""
        self._given = torch.empty(shape, dtype=dtype, device=stream.device)
        self._graph = torch.cuda.CUDAGraph()
        # Other lanes go on allocating while this one captures, which the default mode forbids.
        capture = torch.cuda.graph(self._graph, pool, stream, capture_error_mode="thread_local")
        with _capturing, _no_collection(), capture:
            self._result = compute(self._given, wanted)
        self._found = torch.empty(self._result.shape, dtype=self._result.dtype, pin_memory=True)

    def __call__(self) -> NDArray[Any]:
        """Return the result of what `pixels` holds; it lasts until the next call."""
        self._given.copy_(self.pixels, non_blocking=True)
        self._graph.replay()
        self._found.copy_(self._result, non_blocking=True)
        torch.cuda.current_stream().synchronize()
        return self._found.numpy()


class BatchGraphs(threading.local):
    """The graphs of a lane: each thread has its own.

    Args:
        device — a GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._seen: Counter[_Key] = Counter()
        self._graphs: dict[_Key, BatchGraph] = {}
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()
        self._most = _MOST_GRAPHS

    def of(self, compute: _Compute, key: _Key) -> BatchGraph | None:
        """Return the graph of such batches; None where they came too rarely or there are enough graphs."""
        if key not in self._graphs and len(self._graphs) < self._most and self._comes_again(key):
            try:
                self._graphs[key] = BatchGraph(compute, key, self._stream, self._pool)
            except RuntimeError as error:  # memory ran out, as a rule
                self._most = 0
                warnings.warn(
                    f"the GPU is given one kernel at a time, slower: {one_line(error)}",
                    stacklevel=2,
                )
        return self._graphs.get(key)

    def _comes_again(self, key: _Key) -> bool:
        if len(self._seen) == _REMEMBERED:
            self._seen.clear()
        self._seen[key] += 1
        return self._seen[key] > _SEEN_BEFORE
