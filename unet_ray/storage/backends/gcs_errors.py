"""Errors of gcsfs as built-in ones.

gcsfs is an extra: it is imported only where something else has loaded it.
"""

from __future__ import annotations

import sys
from http import HTTPStatus

from unet_ray.errors import CredentialsError
from unet_ray.storage.uris import uri_store

_FORBIDDEN = "Forbidden: "
"""Beginning of the OSError that gcsfs makes of 403."""
_REFUSED = "Bad Request: "
"""Beginning of the ValueError that gcsfs makes of 400."""
_ANONYMOUS = "Anonymous caller"
"""Beginning of the answer to requests without credentials."""
_BUSY = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)


def map_gcs_error(uri: str, error: BaseException) -> Exception | None:
    """Return the exception to raise for an error of gcsfs; None for all other errors.

    Args:
        uri: URI that was asked for.
        error: Error of a request.
    """
    if "gcsfs" not in sys.modules:
        return None
    from gcsfs.retry import ChecksumError, HttpError
    from google.auth.exceptions import GoogleAuthError, TransportError
    from requests.exceptions import RequestException

    text = f"{uri}: {' '.join(str(error).split())}"
    if isinstance(error, HttpError):
        status = int(error.code or 0)
        if status == HTTPStatus.UNAUTHORIZED and _ANONYMOUS not in text:
            return CredentialsError.ended(uri_store(uri), text.removeprefix(f"{uri}: "))
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            return PermissionError(text)
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _BUSY:
            return ConnectionError(text)
        return OSError(text)
    if isinstance(error, (RequestException, TransportError, ChecksumError)):
        return ConnectionError(text)
    if isinstance(error, GoogleAuthError):
        return CredentialsError.ended(uri_store(uri), str(error))
    if isinstance(error, OSError) and str(error).startswith(_FORBIDDEN):
        return PermissionError(text)
    if isinstance(error, ValueError) and str(error).startswith(_REFUSED):
        return OSError(text)
    return None
