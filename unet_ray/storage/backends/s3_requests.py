"""S3 by s3fs: what its general calls ask several requests for, or hold in memory whole, in one request or page each."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from typing import Any, cast

from fsspec.asyn import sync

TRIES = 3
"""Of one request within s3fs, 20 s each before it times out; botocore's own are off, or they would multiply."""
CONNECTIONS = 64
"""Of a process to one store, at most; botocore's ten let no more than ten requests wait for their answers at a time."""


def options() -> dict[str, Any]:
    """Return what the driver's AWS_* variables say, so that workers elsewhere act alike; no key: the machine's role."""
    environment = os.environ
    config = {"retries": {"total_max_attempts": 1}, "max_pool_connections": CONNECTIONS}
    found: dict[str, Any] = {"config_kwargs": config}
    if environment.get("AWS_ACCESS_KEY_ID") and environment.get("AWS_SECRET_ACCESS_KEY"):
        found |= {
            "key": environment["AWS_ACCESS_KEY_ID"],
            "secret": environment["AWS_SECRET_ACCESS_KEY"],
        }
        if environment.get("AWS_SESSION_TOKEN"):
            found["token"] = environment["AWS_SESSION_TOKEN"]
    endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
    if endpoint:
        found["endpoint_url"] = endpoint
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")
    if region:
        found["client_kwargs"] = {"region_name": region}
    return found


def get(
    filesystem: Any, uri: str, offset: int = 0, size: int | None = None
) -> tuple[bytes, dict[str, Any]]:
    """Return bytes of an object, fewer at its end, and its fields as in a listing, which came with them.

    The size is None where the store does not tell it with a range. `cat_file` would ask for the size first, to fetch
    large objects in pieces, and tells no etag.
    """
    data, fields = sync(filesystem.loop, _get, filesystem, uri, offset, size)
    return data, fields


async def _get(
    filesystem: Any, uri: str, offset: int, size: int | None
) -> tuple[bytes, dict[str, Any]]:
    bucket, key, _ = filesystem.split_path(uri)
    piece = {} if size is None else {"Range": f"bytes={offset}-{offset + size - 1}"}
    answer = await filesystem._call_s3("get_object", Bucket=bucket, Key=key, **piece)
    async with answer["Body"] as body:
        data = await body.read()
    whole = answer.get("ContentRange", f"/{len(data)}").rpartition("/")[
        2
    ]  # bytes 0-99/1000, bytes 0-99/*
    fields = {name: answer.get(name) for name in ("ETag", "LastModified")}
    if piece and "ContentRange" not in answer:  # a store that knows no ranges
        data = data[offset : offset + cast(int, size)]
    return data, fields | {"size": int(whole) if whole.isdigit() else None}


def pages(
    root: str, ask: Callable[..., dict[str, Any]], page_keys: int | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the objects below a prefix, `bucket/…/`: `find` of s3fs holds all of them, a kilobyte each.

    Args:
        root — the prefix.
        ask — calls `list_objects_v2`.
        page_keys — objects of a page; None: as many as the store likes.
    """
    bucket, _, prefix = root.partition("/")
    wanted: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix} | (
        {"MaxKeys": page_keys} if page_keys else {}
    )
    while True:
        page = ask(**wanted)
        for found in page.get("Contents", []):
            if not found["Key"].endswith("/"):  # the mark of a folder
                yield {**found, "name": f"{bucket}/{found['Key']}", "size": found["Size"]}
        if not page.get("IsTruncated"):
            return
        if not page.get("NextContinuationToken"):
            raise OSError(
                f"s3://{root}: the store says that there is more to list, and not how to go on"
            )
        wanted["ContinuationToken"] = page["NextContinuationToken"]


def put_if_absent(filesystem: Any, uri: str, data: bytes) -> None:
    """PUT with If-None-Match: stores that do not know the condition take no notice of it.

    Raises: FileExistsError.
    """
    try:
        filesystem.pipe_file(uri, data, mode="create")
    except OSError as error:
        if error.errno == errno.EINVAL:  # 412 without the words that s3fs looks for
            raise FileExistsError(uri) from error
        raise
