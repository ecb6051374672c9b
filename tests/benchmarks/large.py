"""Large images: speed relative to the network alone, memory, cost of seams, small ones beside them.

    python -m tests.benchmarks.large --images PHOTOS --output FILE.json
        [--sizes 8192,16384,30000] [--jpeg 16384]

Square images are made of many photographs: a tiled TIFF of each size, each in its own run of
`jobs/segment.py`; then a JPEG with 200 small images beside it, and those alone. Rates are steady
state, from the first tile that the run reports to the last. The network alone predicts tiles of the
same size (context included) from memory with the same threads and memory settings as in the run
(and, for comparison, with those of the C library), before and after each run. The cost of seams is
the time to find the regions of the run's own masks tile by tile and to merge them, less the time to
find those of each tile alone, as a share of the run's time.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from itertools import repeat, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image

from tests.benchmarks.watching import Watcher
from unet_ray.cluster.session import REUSED_MEMORY
from unet_ray.flags import ClassSpec
from unet_ray.imaging.geometry import Box, read_box
from unet_ray.imaging.regions.merge import RegionMerger
from unet_ray.imaging.regions.postprocessing import ObjectRule, Postprocessing
from unet_ray.imaging.regions.regions import find_regions
from unet_ray.imaging.regions.run_lengths import decode_rle
from unet_ray.imaging.regions.separation import unseparated
from unet_ray.imaging.regions.tile_regions import find_tile_regions
from unet_ray.network.config import PredictorConfig, UNetConfig
from unet_ray.network.model_folder import Model, load_model, save_model, state_bytes
from unet_ray.network.predictor import Predictor
from unet_ray.network.preprocessing import Preprocessing
from unet_ray.network.unet import UNet
from unet_ray.output.reader import read_tables
from unet_ray.prefetch import ahead
from unet_ray.storage.storage import Storage

REPOSITORY = Path(__file__).parent.parent.parent
_TILE = 512
"""Side of the tiles of the TIFF files, px."""
_SMALL = 200
_ALONE_S = 20.0
"""Time for which the network alone is measured, each time."""
_PARTS = {
    "decoder": "unet_ray.imaging.codecs.sandbox",
    "predictor": "ray::MapWorker",
    "driver": "jobs/segment.py",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", required=True, help="folder of photographs (RGB, 8 bits)")
    parser.add_argument("--output", required=True)
    parser.add_argument(
        "--model", help="model folder; default: an untrained network of the preset `article`"
    )
    parser.add_argument("--sizes", default="8192,16384,30000")
    parser.add_argument("--jpeg", type=int, default=16384)
    flags = parser.parse_args()
    photos = Photos(Path(flags.images))
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        model = flags.model or _untrained(place / "model", photos)
        for size in map(int, flags.sizes.split(",")):
            _show(report, f"tiff {size}", _large(place, model, photos, size, "tif", small=0))
        _show(report, f"{_SMALL} small alone", _small_alone(place, model, photos))
        beside = f"jpeg {flags.jpeg}, {_SMALL} small beside"
        _show(report, beside, _large(place, model, photos, flags.jpeg, "jpg", small=_SMALL))
    Path(flags.output).write_text(json.dumps(report, indent=2))


def _show(report: dict[str, Any], name: str, row: dict[str, Any]) -> None:
    report[name] = row
    print(name, json.dumps(row), flush=True)


class Photos:
    """Photographs as one endless plane, in turn."""

    def __init__(self, folder: Path) -> None:
        paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".png"))[:20]
        images = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
        self._height, self._width = (min(image.shape[axis] for image in images) for axis in (0, 1))
        self._images = [image[: self._height, : self._width] for image in images]

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
        """Return a window of the plane."""
        window = np.empty((height, width, 3), np.uint8)
        rows, columns = np.arange(top, top + height), np.arange(left, left + width)
        for down in np.unique(rows // self._height):
            for across in np.unique(columns // self._width):
                image = self._images[(3 * down + across) % len(self._images)]
                at = np.ix_(rows // self._height == down, columns // self._width == across)
                mine = rows[at[0].ravel()] % self._height, columns[at[1].ravel()] % self._width
                window[at] = image[np.ix_(*mine)]
        return window

    def write(self, path: Path, size: int) -> None:
        """Write a square image, as tiled TIFF or as JPEG."""
        if path.suffix == ".jpg":
            Image.fromarray(self.read(0, 0, size, size)).save(path, quality=92)
            return
        options = {"tile": (_TILE, _TILE), "compression": "jpeg", "compressionargs": {"level": 92}}
        with tifffile.TiffWriter(path, bigtiff=True) as writer:
            writer.write(
                self._tiles(size),
                shape=(size, size, 3),
                dtype="uint8",
                photometric="rgb",
                **options,
            )

    def _tiles(self, size: int) -> Iterator[NDArray[np.uint8]]:
        for top in range(0, size, _TILE):
            for left in range(0, size, _TILE):
                yield self.read(top, left, _TILE, _TILE)


def _untrained(folder: Path, photos: Photos) -> str:
    """Write an untrained network whose masks are a tenth of the pixels, in arbitrary shapes."""
    torch.manual_seed(0)
    config, constants = UNetConfig(3, 1, 8, 3), Preprocessing("uint8", (100.0,) * 3, (50.0,) * 3)
    network = UNet(config)
    image = torch.from_numpy(photos.read(300, 300, 512, 512)).permute(2, 0, 1)[None]
    with torch.no_grad():
        network.head.bias -= network.eval()(constants.apply(image)).quantile(0.9)
    save_model(
        Model(
            config,
            state_bytes(network),
            (ClassSpec(1, "object"),),
            constants,
            Postprocessing((ObjectRule(),)),
        ),
        Storage.of(f"{folder}"),
    )
    return str(folder)


def _large(
    place: Path, model: str, photos: Photos, size: int, suffix: str, small: int
) -> dict[str, Any]:
    """Segment a large image with small ones beside it."""
    archive = _empty(place)
    photos.write(archive / f"large.{suffix}", size)
    _add_small(archive, photos, small)
    plain = _network_alone(model, photos, {})
    before = _network_alone(model, photos, REUSED_MEMORY["env_vars"])
    run = Run(model, archive, place / "tables")
    alone = (before + _network_alone(model, photos, REUSED_MEMORY["env_vars"])) / 2
    seams_s = _seams_s(place / "tables", size)
    rate = size * size / 1e6 / run.tiles * run.tiles_per_s
    return {
        "megapixels_per_s": rate,
        "network_alone": alone,
        "ratio": rate / alone,
        "ratio_to_plain_memory": rate / plain,
        "seconds": run.seconds,
        "seams_share": seams_s / (run.tiles / run.tiles_per_s),
        "read_per_kept": run.read_per_kept,
        "peak_gib": run.peak_gib,
        "small_done_after_s": run.small_done_s,
    }


def _small_alone(place: Path, model: str, photos: Photos) -> dict[str, Any]:
    archive = _empty(place)
    _add_small(archive, photos, _SMALL)
    run = Run(model, archive, place / "tables")
    return {
        "seconds": run.seconds,
        "small_done_after_s": run.small_done_s,
        "peak_gib": run.peak_gib,
    }


def _empty(place: Path) -> Path:
    subprocess.run(["rm", "-rf", place / "archive", place / "tables"], check=True)
    (place / "archive").mkdir()
    return place / "archive"


def _add_small(archive: Path, photos: Photos, count: int) -> None:
    for index in range(count):
        Image.fromarray(photos.read(400 * index, 300 * index, 384, 512)).save(
            archive / f"{index:03d}.png"
        )


class Run:
    """One run of the job, watched from outside: its lines, their times, and its memory."""

    def __init__(self, model: str, archive: Path, tables: Path) -> None:
        flags = [f"--model={model}", f"--images={archive}", f"--output={tables}"]
        command = [sys.executable, str(REPOSITORY / "jobs/segment.py"), *flags]
        self.small_done_s: float | None = None
        self.read_per_kept, self._told = 0.0, [(0.0, 0)]
        self.tiles, started = 0, time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        watcher = Watcher(process.pid, _PARTS)
        assert process.stdout
        for line in process.stdout:
            now = time.perf_counter() - started
            if cost := re.search(r"([\d.]+) px read per px kept", line):
                self.read_per_kept = float(cost[1])
            if tiles := re.search(r"(\d+)/(\d+) tiles", line):
                self._told.append((now, int(tiles[1])))
                self.tiles = int(tiles[2])
            images = re.match(r"(\d+)/\d+ images", line)
            if images and int(images[1]) >= _SMALL and self.small_done_s is None:
                self.small_done_s = now
        self.seconds = time.perf_counter() - started
        watcher.stop()
        self.peak_gib = watcher.largest_gib
        if process.wait():
            sys.exit("the job failed")

    @property
    def tiles_per_s(self) -> float:
        """Tiles between the first and the last reported one, over the time between them."""
        told = [(when, tiles) for when, tiles in self._told if tiles]
        (first_at, first), (last_at, last) = told[0], next(t for t in told if t[1] == told[-1][1])
        return (last - first) / (last_at - first_at)


def _network_alone(model: str, photos: Photos, environment: dict[str, str]) -> float:
    """Return kept megapixels per second of the network on inner tiles, in a process of its own."""
    found = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.large", "--network-alone", model],
        cwd=REPOSITORY,
        input=photos.read(0, 0, 2600, 2600).tobytes(),
        capture_output=True,
        check=True,
        env=os.environ | environment,
    )
    return float(found.stdout)


def _measure_network(folder: str) -> None:
    image = np.frombuffer(sys.stdin.buffer.read(), np.uint8).reshape(2600, 2600, 3)
    model = load_model(Storage.of(folder))
    predictor = Predictor(
        model.build(), model.preprocessing, PredictorConfig(threads=psutil.cpu_count())
    )
    tile = predictor.tiles(1024 * 3, 1024 * 3)[4]  # context on all sides
    pixels = read_box(image, Box(0, 0, tile.read.height, tile.read.width), mirror=False)
    pixels = model.preprocessing.check(pixels)
    list(
        predictor.lanes.map(
            lambda _: predictor.predict_tile(pixels, tile), range(predictor.lane_count)
        )
    )
    done, started = 0, time.perf_counter()
    again = takewhile(lambda _: time.perf_counter() - started < _ALONE_S, repeat(pixels))
    for prob_u8 in ahead(
        predictor.lanes, partial(predictor.predict_tile, tile=tile), again, predictor.lane_count
    ):
        done += prob_u8[0].size
    print(done / 1e6 / (time.perf_counter() - started))


def _seams_s(tables: Path, size: int) -> float:
    """Return the seconds that seams cost: tiles merged, less tiles on their own."""
    opened, seconds = read_tables(str(tables)), 0.0
    rows = [row for row in opened.masks.to_pylist() if "/large." in row["image_uri"]]
    for class_id in {row["class_id"] for row in rows}:
        merger = RegionMerger(size, size)
        for row in (row for row in rows if row["class_id"] == class_id):
            mask = decode_rle(row["counts"], row["height"], row["width"])
            prob_u8 = mask.astype(np.uint8) * 200
            core = Box(
                row["top"], row["left"], row["top"] + row["height"], row["left"] + row["width"]
            )
            marks = [time.perf_counter()]
            find_regions(unseparated(mask), prob_u8)
            marks.append(time.perf_counter())
            merger.add(find_tile_regions(unseparated(mask), prob_u8, core, size, size))
            marks.append(time.perf_counter())
            seconds += (marks[2] - marks[1]) - (marks[1] - marks[0])
        started = time.perf_counter()
        merger.regions()
        seconds += time.perf_counter() - started
    return seconds


if __name__ == "__main__":
    if sys.argv[1:2] == ["--network-alone"]:
        _measure_network(sys.argv[2])
    else:
        main()
