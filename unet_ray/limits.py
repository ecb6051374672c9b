"""Size limits of images, of files, and of what is found in them.

    an image of                  is
      up to WHOLE_PIXELS           decoded whole
      up to MAX_PIXELS             read in windows, if it is a TIFF, PNG or JPEG
      up to MAX_ARRAY_PIXELS       decoded whole, in other formats and as a mask
      more                         an error: `too_large`

    a file of
      up to WHOLE_BYTES            read whole
      above OWN_BLOCK_BYTES        alone in a block of Ray Data

A number of pixels is height × width, whatever the number of channels.
"""

from __future__ import annotations

WHOLE_PIXELS = 2**25
"""Largest image that is decoded whole (px): 34 megapixels. Larger images are read in windows if
their format allows it, so that memory does not grow with them."""
WHOLE_BYTES = 2**28
"""Largest file that is read whole (bytes). Larger files are read in ranges."""
MAX_ARRAY_PIXELS = 2**27
"""Largest array that any decoder makes (px): 134 megapixels, which in colour fit several times into
the memory of the decoder's child process."""
MAX_PIXELS = 2**34
"""Largest image that is read in windows (px): 17 gigapixels, 131,072 squared."""
MAX_PIXELS_PER_BYTE = 300
"""Largest number of pixels per stored byte; more is a decompression bomb, not an image: a blank
JPEG has about 250."""
ORDINARY_STACK_PIXELS = 2**31
"""Pixels over all pages of a stack that are accepted however small the file is: a stack of empty
masks takes very few bytes."""
MAX_PAGES = 2**16
"""Largest number of pages of one TIFF stack: the headers of all of them are read to list its
images."""

SEGMENT_BYTES = 2**28
"""Largest tile or strip of a TIFF that is decoded (bytes), since it is decoded whole."""
CACHED_SEGMENTS_BYTES = 2**28
"""Largest size of the decoded tiles and strips that are kept for the next window (bytes), which
shares those along its edges."""
LABELLED_WINDOW_PX = 2048
"""Smallest side of the windows that training cuts from large labelled images (px), except at the
right and bottom edges: many crops wide, and 12 MB in colour."""

OWN_BLOCK_BYTES = 2**22
"""File size above which an image has a block of its own (bytes), since it may take minutes, or a
block's memory."""

MAX_REGIONS = 2_000_000
"""Largest number of regions per class and image, unless `--max-regions` says otherwise: their rows
take a few hundred bytes of memory each."""
MAX_OUTLINE_BYTES = 2**28
"""Largest outline of one region (bytes): it is one value of a column, made in memory as a whole."""
MAX_OUTLINES_BYTES = 2**30
"""Limit on the outlines of an image, all classes together (bytes): a task that writes them takes
several times that, and Arrow addresses 2 GiB."""
