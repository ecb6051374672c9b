"""Windows of PNG and JPEG files, which only decode from the top."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet_ray.errors import ImageError
from unet_ray.imaging.codecs.range_file import Fetch, RangeFile
from unet_ray.imaging.codecs.raster import Raster
from unet_ray.imaging.codecs.window_reader import STRIP_ROWS, WindowReader, check_large
from unet_ray.imaging.geometry import Box


class RowWindows(WindowReader):
    """A PNG or JPEG: decoded from the top, row by row; a window above the last one starts again.

    Memory: the rows of a window, over the whole width; interlaced PNG and progressive JPEG are held whole by their
    decoders.
    """

    def __init__(self, fetch: Fetch, size: int, is_png: bool) -> None:
        self._source = fetch, size, is_png
        self._start_again()
        image = self._rows_from.image
        self.height, self.width = image.height, image.width
        check_large(self.height, self.width, image.bands)
        if (
            image.format not in ("uchar", "ushort")
            or image.interpretation == "cmyk"
            or image.bands > 4
        ):
            raise ImageError(
                "unsupported",
                f"a large {image.interpretation} image of {image.format}; save it as TIFF",
            )
        if "orientation" in image.get_fields() and image.get("orientation") != 1:
            raise ImageError(
                "unsupported",
                "a large image that is to be turned (EXIF orientation); save it upright",
            )
        self._dtype = np.uint8 if image.format == "uchar" else np.uint16

    def _start_again(self) -> None:
        self._rows_from = _RowSource(*self._source)
        self._top = 0
        self._rows: list[NDArray[Any]] = []

    def _raster(self, box: Box) -> Raster:
        if box.top < self._top:
            self._start_again()
        strips = self._rows
        while self._top + STRIP_ROWS <= box.top:
            if strips:
                del strips[0]
            else:
                self._strip(
                    self._top
                )  # decoders go on from where they are: rows that nobody wants as well
            self._top += STRIP_ROWS
        while self._top + len(strips) * STRIP_ROWS < box.bottom:
            strips.append(self._strip(self._top + len(strips) * STRIP_ROWS))
        last = -(-(box.bottom - self._top) // STRIP_ROWS)
        columns = [strip[:, box.left : box.right] for strip in strips[:last]]
        samples = np.concatenate(columns)[box.top - self._top : box.bottom - self._top]
        has_alpha = samples.shape[2] in (2, 4)
        return Raster(samples, has_alpha=has_alpha, bits=samples.dtype.itemsize * 8)

    def _strip(self, top: int) -> NDArray[Any]:
        rows = min(STRIP_ROWS, self.height - top)
        return np.frombuffer(self._rows_from.rows(top, rows), self._dtype).reshape(
            rows, self.width, -1
        )


class _RowSource:
    """A PNG or JPEG that libvips decodes from the top; the loaders are named, so that no content chooses another."""

    def __init__(self, fetch: Fetch, size: int, is_png: bool) -> None:
        import pyvips  # not above: a shared library of 40 MB that only large PNG and JPEG files need

        self._file, self._error = RangeFile(fetch, size), None
        self._source = pyvips.SourceCustom()  # libvips does not keep it: we do
        self._source.on_read(self._read)
        self._source.on_seek(self._file.seek)
        load = pyvips.Image.pngload_source if is_png else pyvips.Image.jpegload_source
        self.image = load(self._source, access="sequential", fail_on="truncated")
        self._region = pyvips.Region.new(self.image)

    def _read(self, size: int) -> bytes:
        try:
            return self._file.read(size)
        except Exception as error:  # a callback of C code: nobody would hear of it
            self._error = error
            return b""

    _error: Exception | None

    def rows(self, top: int, count: int) -> bytes:
        """Return whole rows; raise what reading the file raised, or libvips' own error."""
        try:
            return bytes(self._region.fetch(0, top, self.image.width, count))
        except Exception:
            if self._error is not None:
                raise self._error from None
            raise
