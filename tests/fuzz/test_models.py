"""Model folders that were damaged or made by an enemy: refused in one line, or right.

    python -m pytest -m soak tests/fuzz/test_models.py

One child process with a limit of memory loads them all. A mutated folder either raises InputError,
or it is a model whose logits are finite, and equal to those of the folder that it was made from
where network, weights and preprocessing are the same.
"""

from __future__ import annotations

import json
import math
import random
import resource
import signal
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.builders import write_model_files
from unet_ray.errors import InputError
from unet_ray.flags import ClassSpec
from unet_ray.imaging.regions.postprocessing import ObjectRule, Postprocessing
from unet_ray.network.config import UNetConfig
from unet_ray.network.model_folder import Model, load_model, save_model, state_bytes
from unet_ray.network.preprocessing import Preprocessing
from unet_ray.network.unet import UNet
from unet_ray.storage.storage import Storage

NUM_CASES = 1000
SEED = 30
CASE_S = 20
"""Longest time that a folder may take (s)."""
MEMORY_BYTES = 2**30
"""Memory that the child may take beyond what it has when it starts."""
DEEP = "a text that stands for lists in lists"
HOSTILE: list[Any] = [
    *(None, True, False, "", " ", "x", "0.5", "1", "nan", "../../etc/passwd", "\x1b[31m", "\ud800"),
    *("a" * 300, "b" * 10**5, DEEP, [], {}, [[]], [0], [1.0], {"a": 1}, [None] * 10**4),
    *(0, 1, 2, 3, -1, -5, 7, 255, 256, 1024, 2**30, 2**31, 2**40, 2**63, 2**64, 10**400),
    *(0.0, -0.0, 0.5, 1.0, 1.5, -0.5, 3.0, 1e-46, 1e-38, 1e-30, 1e12, 1e30, 3.4e38, 1e39, 1e308),
    *(math.nan, math.inf, -math.inf, -1e30, -1e308),
]
Files = tuple[dict[str, Any], bytes]
"""Content of `model.json`, and weights."""


def make_models() -> list[Model]:
    """Return models with and without normalisation, separation, limits and channels."""
    torch.manual_seed(SEED)
    plain = Postprocessing((ObjectRule(0.5), ObjectRule(0.4375)))
    separating = Postprocessing(
        (ObjectRule(0.5, 0.5, 3, 0.0), ObjectRule(0.4375, 0.6, 5, 0.25)), steps=8
    )
    kinds: list[tuple[UNetConfig, Preprocessing, Postprocessing, Any]] = [
        (UNetConfig(3, 2, 4, 2), Preprocessing("uint8", (120.5,) * 3, (60.25,) * 3), plain, None),
        (
            UNetConfig(2, 2, 2, 1, "valid", "none"),
            Preprocessing("uint16", (9e3,) * 2, (7e3,) * 2),
            plain,
            ("DAPI", "actin"),
        ),
        (
            UNetConfig(1, 4, 2, 1),
            Preprocessing("float32", (0.5,), (0.25,), (-2.0, 2.0)),
            separating,
            (2,),
        ),
    ]
    classes = (ClassSpec(1, "cell"), ClassSpec(7, "fibre"))
    return [
        Model(
            network,
            state_bytes(UNet(network)),
            classes,
            constants,
            postprocessing,
            input_channels=channels,
        )
        for network, constants, postprocessing, channels in kinds
    ]


# --- mutations: each takes the files of a good model


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield all containers of a JSON value with each of their keys."""
    if isinstance(value, (dict, list)):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])


def spoil_value(rng: random.Random, value: Any) -> None:
    """Replace, remove or double a value somewhere."""
    container, key = rng.choice(list(places(value)))
    action = rng.random()
    if action < 0.1:
        del container[key]
    elif action < 0.2 and isinstance(container, list):
        container.append(container[key])
    elif action < 0.2:
        container[f"{key}_"] = container[key]
    else:
        container[key] = rng.choice(HOSTILE)


def spoil_bytes(rng: random.Random, data: bytes) -> bytes:
    """Flip bits, or cut, lengthen or overwrite a piece."""
    action, place = rng.randrange(4), rng.randrange(len(data))
    if action == 0:
        found = bytearray(data)
        for _ in range(rng.choice((1, 1, 5, 50))):
            found[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return bytes(found)
    if action == 1:
        return data[:place]
    piece = rng.randbytes(rng.choice((1, 8, 1000)))
    return data[:place] + piece + data[place + len(piece) * (action == 2) :]


def write_hostile_json(rng: random.Random, folder: Path, files: Files) -> None:
    """One to three hostile values in `model.json`, with digests that fit."""
    described, weights = files
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        spoil_value(rng, described)
    write_model_files(folder, described, weights)
    text = (folder / "model.json").read_text()
    depth = rng.choice((100, 100_000))
    (folder / "model.json").write_text(text.replace(f'"{DEEP}"', "[" * depth + "]" * depth))


def write_damaged_json(rng: random.Random, folder: Path, files: Files) -> None:
    """Bytes of `model.json` that are damaged."""
    write_model_files(folder, *files)
    place = folder / "model.json"
    place.write_bytes(spoil_bytes(rng, place.read_bytes()))


def write_hostile_header(rng: random.Random, folder: Path, files: Files) -> None:
    """Hostile values in the header of the weights, or another length, with digests that fit."""
    described, weights = files
    length = int.from_bytes(weights[:8], "little")
    header = json.loads(weights[8 : 8 + length])
    spoil_value(rng, header)
    text = json.dumps(header).replace(f'"{DEEP}"', "[" * 10**5).encode()
    text = rng.choice((b"", b"", b"", b" ", b"\xef\xbb\xbf")) + text + b" " * rng.randrange(9)
    claimed = rng.choice((len(text),) * 8 + (0, 1, len(text) - 1, 2**20, 2**31, 2**63))
    write_model_files(folder, described, struct.pack("<Q", claimed) + text + weights[8 + length :])


def write_damaged_weights(rng: random.Random, folder: Path, files: Files) -> None:
    """Bytes of the weights that are damaged after they were written."""
    write_model_files(folder, *files)
    (place,) = folder.glob("*.safetensors")
    place.write_bytes(spoil_bytes(rng, place.read_bytes()))


def write_hostile_weights(rng: random.Random, folder: Path, files: Files) -> None:
    """A number that is not finite, or bytes cut or added, with digests that fit."""
    described, weights = files
    start = 8 + int.from_bytes(weights[:8], "little")
    if rng.random() < 0.3:
        weights = spoil_bytes(rng, weights[:start]) + weights[start:]
    elif rng.random() < 0.3:
        count = rng.randrange(1, 99)
        weights = rng.choice((weights[:-count], weights + bytes(count)))
    else:
        place = rng.randrange(start, len(weights) - 3, 4)
        value = rng.choice((math.nan, math.inf, -math.inf, 0.25, -0.25, 0.0))
        weights = weights[:place] + struct.pack("<f", value) + weights[place + 4 :]
    write_model_files(folder, described, weights)


MUTATIONS: list[Callable[[random.Random, Path, Files], None]] = [
    write_hostile_json,
    write_hostile_json,
    write_damaged_json,
    write_hostile_header,
    write_damaged_weights,
    write_hostile_weights,
]


# --- the child


def predict(model: Model) -> torch.Tensor:
    """Return the logits of a fixed image."""
    side = model.network.input_sizes.input_size(20)
    shape = (1, model.network.in_channels, side, side)
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(model.preprocessing.dtype)
    network = model.build().eval()
    with torch.inference_mode():
        return network(model.preprocessing.apply(torch.from_numpy(pixels)))


def computes_the_same(one: Model, other: Model) -> bool:
    """Tell whether two models have the same network, weights and preprocessing."""
    if one.network != other.network or one.preprocessing != other.preprocessing:
        return False
    mine, theirs = one.build().state_dict(), other.build().state_dict()
    return all(torch.equal(mine[name], theirs[name]) for name in mine)


def check_folder(folder: Path, original: Model) -> str:
    """Load a folder, and return what came of it."""
    message = ""
    try:
        model = load_model(Storage.of(str(folder)))
    except InputError as error:
        message = str(error)
    if message:
        assert message.isprintable(), message
        assert str(folder) in message
        assert len(message) < 1000
        return "refused"
    logits = predict(model)
    assert torch.isfinite(logits).all()
    if not computes_the_same(model, original):
        return "other"
    assert torch.equal(logits, predict(original))
    return "same"


@contextmanager
def limited_time() -> Iterator[None]:
    """Raise TimeoutError where a case takes too long."""

    def stop(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(CASE_S)
    yield
    signal.alarm(0)


def run_cases(place: Path, count: int) -> None:
    """Check mutated folders, and print how many were refused, the same or other models."""
    torch.set_num_threads(1)
    models, good = make_models(), []
    for index, model in enumerate(models):
        save_model(model, Storage.of(f"{place}/{index}"))
        assert check_folder(place / str(index), model) == "same"
        good.append((place / str(index) / "model.json").read_text())
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    outcomes: Counter[tuple[str, str]] = Counter()
    for case in range(count):
        rng = random.Random(SEED * 10**6 + case)
        index, mutate = rng.randrange(len(models)), rng.choice(MUTATIONS)
        described = json.loads(good[index])
        folder = place / "mutated"
        mutate(rng, folder, (described, models[index].weights))
        try:
            with limited_time():
                outcome = check_folder(folder, models[index])
        except Exception as error:
            raise AssertionError(f"case {case}, {mutate.__name__}") from error
        outcomes[mutate.__name__, outcome] += 1
    print(json.dumps({" ".join(key): number for key, number in sorted(outcomes.items())}))


@pytest.mark.soak
def test_a_mutated_model_folder_is_refused_in_one_line_or_predicts_what_it_should(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-m", "tests.fuzz.test_models", str(tmp_path), str(NUM_CASES)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr[-5000:]
    outcomes = json.loads(done.stdout)
    assert sum(outcomes.values()) == NUM_CASES
    print(outcomes)
    assert all(outcomes[f"{mutate.__name__} refused"] > 20 for mutate in MUTATIONS)
    assert outcomes["write_hostile_json same"] > 5  # values that do not matter


if __name__ == "__main__":
    run_cases(Path(sys.argv[1]), int(sys.argv[2]))
