"""Take the current results of an output elsewhere: COCO, label PNGs, GeoJSON, GeoParquet on a map.

python jobs/export.py --tables tables --format coco --output instances.json
python jobs/export.py --tables s3://b/tables --format geojson --output s3://b/for-qgis

geojson is in map coordinates where an image has them, else in pixels, y upwards from 0 to minus the height; geoparquet
has the regions of georeferenced images only, in a file per coordinate system.
"""

from _command import run

from unet_ray.output.config import ExportConfig
from unet_ray.output.export import export


def main(config: ExportConfig, _: str) -> None:
    """Export and say what."""
    result = export(config)
    print(
        f"{result.images} images, {result.regions} regions, {result.files} files: {config.output}"
    )
    if result.root:
        print(f"file names in it are relative to {result.root}")
    for note, count in sorted(result.notes.items()):
        if count:
            print(f"note: {count} × {note}")


if __name__ == "__main__":
    run(ExportConfig, main, __doc__)
