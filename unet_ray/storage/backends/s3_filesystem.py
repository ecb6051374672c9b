"""s3fs, for which a key is a name and nothing else, and which says when its credentials end.

This module imports s3fs, and is imported where a bucket is opened.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

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

_SILENT = (HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN)
"""Answers to HEAD, which have no text, that may mean that the credentials ended."""


class PlainS3FileSystem(S3FileSystem):
    """An S3 file system in whose paths nothing but the first slash has a meaning.

    s3fs cuts `?versionId=` and what follows from a key, which may have those characters: the object
    `a.png?versionId=1` would be another name of `a.png`.

    Args:
        *args: As for s3fs.
        way: The driver's way to credentials; None: it has none.
        ca_bundle: Certificates by which the store is known; None: those that the SDK finds here.
        **kwargs: As for s3fs.
    """

    client_kwargs: dict[str, Any]
    session: Any

    def __init__(
        self, *args: Any, way: Way | None = None, ca_bundle: CaBundle | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        if ca_bundle is not None:
            self.client_kwargs = self.client_kwargs | {"verify": ca_bundle.find_path()}
        self._way = way
        self._renewing = asyncio.Lock()

    def split_path(self, path: str) -> tuple[str, str, str | None]:
        """Return the bucket and the key of a path or URI, and None for the version."""
        bucket, _, key = str(self._strip_protocol(path)).lstrip("/").partition("/")
        slashes = path[len(path.rstrip("/")) :]  # of the marker of a folder, which were stripped
        return bucket, key and key + slashes, None

    async def set_session(self, refresh: bool = False, kwargs: Any = None) -> Any:  # noqa: ARG002
        """Connect to the store with a session that knows the way to credentials."""
        if self.session is None or refresh:
            self.session, self._session_is_owned = open_session(self._way), False
        return await super().set_session(refresh)

    connect = sync_wrapper(set_session)

    async def _call_s3(self, method: str, *akwarglist: Any, **kwargs: Any) -> Any:
        """Make a request; once more where its credentials ended and somebody renewed them.

        Raises:
            CredentialsError: They ended, or this node has none.
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

    async def _call_once(self, method: str, *akwarglist: Any, **kwargs: Any) -> Any:
        place = f"s3://{kwargs.get('Bucket', '')}"
        try:
            return await super()._call_s3(method, *akwarglist, **kwargs)
        except Exception as error:
            said: Exception = error
            if method.startswith("head_") and find_answer(error)[0] in _SILENT:
                said = await self._ask_why(kwargs["Bucket"]) or error
            if reason := find_end(said):
                raise CredentialsError.ended(place, reason) from error
            if reason := find_lack(said):
                raise NoCredentialsError.of(place, reason) from error
            raise

    async def _ask_why(self, bucket: str) -> Exception | None:
        """Return why a store refuses requests; its answer to HEAD has no text."""
        try:
            await super()._call_s3("list_objects_v2", Bucket=bucket, MaxKeys=1)
        except Exception as error:
            return error
        return None

    async def _renew(self, held: Any) -> bool:
        """Connect anew where somebody renewed the credentials, in a shared file for instance.

        The SDK renews those of roles and identities by itself; a file it reads only once.

        Args:
            held: Session of the request that was refused.

        Returns:
            Whether there are other credentials now.
        """
        if self.anon or self.key:
            return False
        async with self._renewing:
            if self.session is not held:
                return True  # another request has done it
            try:
                before = await freeze_credentials(held)
                after = await freeze_credentials(open_session(self._way))
            except Exception:  # there is no way to any, which the first error says
                return False
            if after is None or after == before:
                return False
            await self.set_session(refresh=True)
            return True
