"""The stages of segmentation as plain callables, Arrow table in, Arrow tables out; Ray only schedules them.

    plan ──Decode──▶ pixels ──Predict──▶ q ──Measure──▶ rows of the three tables, an image per row

An image that fails anywhere goes on as a row with its error and without pixels.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from itertools import chain, groupby
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from unet_ray.archive.storage import Storage
from unet_ray.archive.tables import IMAGES, MASKS, REGIONS
from unet_ray.errors import ImageError, one_line
from unet_ray.imaging.decoder import Decoder
from unet_ray.imaging.labels import ClassSpec
from unet_ray.imaging.masks import binary_mask, encode_rle
from unet_ray.imaging.regions import Regions, find_regions
from unet_ray.inputs import ImageSource, read_file
from unet_ray.network.predictor import Predictor, is_out_of_memory
from unet_ray.network.preprocessing import Preprocessing

_BLOCK_BYTES = 32 * 2**20
"""Decoded pixels that go on together (bytes)."""
_READ_THREADS = 8

PLAN = pa.schema(
    [
        ("image_uri", pa.string()),
        ("file_uri", pa.string()),
        ("page", pa.int32()),
        ("image_etag", pa.string()),
        ("image_bytes", pa.int64()),
    ]
)
_FAILURE = [pa.field(name, pa.string()) for name in ("error_type", "error", "error_stage")]
_SHAPE = [pa.field(name, pa.int32()) for name in ("height", "width", "channels")]
PIXELS = pa.schema([*PLAN, *_SHAPE, *_FAILURE, ("pixels", pa.large_binary()), ("decode_s", pa.float64())])
PROBABILITIES = pa.schema(
    [
        *PLAN,
        *_SHAPE,
        *_FAILURE,
        ("q", pa.large_binary()),
        ("decode_s", pa.float64()),
        ("predict_s", pa.float64()),
        ("batch_divisor", pa.int32()),
    ]
)
ROWS = pa.schema(
    [
        *IMAGES,
        ("masks", pa.list_(pa.struct(list(MASKS)))),
        ("regions", pa.list_(pa.struct(list(REGIONS)))),
        ("decode_s", pa.float64()),
        ("predict_s", pa.float64()),
        ("measure_s", pa.float64()),
        ("batch_divisor", pa.int32()),
    ]
)


def plan_table(sources: list[ImageSource]) -> Any:
    """Return sources as rows of the plan."""
    rows = [(s.uri, s.file_uri, s.page, s.etag, s.size) for s in sources]
    columns = zip(*rows, strict=True) if rows else [[]] * len(PLAN)
    return pa.Table.from_arrays([pa.array(c, f.type) for c, f in zip(columns, PLAN, strict=True)], schema=PLAN)


@cache
def _decoder() -> Decoder:
    """Return this process's decoder; its child ends with the process."""
    return Decoder()


@dataclass(frozen=True)
class Decode:
    """Reads and decodes each image of a plan; yields tables of PIXELS of a bounded size."""

    access: Storage
    preprocessing: Preprocessing

    def __call__(self, plan: Any) -> Iterator[Any]:
        """Decode images in the order of the plan, several files at a time."""
        files = [list(rows) for _, rows in groupby(plan.to_pylist(), key=lambda row: row["file_uri"])]
        pending: list[dict[str, Any]] = []
        with ThreadPoolExecutor(_READ_THREADS) as pool:
            for row in chain.from_iterable(pool.map(self._decode_file, files)):
                pending.append(row)
                if sum(len(r["pixels"] or b"") for r in pending) >= _BLOCK_BYTES:
                    yield pa.Table.from_pylist(pending, schema=PIXELS)
                    pending = []
        if pending:
            yield pa.Table.from_pylist(pending, schema=PIXELS)

    def _decode_file(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Read a file once and decode those of its pages that the plan wants."""
        started = time.perf_counter()
        try:
            data = read_file(self.access, rows[0]["file_uri"])
        except Exception as error:
            return [row | _failure(error, "read") | {"pixels": None, "decode_s": 0.0} for row in rows]
        read_s = (time.perf_counter() - started) / len(rows)
        return [self._decode(row, data, read_s) for row in rows]

    def _decode(self, row: dict[str, Any], data: bytes, read_s: float) -> dict[str, Any]:
        started = time.perf_counter()
        try:
            image = self.preprocessing.check(_decoder().decode(data, row["page"]))
            height, width, channels = image.shape
            found = {"height": height, "width": width, "channels": channels, "pixels": image.tobytes()}
        except Exception as error:
            found = {**_failure(error, "decode"), "pixels": None}
        return row | found | {"decode_s": read_s + time.perf_counter() - started}


@dataclass(frozen=True)
class Predict:
    """Turns pixels into q, class by class."""

    predictor: Predictor

    def __call__(self, pixels: Any) -> Any:
        """Predict all images of a table together; where that fails, one by one, to find the one that fails."""
        started = time.perf_counter()
        rows = pixels.select([f.name for f in pixels.schema if f.name != "pixels"]).to_pylist()
        images = {i: self._image(row, pixels["pixels"][i]) for i, row in enumerate(rows) if row["error_type"] is None}
        try:
            found = dict(zip(images, self.predictor.predict(list(images.values())), strict=True))
        except torch.AcceleratorError:
            raise  # the device is lost to this process: every later image would fail
        except Exception:
            found = self._one_by_one(rows, images)
        each_s = (time.perf_counter() - started) / max(1, len(images))
        for index, row in enumerate(rows):
            row["q"] = found[index].tobytes() if index in found else None
            row["predict_s"] = each_s if index in images else 0.0
            row["batch_divisor"] = self.predictor.batch_divisor
        return pa.Table.from_pylist(rows, schema=PROBABILITIES)

    def _image(self, row: dict[str, Any], pixels: Any) -> NDArray[Any]:
        shape = row["height"], row["width"], row["channels"]
        return np.frombuffer(pixels.as_buffer(), self.predictor.preprocessing.dtype).reshape(shape)

    def _one_by_one(self, rows: list[dict[str, Any]], images: dict[int, NDArray[Any]]) -> dict[int, NDArray[np.uint8]]:
        found = {}
        for index, image in images.items():
            try:
                found[index] = self.predictor.predict([image])[0]
            except Exception as error:
                rows[index].update(_failure(error, "predict"))
        return found


@dataclass(frozen=True)
class Measured:
    """One image's rows of the three tables."""

    row: dict[str, Any]
    masks: Any
    regions: Any


@dataclass(frozen=True)
class Measure:
    """Turns q into the rows of the three tables: run lengths and regions of each class."""

    run_id: str
    model_digest: str
    config_digest: str
    classes: tuple[ClassSpec, ...]
    thresholds: tuple[float, ...]
    min_area: int

    def __call__(self, probabilities: Any) -> Any:
        """Measure each image of a table."""
        rows = probabilities.select([f.name for f in probabilities.schema if f.name != "q"]).to_pylist()
        return self.join([self._measure(row, probabilities["q"][i]) for i, row in enumerate(rows)])

    def _measure(self, row: dict[str, Any], q: Any) -> Measured:
        if row["error_type"] is not None:
            return self._failed(row)
        try:
            shape = len(self.classes), row["height"], row["width"]
            return self.image(row, np.frombuffer(q.as_buffer(), np.uint8).reshape(shape))
        except Exception as error:
            return self._failed(row | _failure(error, "measure"))

    def image(self, row: dict[str, Any], q_khw: NDArray[np.uint8]) -> Measured:
        """Measure one image.

        Args:
            row — what the images table says of it so far.
            q_khw — round(255·probability) per class.
        """
        started = time.perf_counter()
        masks, regions = self._tables(row["image_uri"], q_khw)
        return Measured(
            row | self._stamp() | {"region_count": len(regions), "measure_s": time.perf_counter() - started},
            masks,
            regions,
        )

    def _failed(self, row: dict[str, Any]) -> Measured:
        return Measured(row | self._stamp() | {"measure_s": 0.0}, MASKS.empty_table(), REGIONS.empty_table())

    def _stamp(self) -> dict[str, Any]:
        digests = {"model_digest": self.model_digest, "config_digest": self.config_digest}
        return digests | {"run_id": self.run_id, "segmented_at": datetime.now(UTC)}

    @staticmethod
    def join(measured: list[Measured]) -> Any:
        """Return measured images as a table of ROWS."""
        columns = [pa.array([m.row.get(f.name) for m in measured], f.type) for f in IMAGES]
        columns.append(_list_of([m.masks for m in measured], MASKS))
        columns.append(_list_of([m.regions for m in measured], REGIONS))
        columns += [pa.array([m.row.get(s, 0.0) for m in measured]) for s in ("decode_s", "predict_s", "measure_s")]
        columns.append(pa.array([m.row.get("batch_divisor", 1) for m in measured], pa.int32()))
        return pa.Table.from_arrays(columns, schema=ROWS)

    def _tables(self, uri: str, q_khw: NDArray[np.uint8]) -> tuple[Any, Any]:
        masks, regions, ranked = [], [], 0
        for spec, threshold, q in zip(self.classes, self.thresholds, q_khw, strict=True):
            mask = binary_mask(q, threshold)
            masks.append(self._mask_row(uri, spec, mask))
            found = find_regions(mask, q, self.min_area)
            regions.append(self._region_rows(uri, spec, found, ranked))
            ranked += len(found)
        return pa.Table.from_pylist(masks, schema=MASKS), pa.concat_tables(regions)

    def _mask_row(self, uri: str, spec: ClassSpec, mask: NDArray[np.bool_]) -> dict[str, Any]:
        return {
            "image_uri": uri,
            "run_id": self.run_id,
            "class_id": spec.id,
            "class_name": spec.name,
            "top": 0,
            "left": 0,
            "height": mask.shape[0],
            "width": mask.shape[1],
            "counts": encode_rle(mask),
            "area": int(mask.sum()),
        }

    def _region_rows(self, uri: str, spec: ClassSpec, found: Regions, ranked: int) -> Any:
        count = len(found)
        bbox = pa.StructArray.from_arrays(
            [pa.array(side) for side in found.bbox.T.astype(np.float64)],
            fields=list(REGIONS.field("bbox").type),
        )
        columns = {
            "image_uri": pa.repeat(uri, count),
            "run_id": pa.repeat(self.run_id, count),
            "region_id": np.arange(ranked + 1, ranked + count + 1, dtype=np.int32),
            "class_id": np.full(count, spec.id, np.int32),
            "class_name": pa.repeat(spec.name, count),
            "score": found.score,
            "score_max": found.score_max,
            "area": found.area.astype(np.int64),
            "bbox": bbox,
            "centroid_x": found.centroid[:, 0],
            "centroid_y": found.centroid[:, 1],
            "touches_border": found.touches_border,
            "geometry": pa.array(found.geometry, pa.binary()),
        }
        return pa.Table.from_pydict(columns, schema=REGIONS)


def tables_of(rows: Any) -> dict[str, Any]:
    """Part rows of measured images into the three tables."""
    images = rows.select(IMAGES.names).cast(IMAGES)
    nested = {name: rows[name].combine_chunks() for name in ("masks", "regions")}
    schemas = {"masks": MASKS, "regions": REGIONS}
    tables = {name: _unnested(column, schemas[name]) for name, column in nested.items()}
    return {"images": images, **tables}


def _unnested(column: Any, schema: Any) -> Any:
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    batches = [pa.RecordBatch.from_struct_array(chunk.flatten()) for chunk in chunks]
    return pa.Table.from_batches(batches).cast(schema) if batches else schema.empty_table()


def _list_of(tables: list[Any], schema: Any) -> Any:
    """Return one list of rows per table, as a nested column."""
    joined = pa.concat_tables(tables).combine_chunks() if tables else schema.empty_table()
    columns = [column.combine_chunks() for column in joined.columns]
    rows = pa.StructArray.from_arrays(columns, fields=list(schema))
    offsets = np.cumsum([0, *map(len, tables)], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), rows, type=pa.list_(pa.struct(list(schema))))


def _failure(error: Exception, stage: str) -> dict[str, Any]:
    kind, text = "internal", one_line(error)
    if isinstance(error, ImageError):
        kind, text = error.error_type, error.message
    elif is_out_of_memory(error):
        kind = "out_of_memory"
    return {"error_type": kind, "error": text, "error_stage": stage}
