"""A store's errors as built-in ones, and another attempt where the next may go well.

Errors leave the room `archive` as FileNotFoundError, PermissionError, ConnectionError or OSError, the store's own as
their cause.
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
"""What s3fs makes of a store's "slow down", "internal error" and the like."""
ATTEMPTS = 6
_FIRST_WAIT_S = 0.5
"""Between two attempts, doubled each time: a store that restarts within 15 s is waited for."""
_DENIED_CODES = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "Forbidden", "403")


def retry(uri: str, operation: Callable[[], Result], attempts: int = ATTEMPTS) -> Result:
    """Do something on a store; what may go well the next time is retry again, after twice the time.

    Raises: OSError — of the last attempt, or one that will not pass; InputError — a name that no store allows.
    """
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
    if isinstance(error, (boto.NoCredentialsError, boto.PartialCredentialsError)):
        return PermissionError(f"{uri}: {error}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
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
