"""Export the current results to another format, shard by shard in bounded memory, without Ray."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pyarrow.compute as pc

from unet_ray.errors import InputError
from unet_ray.output.config import ExportConfig
from unet_ray.output.formats.coco import write_coco
from unet_ray.output.formats.common import ExportResult
from unet_ray.output.formats.geo import write_geojson, write_geoparquet
from unet_ray.output.formats.names import ImageNames
from unet_ray.output.formats.png import write_png
from unet_ray.output.reader import Tables, current_keys, iterate_shards
from unet_ray.output.run_roots import roots_of_runs
from unet_ray.storage.output_file import OutputFile
from unet_ray.storage.roots import Gate
from unet_ray.storage.storage import Storage
from unet_ray.store_options import read_store_options
from unet_ray.tables.committed import CommittedShards
from unet_ray.tables.ledger import tables_at
from unet_ray.tables.runs import read_run_records


def export(config: ExportConfig) -> ExportResult:
    """Write the current results in another format.

    Args:
        config: Tables, format and destination.

    Returns:
        Counts of what was written.

    Raises:
        InputError: There are no tables, a shard is damaged, the output cannot be written, or the
            format cannot hold the results.
    """
    shards = CommittedShards.of(tables_at(config.tables, read_store_options(config, "tables")))
    if config.date is not None:
        shards = shards.of_dates((config.date,))
    keys, unsound_images = current_keys(shards)
    if not len(keys):
        of_date = "" if config.date is None else f" of --date {config.date}"
        raise InputError(f"{config.tables}: no successful image{of_date} in these tables")
    names = ImageNames(keys)
    unsound = Counter(images=unsound_images)
    records = read_run_records(shards.output, pc.unique(keys["run_id"]).to_pylist())
    options = read_store_options(config, "images")
    gate = Gate(roots_of_runs(shards.output, records, config.image_roots, options))
    result = _write(config, iterate_shards(shards, keys, unsound), names, gate)
    for table, count in (+unsound).items():
        result.notes[f"rows of {table} left out: invalid, see unet-ray verify"] = count
    if names.changed:
        note = "names changed: unsafe, too long or taken; the files hold each image_uri"
        result.notes[note] = names.changed
    return result


def _write(
    config: ExportConfig, shards: Iterator[Tables], names: ImageNames, gate: Gate
) -> ExportResult:
    options = read_store_options(config, "output")
    if config.format == "coco":
        file = OutputFile.of("--output", config.output, options)
        return write_coco(shards, names, file, config.polygons)
    output = Storage.of(config.output, options)
    output.check_writable()
    if config.format == "png":
        return write_png(shards, names, output)
    write = write_geojson if config.format == "geojson" else write_geoparquet
    return write(shards, names, output, gate)
