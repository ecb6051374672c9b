"""Speed of jobs/segment.py, compared with the network alone and other ways to do the same.

    python -m tests.benchmarks.segment --images DIR --output FILE.json
        [--device gpu] [--model MODEL] [--runs 3]

On the same images and weights, alternating, each in a process of its own:

bare   the network on whole frames from memory, with the threads and memory settings of the job
plain  the same with the memory settings of any script
loop   a good loop by hand: a DataLoader decodes, the network runs, the same measures, one shard
docs   Ray Data's chain as its documentation has it: read_images, map_batches, write_parquet
monai  the loop with MONAI's sliding window (needs `pip install monai`; left out if missing)
ours   jobs/segment.py

Steady state is the slope of images over the times when each was measured (`bare`, `plain`:
predicted), between the first and the last tenth of them. Start-up lasts until the first of them,
shut-down begins with the last. CPU outside the network is that of the whole process tree in steady
state, less what the network alone takes (`bare` for ours, `plain` for the others).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

from tests.benchmarks.watching import Watcher
from unet_ray.cluster.session import REUSED_MEMORY
from unet_ray.flags import ClassSpec
from unet_ray.imaging.regions.postprocessing import ObjectRule, Postprocessing
from unet_ray.network.config import UNetConfig
from unet_ray.network.model_folder import Model, save_model, state_bytes
from unet_ray.network.preprocessing import Preprocessing
from unet_ray.network.unet import UNet
from unet_ray.storage.storage import Storage

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
_PATHS = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
_LEAST, _MOST_PIXELS = 40, 8 * 2**20
_SIDES = ("bare", "plain", "loop", "docs", "monai", "ours")
_PARTS = {
    "decode": "MapBatches(decode)",
    "predict": "PredictActor",
    "measure": "MapBatches(measure)",
    "write": "_write",
    "driver": "jobs/segment.py",
}
"""Parts of the job, and words of the titles that Ray gives to their processes."""
_RECORDED = ("stage_s", "object_store_bytes", "spilled_bytes")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", required=True, help="folder of images")
    parser.add_argument("--output", required=True, help="JSON file")
    parser.add_argument(
        "--model",
        help="model folder; default: one of depth 4, 16 channels (64 on a GPU), "
        "that finds bright blobs",
    )
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--limit", type=int, help="number of images, spread over the folder")
    parser.add_argument(
        "--copies",
        type=int,
        default=1,
        help="copies of each image: a GPU takes thousands to be steady",
    )
    parser.add_argument("--sides", help="some of " + ",".join(_SIDES))
    flags = parser.parse_args()
    sides = (
        flags.sides.split(",")
        if flags.sides
        else [s for s in _SIDES if s != "monai" or find_spec("monai")]
    )
    rows: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        megapixels = _archive(Path(flags.images), work / "images", flags.limit, flags.copies)
        model = flags.model or _blob_finder(
            work / "model", 64 if flags.device == "gpu" else 16, work / "images"
        )
        for _ in range(flags.runs):
            for side in sides:
                rows[side].append(
                    _run(side, model, work, flags.device) | {"megapixels": megapixels}
                )
                print(side, json.dumps(rows[side][-1]), flush=True)
            report = _report(rows, flags.device)
            Path(flags.output).write_text(json.dumps(report, indent=2))
    _show(report)


def _archive(source: Path, target: Path, limit: int | None, copies: int) -> float:
    """Copy every nth image and return the megapixels of all copies.

    The sides take whole frames, so images must not be large.
    """
    files = sorted(path for path in source.iterdir() if path.is_file())
    chosen = files[:: max(1, len(files) // limit)][:limit] if limit else files
    target.mkdir()
    pixels = 0
    for path in chosen:
        for copy in range(copies):
            shutil.copy(path, target / f"{copy:04}-{path.name}")
        with Image.open(path) as image:
            pixels += image.width * image.height
            if image.width * image.height > _MOST_PIXELS:
                sys.exit(f"{path}: {image.width}×{image.height} px; give images up to 8 megapixels")
    if len(chosen) * copies < _LEAST:
        sys.exit(
            f"--images {source}: {len(chosen) * copies} images; "
            f"a steady state takes at least {_LEAST}"
        )
    return copies * pixels / 1e6


def _blob_finder(folder: Path, base_channels: int, images: Path) -> str:
    """Write an untrained network that finds pixels brighter than those near them, a tenth of all.

    Its first channel of each level is the brightness, smoothed and pooled, at one level less that
    of the level below; the others are drawn at random, and nothing reads them. So it costs what any
    network of its size does, and finds some ten to hundred regions: with random weights alone it
    would find 11,000 specks in a photograph, and their outlines would take much of the time.
    """
    torch.manual_seed(0)
    config = UNetConfig(3, 1, base_channels, 4)
    network, constants = UNet(config), Preprocessing("uint8", (60.0,) * 3, (50.0,) * 3)
    with torch.inference_mode():
        for level in [*network.contracting, *network.expansive]:
            for layer in level:
                if isinstance(layer, torch.nn.Conv2d):
                    inputs = layer.in_channels
                    brightness = (
                        inputs // 2 if inputs > layer.out_channels else 0
                    )  # beside a skip connection
                    layer.weight[0] = 0
                    layer.weight[0, brightness] = 1 / 9
        contrast = network.expansive[1][0]
        contrast.weight[0, 0], contrast.weight[0, contrast.in_channels // 2] = 1 / 9, -1 / 9
        for up in network.up:
            up.weight[:, 0], up.bias[0] = 0, 0
            up.weight[0, 0] = 1
        network.head.weight[:], network.head.bias[:] = 0, 0
        network.head.weight[0, 0] = 4
        some = sorted(images.iterdir())[:: _LEAST // 10]
        thousands = [network.eval()(_pixels(path, constants)).ravel()[::97] for path in some[:10]]
        network.head.bias[0] = (
            -torch.cat(thousands).quantile(0.9) - 0.1
        )  # where nothing differs: none
    rules = Postprocessing((ObjectRule(),))
    model = Model(config, state_bytes(network), (ClassSpec(1, "object"),), constants, rules)
    save_model(model, Storage.of(str(folder)))
    return str(folder)


def _pixels(path: Path, constants: Preprocessing) -> torch.Tensor:
    """Return an image as a batch, cut at the right and bottom to a size that the network takes."""
    with Image.open(path) as image:
        values = np.asarray(image.convert("RGB"))
    height, width = (side // 16 * 16 for side in values.shape[:2])
    return constants.apply(
        torch.from_numpy(values[:height, :width].copy())[None].permute(0, 3, 1, 2)
    )


def _run(side: str, model: str, work: Path, device: str) -> dict[str, Any]:
    """Run one side and return its figures."""
    tables, events = work / "tables", work / "events"
    for left in (tables, events):
        shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
    flags = ["--model", model, "--images", str(work / "images")]
    if side == "ours":
        job = [str(REPOSITORY / "jobs/segment.py"), *flags, "--output", str(tables)]
        command = job + (["--precision", "bfloat16"] if device == "gpu" else [])
    else:
        name = "bare" if side == "plain" else side
        command = [
            str(HERE / "sides.py"),
            name,
            *flags,
            "--tables",
            str(tables),
            "--events",
            str(events),
        ]
    environment = REUSED_MEMORY["env_vars"] if side == "bare" and device == "cpu" else {}
    started = time.time()
    process = subprocess.Popen(
        [sys.executable, *command, "--device", device],
        env=os.environ | environment | {"PYTHONPATH": _PATHS},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    watcher = Watcher(process.pid, _PARTS if side == "ours" else {})
    _, errors = process.communicate()
    ended = time.time()
    watcher.stop()
    if process.returncode:
        sys.exit(f"{side} failed:\n{errors}")
    times, found = np.sort(_times(tables, events)), {}
    if side == "ours":
        (file,) = (tables / "runs").iterdir()
        record = json.loads(file.read_text())
        found = {name: record[name] for name in _RECORDED}
    inner = slice(len(times) // 10, -(len(times) // 10))
    rate = float(np.polyfit(times[inner], np.arange(len(times))[inner], 1)[0])
    since, until = times[inner][[0, -1]]
    cpu_s = {part: s / (rate * (until - since)) for part, s in watcher.cpu_s(since, until).items()}
    if side == "ours":
        found["predictors_busy"] = rate * found["stage_s"]["predict"] / len(times)
    return {
        "images": len(times),
        "start_s": times[0] - started,
        "stop_s": ended - times[-1],
        "images_per_s": rate,
        "cpu_s_per_image": sum(cpu_s.values()),
        "cpu_s_per_image_of": cpu_s,
        "memory_gib": watcher.together_gib,
        **found,
    }


def _times(tables: Path, events: Path) -> list[float]:
    """Return when each image was measured, where there are tables, else when it was predicted."""
    files = list(tables.rglob("*.parquet"))
    if not files:
        return [float(line) for line in events.read_text().split()]
    measured = [
        pq.read_table(file, columns=["segmented_at"], partitioning=None)
        for file in files
        if _is_ledger(file)
    ]
    return [at.timestamp() for table in measured for at in table["segmented_at"].to_pylist()]


def _is_ledger(file: Path) -> bool:
    return "images" in file.parts


def _report(rows: dict[str, list[dict[str, Any]]], device: str) -> dict[str, Any]:
    """Return medians, and the medians of the ratios within each round."""
    medians = {
        side: {
            key: statistics.median(run[key] for run in runs)
            for key in runs[0]
            if not isinstance(runs[0][key], dict)
        }
        for side, runs in rows.items()
    }
    for row in medians.values():
        row["megapixels_per_s"] = row["images_per_s"] * row["megapixels"] / row["images"]
    report: dict[str, Any] = {"device": device, "medians": medians, "runs": rows}
    if "ours" in rows:
        pairs = {
            side: zip(rows["ours"], runs, strict=True)
            for side, runs in rows.items()
            if side != "ours"
        }
        report["ratios"] = {
            side: statistics.median(
                ours["images_per_s"] / other["images_per_s"] for ours, other in runs
            )
            for side, runs in pairs.items()
        }
        if {"bare", "plain"} <= rows.keys():
            network_s = {
                side: medians["bare" if side in ("ours", "bare") else "plain"] for side in rows
            }
            report["cpu_s_outside"] = {
                side: row["cpu_s_per_image"] - network_s[side]["cpu_s_per_image"]
                for side, row in medians.items()
            }
    return report


def _show(report: dict[str, Any]) -> None:
    head = "side    images/s  MP/s   ours/it  start s  stop s  CPU s/image  outside  GiB"
    print(head)
    for side, row in report["medians"].items():
        ratio = report.get("ratios", {}).get(side)
        outside = report.get("cpu_s_outside", {}).get(side, 0.0)
        rates = f"{row['images_per_s']:8.2f} {row['megapixels_per_s']:6.2f} {ratio or 1:8.2f}"
        apart = f"{row['start_s']:8.1f} {row['stop_s']:7.1f}"
        print(
            f"{side:7} {rates} {apart} {row['cpu_s_per_image']:12.4f} {outside:8.4f} "
            f"{row['memory_gib']:5.2f}"
        )
    if "ours" in report["medians"]:
        busy = report["medians"]["ours"]["predictors_busy"]
        print(f"predictors busy, of ours, on average: {busy:.2f}")


if __name__ == "__main__":
    main()
