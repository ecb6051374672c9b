"""Label Studio's JSON and JSON-MIN: as a list, as JSON Lines, or with one task per file."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Iterator, Sequence
from datetime import UTC, datetime
from io import BufferedReader
from pathlib import PurePosixPath
from reprlib import repr as shorten
from typing import Any, TypeGuard

from unet_ray.labelled_data.annotations import LabelError, Polygon, Runs
from unet_ray.labelled_data.annotations_builder import AnnotationsBuilder
from unet_ray.labelled_data.formats.label_format import LabelFormat
from unet_ray.labelled_data.formats.label_studio_images import (
    TaskImage,
    find_task_images,
    list_named_images,
)
from unet_ray.labelled_data.formats.label_studio_regions import (
    Region,
    collect_regions,
    make_shapes,
)
from unet_ray.labelled_data.formats.parts.drawn_shapes import DrawnShape, ShapeCollector
from unet_ray.labelled_data.formats.parts.json_stream import read_elements
from unet_ray.labelled_data.formats.parts.known_images import KnownImages
from unet_ray.labelled_data.formats.parts.shapes import prepare_masks

_KEYS = (
    "completed_by", "was_cancelled", "total_annotations", "inner_id", "file_upload", "lead_time",
    "annotation_id", "annotator", "from_name", "to_name", "original_width", "completions",
)  # fmt: skip
"""Keys that only Label Studio writes."""
_OF_RECORD = {
    "id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement",
}  # fmt: skip
"""Keys of a record of JSON-MIN that are neither data nor results."""
_HEAD_BYTES = 2**20
_MOST_LINE_BYTES = 2**27
"""Longest line of JSON Lines (bytes)."""
_LINES = (".jsonl", ".ndjson")


def _recognises(head: bytes) -> bool:
    is_coco = b'"images"' in head and (b'"categories"' in head or b'"file_name"' in head)
    has_task = b'"data"' in head and (b'"annotations"' in head or b'"predictions"' in head)
    has_own_key = any(f'"{key}"'.encode() in head for key in _KEYS)
    is_known = has_task or has_own_key
    return _first_character(head) in (b"[", b"{") and is_known and not is_coco


def _parse(file: BufferedReader, name: str, builder: AnnotationsBuilder) -> None:
    parser = _Parser(builder)
    for where, record in _read_records(file, name):
        parser.take(where, record)
    parser.finish()


def _read_records(file: BufferedReader, name: str) -> Iterator[tuple[str, Any]]:
    """Yield the place and the content of each task of a file."""
    head = file.peek(_HEAD_BYTES)
    if PurePosixPath(name).suffix.lower() in _LINES or _has_records_in_lines(head):
        yield from _read_lines(file)
        return
    if _first_character(head) == b"[":
        for element in read_elements(file):
            if element.index is not None:
                yield f"[{element.index}]", element.value
        return
    record: dict[str, Any] = {}
    for element in read_elements(file):
        if element.index is None:
            record[element.key] = element.value
        else:
            record.setdefault(element.key, []).append(element.value)
    yield "the task", record


def _first_character(head: bytes) -> bytes:
    return head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]


def _has_records_in_lines(head: bytes) -> bool:
    """Tell whether the first line is an object by itself, and another object follows."""
    first, _, rest = head.partition(b"\n")
    if _first_character(first) != b"{" or _first_character(rest) != b"{":
        return False
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return False
    return True


def _read_lines(file: BufferedReader) -> Iterator[tuple[str, Any]]:
    number = 0
    while line := file.readline(_MOST_LINE_BYTES + 1):
        number += 1
        if len(line) > _MOST_LINE_BYTES:
            raise LabelError(f"line {number}: it has more than {_MOST_LINE_BYTES} bytes")
        if not line.strip():
            continue
        try:
            yield f"line {number}", json.loads(line.decode("utf-8-sig"))
        except RecursionError:
            raise LabelError(f"line {number}: it is nested too deeply") from None
        except UnicodeDecodeError:
            raise LabelError(f"line {number}: it is not UTF-8 text; save it as UTF-8") from None
        except json.JSONDecodeError as error:
            raise LabelError(f"line {number}, column {error.colno}: {error.msg}") from None
        except ValueError as error:  # a number of thousands of digits
            if isinstance(error, LabelError):
                raise
            raise LabelError(f"line {number}: {str(error).partition(';')[0]}") from None


class _Parser:
    """Takes tasks one by one."""

    def __init__(self, builder: AnnotationsBuilder) -> None:
        self._builder = builder
        self._shapes = ShapeCollector(builder)
        self._images = KnownImages(builder)
        self._task: dict[str, Any] | None = None
        """Task of the most recent records of JSON-MIN, in which each annotation is a record."""
        self._where = ""
        self._num_tasks = 0
        self._num_annotated = 0
        self._num_chosen = 0
        """Number of tasks with several annotations, of which one was chosen."""
        self._num_turned = 0

    def take(self, where: str, record: object) -> None:
        """Take a task, or a record of JSON-MIN."""
        if not isinstance(record, dict):
            raise LabelError(f"{where} is {shorten(record)}; give a task of Label Studio")
        if "result" in record and isinstance(record.get("task"), dict):
            # an annotation that contains its task: Label Studio writes these to a target storage
            record = {**record["task"], "annotations": [record]}
        if isinstance(record.get("data"), dict):
            self._finish_records()
            self._take_task(where, record)
        elif record.keys() & _OF_RECORD:
            self._take_record(where, record)
        else:
            raise LabelError(
                f"{where} has neither the data of a task nor an annotation_id; export JSON or "
                "JSON-MIN from Label Studio"
            )

    def finish(self) -> None:
        """Check that there were annotations, and note what was chosen."""
        self._finish_records()
        if not self._num_tasks:
            raise LabelError("it has no tasks")
        if self._num_tasks > 1 and not self._num_annotated:
            raise LabelError(
                f"none of its {self._num_tasks} tasks has a submitted annotation, and predictions "
                "and drafts are not taken; submit annotations in Label Studio and export again"
            )
        self._shapes.finish("draw brush strokes, polygons, or ellipses in Label Studio")
        if self._num_chosen:
            self._builder.notes.append(
                f"tasks with several submitted annotations: {self._num_chosen}; the newest of each "
                "is taken"
            )
        if self._num_turned:
            self._builder.notes.append(
                f"images that were turned in Label Studio's view: {self._num_turned}; their labels "
                "are read as those of the image before it was turned"
            )

    def _take_record(self, where: str, record: dict[str, Any]) -> None:
        """Take a record of JSON-MIN as an annotation of a task."""
        data, results = {}, []
        for key, value in record.items():
            if _is_list_of_objects(value):
                results += [{"value": each, "from_name": key} for each in value]
            elif key not in _OF_RECORD:
                data[key] = value
        annotations = []
        if results or record.get("annotation_id") is not None:
            annotation = {
                "id": record.get("annotation_id"),
                "created_at": record.get("created_at"),
                "updated_at": record.get("updated_at"),
                "result": results,
            }
            annotations.append(annotation)
        number, images = record.get("id"), list_named_images(data)
        task = self._task
        if task and number is not None and (task["id"], task["images"]) == (number, images):
            task["annotations"] += annotations
            return
        self._finish_records()
        self._where = where
        self._task = {"id": number, "data": data, "annotations": annotations, "images": images}

    def _finish_records(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            self._take_task(self._where, task)

    def _take_task(self, where: str, task: dict[str, Any]) -> None:
        self._num_tasks += 1
        if isinstance(task.get("id"), str | int):
            where = f"{where}, task {shorten(task['id'])}"
        if isinstance(task.get("predictions"), list) and task["predictions"]:
            self._builder.left_out["predictions"] += len(task["predictions"])
        annotations = task.get("annotations") or task.get("completions") or []
        if not _is_list_of_objects(annotations) and annotations != []:
            raise LabelError(f"{where} has the annotations {shorten(annotations)}; give objects")
        submitted = [
            each for each in annotations if not (each.get("was_cancelled") or each.get("skipped"))
        ]
        if not submitted:
            self._builder.left_out["tasks without a submitted annotation"] += 1
            return
        self._num_annotated += 1
        self._num_chosen += len(submitted) > 1
        newest = max(submitted, key=_read_age)
        results = newest.get("result") or []
        if not isinstance(results, list):
            raise LabelError(f"{where} has the result {shorten(results)}; give a list")
        regions = collect_regions(where, results, self._builder.left_out)
        self._add_images(where, task, regions)

    def _add_images(self, where: str, task: dict[str, Any], regions: list[Region]) -> None:
        images = find_task_images(where, task, {region.target for region in regions})
        if not images:
            self._builder.left_out["tasks without the name of an image"] += 1
            return
        regions_of: dict[TaskImage, list[Region]] = {image: [] for image in images}
        for region in regions:
            regions_of[_find_image(region, images)].append(region)
        for image, drawn in regions_of.items():
            self._add_image(where, image, drawn)

    def _add_image(self, where: str, image: TaskImage, regions: Sequence[Region]) -> None:
        sizes = sorted({region.size for region in regions if region.size})
        size = sizes[0] if sizes else None
        error = None
        if len(sizes) > 1:
            shown = ", ".join(f"{width}×{height} px" for width, height in sizes[:3])
            error = f"its regions are for images of several sizes: {shown}"
        self._num_turned += any(region.is_turned for region in regions)
        shapes = list[DrawnShape]()
        for region in regions:
            shapes += make_shapes(region, size, self._builder.left_out)
        labels = None
        if shapes:
            keys: list[Hashable] = [size]
            for shape in shapes:
                keys.append((shape.label, shape.error, *map(_freeze, shape.parts)))
            labels = hash(tuple(keys))
        row, is_new = self._images.find_row(image.name, name=image.name, where=where, labels=labels)
        if not is_new:
            return
        self._builder.describe_image(
            row,
            image.name,
            places=image.places,
            size=size,
            is_normalised=bool(shapes) and size is None,
            error=error,
        )
        self._shapes.add(row, shapes)


def _is_list_of_objects(value: object) -> TypeGuard[list[dict[str, Any]]]:
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(each, dict) for each in value)


def _read_age(annotation: dict[str, Any]) -> tuple[float, float]:
    """Return the time when an annotation was last submitted (s; −∞ if unknown), and its id."""
    created = _read_time(annotation.get("created_at"))
    updated = _read_time(annotation.get("updated_at"))
    number = annotation.get("id")
    return max(created, updated), number if isinstance(number, int) else -math.inf


def _read_time(value: object) -> float:
    """Return a time (s) from a date in ISO format or a number; −∞ for other values."""
    if isinstance(value, int | float) and abs(value) < 2**63:
        return value
    if not isinstance(value, str):
        return -math.inf
    try:
        time = datetime.fromisoformat(value)
        if not time.tzinfo:
            time = time.replace(tzinfo=UTC)
        return time.timestamp()
    except (ValueError, OverflowError):
        return -math.inf


def _find_image(region: Region, images: Sequence[TaskImage]) -> TaskImage:
    """Return the image on which a region was drawn."""
    keys = {image.key for image in images}
    on_key = images
    if len(keys) > 1:
        on_key = [image for image in images if image.key == region.target]
    if len(on_key) == 1 and len(keys) == len(images):
        return on_key[0]
    for image in on_key:
        if image.index == region.index:
            return image
    raise LabelError(
        f"{region.name} is drawn on image {region.index} of {region.target or 'the task'}, which "
        f"has {len(on_key)} images"
    )


def _freeze(part: Polygon | Runs) -> Hashable:
    return tuple(part.outer) if isinstance(part, Polygon) else part


FORMAT = LabelFormat(
    "Label Studio JSON",
    (".json", *_LINES),
    _recognises,
    _parse,
    prepare=prepare_masks,
    is_per_image=True,
)
