"""Images per second of jobs/segment.py against a plain hand-written loop with the same network, in one run.

    python tests/benchmarks/segment.py --images DIR --output FILE.json [--model MODEL] [--runs 3]

Both sides alternate on the same images and weights and write the same tables. The loop decodes in threads, predicts
one image at a time with all CPUs, measures and writes one shard. Steady state is what the pipeline reports after its
first measured block, until its last shard; start-up (Ray, actors) is printed apart. Peak memory is the largest
proportional set size of the process tree.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from unet_ray.archive.listing import list_files
from unet_ray.archive.shards import ShardName, write_shard
from unet_ray.archive.storage import Storage
from unet_ray.imaging.images import IMAGE_SUFFIXES, decode_image
from unet_ray.imaging.labels import ClassSpec
from unet_ray.inputs import expand_stacks, read_file
from unet_ray.network.model_folder import Model, load_model, save_model, state_bytes
from unet_ray.network.predictor import Predictor, PredictorConfig
from unet_ray.network.preprocessing import Preprocessing
from unet_ray.network.unet import UNet, UNetConfig
from unet_ray.stages.measure import Measure, tables_of

REPOSITORY = Path(__file__).parent.parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--model", help="model folder; default: an untrained network of 16 channels, depth 4")
    parser.add_argument("--runs", type=int, default=3)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = flags.model or _untrained(f"{folder}/model")
        runs: dict[str, list[dict[str, float]]] = {"ours": [], "loop": []}
        sides: dict[str, Callable[[str, str, str], dict[str, float]]] = {"ours": _ours, "loop": _loop}
        for _ in range(flags.runs):
            for name, side in sides.items():
                tables = f"{folder}/tables"
                runs[name].append(_with_peak_memory(lambda s=side, t=tables: s(model, flags.images, t)))
                shutil.rmtree(tables)
                print(name, {key: round(value, 2) for key, value in runs[name][-1].items()}, flush=True)
    medians = {name: {key: statistics.median(r[key] for r in rs) for key in rs[0]} for name, rs in runs.items()}
    ratios = [o["images_per_s"] / p["images_per_s"] for o, p in zip(runs["ours"], runs["loop"], strict=True)]
    report = {"ratios": {"loop": statistics.median(ratios)}, "ratios_of_runs": ratios, "medians": medians}
    Path(flags.output).write_text(json.dumps(report, indent=2))
    print(f"ours / loop: {report['ratios']['loop']:.2f} (of {', '.join(f'{r:.2f}' for r in ratios)})")


def _untrained(folder: str) -> str:
    """Write a network whose masks are a few blobs and not noise: its last bias keeps most pixels out."""
    torch.manual_seed(0)
    config = UNetConfig(3, 1, 16, 4)
    network = UNet(config)
    torch.nn.init.constant_(network.head.bias, -2.0)  # type: ignore[arg-type]
    constants = Preprocessing("uint8", (60.0,) * 3, (50.0,) * 3)
    save_model(Model(config, state_bytes(network), (ClassSpec(1, "object"),), constants, (0.5,)), Storage.of(folder))
    return folder


def _ours(model: str, images: str, tables: str) -> dict[str, float]:
    started = time.perf_counter()
    command = [sys.executable, REPOSITORY / "jobs/segment.py", "--model", model, "--images", images]
    done = subprocess.run([*command, "--output", tables, "--max-error-rate", "1"], capture_output=True, text=True)
    total = time.perf_counter() - started
    if done.returncode:
        sys.exit(done.stderr)
    (record_file,) = Path(tables, "runs").iterdir()
    record = json.loads(record_file.read_text())
    images_done = record["images_done"] + record["images_failed"]
    steady = images_done / record["steady_images_per_s"]
    return {
        "images_per_s": images_done / steady,
        "megapixels_per_s": record["megapixels"] / steady,
        "steady_s": steady,
        "start_and_stop_s": total - steady,
        "predictor_busy_share": record["predictor_busy_share"],
    }


def _loop(model_uri: str, images: str, tables: str) -> dict[str, float]:
    """Do it by hand: threads decode ahead, one predictor with all CPUs, one shard."""
    loaded = time.perf_counter()
    model = load_model(Storage.of(model_uri))
    predictor = Predictor(model.build(), model.preprocessing, PredictorConfig())
    listing = list_files(images, IMAGE_SUFFIXES, "--images")
    sources = list(expand_stacks(listing.root, listing.entries))
    measure = Measure("loop", model.digest, "", model.classes, model.rule)
    started = time.perf_counter()
    rows: list[Any] = []
    megapixels = 0.0
    with ThreadPoolExecutor(2) as pool:
        decoded = pool.map(
            lambda s: model.preprocessing.check(decode_image(read_file(listing.root, s.file_uri), s.page)), sources
        )
        for source, image in zip(sources, decoded, strict=True):
            (q,) = predictor.predict([image])
            row = {"image_uri": source.uri, "image_etag": source.etag, "image_bytes": source.size, "pages": 1}
            rows.append(measure.image(row | dict(zip(("height", "width", "channels"), image.shape, strict=True)), q))
            megapixels += q.shape[1] * q.shape[2] / 1e6
    write_shard(
        Storage.of(tables), ShardName("2026-01-01", "loop", 0), tables_of(measure.join(rows)), may_commit=lambda: None
    )
    steady = time.perf_counter() - started
    return {
        "images_per_s": len(sources) / steady,
        "megapixels_per_s": megapixels / steady,
        "steady_s": steady,
        "start_and_stop_s": started - loaded,
        "predictor_busy_share": 1.0,
    }


def _with_peak_memory(side: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Add the largest resident memory of this process and its children (GiB) while a side runs."""
    stop, peak = threading.Event(), [0.0]

    def watch() -> None:
        while not stop.wait(0.5):
            peak[0] = max(peak[0], _tree_memory_gib())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        found = side()
    finally:
        stop.set()
        watcher.join()
    return found | {"peak_memory_gib": peak[0]}


def _tree_memory_gib() -> float:
    """Return the proportional set size of this process and all below it, so that shared memory counts once."""
    import psutil

    total = 0
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue
    return total / 2**30


if __name__ == "__main__":
    main()
