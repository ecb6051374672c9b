"""Errors of stores as built-in ones, and more attempts after errors that may pass.

Errors leave the package `storage` as FileNotFoundError, PermissionError, ConnectionError or
OSError, with the store's own error as their cause.
"""

from __future__ import annotations

import errno
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from unet_ray.errors import InputError
from unet_ray.storage.backends.azure_errors import map_azure_error
from unet_ray.storage.backends.base import ArchivedFileError
from unet_ray.storage.backends.gcs_errors import map_gcs_error
from unet_ray.storage.backends.s3_answers import find_answer

Result = TypeVar("Result")

_BUSY_CODES = (
    "SlowDown",
    "ServiceUnavailable",
    "InternalError",
    "RequestTimeout",
    "Throttling",
    "500",
    "503",
)
_PASSING = (errno.EBUSY, errno.EIO, errno.EREMOTEIO, errno.EAGAIN, errno.EPIPE)
"""Error numbers into which s3fs turns a store's "slow down", "internal error" and the like."""
ATTEMPTS = 6
"""Attempts of an operation on a remote store."""
_FIRST_WAIT_S = 0.5
"""Wait before the second attempt, doubled each time (s). A store may take 15 s to restart."""
_ARCHIVED_CODES = ("InvalidObjectState", "BlobArchived")
"""Codes of S3 and Azure for a file that must be restored before it can be read."""
_DENIED_CODES = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "Forbidden", "403")


def retry(uri: str, operation: Callable[[], Result], attempts: int | None = None) -> Result:
    """Run an operation on a store, and run it again after an error that may pass.

    Args:
        uri: URI that error messages name.
        operation: One attempt.
        attempts: Largest number of attempts; None: ATTEMPTS.

    Raises:
        OSError: The last attempt failed, or an error will not pass.
        InputError: The store does not allow the name.
    """
    attempts = ATTEMPTS if attempts is None else attempts
    for attempt in range(attempts):
        try:
            with mapped_errors(uri):
                return operation()
        except OSError as error:
            is_network = isinstance(error, (ConnectionError, TimeoutError))
            may_pass = is_network or error.errno in _PASSING
            if not may_pass or attempt + 1 == attempts:
                raise
            wait_s = _FIRST_WAIT_S * 2**attempt
            time.sleep(wait_s * random.uniform(0.5, 1.0))  # noqa: S311
    raise AssertionError


@contextmanager
def mapped_errors(uri: str) -> Iterator[None]:
    """Map a store's errors to built-in ones."""
    try:
        yield
    except Exception as error:
        mapped = _mapped(uri, error)
        if mapped is None:
            raise
        raise mapped from error


def _mapped(uri: str, error: Exception) -> Exception | None:
    """Return the exception to raise for a store's own error; None for all other errors."""
    # all remote stores use aiohttp, and loading it would take a local process half a second
    if "aiohttp" not in sys.modules:
        return None
    import aiohttp
    from botocore import exceptions as boto

    codes = (find_answer(error)[1], getattr(error, "error_code", None))
    if any(code in _ARCHIVED_CODES for code in codes):
        return ArchivedFileError(f"{uri}: the file is in an archive; restore it and run again")
    of_extra = map_gcs_error(uri, error) or map_azure_error(uri, error)
    if of_extra is not None:
        return of_extra
    network_errors = (
        boto.ConnectionError,
        boto.HTTPClientError,
        boto.ConnectionClosedError,
        aiohttp.ClientError,
    )
    if isinstance(error, network_errors):
        return ConnectionError(f"{uri}: {error}")
    if isinstance(error, boto.ParamValidationError):
        return InputError(
            f"{uri}: the store does not allow this name: {' '.join(str(error).split())}"
        )
    if isinstance(error, boto.ClientError):
        code = str(error.response.get("Error", {}).get("Code"))
        if code in _DENIED_CODES:
            return PermissionError(f"{uri}: {error}")
        if code in _BUSY_CODES:
            return ConnectionError(f"{uri}: {error}")
        return OSError(f"{uri}: {error}")
    if isinstance(error, boto.BotoCoreError):
        return OSError(f"{uri}: {error}")
    return None
