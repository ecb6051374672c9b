"""Export the current results to another format, shard by shard in bounded memory, without Ray."""

from __future__ import annotations

from unet_ray.output.config import ExportConfig
from unet_ray.output.formats.coco import write_coco
from unet_ray.output.formats.common import ExportResult, ImageNames
from unet_ray.output.formats.geo import write_geojson, write_geoparquet
from unet_ray.output.formats.png import write_png
from unet_ray.output.reader import current_keys, iterate_shards
from unet_ray.storage.output_file import OutputFile
from unet_ray.storage.storage import Storage


def export(config: ExportConfig) -> ExportResult:
    """Write the current results in another format.

    Args:
        config: Tables, format and destination.

    Returns:
        Counts of what was written.

    Raises:
        InputError: There are no tables, the output cannot be written, or the format cannot hold the
            results.
    """
    keys = current_keys(config.tables, config.date)
    names = ImageNames(keys)
    shards = iterate_shards(config.tables, keys)
    if config.format == "coco":
        return write_coco(shards, names, OutputFile.of("--output", config.output), config.polygons)
    output = Storage.of(config.output)
    output.check_writable()
    write = {"png": write_png, "geojson": write_geojson, "geoparquet": write_geoparquet}[
        config.format
    ]
    return write(shards, names, output)
