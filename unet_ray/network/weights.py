"""Weights of a network as safetensors, checked against the network.

The header of a file is compared with the network before memory for the weights is taken: a model
folder of a few bytes may describe a network of terabytes. Torch takes seconds to load, so it is
imported only where it is needed.
"""

from __future__ import annotations

import reprlib
from dataclasses import dataclass
from functools import cache
from math import isfinite, prod
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError

from unet_ray.errors import InputError, one_line
from unet_ray.network.config import UNetConfig
from unet_ray.network.json_object import JsonObject
from unet_ray.storage.storage import Storage

if TYPE_CHECKING:
    from torch import Tensor

MAX_HEADER_BYTES = 2**20
"""Largest start of a file that is read for its header. Headers of our networks have 30 KB; the
format allows 100 MB."""
_NUMBERS: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "I64": np.dtype("<i8")}
"""Number types of our networks: weights, and the number of batches of batch normalisation."""
_LENGTH_BYTES = 8
"""Bytes before the header that hold its length."""


@dataclass(frozen=True)
class TensorType:
    """Number type and shape of a tensor."""

    dtype: str
    """Number type as safetensors calls it, as in `F32`."""
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype} {reprlib.repr(self.shape)}"

    @property
    def num_bytes(self) -> int:
        """Size of the tensor (bytes)."""
        return _NUMBERS[self.dtype].itemsize * prod(self.shape)


@dataclass(frozen=True)
class StoredTensor:
    """Type and place of a tensor in a safetensors file."""

    type: TensorType
    start: int
    """First byte, counted from the end of the header."""
    end: int
    """Byte after the last one, counted from the end of the header."""


@dataclass(frozen=True)
class Header:
    """Header of a safetensors file."""

    tensors: dict[str, StoredTensor]
    """Tensors by name."""
    num_bytes: int
    """Number of bytes before the first tensor."""

    @property
    def file_bytes(self) -> int:
        """Size of the whole file as the header says (bytes)."""
        return self.num_bytes + max((tensor.end for tensor in self.tensors.values()), default=0)


def parse_header(start: bytes) -> Header:
    """Parse the header of a safetensors file.

    Args:
        start: First bytes of the file; MAX_HEADER_BYTES of them are enough.

    Raises:
        InputError: A file that is cut short or not safetensors, or a header that is too long.
    """
    num_bytes = _LENGTH_BYTES + int.from_bytes(start[:_LENGTH_BYTES], "little")
    if num_bytes > MAX_HEADER_BYTES:
        raise InputError(
            f"not a safetensors file: its header would have {num_bytes} bytes, "
            f"but the limit is {MAX_HEADER_BYTES}"
        )
    if len(start) < max(num_bytes, _LENGTH_BYTES + 1):
        raise InputError(f"cut short: {len(start)} bytes, fewer than its header has")
    try:
        header = JsonObject.parse(start[_LENGTH_BYTES:num_bytes])
        metadata = JsonObject.of(header.values.pop("__metadata__", {}), "__metadata__")
        for name in metadata.values:
            metadata.text(name)
        tensors = {}
        for name in header.values:
            described = header.object(name)
            offsets = described.integers("data_offsets")
            if len(offsets) != 2:
                raise InputError(f"{described.path} has {len(offsets)} data_offsets instead of 2")
            kind = TensorType(described.text("dtype"), described.integers("shape"))
            tensors[name] = StoredTensor(kind, *offsets)
    except InputError as error:
        raise InputError(f"damaged header: {error}") from None
    return Header(tensors, num_bytes)


def read_weights(file: Storage, network: UNetConfig) -> bytes:
    """Read a file of weights whose header fits the network.

    Args:
        file: File of the weights.
        network: Architecture of the network.

    Returns:
        Weights as safetensors; their values are not checked.

    Raises:
        InputError: The file is not as large as the weights of the network, or holds other tensors.
        OSError: The file cannot be read.
    """
    start = file.read_content(0, MAX_HEADER_BYTES)
    _check_fits(start.data, start.size, network)
    return file.read_range(0, start.size)


def load_weights(weights: bytes, network: UNetConfig) -> dict[str, Tensor]:
    """Return the tensors of a network's weights after `check_weights`.

    Args:
        weights: Weights as safetensors.
        network: Architecture of the network.

    Raises:
        InputError: The weights do not fit the network, or are not all finite.
    """
    from safetensors.torch import load

    check_weights(weights, network)
    try:
        return load(weights)
    except SafetensorError as error:
        raise InputError(f"damaged header: {one_line(error)}") from None


def check_weights(weights: bytes, network: UNetConfig) -> None:
    """Check names, types, shapes and values of a network's weights, without a copy of them.

    Args:
        weights: Weights as safetensors.
        network: Architecture of the network.

    Raises:
        InputError: The weights do not fit the network, or are not all finite.
    """
    header = _check_fits(weights[:MAX_HEADER_BYTES], len(weights), network)
    for name, tensor in header.tensors.items():
        dtype = _NUMBERS[tensor.type.dtype]
        start = header.num_bytes + tensor.start
        values = np.frombuffer(weights, dtype, count=prod(tensor.type.shape), offset=start)
        low = float(values.min())  # NaN if any value is
        high = float(values.max())
        for value in (low, high):
            if not isfinite(value):
                raise InputError(f"tensor {name} holds {value}; weights must be finite")
        if name.endswith("running_var") and low < 0:
            raise InputError(f"tensor {name} holds {low}; a variance must be 0 or more")


def _check_fits(start: bytes, file_bytes: int, network: UNetConfig) -> Header:
    """Return the header of a file of weights that has the tensors and the size of a network.

    Args:
        start: First bytes of the file.
        file_bytes: Size of the file (bytes).
        network: Architecture of the network.

    Raises:
        InputError: Other tensors, or a file size that is not the sum of their sizes.
    """
    header = parse_header(start)
    expected = _plan_tensors(network)
    found = {name: tensor.type for name, tensor in header.tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        here = found.get(name, "missing")
        in_network = expected.get(name, "missing")
        if here != in_network:
            raise InputError(
                f"the weights do not fit the network: tensor {name[:100]!r} is {here} here "
                f"but {in_network} in the network"
            )
    end = 0
    for tensor in sorted(header.tensors.values(), key=lambda tensor: tensor.start):
        if (tensor.start, tensor.end) != (end, end + tensor.type.num_bytes):
            raise InputError(
                f"damaged header: a tensor lies at bytes {tensor.start} to {tensor.end}, "
                f"but must lie at {end} to {end + tensor.type.num_bytes}"
            )
        end = tensor.end
    if file_bytes != header.file_bytes:
        raise InputError(
            f"{file_bytes} bytes, but the weights of the network take {header.file_bytes}"
        )
    return header


@cache
def _plan_tensors(network: UNetConfig) -> dict[str, TensorType]:
    """Return the types of a network's tensors by name; no memory is taken for them."""
    import torch

    from unet_ray.network.unet import UNet

    with torch.device("meta"):
        state = UNet(network).state_dict()
    types = {}
    for name, tensor in state.items():
        dtype = "F32" if tensor.is_floating_point() else "I64"
        types[name] = TensorType(dtype, tuple(tensor.shape))
    return types
