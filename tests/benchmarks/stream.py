"""Speed of the stream of crops without a network, and its cost in CPU.

    python -m tests.benchmarks.train --stream [--sides 512,2048,8192] [--cores 1,2] [--crop 512]

The images are made here: 8-bit RGB with an id per object in their masks, discs that touch. Two
things are measured, for plain crops, for `--separate`, and for that with border weights of 10:

- the cost of a crop in one process, for visits that draw a single crop, by the size of the images;
- crops per second of the whole stream through Ray Data on some cores, and the CPU of all processes
  per crop, from which the cores that feed a GPU can be calculated.

Start-up (the statistics of the set, and what is computed once for each image) is left out of both.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray
from PIL import Image

FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "separate": {"separate": True},
    "weights": {"separate": True, "border_weight": 10.0},
}
"""Flags of each kind of crops."""
_REPOSITORY = Path(__file__).parent.parent.parent
_PIXELS = 2**24
"""Pixels of a set of images (but at least one image)."""
_CROPS = 300
"""Crops that are measured in one process."""
_STREAM_CROPS = 20_000
"""Crops of the whole stream; more than any machine cuts in the time for which it is measured."""
_STREAM_S = 20.0
"""Time for which the whole stream is measured (s)."""


def measure_stream(sides: list[int], cores: list[int], crop: int) -> None:
    """Print both tables."""
    with tempfile.TemporaryDirectory() as folder:
        for side in sides:
            make_set(Path(folder, str(side)), side)
        print(f"ms of CPU per crop of {crop}² px, one process")
        for side in sides:
            found = [_run("one", folder, side, form, crop, 2) for form in FORMS]
            print(
                f"{side}²: "
                + ", ".join(f"{form} {ms:.2f}" for form, ms in zip(FORMS, found, strict=True))
            )
        for count in cores:
            for form in FORMS:
                rate, ms = _run("all", folder, sides[0], form, crop, count)
                print(
                    f"{count} cores, {sides[0]}², {form}: {rate:.0f} crops/s, {ms:.2f} ms of CPU "
                    f"per crop in all processes: {ms / 1000 * 500:.1f} cores for 500 crops/s"
                )


def make_set(folder: Path, side: int) -> None:
    """Write images and masks of side² px."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for index in range(max(1, _PIXELS // side**2)):
        image, ids = _draw(side, np.random.default_rng(index))
        Image.fromarray(image).save(folder / f"images/{index}.png", compress_level=1)
        Image.fromarray(ids).save(folder / f"masks/{index}.png", compress_level=1)


def _draw(side: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Draw discs of 10 to 16 px about every 30 px, of which some touch."""
    ids = np.zeros((side, side), np.uint16)
    rows, columns = np.mgrid[-16:17, -16:17]
    number = 0
    for top in range(20, side - 20, 30):
        for left in range(20, side - 20, 30):
            row, column = (np.array([top, left]) + rng.integers(-3, 4, 2)).tolist()
            inside = rows**2 + columns**2 <= rng.integers(10, 17) ** 2
            number = number % 65_000 + 1
            window = ids[row - 16 : row + 17, column - 16 : column + 17]
            inside = inside[: window.shape[0], : window.shape[1]]
            window[inside] = number
    image = rng.integers(0, 60, (side, side, 3), np.uint8)
    image[ids > 0] += 120
    return image, ids


def _run(what: str, folder: str, side: int, form: str, crop: int, cores: int) -> Any:
    """Measure in a process of its own, which may use some of the cores."""
    arguments = f"{what!r}, {folder!r}, {side}, {form!r}, {crop}, {cores}"
    source = f"from tests.benchmarks.stream import measure; measure({arguments})"
    done = subprocess.run(
        [sys.executable, "-c", source], cwd=_REPOSITORY, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def measure(what: str, folder: str, side: int, form: str, crop: int, cores: int) -> None:
    """Print a measurement as JSON: ms per crop, or crops per second and ms per crop."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    import ray

    from unet_ray.labelled_data.find_labelled import find_labelled
    from unet_ray.labelled_data.labelled_set import LabelOptions
    from unet_ray.labelled_data.statistics import compute_both
    from unet_ray.training.config import TrainConfig
    from unet_ray.training.crop_stream import crop_stream
    from unet_ray.training.setup import set_up_training
    from unet_ray.training.split import Split

    ray.init("local", num_cpus=cores, log_to_driver=False, object_store_memory=4 * 2**30)
    images, masks = f"{folder}/{side}/images", f"{folder}/{side}/masks"
    config = TrainConfig(
        images=images,
        masks=masks,
        output=f"{folder}/model",
        val_fraction=0.0,
        crop=crop,
        mask_kind="instances",
        **FORMS[form],
    )
    labelled = find_labelled(images, masks, LabelOptions(kind="instances"))
    statistics, _ = compute_both(labelled, None, None, decode_once=True)
    assert statistics.decoded_once
    split = Split((), None)
    sampler = set_up_training(config, labelled, statistics, None, None, None, split).sampler
    sampler = sampler.store_planes()
    if what == "one":
        visits = len(sampler.visits)
        for ordinal in range(min(visits, 100)):  # which maps the images into this process
            list(sampler.crops(ordinal))
        started = time.process_time()
        drawn = [1 for at in range(_CROPS) for _ in sampler.crops(at % visits + visits)]
        print(json.dumps(1e3 * (time.process_time() - started) / len(drawn)))
        return
    batches = iter(crop_stream(sampler, 0, _STREAM_CROPS).iter_batches(batch_size=8))
    for _ in range(20):
        next(batches)
    before, started, seen = _cpu_s(), time.perf_counter(), 0
    while time.perf_counter() - started < _STREAM_S:
        seen += len(next(batches)["image"])
    elapsed_s = time.perf_counter() - started
    print(json.dumps([seen / elapsed_s, 1e3 * (_cpu_s() - before) / seen]))


def _cpu_s() -> float:
    """Return the CPU time of this process and all that it started (s)."""
    total = 0.0
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.Error:  # it has just ended
            continue
        total += times.user + times.system
    return total
