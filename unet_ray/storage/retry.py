"""A store's errors as built-in ones, and further attempts where the next may succeed.

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
"""Wait before the second attempt, doubled each time: enough for a store that restarts in 15 s."""
_ARCHIVED_CODES = ("InvalidObjectState", "BlobArchived")
"""Codes of S3 and Azure for a file that must be restored before it can be read."""
_DENIED_CODES = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "Forbidden", "403")


def retry(uri: str, operation: Callable[[], Result], attempts: int | None = None) -> Result:
    """Do something on a store, and do it again where its error may pass.

    Args:
        uri: URI that error messages name.
        operation: One attempt.
        attempts: Largest number of attempts; None: ATTEMPTS.

    Raises:
        OSError: The error of the last attempt, or one that will not pass.
        InputError: A name that no store allows.
    """
    attempts = ATTEMPTS if attempts is None else attempts
    for attempt in range(attempts):
        try:
            with mapped_errors(uri):
                return operation()
        except OSError as error:
            if not _may_pass(error) or attempt + 1 == attempts:
                raise
            time.sleep(_FIRST_WAIT_S * 2**attempt * random.uniform(0.5, 1.0))  # noqa: S311
    raise AssertionError


def _may_pass(error: OSError) -> bool:
    return isinstance(error, (ConnectionError, TimeoutError)) or error.errno in _PASSING


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
    """Return what to raise for a store's own error; None for all others."""
    if (
        "aiohttp" not in sys.modules
    ):  # which all remote stores use; loading it takes a local process half a second
        return None
    import aiohttp
    from botocore import exceptions as boto

    codes = (find_answer(error)[1], getattr(error, "error_code", None))
    if any(code in _ARCHIVED_CODES for code in codes):
        return ArchivedFileError(f"{uri}: it is in an archive; restore it and run again")
    of_extra = map_gcs_error(uri, error) or map_azure_error(uri, error)
    if of_extra is not None:
        return of_extra
    if isinstance(
        error,
        (
            boto.ConnectionError,
            boto.HTTPClientError,
            boto.ConnectionClosedError,
            aiohttp.ClientError,
        ),
    ):
        return ConnectionError(f"{uri}: {error}")
    if isinstance(error, boto.ParamValidationError):
        return InputError(
            f"{uri}: not a name that the store allows: {' '.join(str(error).split())}"
        )
    if isinstance(error, boto.ClientError):
        code = str(error.response.get("Error", {}).get("Code"))
        kind = (
            PermissionError
            if code in _DENIED_CODES
            else ConnectionError
            if code in _BUSY_CODES
            else OSError
        )
        return kind(f"{uri}: {error}")
    return OSError(f"{uri}: {error}") if isinstance(error, boto.BotoCoreError) else None
