"""Errors of the SDK of Azure as built-in ones.

The SDK is an extra: it is imported only where something else has loaded it.
"""

from __future__ import annotations

import sys
from http import HTTPStatus

from unet_ray.errors import CredentialsError
from unet_ray.storage.uris import uri_store

_ENDED_CODES = ("ExpiredAuthenticationToken", "InvalidAuthenticationInfo")
_ENDED_WORDS = "not valid in the specified time frame"
"""Words of the answer to an expired signature (SAS), whose code is that of any wrong one."""
_THERE = ("BlobAlreadyExists", "ConditionNotMet")
_DENIED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
_BUSY = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)


def map_azure_error(uri: str, error: BaseException) -> Exception | None:
    """Return the exception to raise for an error of the SDK; None for all other errors.

    Args:
        uri: URI that was asked for.
        error: Error of a request, or the error that adlfs turned it into.
    """
    if "azure.core" not in sys.modules:
        return None
    from azure.core import exceptions as azure

    cause = error if isinstance(error, azure.AzureError) else error.__cause__ or error.__context__
    if not isinstance(cause, azure.AzureError) or isinstance(error, OSError):
        return None
    text = f"{uri}: {' '.join(str(cause).split())}"
    if isinstance(cause, azure.ResourceNotFoundError):
        return FileNotFoundError(uri)
    if not isinstance(cause, azure.HttpResponseError) or cause.status_code is None:
        return ConnectionError(text)  # no answer, or an incomplete one
    status, code = cause.status_code, getattr(cause, "error_code", None)
    if code in _ENDED_CODES or _ENDED_WORDS in text:
        return CredentialsError.ended(uri_store(uri), str(code))
    if status in _DENIED:
        return PermissionError(text)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _BUSY:
        return ConnectionError(text)
    return OSError(text)


def is_there(error: BaseException) -> bool:
    """Tell whether the answer to a PUT with If-None-Match means that the blob exists."""
    return getattr(error, "error_code", None) in _THERE
