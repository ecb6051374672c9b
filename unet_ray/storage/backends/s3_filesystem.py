"""s3fs with keys taken literally, and with clear errors when credentials end.

It takes a while to load s3fs, so this module is imported only when a bucket is opened.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fsspec.asyn import sync_wrapper
from s3fs import S3FileSystem

from unet_ray.errors import CredentialsError, NoCredentialsError
from unet_ray.storage.backends.s3_answers import find_answer
from unet_ray.storage.backends.s3_credentials import (
    Way,
    find_end,
    find_lack,
    freeze_credentials,
    open_session,
)
from unet_ray.storage.backends.s3_settings import CaBundle

if TYPE_CHECKING:
    from aiobotocore.client import AioBaseClient
    from aiobotocore.session import AioSession

_SILENT = (HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN)
"""Answers to HEAD that may mean that the credentials ended; they have no text to tell."""


class PlainS3FileSystem(S3FileSystem):
    """An S3 file system whose paths are a bucket, a slash and a literal key.

    s3fs cuts `?versionId=` and the rest from a key, although keys may have those characters: it
    would read `a.png` in place of the object `a.png?versionId=1`.

    Args:
        *args: Same as for s3fs.
        way: The driver's way to credentials; None: it has none.
        ca_bundle: Certificates to verify the store with; None: those that the SDK finds here.
        **kwargs: Same as for s3fs.
    """

    client_kwargs: dict[str, Any]
    session: AioSession

    def __init__(
        self,
        *args: object,
        way: Way | None = None,
        ca_bundle: CaBundle | None = None,
        **kwargs: object,
    ) -> None:
        super().__init__(*args, **kwargs)
        if ca_bundle is not None:
            self.client_kwargs = self.client_kwargs | {"verify": ca_bundle.find_path()}
        self._way = way
        self._renewing = asyncio.Lock()

    def split_path(self, path: str) -> tuple[str, str, str | None]:
        """Return the bucket and the key of a path or URI, and None for the version."""
        bucket, _, key = str(self._strip_protocol(path)).lstrip("/").partition("/")
        if key:
            # slashes at the end, which were stripped, belong to the name of a folder's marker
            key += path[len(path.rstrip("/")) :]
        return bucket, key, None

    async def set_session(
        self,
        refresh: bool = False,
        kwargs: dict[str, Any] | None = None,  # noqa: ARG002 (s3fs has it)
    ) -> AioBaseClient:
        """Connect to the store with a session that uses the way to credentials."""
        if self.session is None or refresh:
            self.session = open_session(self._way)
            self._session_is_owned = False
        return await super().set_session(refresh)

    connect = sync_wrapper(set_session)

    async def _call_s3(
        self, method: str, *akwarglist: dict[str, Any], **kwargs: object
    ) -> dict[str, Any]:
        """Make a request, and make it again if its credentials ended but were renewed meanwhile.

        Raises:
            CredentialsError: The credentials ended, or this node has none.
        """
        held = self.session
        try:
            return await self._call_once(method, *akwarglist, **kwargs)
        except CredentialsError:
            is_repeatable = isinstance(kwargs.get("Body", b""), bytes)
            if not (is_repeatable and await self._renew(held)):
                raise
        return await self._call_once(method, *akwarglist, **kwargs)

    call_s3 = sync_wrapper(_call_s3)

    async def _call_once(
        self, method: str, *akwarglist: dict[str, Any], **kwargs: object
    ) -> dict[str, Any]:
        place = f"s3://{kwargs.get('Bucket', '')}"
        try:
            return await super()._call_s3(method, *akwarglist, **kwargs)
        except Exception as error:
            said: Exception = error
            if method.startswith("head_") and find_answer(error)[0] in _SILENT:
                said = await self._ask_why(str(kwargs["Bucket"])) or error
            end = find_end(said)
            if end:
                raise CredentialsError.ended(place, end) from error
            lack = find_lack(said)
            if lack:
                raise NoCredentialsError.of(place, lack) from error
            raise

    async def _ask_why(self, bucket: str) -> Exception | None:
        """Return the error of a listing, which unlike HEAD states why a store refuses requests."""
        try:
            await super()._call_s3("list_objects_v2", Bucket=bucket, MaxKeys=1)
        except Exception as error:
            return error
        return None

    async def _renew(self, held: AioSession) -> bool:
        """Connect again if the credentials were renewed, for instance in a shared file.

        The SDK renews those of roles and identities by itself, but reads a file only once.

        Args:
            held: Session of the request that was refused.

        Returns:
            Whether there are other credentials now.
        """
        if self.anon or self.key:
            return False
        async with self._renewing:
            if self.session is not held:
                return True  # another request has reconnected
            try:
                before = await freeze_credentials(held)
                after = await freeze_credentials(open_session(self._way))
            except Exception:  # no way to credentials, as the first error says
                return False
            if after is None or after == before:
                return False
            await self.set_session(refresh=True)
            return True
