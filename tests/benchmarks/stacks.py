"""Pages of a TIFF stack, compared with the same images as files: images per second of a run.

    python -m tests.benchmarks.stacks --images DIR --model MODEL --output FILE.json

The images' upper left 512² px are written in grey without compression: once as a file each, once as
the pages of one stack. Both are segmented in each round, one after the other; rates are steady
state, from the runs' records.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from itertools import cycle, islice
from pathlib import Path
from statistics import median

import numpy as np
import tifffile
from PIL import Image

JOB = Path(__file__).parent.parent.parent / "jobs/segment.py"
_SIDE = 512


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", required=True, help="folder of images of at least 512×512 px")
    parser.add_argument("--model", required=True)
    parser.add_argument("--output", required=True, help="JSON file")
    parser.add_argument("--pages", type=int, default=1200)
    parser.add_argument("--runs", type=int, default=3)
    flags = parser.parse_args()
    rates: dict[str, list[float]] = {"files": [], "stack": []}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        _write(place, sorted(Path(flags.images).iterdir())[:100], flags.pages)
        for turn in range(flags.runs):
            for kind, found in rates.items():
                found.append(_rate(flags.model, place / kind, place / f"tables-{kind}-{turn}"))
                print(f"{kind}: {found[-1]:.1f} images/s", flush=True)
    ratio = median(rates["stack"]) / median(rates["files"])
    print(f"{flags.pages} pages of {_SIDE}² px: a stack at {ratio:.2f} times the rate of files")
    Path(flags.output).write_text(json.dumps(rates | {"ratios": {"files": ratio}}, indent=2))


def _write(place: Path, photos: list[Path], pages: int) -> None:
    greys = []
    for photo in photos:
        with Image.open(photo) as image:
            greys.append(np.asarray(image.convert("L"))[:_SIDE, :_SIDE])
    for kind in ("files", "stack"):
        (place / kind).mkdir()
    with tifffile.TiffWriter(place / "stack/stack.tif") as stack:
        for index, grey in enumerate(islice(cycle(greys), pages)):
            tifffile.imwrite(place / f"files/{index:05}.tif", grey)
            stack.write(grey, contiguous=False)


def _rate(model: str, archive: Path, tables: Path) -> float:
    command = [
        sys.executable,
        str(JOB),
        f"--model={model}",
        f"--images={archive}",
        f"--output={tables}",
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (record,) = (tables / "runs").iterdir()
    return float(json.loads(record.read_text())["steady_images_per_s"])


if __name__ == "__main__":
    main()
