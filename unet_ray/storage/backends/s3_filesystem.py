"""s3fs, for which a key is a name and nothing else.

This module imports s3fs, and is imported where a bucket is opened.
"""

from __future__ import annotations

from s3fs import S3FileSystem


class PlainS3FileSystem(S3FileSystem):
    """An S3 file system in whose paths nothing but the first slash has a meaning.

    s3fs cuts `?versionId=` and what follows from a key, which may have those characters: the object
    `a.png?versionId=1` would be another name of `a.png`.
    """

    def split_path(self, path: str) -> tuple[str, str, str | None]:
        """Return the bucket and the key of a path or URI, and None for the version."""
        bucket, _, key = str(self._strip_protocol(path)).lstrip("/").partition("/")
        slashes = path[len(path.rstrip("/")) :]  # of the marker of a folder, which were stripped
        return bucket, key and key + slashes, None
