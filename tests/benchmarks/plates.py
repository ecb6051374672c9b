"""Fields of a plate with five channels, compared with files of the two channels that are used.

    python -m tests.benchmarks.plates --output FILE.json [--fields 384] [--side 1080] [--runs 3]

The fields are OME-TIFF files of uint16, a page for each channel; the model takes two of them by
name. The others hold the same planes as samples of one page. Both are segmented in each round, one
after the other; rates are steady state, from the runs' records. The rows of the tables are counted:
one image for each field.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow.dataset as pds
import tifffile
import torch

from unet_ray.flags import ClassSpec
from unet_ray.imaging.regions.postprocessing import ObjectRule, Postprocessing
from unet_ray.network.config import UNetConfig
from unet_ray.network.model_folder import Model, save_model, state_bytes
from unet_ray.network.preprocessing import Preprocessing
from unet_ray.network.unet import UNet
from unet_ray.storage.storage import Storage

JOB = Path(__file__).parent.parent.parent / "jobs/segment.py"
_NAMES = ("brightfield", "DAPI", "tubulin", "actin", "ER")
_USED = ("DAPI", "actin")
_ORIGINALS = 16
"""Number of different fields."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", required=True, help="JSON file")
    parser.add_argument("--fields", type=int, default=384)
    parser.add_argument("--side", type=int, default=1080, help="side of a field (px)")
    parser.add_argument("--runs", type=int, default=3)
    flags = parser.parse_args()
    rates: dict[str, list[float]] = {"files": [], "plate": []}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        _write(place, flags.fields, flags.side)
        _save_models(place)
        for turn in range(flags.runs):
            for kind, found in rates.items():
                tables = place / f"tables-{kind}-{turn}"
                found.append(_rate(place / f"model-{kind}", place / kind, tables))
                rows = pds.dataset(tables / "images").count_rows()
                print(f"{kind}: {found[-1]:.1f} images/s, {rows} rows", flush=True)
    ratio = median(rates["plate"]) / median(rates["files"])
    print(f"{flags.fields} fields of {flags.side}² px: {ratio:.2f} times the rate of two channels")
    Path(flags.output).write_text(json.dumps(rates | {"ratios": {"files": ratio}}, indent=2))


def _write(place: Path, fields: int, side: int) -> None:
    rng = np.random.default_rng(0)
    low = rng.normal(0, 1, (_ORIGINALS, len(_NAMES), side // 8 + 1, side // 8 + 1))
    smooth = low.repeat(8, axis=2).repeat(8, axis=3)[:, :, :side, :side]
    originals = (smooth * 4000 + 9000 + rng.normal(0, 300, smooth.shape)).clip(0).astype(np.uint16)
    used = [_NAMES.index(name) for name in _USED]
    for kind in ("files", "plate"):
        (place / kind).mkdir()
    for index in range(fields):
        planes = originals[index % _ORIGINALS]
        tifffile.imwrite(
            place / f"plate/{index:05}.ome.tif",
            planes,
            photometric="minisblack",
            metadata={"axes": "CYX", "Channel": {"Name": list(_NAMES)}},
        )
        tifffile.imwrite(
            place / f"files/{index:05}.tif",
            np.moveaxis(planes[used], 0, 2),
            photometric="minisblack",
            planarconfig="contig",
            metadata=None,
        )


def _save_models(place: Path) -> None:
    """Write one network twice: for channels with names, and for any two."""
    torch.manual_seed(0)
    config = UNetConfig(in_channels=2, num_classes=1, base_channels=8, depth=3)
    weights = state_bytes(UNet(config))
    preprocessing = Preprocessing("uint16", (9000.0,) * 2, (4000.0,) * 2)
    rules = Postprocessing((ObjectRule(),))
    model = Model(config, weights, (ClassSpec(1, "cell"),), preprocessing, rules)
    save_model(model, Storage.of(str(place / "model-files")))
    named = Model(config, weights, model.classes, preprocessing, rules, input_channels=_USED)
    save_model(named, Storage.of(str(place / "model-plate")))


def _rate(model: Path, archive: Path, tables: Path) -> float:
    command = [sys.executable, str(JOB), f"--model={model}", f"--images={archive}"]
    subprocess.run([*command, f"--output={tables}"], check=True, stdout=subprocess.DEVNULL)
    (record,) = (tables / "runs").iterdir()
    return float(json.loads(record.read_text())["steady_images_per_s"])


if __name__ == "__main__":
    main()
