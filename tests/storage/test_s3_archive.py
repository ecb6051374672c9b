from types import SimpleNamespace
from typing import Any

import pytest

from unet_ray.storage.backends.s3_archive import ArchiveListing, is_restored

PLAIN = {"Key": "a.png", "StorageClass": "STANDARD"}
FROZEN = {"Key": "b.png", "StorageClass": "GLACIER"}


def list_objects(endpoint: str, *found: dict[str, Any]) -> list[bool | None]:
    """Return what a listing tells of objects, page by page of one object each."""
    pages = list(found)

    def call(method: str, **wanted: Any) -> dict[str, Any]:
        """Answer as a store does: without restored copies unless they are asked for."""
        assert method == "list_objects_v2"
        asked = wanted.get("OptionalObjectAttributes") == ["RestoreStatus"]
        shown = {k: v for k, v in pages[0].items() if asked or k != "RestoreStatus"}
        return {"Contents": [shown]}

    meta = SimpleNamespace(endpoint_url=endpoint)
    filesystem = SimpleNamespace(call_s3=call, s3=SimpleNamespace(meta=meta))
    listing = ArchiveListing(filesystem, lambda operation: operation())
    told = []
    while pages:
        (shown,) = listing.fetch({"Bucket": "b"})["Contents"]
        told.append(listing.is_archived(shown))
        del pages[0]
    return told


@pytest.mark.parametrize(
    ("endpoint", "unknown"),
    [
        ("https://s3.eu-central-1.amazonaws.com", True),
        ("https://s3.cn-north-1.amazonaws.com.cn", True),
        ("https://store.example.com", None),
        ("https://amazonaws.com.example.com", None),
    ],
)
def test_only_a_listing_of_aws_is_known_to_name_every_restored_copy(
    endpoint: str, unknown: bool | None
) -> None:
    under_way = FROZEN | {"RestoreStatus": {"IsRestoreInProgress": True}}
    restored = FROZEN | {"RestoreStatus": {"IsRestoreInProgress": False}}
    instant = {"Key": "c.png", "StorageClass": "GLACIER_IR"}
    listed = list_objects(endpoint, PLAIN, FROZEN, under_way, restored, instant)
    assert listed == [False, unknown, True, False, False]


def test_an_answer_tells_whether_a_copy_is_restored() -> None:
    """The values are those of the API reference of AWS."""
    done = 'ongoing-request="false", expiry-date="Fri, 21 Dec 2012 00:00:00 GMT"'
    assert is_restored({"Restore": done})
    assert not is_restored({"Restore": 'ongoing-request="true"'})
    assert not is_restored({})
