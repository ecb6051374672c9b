"""A small part of the quickstart that CI runs from outside the checkout, against the wheel."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import unet_ray
from unet_ray.storage.storage import Storage
from unet_ray.synthetic import CLASSES, make_archive


def main() -> None:
    assert "site-packages" in unet_ray.__file__, unet_ray.__file__
    with tempfile.TemporaryDirectory() as folder:
        made = make_archive(Storage.of(f"{folder}/data"), labelled=2, check=0, archive=2)
        labelled = {"images": made.labelled_images.uri, "masks": made.labelled_masks.uri}
        network = {"base_channels": 4, "depth": 2, "crop": 64, "epochs": 1, "val_fraction": 0.0}
        trained = unet_ray.train(**labelled, **network, classes=CLASSES, output=f"{folder}/model")
        command = Path(sys.executable).with_name("unet-ray")
        tables = f"{folder}/tables"
        archive = ["--model", trained.output, "--images", made.archive.uri, "--output", tables]
        for arguments in (
            ["segment", *archive, "--max-error-rate", "1"],
            ["report", "--tables", tables, "--output", f"{folder}/report.html"],
        ):
            subprocess.run([command, *arguments], check=True)
        assert "<html" in Path(folder, "report.html").read_text()
        assert len(unet_ray.read_tables(tables).images) == 2


if __name__ == "__main__":
    main()
