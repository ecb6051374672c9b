import json
import math
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from unet_ray.errors import InputError
from unet_ray.network.config import UNetConfig
from unet_ray.network.model_folder import state_bytes
from unet_ray.network.unet import UNet
from unet_ray.network.weights import (
    MAX_HEADER_BYTES,
    check_weights,
    load_weights,
    parse_header,
    read_weights,
)
from unet_ray.storage.storage import Storage

NETWORK = UNetConfig(1, 1, 2, 1)


def make_weights(network: UNetConfig = NETWORK) -> bytes:
    return state_bytes(UNet(network))


def with_header(weights: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """Return weights whose header was changed."""
    length = int.from_bytes(weights[:8], "little")
    header = json.loads(weights[8 : 8 + length])
    change(header)
    return with_text(weights, json.dumps(header).encode())


def with_text(weights: bytes, header: bytes) -> bytes:
    """Return weights with another header."""
    length = int.from_bytes(weights[:8], "little")
    return struct.pack("<Q", len(header)) + header + weights[8 + length :]


def with_value(name: str, value: float) -> bytes:
    """Return weights of which one number is another."""
    state = UNet(NETWORK).state_dict()
    state[name].view(-1)[-1] = value
    return save({key: tensor.contiguous() for key, tensor in state.items()})


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_weights_of_a_network_are_read_and_loaded(root: str, padding: str, norm: str) -> None:
    network = UNetConfig(2, 3, 4, 2, padding, norm)  # type: ignore[arg-type]
    weights = make_weights(network)
    file = Storage.of(root)
    file.write("w", weights)
    assert read_weights(file.join("w"), network) == weights
    loaded, expected = load_weights(weights, network), load(weights)
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


def test_weights_for_which_no_memory_is_needed_yet_are_described() -> None:
    weights = make_weights()
    header = parse_header(weights[:MAX_HEADER_BYTES])
    assert header.file_bytes == len(weights)
    head = header.tensors["head.weight"]
    assert (head.type.dtype, head.type.shape) == ("F32", (1, 2, 1, 1))
    found = np.frombuffer(weights, "<f4", 2, header.num_bytes + head.start)
    assert found.tolist() == load(weights)["head.weight"].flatten().tolist()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["head.weight", "contracting.0.1.running_mean"])
def test_weights_that_are_not_finite_are_refused(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"tensor {name} holds {value}; weights must be finite"):
        check_weights(with_value(name, value), NETWORK)


def test_a_variance_below_0_is_refused() -> None:
    with pytest.raises(InputError, match="running_var holds -1.0; a variance must be 0 or more"):
        check_weights(with_value("contracting.0.1.running_var", -1.0), NETWORK)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (UNetConfig(1, 1, 4, 1), r"'contracting.0.0.weight' is F32 \(2, 1, 3, 3\) here"),
        (UNetConfig(1, 1, 2, 2), "'contracting.2.0.weight' is missing here but F32"),
        (UNetConfig(1, 1, 2, 1, norm="none"), "'contracting.0.0.bias' is missing here"),
        (UNetConfig(1, 1, 1024, 7), "'contracting.0.0.weight' is F32"),
    ],
)
def test_weights_of_another_network_are_refused(network: UNetConfig, message: str) -> None:
    for refuse in (check_weights, load_weights):
        with pytest.raises(InputError, match=f"do not fit the network: tensor {message}"):
            refuse(make_weights(), network)


def rename(header: dict[str, Any]) -> None:
    header["\x1b[31m" * 1000] = header.pop("head.bias")


def swap_places(header: dict[str, Any]) -> None:
    """Let two tensors of the same size lie at one place."""
    first = header["contracting.0.1.running_var"]
    header["contracting.0.1.running_mean"]["data_offsets"] = first["data_offsets"]


def change_tensor(**values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda header: header["head.bias"].update(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rename, r"tensor '\\x1b\[31m.* is F32 \(1,\) here but missing in the network"),
        (swap_places, "a tensor lies at bytes"),
        (
            change_tensor(dtype="I32"),
            r"'head.bias' is I32 \(1,\) here but F32 \(1,\) in the network",
        ),
        (change_tensor(dtype=7), "damaged header: 'head.bias'.dtype 7 is not a text"),
        (change_tensor(shape=[1.0]), "'head.bias'.shape\\[0\\] 1.0 is not a whole number"),
        (change_tensor(shape=[1] * 10**4), "'head.bias' is F32 .* here but F32"),
        (change_tensor(shape=[-1]), r"F32 \(-1,\) here"),
        (change_tensor(data_offsets=[0]), "'head.bias' has 1 data_offsets instead of 2"),
        (change_tensor(data_offsets=[0, 2**62]), "a tensor lies at bytes"),
        (change_tensor(data_offsets=[-4, 0]), "a tensor lies at bytes -4 to 0"),
        (lambda header: header.update(x=[]), r"x \[\] is not an object"),
        (lambda header: header.update(__metadata__={"a": 1}), "damaged header"),
    ],
)
def test_a_hostile_header_is_refused_in_one_line(
    change: Callable[[dict[str, Any]], object], message: str
) -> None:
    with pytest.raises(InputError, match=message) as error:
        load_weights(with_header(make_weights(), change), NETWORK)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (b"", "cut short: 0 bytes"),
        (b"\x80\x04pickle", "not a safetensors file: its header would have"),
        (struct.pack("<Q", 2**63) + b"{}", "not a safetensors file"),
        (struct.pack("<Q", 2**20) + b"{}", "the limit is 1048576"),
        (struct.pack("<Q", 3) + b"{}", "cut short: 10 bytes, fewer than its header has"),
        (with_text(make_weights(), b"[" * 10**5), "damaged header: .* deep"),
        (make_weights()[:-1], "bytes, but the weights of the network take"),
        (make_weights() + b"x", "bytes, but the weights of the network take"),
    ],
)
def test_what_is_no_file_of_weights_is_refused_in_one_line(
    root: str, weights: bytes, message: str
) -> None:
    with pytest.raises(InputError, match=message) as error:
        check_weights(weights, NETWORK)
    assert "\n" not in str(error.value)
    Storage.of(root).write("w", weights)
    with pytest.raises((InputError, OSError)):  # S3 has no range of an empty object
        read_weights(Storage.of(root).join("w"), NETWORK)


def test_a_file_that_is_not_there_is_no_input_error(root: str) -> None:
    """The model folder tries again then: another model may have replaced this one."""
    with pytest.raises(FileNotFoundError):
        read_weights(Storage.of(root).join("w"), NETWORK)
