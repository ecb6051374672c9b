"""Reading a COCO file of a million objects, against `json.load` of the same file.

    python -m tests.benchmarks.labels --objects 1000000 --images 50000

Both sides run in processes of their own, in turn; times and peak memory are of all their processes.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

_JSON = "import json, sys; json.load(open(sys.argv[1]))"
_OURS = """
import sys
from unet_ray.labelled_data.label_files import read_label_file
from unet_ray.storage.storage import Storage
found = read_label_file(Storage.of(sys.argv[1]), {}, "--masks")
print(len(found.annotations.images), len(found.annotations.objects), file=sys.stderr)
"""
_POINTS = 20
"""Corners of an outline."""


def write_coco(file: Path, num_objects: int, num_images: int) -> None:
    """Write a COCO file with objects of 20 corners each."""
    rng = random.Random(0)
    with file.open("w") as out:
        out.write('{"info": {}, "licenses": [], "images": [')
        for number in range(num_images):
            image = {"id": number, "file_name": f"{number:06}.jpg", "width": 640, "height": 480}
            out.write(", " * (number > 0) + json.dumps(image))
        out.write('], "annotations": [')
        for number in range(num_objects):
            corners = [round(rng.uniform(0, 480), 2) for _ in range(2 * _POINTS)]
            annotation = {
                "id": number,
                "image_id": number * num_images // num_objects,
                "category_id": number % 80 + 1,
                "iscrowd": 0,
                "area": round(rng.uniform(10, 5000), 2),
                "bbox": corners[:4],
                "segmentation": [corners],
            }
            out.write(", " * (number > 0) + json.dumps(annotation))
        categories = [{"id": number, "name": f"class {number}"} for number in range(1, 81)]
        out.write(f'], "categories": {json.dumps(categories)}}}')


def measure(code: str, file: Path) -> tuple[float, float]:
    """Run Python code on a file; return its time (s) and the peak memory of its processes (GiB)."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", code, str(file)])
    peak, watched = 0, psutil.Process(process.pid)
    while process.poll() is None:
        used = 0
        try:
            for each in (watched, *watched.children(recursive=True)):
                used += each.memory_info().rss
        except psutil.Error:  # it has just ended
            continue
        peak = max(peak, used)
        time.sleep(0.02)
    assert process.returncode == 0
    return time.perf_counter() - started, peak / 2**30


def main() -> None:
    """Measure three rounds in turn, and print each and the ratio of the best."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=1_000_000)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    flags = parser.parse_args()
    best = {"json.load": float("inf"), "ours": float("inf")}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "labels.json")
        write_coco(file, flags.objects, flags.images)
        size_mb = file.stat().st_size / 1e6
        print(f"{flags.objects} objects in {flags.images} images, {size_mb:.0f} MB")
        for _ in range(flags.rounds):
            for name, code in (("json.load", _JSON), ("ours", _OURS)):
                seconds, gib = measure(code, file)
                best[name] = min(best[name], seconds)
                print(f"{name:>9}: {seconds:6.1f} s, {gib:.2f} GiB", flush=True)
    print(f"ours / json.load: {best['ours'] / best['json.load']:.2f}")


if __name__ == "__main__":
    main()
