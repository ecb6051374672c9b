"""The measure stage, from prob_u8 to rows of the three tables: run lengths and regions."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from unet_ray.errors import ImageError
from unet_ray.flags import ClassSpec
from unet_ray.image_sources.reader_versions import reader_version
from unet_ray.imaging.geometry import Box
from unet_ray.imaging.regions.postprocessing import Postprocessing
from unet_ray.imaging.regions.regions import Regions, find_beside_no_data, find_regions
from unet_ray.imaging.regions.run_lengths import encode_rle
from unet_ray.limits import MAX_OUTLINES_BYTES, MAX_REGIONS
from unet_ray.segmentation.stages.columns import ROWS, STAGES, failure, valid_mask
from unet_ray.segmentation.stages.work_done import WorkDone
from unet_ray.tables.binary_columns import join_bytes, view_samples
from unet_ray.tables.schemas import IMAGES, MASKS, REGIONS


@dataclass(frozen=True)
class Measured:
    """Rows of one image in the three tables."""

    row: dict[str, Any]
    masks: Any
    regions: Any


@dataclass(frozen=True)
class Measure:
    """Turns prob_u8 into rows of the three tables: run lengths and regions of each class."""

    run_id: str
    model_digest: str
    config_digest: str
    classes: tuple[ClassSpec, ...]
    rule: Postprocessing
    max_regions: int = MAX_REGIONS

    def tables(self, probabilities: Any) -> Iterator[Any]:
        """Yield the rows of a table's images as one table, as a stage does."""
        yield self(probabilities)

    def __call__(self, probabilities: Any) -> Any:
        """Measure each image of a table."""
        nested = ("prob_u8", "masks", "regions")
        rows = probabilities.select(
            [f.name for f in probabilities.schema if f.name not in nested]
        ).to_pylist()
        columns = (
            view_samples(probabilities["prob_u8"]),
            probabilities["masks"],
            probabilities["regions"],
        )
        return self.join([self._measure(*each) for each in zip(rows, *columns, strict=True)])

    def _measure(
        self, row: dict[str, Any], prob_u8: NDArray[np.uint8] | None, masks: Any, regions: Any
    ) -> Measured:
        if row["error_type"] is not None:
            return self._fail(row)
        if masks.is_valid:  # a large image, already measured tile by tile
            counted = {"region_count": len(regions)}
            return Measured(
                row | self._stamp(row) | counted, _rows(masks, MASKS), _rows(regions, REGIONS)
            )
        try:
            assert prob_u8 is not None
            return self.image(row, prob_u8.reshape(-1, row["height"], row["width"]))
        except Exception as error:
            return self._fail(row | failure(error, "measure"))

    def image(self, row: dict[str, Any], prob_u8_khw: NDArray[np.uint8]) -> Measured:
        """Measure one image.

        Args:
            row: Columns of the images table that are known so far.
            prob_u8_khw: round(255·probability) per class, then per class of its markers if the
                model has any; (K, H, W), uint8.

        Returns:
            The image's rows of the three tables.
        """
        started = time.perf_counter()
        masks, regions = self._tables(row["image_uri"], prob_u8_khw, valid_mask(row))
        return Measured(
            row
            | self._stamp(row)
            | {"region_count": len(regions), "measure_s": time.perf_counter() - started},
            masks,
            regions,
        )

    def _fail(self, row: dict[str, Any]) -> Measured:
        return Measured(
            row | self._stamp(row) | {"measure_s": 0.0}, MASKS.empty_table(), REGIONS.empty_table()
        )

    def _stamp(self, row: dict[str, Any]) -> dict[str, Any]:
        return {
            "model_digest": self.model_digest,
            "config_digest": self.config_digest,
            "reader_version": reader_version(row.get("file_uri", row["image_uri"])),
            "run_id": self.run_id,
            "segmented_at": datetime.now(UTC),
        }

    @staticmethod
    def join(measured: list[Measured]) -> Any:
        """Return measured images as a table of ROWS."""
        columns = [pa.array([m.row.get(f.name) for m in measured], f.type) for f in IMAGES]
        columns.append(nested_list([m.masks for m in measured], MASKS))
        columns.append(nested_list([m.regions for m in measured], REGIONS))
        columns += [pa.array([m.row.get(f"{stage}_s", 0.0) for m in measured]) for stage in STAGES]
        columns.append(pa.array([m.row.get("batch_divisor", 1) for m in measured], pa.int32()))
        columns.append(pa.array([m.row.get("note") for m in measured], pa.string()))
        return pa.Table.from_arrays(columns, schema=ROWS)

    def _tables(
        self, uri: str, prob_u8_khw: NDArray[np.uint8], valid_hw: NDArray[np.bool_] | None
    ) -> tuple[Any, Any]:
        whole = Box(0, 0, *prob_u8_khw.shape[1:])
        beside = None if valid_hw is None else find_beside_no_data(valid_hw)
        masks = []

        def find() -> Iterator[Regions]:
            for index, least in enumerate(self.rule.least):
                mask, separated = self.rule.cut(index, prob_u8_khw)
                masks.append(self.mask_row(uri, index, mask, whole))
                yield find_regions(separated, prob_u8_khw[index], least, self.max_regions, beside)

        regions = self.region_rows(uri, find())
        return pa.Table.from_pylist(masks, schema=MASKS), regions

    def mask_row(self, uri: str, index: int, mask: NDArray[np.bool_], part: Box) -> dict[str, Any]:
        """Return the masks row of a class for a part of an image."""
        return {
            "image_uri": uri,
            "run_id": self.run_id,
            "class_id": self.classes[index].id,
            "class_name": self.classes[index].name,
            "top": part.top,
            "left": part.left,
            "height": part.height,
            "width": part.width,
            "counts": encode_rle(mask),
            "area": int(np.count_nonzero(mask)),
        }

    def region_rows(self, uri: str, found: Iterable[Regions]) -> Any:
        """Return the regions of an image as rows, ranked class by class.

        Args:
            uri: URI of the image.
            found: Regions of each class. They become rows before those of the next class are found.

        Raises:
            ImageError: Their outlines are too large together (`too_large`).
        """
        each, tables = iter(found), []
        ranked = size = 0
        for spec in self.classes:
            regions = next(each)
            size += sum(map(len, regions.geometry))
            _check_bytes(size)
            tables.append(self._region_rows(uri, spec, regions, ranked))
            ranked += len(regions)
            del regions  # the next ones take as much
        return pa.concat_tables(tables)

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
            "geometry": join_bytes(found.geometry),
            "touches_no_data": found.touches_no_data,
        }
        return pa.Table.from_pydict(columns, schema=REGIONS)


def _check_bytes(size: int) -> None:
    if size > MAX_OUTLINES_BYTES:
        raise ImageError(
            "too_large",
            f"the outlines of its regions take {size >> 20} MiB, more than "
            f"{MAX_OUTLINES_BYTES >> 20} MiB; is it noise? --min-area leaves small regions out",
        )


def _rows(nested: Any, schema: Any) -> Any:
    """Return the rows that a nested list holds."""
    return pa.Table.from_batches([pa.RecordBatch.from_struct_array(nested.values)]).cast(schema)


def split_into_tables(rows: Any) -> dict[str, Any]:
    """Split rows of measured images into the three tables."""
    images = rows.select(IMAGES.names).cast(IMAGES)
    return {
        "images": images,
        "masks": _unnest(rows["masks"], MASKS),
        "regions": _unnest(rows["regions"], REGIONS),
    }


def _unnest(column: Any, schema: Any) -> Any:
    # chunk by chunk: one array of all outlines of a shard could exceed the 2 GiB that its 32-bit
    # offsets can address
    batches = [pa.RecordBatch.from_struct_array(chunk.flatten()) for chunk in column.chunks]
    return pa.Table.from_batches(batches).cast(schema) if batches else schema.empty_table()


def nested_list(tables: list[Any], schema: Any) -> Any:
    """Return tables as a nested column: one list of rows per table."""
    joined = pa.concat_tables(tables) if tables else schema.empty_table()
    columns = [column.combine_chunks() for column in joined.columns]
    rows = pa.StructArray.from_arrays(columns, fields=list(schema))
    offsets = np.cumsum([0, *map(len, tables)], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), rows, type=pa.list_(pa.struct(list(schema))))


def summarize_work(rows: Any) -> WorkDone:
    """Return the work that a table of measured images stands for, as the driver counts it."""
    pixels = pc.sum(pc.multiply(rows["height"].cast("float64"), rows["width"])).as_py() or 0.0
    failed = len(rows) - rows["error_type"].null_count
    return WorkDone(len(rows), failed, pixels / 1e6, pc.sum(rows["predict_s"]).as_py() or 0.0)
