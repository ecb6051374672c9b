"""Export the current results in another format, shard by shard, in bounded memory; no Ray."""

from __future__ import annotations

from unet_ray.output.config import ExportConfig
from unet_ray.output.formats.coco import _to_coco
from unet_ray.output.formats.common import ExportResult, _Names
from unet_ray.output.formats.geo import _to_geojson, _to_geoparquet
from unet_ray.output.formats.png import _to_png
from unet_ray.output.reader import current_keys, shards_of
from unet_ray.storage.output_file import OutputFile
from unet_ray.storage.storage import Storage


def export(config: ExportConfig) -> ExportResult:
    """Write the current results in another format.

    Raises: InputError — no tables there, an output that cannot be written, what a format cannot hold.
    """
    keys = current_keys(config.tables, config.date)
    names = _Names(keys)
    shards = shards_of(config.tables, keys)
    if config.format == "coco":
        return _to_coco(shards, names, OutputFile.of("--output", config.output), config.polygons)
    output = Storage.of(config.output)
    output.check_writable()
    write = {"png": _to_png, "geojson": _to_geojson, "geoparquet": _to_geoparquet}[config.format]
    return write(shards, names, output)
