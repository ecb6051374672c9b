"""Windows of images that are never decoded whole: TIFF by its tiles and strips, PNG and JPEG row by row.

What holds for small images holds here: the same colours, the same errors. Files are read in ranges, by whatever gives
them; nothing of a file makes a library open another one.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from unet_ray.errors import ImageError
from unet_ray.imaging.codecs.decode import decode_image
from unet_ray.imaging.codecs.range_file import Fetch, RangeFile
from unet_ray.imaging.codecs.raster import Raster, mapped_errors
from unet_ray.imaging.codecs.row_windows import RowWindows
from unet_ray.imaging.codecs.tiff import TIFF_MAGIC
from unet_ray.imaging.codecs.tiff_windows import TiffWindows
from unet_ray.imaging.codecs.window_reader import WindowReader
from unet_ray.imaging.geometry import Box

WHOLE_PIXELS = 2**25
"""Largest image that is decoded whole (px): 34 megapixels. Larger ones are read in windows, where their format can."""
WHOLE_BYTES = 2**28
"""Largest file that is read whole (bytes)."""


def open_windows(file: RangeFile) -> WindowReader:
    """Open the image of a file for windows.

    Raises: ImageError — `unreadable`, `too_large` or `unsupported`.
    """
    with mapped_errors():
        magic = file.read(8)
        file.seek(0)
        if not magic:
            raise ImageError("unreadable", "the file is empty (0 bytes)")
        if magic[:4] in TIFF_MAGIC:
            return TiffWindows(file)
        if magic[:3] == b"\xff\xd8\xff" or magic == b"\x89PNG\r\n\x1a\n":
            return RowWindows(file.fetch, file.size, is_png=magic[:1] == b"\x89")
        return _WholeImage(file.fetch, file.size)


class _WholeImage(WindowReader):
    """A format that cannot be read in pieces: decoded whole, up to the limits of small images."""

    def __init__(self, fetch: Fetch, size: int) -> None:
        if size > WHOLE_BYTES:
            raise ImageError(
                "too_large",
                f"a file of {size} bytes that is no TIFF, PNG or JPEG; {WHOLE_BYTES} at most",
            )
        (data,) = fetch([(0, size)])
        self._image = decode_image(data)
        self.height, self.width = self._image.shape[:2]

    def read(self, box: Box) -> NDArray[Any]:
        return self._image[box.top : box.bottom, box.left : box.right]

    def _raster(self, box: Box) -> Raster:
        raise NotImplementedError
