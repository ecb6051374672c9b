"""Builders and views that the tests of vector formats share."""

from __future__ import annotations

import io
import json
from functools import cache
from typing import Any

from unet_ray.imaging.codecs.sandbox import Decoder
from unet_ray.labelled_data.annotations import Annotations, LabelError
from unet_ray.labelled_data.formats.parsing import parse_labels

BOX = [[[1, 1], [5, 1], [5, 4], [1, 4], [1, 1]]]
"""Rings of a polygon of 4×3 px from pixel (1, 1)."""
OPEN_BOX = [1.0, 1.0, 5.0, 1.0, 5.0, 4.0, 1.0, 4.0]
"""Its points as objects hold them."""


def parse(data: bytes | str | dict[str, Any] | list[Any], name: str, **flags: str) -> Annotations:
    """Parse a label file in this process; values become JSON."""
    if not isinstance(data, bytes):
        data = (data if isinstance(data, str) else json.dumps(data)).encode()
    return parse_labels(io.BufferedReader(io.BytesIO(data), 2**20), name, **flags)  # type: ignore[arg-type]


def parse_or_refuse(data: bytes | str | dict[str, Any], name: str) -> Annotations | None:
    """Parse a label file; None if it is refused in one line."""
    try:
        found = parse(data, name)
    except LabelError as error:
        assert "\n" not in str(error)  # noqa: PT017 (any line will do)
        return None
    found.objects.validate(full=True)
    found.images.validate(full=True)
    return found


@cache
def _decoder() -> Decoder:
    return Decoder(module="unet_ray.labelled_data.formats.parsing")


def parse_in_child(data: bytes, name: str, **flags: str) -> Annotations:
    """Parse a label file in the confined child process."""
    arguments = {"name": name} | flags
    return Annotations.from_bytes(_decoder().call(arguments, len(data), lambda: [data]))


def make_feature(rings: Any = BOX, **properties: Any) -> dict[str, Any]:
    """Return a feature with a polygon."""
    geometry = {"type": "Polygon", "coordinates": rings}
    return {"type": "Feature", "properties": properties, "geometry": geometry}


def make_collection(*features: Any, **members: Any) -> dict[str, Any]:
    """Return a feature collection."""
    return {"type": "FeatureCollection"} | members | {"features": [*features]}


def list_objects(found: Annotations) -> list[tuple[str | None, list[list[float]]]]:
    """Return class and rings of each object; None for one whose pixels are not counted."""
    return [
        (
            None if row["is_ignored"] else found.categories[row["category"]].name,
            [part["points"] for part in row["parts"]],
        )
        for row in found.objects.to_pylist()
    ]
