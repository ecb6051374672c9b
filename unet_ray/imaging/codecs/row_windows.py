"""Windows of PNG and JPEG files, which can only be decoded from the top."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet_ray.errors import ImageError
from unet_ray.imaging.codecs.decode import ReadImage
from unet_ray.imaging.codecs.pixel_size import read_png_pixel_size
from unet_ray.imaging.codecs.range_file import Fetch, RangeFile
from unet_ray.imaging.codecs.raster import Raster
from unet_ray.imaging.codecs.window_reader import STRIP_ROWS, WindowReader, check_large
from unet_ray.imaging.geometry import Box


class RowWindows(WindowReader):
    """PNG or JPEG that is decoded from the top, row by row.

    Decoding starts again for a window above the previous one. Memory holds the rows of a window
    over the whole width; interlaced PNG and progressive JPEG are held whole by their decoders.
    """

    def __init__(self, fetch: Fetch, size: int, is_png: bool) -> None:
        self._source = fetch, size, is_png
        self._restart()
        image = self._row_source.image
        self.height, self.width = image.height, image.width
        check_large(self.height, self.width, image.bands)
        if (
            image.format not in ("uchar", "ushort")
            or image.interpretation == "cmyk"
            or image.bands > 4
        ):
            raise ImageError(
                "unsupported",
                f"a large {image.interpretation} image with {image.format} samples; "
                "save it as TIFF",
            )
        if "orientation" in image.get_fields() and image.get("orientation") != 1:
            raise ImageError(
                "unsupported",
                "a large image whose EXIF orientation is not upright; save it upright",
            )
        self._pixel_size = read_png_pixel_size(RangeFile(fetch, size)) if is_png else None
        self._dtype = np.uint8 if image.format == "uchar" else np.uint16

    def _restart(self) -> None:
        self._row_source = _RowSource(*self._source)
        self._top = 0
        self._rows: list[NDArray[Any]] = []

    def _read_image(self, box: Box) -> ReadImage:
        if box.top < self._top:
            self._restart()
        strips = self._rows
        while self._top + STRIP_ROWS <= box.top:
            if strips:
                del strips[0]
            else:
                # decoders are sequential: rows that no window needs are decoded as well
                self._read_strip(self._top)
            self._top += STRIP_ROWS
        while self._top + len(strips) * STRIP_ROWS < box.bottom:
            strips.append(self._read_strip(self._top + len(strips) * STRIP_ROWS))
        last = -(-(box.bottom - self._top) // STRIP_ROWS)
        columns = [strip[:, box.left : box.right] for strip in strips[:last]]
        samples = np.concatenate(columns)[box.top - self._top : box.bottom - self._top]
        has_alpha = samples.shape[2] in (2, 4)
        bits = samples.dtype.itemsize * 8
        return ReadImage(
            (Raster(samples, has_alpha=has_alpha, bits=bits),), pixel_size=self._pixel_size
        )

    def _read_strip(self, top: int) -> NDArray[Any]:
        rows = min(STRIP_ROWS, self.height - top)
        return np.frombuffer(self._row_source.read_rows(top, rows), self._dtype).reshape(
            rows, self.width, -1
        )


class _RowSource:
    """PNG or JPEG that libvips decodes from the top.

    The loader is called by name, so that the content of a file cannot choose another one.
    """

    def __init__(self, fetch: Fetch, size: int, is_png: bool) -> None:
        # imported here: a shared library of 40 MB that only large PNG and JPEG files need
        import pyvips

        self._file, self._error = RangeFile(fetch, size), None
        self._source = pyvips.SourceCustom()  # libvips keeps no reference to it
        self._source.on_read(self._read)
        self._source.on_seek(self._file.seek)
        load = pyvips.Image.pngload_source if is_png else pyvips.Image.jpegload_source
        self.image = load(self._source, access="sequential", fail_on="truncated")
        self._region = pyvips.Region.new(self.image)

    def _read(self, size: int) -> bytes:
        try:
            return self._file.read(size)
        except Exception as error:  # C code would lose an exception raised in its callback
            self._error = error
            return b""

    _error: Exception | None

    def read_rows(self, top: int, count: int) -> bytes:
        """Return the bytes of whole rows.

        Raises:
            Exception: The error of reading the file if there is one, otherwise that of libvips.
        """
        try:
            return bytes(self._region.fetch(0, top, self.image.width, count))
        except Exception:
            if self._error is not None:
                raise self._error from None
            raise
