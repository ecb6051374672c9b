"""The network for inference on an NVIDIA GPU, with fewer passes over memory.

With PyTorch's layers, more than half of a forward pass on an H200 is spent moving activations: bias
and ReLU of each convolution, the bias of each up-convolution, its concatenation with the skip
connection, and pooling are separate passes over memory. Here cuDNN adds bias and ReLU while it
convolves, one Triton kernel adds the bias and concatenates, and another pools. Results stay the
same.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def"

from __future__ import annotations

import threading

import torch
import triton
import triton.language as tl
from torch import Tensor, nn
from torch.nn.functional import conv_transpose2d

from unet_ray.network.unet import UNet

_BLOCK = 1024
"""Elements of one Triton program."""
_launching = threading.Lock()
"""Lock around kernel launches. Triton builds and loads a kernel at its first launch, which is not
safe from several threads: a second lane may get a kernel that is half loaded (Triton 3.7), or the
first lane's kernel may be unloaded under its CUDA graph (Triton 3.8)."""


class FusedUNet(UNet):
    """A UNet on a GPU with fused layers; its tensors are in channels_last layout.

    Args:
        folded: Network whose batch normalisation is folded. The new network takes over its layers.
    """

    def __init__(self, folded: UNet) -> None:
        super().__init__(folded.config)
        self.contracting = nn.ModuleList(map(_fuse_convolutions, folded.contracting))
        self.expansive = nn.ModuleList(map(_fuse_convolutions, folded.expansive))
        self.up = folded.up
        self.head = folded.head

    def _pool(self, features: Tensor) -> Tensor:
        channels, height, width = features.shape[1:]
        pooled = _allocate(features, channels, height // 2, width // 2)
        size = pooled.numel(), *_strides(features), channels, *pooled.shape[2:]
        with _launching, torch.cuda.device_of(features):
            _pool_kernel[_count_programs(pooled)](features, pooled, *size, _BLOCK)
        return pooled

    def _upsample(self, up: nn.Module, features: Tensor) -> Tensor:
        assert isinstance(up, nn.ConvTranspose2d)
        return conv_transpose2d(features, up.weight, None, up.stride)  # `_join` adds the bias

    def _join(self, skip: Tensor, raised: Tensor, up: nn.Module) -> Tensor:
        channels, height, width = skip.shape[1:]
        joined = _allocate(skip, 2 * channels, height, width)
        size = skip.numel(), *_strides(skip), *_strides(raised), channels, height, width
        with _launching, torch.cuda.device_of(skip):
            _join_kernel[_count_programs(skip)](skip, raised, up.bias, joined, *size, _BLOCK)
        return joined


def _fuse_convolutions(level: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        *(_ConvReLU(layer) for layer in level.modules() if isinstance(layer, nn.Conv2d))
    )


class _ConvReLU(nn.Module):
    """A convolution with bias and ReLU in one pass over memory."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, features: Tensor) -> Tensor:
        """Convolve features, N, C, H, W in channels-last order, and clip the result at 0."""
        c = self.convolution
        assert not isinstance(c.padding, str)
        return torch.cudnn_convolution_relu(
            features, c.weight, c.bias, c.stride, c.padding, c.dilation, c.groups
        )


def _allocate(like: Tensor, num_channels: int, height: int, width: int) -> Tensor:
    shape = like.shape[0], num_channels, height, width
    return torch.empty(
        shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last
    )


def _count_programs(tensor: Tensor) -> tuple[int]:
    return (triton.cdiv(tensor.numel(), _BLOCK),)


def _strides(nchw: Tensor) -> tuple[int, int, int]:
    """Return the strides of image, row and column (elements); channels must have stride 1."""
    assert nchw.stride(1) == 1
    return nchw.stride(0), nchw.stride(2), nchw.stride(3)


@triton.jit
def _locate(element, channels, height, width):
    """Return image, row, column and channel of an element of a channels_last tensor."""
    pixel = element // channels
    return pixel // (height * width), pixel // width % height, pixel % width, element % channels


@triton.jit
def _join_kernel(
    skip, raised, bias, joined, count, skip_n, skip_y, skip_x, raised_n, raised_y, raised_x,
    channels: tl.constexpr, height, width, block: tl.constexpr,
):  # fmt: skip
    """Write a skip connection's channels, then the up-convolution's channels plus their bias."""
    element = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = element < count
    n, y, x, c = _locate(element, channels, height, width)
    left = tl.load(skip + n * skip_n + y * skip_y + x * skip_x + c, inside)
    right = tl.load(raised + n * raised_n + y * raised_y + x * raised_x + c, inside) + tl.load(
        bias + c, inside
    )
    place = joined + element // channels * (2 * channels) + c
    tl.store(place, left, inside)
    tl.store(place + channels, right, inside)


@triton.jit
def _pool_kernel(
    features, pooled, count, step_n, step_y, step_x,
    channels: tl.constexpr, height, width, block: tl.constexpr,
):  # fmt: skip
    """Write the largest of each 2×2 px; height and width are those of the result."""
    element = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = element < count
    n, y, x, c = _locate(element, channels, height, width)
    corner = features + n * step_n + y * 2 * step_y + x * 2 * step_x + c
    upper = tl.maximum(tl.load(corner, inside), tl.load(corner + step_x, inside))
    lower = tl.maximum(tl.load(corner + step_y, inside), tl.load(corner + step_y + step_x, inside))
    tl.store(pooled + element, tl.maximum(upper, lower), inside)
