"""Components of a mask as a label image."""

from __future__ import annotations

from typing import Any

import cc3d
import numpy as np
from numpy.typing import NDArray


def label_values(mask_hw: NDArray[np.integer[Any]]) -> NDArray[np.int32]:
    """Return the 8-connected components of equal values of a mask as a label image; 0 stays 0.

    Args:
        mask_hw: Mask of an integer type.
    """
    writable = np.array(mask_hw, order="C")  # cc3d takes no read-only arrays
    labels: NDArray[np.uint32] = cc3d.connected_components(
        writable, connectivity=8, out_dtype=np.uint32
    )
    return labels.view(np.int32)


def label_image(mask_hw: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Return the 8-connected components of a mask as a label image; 0 is background."""
    # cc3d 4.1.1 labels boolean images wrongly.
    as_bytes = np.ascontiguousarray(mask_hw).view(np.uint8)
    labels: NDArray[np.uint32] = cc3d.connected_components(
        as_bytes, connectivity=8, out_dtype=np.uint32
    )
    return labels.view(np.int32)
