"""The measure stage, from prob_u8 to rows: run lengths and regions.

The rows lack the columns of the run (`columns.RUN_COLUMNS`): `run_tables` adds them when a shard is
written.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from unet_ray.errors import ImageError
from unet_ray.flags import ClassSpec
from unet_ray.imaging.geometry import Box
from unet_ray.imaging.regions.postprocessing import Postprocessing
from unet_ray.imaging.regions.regions import Regions, find_beside_no_data, find_regions
from unet_ray.imaging.regions.run_lengths import encode_rle
from unet_ray.limits import MAX_OUTLINES_BYTES, MAX_REGIONS
from unet_ray.segmentation.stages.columns import (
    MASK_ROWS,
    REGION_ROWS,
    nested_list,
    read_records,
    row_table,
)
from unet_ray.segmentation.stages.image_record import ImageRecord
from unet_ray.segmentation.stages.work_done import WorkDone
from unet_ray.tables.binary_columns import join_bytes, view_samples


@dataclass(frozen=True)
class Measured:
    """One image that was measured or has failed."""

    record: ImageRecord
    masks: pa.Table
    """Table of MASK_ROWS."""
    regions: pa.Table
    """Table of REGION_ROWS."""


@dataclass(frozen=True)
class Measure:
    """Turns prob_u8 into run lengths and regions of each class."""

    classes: tuple[ClassSpec, ...]
    postprocessing: Postprocessing
    max_regions: int = MAX_REGIONS

    def __call__(self, probabilities: pa.Table) -> Iterator[pa.Table]:
        """Measure the images of a table of PROBABILITIES; yield a table of ROWS."""
        was_measured = probabilities["masks"].is_valid()  # tile by tile, if the image is large
        if pc.all(was_measured).as_py():
            yield self._pass_on(probabilities)
        elif not pc.any(was_measured).as_py():  # nearly always; a filter would copy all samples
            yield self._measure(probabilities)
        else:
            large = probabilities.filter(was_measured)
            small = probabilities.filter(pc.invert(was_measured))
            yield pa.concat_tables([self._pass_on(large), self._measure(small)])

    @staticmethod
    def _pass_on(probabilities: pa.Table) -> pa.Table:
        """Return rows of images that were measured tile by tile; their nested rows stay nested."""
        masks, regions, now = probabilities["masks"], probabilities["regions"], datetime.now(UTC)
        counts = pc.list_value_length(regions).to_pylist()
        records = [
            replace(record, region_count=count, segmented_at=now)
            for record, count in zip(read_records(probabilities), counts, strict=True)
        ]
        return row_table(records, masks, regions)

    def _measure(self, probabilities: pa.Table) -> pa.Table:
        records, samples = read_records(probabilities), view_samples(probabilities["prob_u8"])
        return self.join([self._measure_one(*each) for each in zip(records, samples, strict=True)])

    def _measure_one(self, record: ImageRecord, prob_u8: NDArray[np.uint8] | None) -> Measured:
        if record.failure is not None:
            return self.failed(record)
        try:
            assert prob_u8 is not None
            return self.image(record, prob_u8.reshape(-1, *record.size))
        except Exception as error:
            return self.failed(record.fail(error, "measure"))

    def image(self, record: ImageRecord, prob_u8_khw: NDArray[np.uint8]) -> Measured:
        """Measure one image.

        Args:
            record: What is known of the image so far.
            prob_u8_khw: round(255·probability) of each class, then of the markers of each class if
                the model has any; (K, H, W), uint8.

        Returns:
            The image's record, and its rows of the masks and regions tables.
        """
        started = time.perf_counter()
        uri, whole = record.source.uri, Box(0, 0, *prob_u8_khw.shape[1:])
        beside_no_data = None if record.valid_hw is None else find_beside_no_data(record.valid_hw)
        mask_rows = []

        def find() -> Iterator[Regions]:
            """Yield the regions of a class, so that they become rows before the next are found.

            It also adds the row of the class's mask to `mask_rows`.
            """
            for index, rule in enumerate(self.postprocessing.rules):
                mask, separated = self.postprocessing.cut(index, prob_u8_khw)
                mask_rows.append(self.mask_row(uri, index, mask, whole))
                yield find_regions(
                    separated, prob_u8_khw[index], rule.filter, self.max_regions, beside_no_data
                )

        regions = self.region_rows(uri, find())
        measured = replace(
            record,
            region_count=len(regions),
            segmented_at=datetime.now(UTC),
            measure_s=time.perf_counter() - started,
        )
        return Measured(measured, pa.Table.from_pylist(mask_rows, schema=MASK_ROWS), regions)

    @staticmethod
    def failed(record: ImageRecord) -> Measured:
        """Return an image that failed, which has no masks and no regions."""
        failed = replace(record, segmented_at=datetime.now(UTC), measure_s=0.0)
        return Measured(failed, MASK_ROWS.empty_table(), REGION_ROWS.empty_table())

    @staticmethod
    def join(measured: list[Measured]) -> pa.Table:
        """Return measured images as a table of ROWS."""
        return row_table(
            [each.record for each in measured],
            nested_list([each.masks for each in measured], MASK_ROWS),
            nested_list([each.regions for each in measured], REGION_ROWS),
        )

    def mask_row(self, uri: str, index: int, mask: NDArray[np.bool_], part: Box) -> dict[str, Any]:
        """Return the row of a class for a part of an image, with the columns of MASK_ROWS."""
        return {
            "image_uri": uri,
            "class_id": self.classes[index].id,
            "class_name": self.classes[index].name,
            "top": part.top,
            "left": part.left,
            "height": part.height,
            "width": part.width,
            "counts": encode_rle(mask),
            "area": int(np.count_nonzero(mask)),
        }

    def region_rows(self, uri: str, found: Iterable[Regions]) -> pa.Table:
        """Return the regions of an image as REGION_ROWS, ranked class by class.

        Args:
            uri: URI of the image.
            found: Regions of each class. They become rows before those of the next class are found.

        Raises:
            ImageError: Their outlines are too large in total (`too_large`).
        """
        each, tables = iter(found), []
        ranked = size = 0
        for spec in self.classes:
            regions = next(each)
            size += sum(map(len, regions.geometry))
            if size > MAX_OUTLINES_BYTES:
                raise ImageError(
                    "too_large",
                    f"the outlines of its regions take {size >> 20} MiB, more than "
                    f"{MAX_OUTLINES_BYTES >> 20} MiB; is it noise? --min-area leaves small regions "
                    "out",
                )
            tables.append(self._region_rows(uri, spec, regions, ranked))
            ranked += len(regions)
            del regions  # the next ones take as much memory
        return pa.concat_tables(tables)

    def _region_rows(self, uri: str, spec: ClassSpec, found: Regions, ranked: int) -> pa.Table:
        count = len(found)
        bbox = pa.StructArray.from_arrays(
            [pa.array(side) for side in found.bbox.T.astype(np.float64)],
            fields=list(REGION_ROWS.field("bbox").type),
        )
        columns = {
            "image_uri": pa.repeat(uri, count),
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
        return pa.Table.from_pydict(columns, schema=REGION_ROWS)


def summarize_work(rows: pa.Table) -> WorkDone:
    """Return the work that went into a table of measured images, for the driver to count."""
    pixels = pc.sum(pc.multiply(rows["height"].cast("float64"), rows["width"])).as_py() or 0.0
    failed = len(rows) - rows["error_type"].null_count
    return WorkDone(len(rows), failed, pixels / 1e6, pc.sum(rows["predict_s"]).as_py() or 0.0)
