"""Errors of devices: memory that ran out, and GPUs that are lost."""

from __future__ import annotations

import torch

from unet_ray.errors import ImageError, one_line

_OUT_OF_MEMORY = "can't allocate memory", "out of memory", "STATUS_ALLOC_FAILED"
"""Texts of out-of-memory errors that have no type of their own: torch's on the host; CUDA's and
Triton's; cuDNN's."""


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that host or GPU memory ran out."""
    typed = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    return typed or any(words in str(error) for words in _OUT_OF_MEMORY)


def is_device_lost(error: Exception) -> bool:
    """Tell whether an error says that this process lost its GPU, so that all later images fail."""
    return isinstance(error, torch.AcceleratorError) and not is_out_of_memory(error)


def as_image_error(error: Exception) -> Exception:
    """Turn out-of-memory errors into the ImageError `out_of_memory`; return others unchanged.

    Torch has its own error types for running out of memory.
    """
    return ImageError("out_of_memory", one_line(error)) if is_out_of_memory(error) else error
