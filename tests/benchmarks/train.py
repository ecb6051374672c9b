"""Samples per second of one Ray Train worker, compared with a bare PyTorch loop.

    python -m tests.benchmarks.train --images DIR --masks DIR --output FILE.json
        [--runs 3] [--network 16,4]
    python -m tests.benchmarks.train --stream

Both sides have the same network, batch, loss and augmentation (`network.learner.Learner`). The loop
has its crops in memory before it starts, and nothing else to do; the worker gets its crops from the
stream. The loop runs before and after the worker, so that a machine that drifts does so for both.
Steady state leaves out the first epoch; the time from command to first step is printed separately.
A second loop runs with the worker's memory settings (`cluster.session.REUSED_MEMORY`): the
difference between it and the worker is the cost of Ray and of the stream.

`--stream` measures the stream of crops alone, without a network (stream.py).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from tests.benchmarks.stream import measure_stream
from unet_ray.cluster.session import REUSED_MEMORY
from unet_ray.imaging.labels.crop_config import CropConfig
from unet_ray.imaging.labels.crops import LabelledCrops
from unet_ray.imaging.labels.label_planes import compute_planes
from unet_ray.imaging.labels.labelling import find_labelling
from unet_ray.imaging.labels.mask_values import add_up, mask_values
from unet_ray.labelled_data.find_labelled import find_labelled
from unet_ray.labelled_data.labelled_set import LabelOptions
from unet_ray.labelled_data.readers import FileReader
from unet_ray.network.config import AUGMENTATIONS, UNetConfig
from unet_ray.network.learner import Learner, LearnerConfig
from unet_ray.network.preprocessing import Preprocessing
from unet_ray.network.unet import UNet

REPOSITORY = Path(__file__).parent.parent.parent
_CROP, _BATCH, _LOOP_STEPS = 256, 8, 15


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stream", action="store_true", help="the stream without a network")
    parser.add_argument("--sides", default="512,2048,8192", help="sides of its images (px)")
    parser.add_argument("--cores", default="1,2", help="numbers of cores that it gets")
    parser.add_argument("--crop", type=int, default=512, help="side of its crops (px)")
    parser.add_argument("--images")
    parser.add_argument("--masks")
    parser.add_argument("--output")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--network", default="16,4", help="base channels, depth")
    flags = parser.parse_args()
    if flags.stream:
        sides, cores = (list(map(int, text.split(","))) for text in (flags.sides, flags.cores))
        measure_stream(sides, cores, flags.crop)
        return
    if not (flags.images and flags.masks and flags.output):
        parser.error("give --images, --masks and --output, or --stream")
    channels, depth = map(int, flags.network.split(","))
    sides = {"loop": {}, "loop_reusing_memory": REUSED_MEMORY["env_vars"]}
    rates: dict[str, list[float]] = {"worker": [], "start_s": []} | {name: [] for name in sides}

    def loops() -> dict[str, float]:
        return {
            name: _loop(flags.images, flags.masks, channels, depth, env)
            for name, env in sides.items()
        }

    for _ in range(flags.runs):
        before = loops()
        rate, start_s = _ours(flags.images, flags.masks, channels, depth, flags.epochs)
        after = loops()
        found = {"worker": rate, "start_s": start_s} | {
            name: (before[name] + after[name]) / 2 for name in sides
        }
        for name, value in found.items():
            rates[name].append(value)
        print(", ".join(f"{name} {value:.2f}" for name, value in found.items()), flush=True)
    ratios = {
        name: [o / p for o, p in zip(rates["worker"], rates[name], strict=True)] for name in sides
    }
    Path(flags.output).write_text(json.dumps({"ratios": ratios} | rates, indent=2))
    for name, each in ratios.items():
        rounds = ", ".join(f"{ratio:.2f}" for ratio in each)
        print(f"worker / {name}: {statistics.median(each):.2f} (of {rounds})")


def _loop(images: str, masks: str, channels: int, depth: int, variables: dict[str, str]) -> float:
    """Return crops per second of a plain loop over crops in memory, in a process of its own."""
    arguments = f"{images!r}, {masks!r}, {channels}, {depth}"
    source = f"from tests.benchmarks.train import bare_loop; bare_loop({arguments})"
    command, folder = [sys.executable, "-c", source], REPOSITORY
    done = subprocess.run(
        command, cwd=folder, env=os.environ | variables, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return float(done.stdout.split()[-1])


def bare_loop(images: str, masks: str, channels: int, depth: int) -> None:
    """Print crops per second."""
    labelled = find_labelled(images, masks, LabelOptions())
    reader, rng = (
        FileReader(labelled.access, labelled.items[: 4 * _BATCH]),
        np.random.default_rng(0),
    )
    pairs = [reader.read(index) for index in range(len(reader.items))]
    values = add_up(
        [(list(mask_values(mask).items()), "") for _, found, _ in pairs for mask in found]
    )
    labelling = find_labelling(values, (), "binary", 0, None)
    constants = Preprocessing("uint8", (60.0,) * 3, (50.0,) * 3)
    config = CropConfig(_CROP, 0, 0.33)
    planes = [compute_planes(masks, labelling, config) for _, masks, _ in pairs]
    crops = [
        LabelledCrops(image, masks, labelling, config, each).draw(rng)
        for (image, masks, _), each in zip(pairs, planes, strict=True)
    ]
    inputs = torch.from_numpy(np.stack([constants.check(crop["image"]) for crop in crops]))
    targets = torch.from_numpy(np.stack([crop["targets"] for crop in crops]))
    network = UNet(UNetConfig(3, 1, channels, depth)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    settings = LearnerConfig(1e-3, augmentations=frozenset(AUGMENTATIONS))
    learner = Learner(network, constants, settings, torch.Generator().manual_seed(0))
    for step in range(_LOOP_STEPS + 5):
        if step == 5:
            started = time.perf_counter()
        first = step * _BATCH % len(crops)
        learner.step(inputs[first : first + _BATCH], targets[first : first + _BATCH], None, 0.5)
    print(_LOOP_STEPS * _BATCH / (time.perf_counter() - started))


def _ours(images: str, masks: str, channels: int, depth: int, epochs: int) -> tuple[float, float]:
    """Return crops per second after the first epoch, and seconds from start to the first step."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(REPOSITORY / "jobs/train.py")]
        command += ["--images", images, "--masks", masks]
        command += ["--output", f"{folder}/model", "--storage", f"{folder}/run"]
        command += ["--epochs", str(epochs + 1)]
        command += ["--base-channels", str(channels), "--depth", str(depth), "--val-fraction", "0"]
        command += ["--crop", str(_CROP), "--batch-size", str(_BATCH)]
        started, start_s = time.perf_counter(), 0.0
        clean = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=clean)
        assert process.stdout is not None
        for line in process.stdout:
            if re.search(r"from epoch 1$", line):
                start_s = time.perf_counter() - started
        if process.wait():
            raise SystemExit("jobs/train.py failed")
        history = json.loads(
            sorted(Path(folder, "run").glob("unet_ray/*/progress.json"))[-1].read_text()
        )["history"]
        return statistics.harmonic_mean([record["crops_per_s"] for record in history[1:]]), start_s


if __name__ == "__main__":
    main()
