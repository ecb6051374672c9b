"""Windows of images that are never decoded whole.

TIFF is read by its tiles and strips, PNG and JPEG row by row. Colours and errors are the same as
for small images. Files are read in byte ranges, through a function that fetches them; no content
of a file can make a library open another file.
"""

from __future__ import annotations

from dataclasses import replace

from unet_ray.errors import ImageError
from unet_ray.imaging.codecs.decode import ReadImage, decode_image
from unet_ray.imaging.codecs.decoded_image import DecodedImage
from unet_ray.imaging.codecs.pixel_size import PNG_MAGIC
from unet_ray.imaging.codecs.range_file import Fetch, RangeFile
from unet_ray.imaging.codecs.raster import mapped_errors
from unet_ray.imaging.codecs.row_windows import RowWindows
from unet_ray.imaging.codecs.tiff_directories import TIFF_MAGIC
from unet_ray.imaging.codecs.tiff_windows import TiffWindows
from unet_ray.imaging.codecs.window_reader import WindowReader
from unet_ray.imaging.geometry import Box
from unet_ray.limits import WHOLE_BYTES

_JPEG_MAGIC = b"\xff\xd8\xff"


def open_windows(
    file: RangeFile, opaque: bool = False, lossy_samples: bool = False
) -> WindowReader:
    """Open the image of a file for windows.

    Args:
        file: The file.
        opaque: True if the alpha of the whole image is known to leave out no pixel.
        lossy_samples: True to round whole numbers that float32 does not hold.

    Raises:
        ImageError: `unreadable`, `too_large` or `unsupported`.
    """
    reader: WindowReader
    with mapped_errors():
        magic = file.read(8)
        file.seek(0)
        if not magic:
            raise ImageError("unreadable", "the file is empty (0 bytes)")
        if magic[:4] in TIFF_MAGIC:
            reader = TiffWindows(file)
        elif magic == PNG_MAGIC:
            reader = RowWindows(file.fetch, file.size, is_png=True)
        elif magic[:3] == _JPEG_MAGIC:
            reader = RowWindows(file.fetch, file.size, is_png=False)
        else:
            reader = _WholeImage(file.fetch, file.size, lossy_samples)
    reader.opaque = opaque
    reader.lossy_samples = lossy_samples
    return reader


class _WholeImage(WindowReader):
    """Image of a format that cannot be read in pieces; it is decoded whole, if it is small."""

    def __init__(self, fetch: Fetch, size: int, lossy_samples: bool) -> None:
        if size > WHOLE_BYTES:
            raise ImageError(
                "too_large",
                f"a file of {size} bytes that is not a TIFF, PNG or JPEG; other formats may have "
                f"at most {WHOLE_BYTES} bytes",
            )
        (data,) = fetch([(0, size)])
        self._image = decode_image(data, lossy_samples=lossy_samples)
        self.height = self._image.height
        self.width = self._image.width

    def read(self, box: Box, core: Box | None = None) -> DecodedImage:  # noqa: ARG002
        """Return a window of the decoded image; what its alpha means is already decided."""
        window = self._image.cut(box)
        all_there = window.valid is None or window.valid.all()
        return replace(window, valid=None) if all_there else window

    def _read_image(self, box: Box) -> ReadImage:
        raise NotImplementedError
