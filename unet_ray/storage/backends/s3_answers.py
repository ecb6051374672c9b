"""Answers of S3, found behind the errors that s3fs turns them into."""

from __future__ import annotations


def find_answer(error: BaseException | None) -> tuple[int | None, str | None]:
    """Return the status and the code of a store's answer; None for an error without an answer.

    An answer without a text, such as that to HEAD, has its status as its code.

    Args:
        error: Error of botocore, or the error that s3fs turned it into.
    """
    for each in (error, getattr(error, "__cause__", None)):
        response = getattr(each, "response", None)  # of a ClientError
        if isinstance(response, dict):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            return status, str(response.get("Error", {}).get("Code"))
    return None, None
