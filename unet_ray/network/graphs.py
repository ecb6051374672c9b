"""CUDA graphs of the batch shapes that come again: all kernels of a forward pass launched at once.

One by one, some sixty kernels ask for Python's lock as often, and each time a thread that packs, copies or measures may
hold it, while the GPU has nothing to do. A graph asks once.
"""

from __future__ import annotations

import threading
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from unet_ray.errors import one_line
from unet_ray.imaging.tiling import Box

Compute = Callable[[Tensor, Box], Tensor]
"""(batch, H, W, channels) on the device, and the part wanted of the output → the result, there."""
Key = tuple[tuple[int, ...], torch.dtype, Box]
"""Shape and type of a batch, and the part wanted of the output."""

_SEEN_BEFORE = 2
"""Batches that a lane launches kernel by kernel before it makes a graph: a shape that comes no more is not worth one;
the first also builds and chooses kernels, which must not be captured."""
_MOST = 16
"""Graphs of one lane; images of further shapes are launched kernel by kernel."""
_REMEMBERED = 1000
"""Shapes that are counted at a time: an archive may have as many as images."""
_capturing = threading.Lock()
"""The device must have no other capture under way while one begins."""


class BatchGraph:
    """A batch's way to the device, through the network and back, in buffers that stay.

    Args:
        compute — what to capture.
        key — of the batch.
        device — a GPU.
        pool — memory shared with graphs that never run at the same time.
    """

    def __init__(self, compute: Compute, key: Key, device: torch.device, pool: Any) -> None:
        shape, dtype, wanted = key
        self.pixels = torch.empty(shape, dtype=dtype, pin_memory=True)
        """The batch; filled before each call."""
        self._given = torch.empty(shape, dtype=dtype, device=device)
        self._graph = torch.cuda.CUDAGraph()
        # Other lanes go on allocating while this one captures, which only this mode lets them.
        with _capturing, torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
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
        compute — what to capture.
        device — a GPU.
    """

    def __init__(self, compute: Compute, device: torch.device) -> None:
        self._compute, self._device = compute, device
        self._seen: Counter[Key] = Counter()
        self._graphs: dict[Key, BatchGraph] = {}
        self._pool = torch.cuda.graph_pool_handle()
        self._most = _MOST

    def of(self, key: Key) -> BatchGraph | None:
        """Return the graph of such batches; None where they came too rarely or there are enough graphs."""
        if key not in self._graphs and len(self._graphs) < self._most and self._comes_again(key):
            try:
                self._graphs[key] = BatchGraph(self._compute, key, self._device, self._pool)
            except RuntimeError as error:  # of memory, or of an operation that cannot be captured
                self._most = 0
                warnings.warn(f"the GPU is given one kernel at a time, slower: {one_line(error)}", stacklevel=2)
        return self._graphs.get(key)

    def _comes_again(self, key: Key) -> bool:
        if len(self._seen) == _REMEMBERED:
            self._seen.clear()
        self._seen[key] += 1
        return self._seen[key] > _SEEN_BEFORE
