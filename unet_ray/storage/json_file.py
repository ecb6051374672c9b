"""JSON files of any size and content: read as an object, or refused in one line."""

from __future__ import annotations

import json
from typing import Any

from unet_ray.errors import InputError
from unet_ray.storage.storage import Storage

MAX_JSON_BYTES = 2**28
"""Largest JSON file that is read (bytes); a training on a million labelled files writes half."""


def read_json(folder: Storage, path: str, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Args:
        folder: Folder of the file.
        path: Path of the file in the folder.
        max_bytes: Largest size (bytes); a larger file is not read to its end.

    Returns:
        The object.

    Raises:
        InputError: The file is larger, is not JSON, or does not hold an object.
        OSError: The file cannot be read; FileNotFoundError where there is none.
    """
    return parse_json(read_limited(folder, path, max_bytes), f"{folder.uri}/{path}")


def parse_json(data: bytes, name: str) -> dict[str, Any]:
    """Parse JSON that holds an object.

    Args:
        data: Content of the file.
        name: Name of the file, for the message.

    Raises:
        InputError: The content is not JSON, or not an object.
    """
    try:
        found = json.loads(data)
    except RecursionError:
        raise InputError(f"{name}: its JSON is nested too deeply") from None
    except ValueError as error:  # of the syntax, of the encoding, or a number of too many digits
        raise InputError(f"{name}: not JSON: {error}") from None
    if not isinstance(found, dict):
        raise InputError(f"{name}: not a JSON object but a {type(found).__name__}")
    return found


def read_limited(folder: Storage, path: str, max_bytes: int) -> bytes:
    """Read a file of limited size.

    Args:
        folder: Folder of the file.
        path: Path of the file in the folder.
        max_bytes: Largest size (bytes).

    Raises:
        InputError: The file is larger.
        OSError: The file cannot be read.
    """
    file = folder.join(path)
    try:
        data = file.read_range(0, max_bytes + 1)
    except FileNotFoundError:
        raise
    except OSError:
        if not file.is_file() or file.entry().size:
            raise
        return b""  # the file is empty: stores refuse a range of it
    if len(data) > max_bytes:
        raise InputError(f"{file.uri}: larger than {max_bytes} bytes, the limit for such files")
    return data
