"""Export the current results of an output: COCO, label PNGs, GeoJSON, GeoParquet on a map.

unet-ray export --tables tables --format coco --output instances.json
unet-ray export --tables s3://b/tables --format geojson --output s3://b/for-qgis

geojson is in map coordinates where an image has them, else in pixels, y upwards from 0 to minus the
height; geoparquet has the regions of georeferenced images only, in a file per coordinate system.
"""

from __future__ import annotations

from typing import NoReturn

from unet_ray.cli.command import run
from unet_ray.cli.streams import show
from unet_ray.output.config import ExportConfig


def main(config: ExportConfig, _: str) -> None:
    """Export, and print what was written."""
    from unet_ray.output.export import export

    result = export(config)
    counts = f"{result.images} images, {result.regions} regions, {result.files} files"
    show(f"{counts}: {config.output}")
    if result.root:
        show(f"file names in it are relative to {result.root}")
    for note, count in sorted(result.notes.items()):
        if count:
            show(f"note: {count} × {note}")


def command() -> NoReturn:
    """Run the command with the flags of this process."""
    run(ExportConfig, main, __doc__)
