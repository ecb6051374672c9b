"""Image in, per-class probability out: frames, tiles, precision and device of the network's forward pass."""

from __future__ import annotations

import threading
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from unet_ray.errors import ImageError, one_line
from unet_ray.imaging.geometry import Box, read_box, read_frame
from unet_ray.imaging.tiling import Tile, cut_tiles
from unet_ray.network.config import PredictorConfig, effective_context, up_to_multiple
from unet_ray.network.cuda_graphs import BatchGraphs
from unet_ray.network.preprocessing import Preprocessing
from unet_ray.network.unet import UNet

_Shape = tuple[int, int, Box]
"""Of tiles that can share a batch: height and width of what is read, and the part of the output that is computed."""

_BATCH_PIXELS_GPU = 2 * 2**20
"""Pixels of one batch on a GPU: an H200 is as fast with 4 images of 512² as with 64, and short batches waste less; on a
CPU one tile at a time is as fast and needs the least memory."""
_BATCH_MOST = 64
_LANES_GPU = 3
"""While one computes, the others' pixels and results are on their way between host and device."""
_WHOLE_TILES = 2
"""Images of up to so many tiles are one: each cut costs its context twice (camera frames of 1920×1080 px: a third)."""
_LANE_BYTES = 3 * 2**30
"""What the activations of all lanes may take on a CPU."""
_ACTIVATIONS = 10
"""Planes of the first level's channels that one forward pass holds at a time, about (measured)."""
_OUT_OF_MEMORY = "can't allocate memory", "out of memory", "STATUS_ALLOC_FAILED"
"""What errors without a type of their own say: torch's of the host, CUDA's and Triton's, cuDNN's."""


class Predictor:
    """A network ready to predict images of any size.

    Args:
        network — copied and folded for inference.
        preprocessing — of its training.
        config — how to cut and compute.
    """

    def __init__(
        self, network: UNet, preprocessing: Preprocessing, config: PredictorConfig
    ) -> None:
        self.preprocessing = preprocessing
        self.config = config
        self._unet = network.config
        self._tile = up_to_multiple(config.tile, self._unet.multiple)
        self._context = effective_context(self._unet, config)
        self._most = 1 if config.device == "cpu" else _BATCH_MOST
        self._whole_tiles = self._whole_tiles_of(config)
        self.lane_count = self._lanes_of(config)
        threads = (
            max(1, config.threads // self.lane_count) if config.threads else torch.get_num_threads()
        )
        # A lane is a thread of its own, which knows nothing of the GPU that was chosen in this one.
        self._device = (
            torch.device("cuda", torch.cuda.current_device())
            if config.device == "cuda"
            else torch.device("cpu")
        )
        self.lanes = ThreadPoolExecutor(
            self.lane_count, "lane", _start_lane, (self._device, threads)
        )
        """Where forward passes run, whoever asks for them. On a CPU several tiles with few threads each are faster than
        one with many, which wait for each other after every layer; on a GPU each lane has a stream of its own."""
        self._graphs: BatchGraphs | None = None
        """Of each lane's batches, on a GPU."""
        self.batch_divisor = 1
        """What batches are divided by since memory ran out."""
        self._halving = threading.Lock()
        self._dtype = torch.bfloat16 if config.precision == "bfloat16" else torch.float32
        self.network = self._placed(_folded(network))
        """With batch normalisation folded, on its device, in its precision."""
        if config.device == "cuda":
            self.network = self._fused_if_possible(self.network)
            self._graphs = BatchGraphs(self._device)
            # The lanes' streams do not wait for the one that brought the weights. To wait for the whole device would
            # spoil what another predictor's lanes capture.
            torch.cuda.current_stream().synchronize()

    def _placed(self, network: UNet) -> UNet:
        return network.to(self._device, self._dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def _fused_if_possible(self, network: UNet) -> UNet:
        """Return the network with fewer passes over memory, where its kernels can be built, else as it is."""
        try:
            from unet_ray.network.fused_unet import FusedUNet

            fused = self._placed(FusedUNet(network))
            side = self._unet.input_sizes.input_size(1)
            blank = torch.zeros(
                1, self._unet.in_channels, side, side, dtype=self._dtype, device=self._device
            )
            fused(blank.contiguous(memory_format=torch.channels_last))
        except Exception as error:  # no Triton, no C compiler for it, no cuDNN: all that they raise
            warnings.warn(
                f"the network runs unfused, slower by a third: {one_line(error)}", stacklevel=2
            )
            return network
        return fused

    def _lanes_of(self, config: PredictorConfig) -> int:
        if config.device == "cuda":
            return _LANES_GPU
        if not config.threads:
            return 1
        side = self._tile + 2 * max(self._context, self._unet.margin)
        largest = max(self._bytes(side**2), self._bytes(self._whole_tiles * self._frame_pixels))
        return max(1, min(config.threads, _LANE_BYTES // largest))

    def _whole_tiles_of(self, config: PredictorConfig) -> int:
        """Return how many tiles an image may have that is predicted in one piece; where tiles are not exact, none."""
        is_exact = self._unet.margin > 0 or self._context >= self._unet.exact_context
        fits = (
            config.device == "cuda" or self._bytes(_WHOLE_TILES * self._frame_pixels) <= _LANE_BYTES
        )
        return _WHOLE_TILES if is_exact and fits else 0

    @property
    def _frame_pixels(self) -> int:
        return self._unet.input_sizes.input_size(self._tile) ** 2

    def _bytes(self, pixels: int) -> int:
        """Return what the activations of a piece take on a CPU, about."""
        return _ACTIVATIONS * 4 * self._unet.base_channels * pixels

    def predict(self, images: Sequence[NDArray[Any]]) -> list[NDArray[np.uint8]]:
        """Return prob_u8 = round(255·probability) of each image, (classes, H, W) uint8.

        Tiles of equal shape, alike within what is read for them, share a batch, and nothing else does.

        Args:
            images — HWC, as `Preprocessing.check` returns them.
        """
        return self.predict_timed(images)[0]

    def predict_timed(
        self, images: Sequence[NDArray[Any]]
    ) -> tuple[list[NDArray[np.uint8]], float]:
        """Return what `predict` does, and the seconds that all lanes would have taken for it, without waiting."""
        outputs = [
            np.empty((self._unet.num_classes, *image.shape[:2]), np.uint8) for image in images
        ]
        groups: dict[_Shape, list[tuple[int, Tile]]] = defaultdict(list)
        for index, image in enumerate(images):
            height, width = image.shape[:2]
            for tile in self._tiles(height, width, halo=0):
                groups[self._shape_of(tile)].append((index, tile))
        work = []
        for shape, members in groups.items():
            size = self._batch_size(shape)
            for first in range(0, len(members), size):
                work.append((shape, members[first : first + size]))
        seconds = sum(
            self.lanes.map(partial(self._predict_some, images, outputs), *zip(*work, strict=True))
        )
        return outputs, seconds / self.lane_count

    def _predict_some(
        self,
        images: Sequence[NDArray[Any]],
        outputs: list[NDArray[np.uint8]],
        shape: _Shape,
        members: list[tuple[int, Tile]],
    ) -> float:
        """Predict tiles of a shape, as many at once as fit into memory, and return the seconds."""
        started = time.perf_counter()
        while members:
            size = self._batch_size(shape)
            batch = members[:size]
            reads = [
                read_box(images[i], tile.read, mirror=self._unet.margin > 0) for i, tile in batch
            ]
            try:
                found = self._forward(reads, size, shape[2])
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if size == 1:
                    self._whole_tiles = 0  # whoever tries again does so in tiles
                    raise
                with self._halving:
                    if self._batch_size(shape) >= size:  # else another lane was faster
                        self._halve(size)
                continue
            for (i, tile), prob_u8 in zip(batch, found, strict=False):
                core = tile.core
                outputs[i][:, core.top : core.bottom, core.left : core.right] = self._crop_to_core(
                    prob_u8, tile, shape
                )
            members = members[size:]
        return time.perf_counter() - started

    def tiles(self, height: int, width: int) -> list[Tile]:
        """Return the tiles that an image of a size (px) is cut into, row by row, with `around` px around each."""
        return self._tiles(height, width, self.config.halo)

    def _tiles(self, height: int, width: int, halo: int) -> list[Tile]:
        return list(
            cut_tiles(
                height,
                width,
                self._unet.input_sizes,
                self._tile,
                self._context,
                halo,
                self._whole_tiles,
            )
        )

    def read_tile(
        self, read: Callable[[Box], NDArray[Any]], height: int, width: int, tile: Tile
    ) -> NDArray[Any]:
        """Return the pixels that the network needs for a tile, HWC.

        Args:
            read — gives boxes inside the image, as `Preprocessing.check` returns them.
            height, width — of the image (px).
        """
        return read_frame(read, height, width, tile.read, mirror=self._unet.margin > 0)

    def predict_tile(self, pixels_hwc: NDArray[Any], tile: Tile) -> NDArray[np.uint8]:
        """Return prob_u8 of a tile's extended core, (classes, H, W) uint8, from what `read_tile` read for it; in this thread."""
        shape = self._shape_of(tile)
        return self._crop_to_core(self._forward([pixels_hwc], 1, shape[2])[0], tile, shape).copy()

    def _shape_of(self, tile: Tile) -> _Shape:
        """Return what a tile shares with those that can be in a batch with it: its extended core, on the pooling grid.

        Unpadded networks are given what their output needs, and all of that is wanted.
        """
        height, width = tile.read.height, tile.read.width
        margin, multiple = self._unet.margin, self._unet.multiple
        if margin:
            return height, width, Box(0, 0, height - 2 * margin, width - 2 * margin)
        return height, width, tile.wanted(margin).on_grid(multiple)

    def _crop_to_core(
        self, prob_u8_khw: NDArray[np.uint8], tile: Tile, shape: _Shape
    ) -> NDArray[np.uint8]:
        """Cut a tile's extended core out of what was computed for its shape."""
        box, (_, _, part) = tile.wanted(self._unet.margin), shape
        return prob_u8_khw[
            :,
            box.top - part.top : box.bottom - part.top,
            box.left - part.left : box.right - part.left,
        ]

    def _batch_size(self, shape: _Shape) -> int:
        height, width, _ = shape
        pixels = _BATCH_PIXELS_GPU // self.batch_divisor
        return max(1, min(self._most, pixels // (height * width)))

    def _halve(self, size: int) -> None:
        """Take batches of at most half that size from now on: what did not fit once will not fit again."""
        self.batch_divisor *= 2
        self._most = size // 2
        if self._graphs:
            self._graphs = BatchGraphs(self._device)  # those of larger batches hold memory
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def _forward(
        self, reads: list[NDArray[Any]], batch_size: int, wanted: Box
    ) -> NDArray[np.uint8]:
        """Return prob_u8 of the wanted part of equally sized reads; a short batch is filled with blanks to its fixed size.

        Lasts until this thread's next forward pass.
        """
        shape, dtype = (
            (batch_size, *reads[0].shape),
            torch.from_numpy(np.empty(0, reads[0].dtype)).dtype,
        )
        graph = self._graphs.of(self._quantize, (shape, dtype, wanted)) if self._graphs else None
        batch = (
            graph.pixels
            if graph
            else torch.empty(shape, dtype=dtype, pin_memory=self._graphs is not None)
        )
        for place, read in zip(batch.numpy(), reads, strict=False):
            place[:] = read
        batch[len(reads) :] = 0
        if graph:
            return graph()
        return np.asarray(
            self._quantize(batch.to(self._device, non_blocking=True), wanted).cpu().numpy()
        )

    def _quantize(self, batch_nhwc: Tensor, wanted: Box) -> Tensor:
        """Return prob_u8 of the wanted part of a batch on the device, there."""
        images = batch_nhwc.permute(0, 3, 1, 2)
        inputs = self.preprocessing.apply(images).to(self._dtype, memory_format=torch.channels_last)
        logits: Tensor = self.network(inputs, wanted)
        return logits.float().sigmoid_().mul_(255).round_().to(torch.uint8)


def _start_lane(device: torch.device, threads: int) -> None:
    """Make a thread a lane; it knows nothing of its predictor, which it would keep alive."""
    torch.set_num_threads(threads)
    if device.type == "cuda":
        torch.cuda.set_stream(torch.cuda.Stream(device))


def cpu_has_bfloat16() -> bool:
    """Tell whether this machine's CPU multiplies in bfloat16; others take 4 to 8 times as long as in float32."""
    capabilities = torch.cpu.get_capabilities()
    return any(
        capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")
    )  # the last is ARM's


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that host or GPU memory ran out."""
    typed = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    return typed or any(words in str(error) for words in _OUT_OF_MEMORY)


def is_device_lost(error: Exception) -> bool:
    """Tell whether an error says that this process can use its GPU no more: every later image would fail."""
    return isinstance(error, torch.AcceleratorError) and not is_out_of_memory(error)


def as_image_error(error: Exception) -> Exception:
    """Return an error as it is, or as the ImageError `out_of_memory`: torch has types of its own for that."""
    return ImageError("out_of_memory", one_line(error)) if is_out_of_memory(error) else error


def _folded(network: UNet) -> UNet:
    """Return a copy for inference with batch normalisation folded into the convolutions before it."""
    folded = UNet(network.config)
    folded.load_state_dict(network.state_dict())
    folded.eval()
    for level in [*folded.contracting, *folded.expansive]:
        assert isinstance(level, nn.Sequential)
        for index in range(len(level) - 1):
            convolution, norm = level[index], level[index + 1]
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                level[index] = fuse_conv_bn_eval(convolution, norm)
                level[index + 1] = nn.Identity()
    return folded
