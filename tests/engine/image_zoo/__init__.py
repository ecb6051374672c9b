"""Images as instruments and tools write them, with what is true of each.

`cases.py` has the table; each other module adds cases of a kind to it when it is imported.
"""

from tests.engine.image_zoo import (
    colours,
    imagej,
    no_data,
    ome,
    pages,
    pixel_sizes,
    samples,
)
from tests.engine.image_zoo.cases import CASES, Case, Image, Refusal

__all__ = [
    "CASES",
    "Case",
    "Image",
    "Refusal",
    "colours",
    "imagej",
    "no_data",
    "ome",
    "pages",
    "pixel_sizes",
    "samples",
]
