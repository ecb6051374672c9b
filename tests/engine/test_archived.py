"""Objects in an archive: left out while they cannot be read, done once they are restored.

No server at hand has an archive: a proxy writes storage classes into the listings of a real one,
and gives the answers of the API reference of AWS.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Literal
from urllib.parse import urlsplit

import pytest

from tests.builders import write_scenes
from tests.conftest import new_bucket
from tests.faulty_store import ARCHIVED, Answer, Request, faulty_store
from unet_ray.cli.segment import summary
from unet_ray.output.config import VerifyConfig
from unet_ray.output.verify import verify
from unet_ray.segmentation.config import SegmentConfig
from unet_ray.segmentation.segment import segment
from unet_ray.storage.storage import Storage

pytestmark = pytest.mark.usefixtures("ray_local", "locks_settle_at_once")

_EXPIRY = "2026-12-31T00:00:00.000Z"


@dataclass
class Glacier:
    """Answers of a store with an archive."""

    classes: dict[str, str]
    """Storage class by name of the file; others are STANDARD."""
    restores: Literal["listed", "ignored", "refused"] = "listed"
    """What the store makes of the wish to see restored copies in listings."""
    is_listed: bool = True
    """Whether listings have the class."""
    restored: set[str] = field(default_factory=set)
    under_way: set[str] = field(default_factory=set)
    """Files whose restoration has begun."""
    asked: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Requests by method and name of the file."""

    def _needs_restoring(self, name: str) -> bool:
        return self.classes.get(name) in ("GLACIER", "DEEP_ARCHIVE") and name not in self.restored

    def answer(self, request: Request) -> Answer | None:
        """Answer a request for an archived object; None: the server answers."""
        name = urlsplit(request.path).path.rpartition("/")[2]
        self.asked[request.command, name] += 1
        if self.restores == "refused" and request.headers["x-amz-optional-object-attributes"]:
            return Answer.error(501, "NotImplemented", "A header is not implemented.")
        if request.command == "GET" and self._needs_restoring(name):
            return ARCHIVED
        if request.command == "HEAD" and name in self.classes and self.is_listed:
            ongoing = "false" if name in self.restored else "true"
            told = {"x-amz-restore": f'ongoing-request="{ongoing}"'}
            told = told if name in self.restored | self.under_way else {}
            return Answer(200, b"", told | {"x-amz-storage-class": self.classes[name]})
        return None

    def rewrite(self, request: Request, data: bytes) -> bytes:
        """Return a listing with storage classes and, where they are asked for, restored copies."""
        if b"<ListBucketResult" not in data or not self.is_listed:
            return data
        is_told = (
            self.restores == "listed"
            and request.headers["x-amz-optional-object-attributes"] == "RestoreStatus"
        )

        def describe(found: re.Match[str]) -> str:
            """Return the entry of an object."""
            name = found["key"].rpartition("/")[2]
            kept = re.sub(r"<StorageClass>.*?</StorageClass>", "", found[0])
            added = f"<StorageClass>{self.classes.get(name, 'STANDARD')}</StorageClass>"
            if is_told and name in self.under_way | self.restored:
                is_under_way = str(name not in self.restored).lower()
                expiry = f"<RestoreExpiryDate>{_EXPIRY}</RestoreExpiryDate>"
                added += (
                    f"<RestoreStatus><IsRestoreInProgress>{is_under_way}</IsRestoreInProgress>"
                    f"{expiry if name in self.restored else ''}</RestoreStatus>"
                )
            return kept.replace("</Contents>", f"{added}</Contents>")

        entry = r"<Contents>(?:(?!</Contents>).)*?<Key>(?P<key>[^<]*)</Key>.*?</Contents>"
        return re.sub(entry, describe, data.decode(), flags=re.DOTALL).encode()

    def count(self, method: str) -> int:
        """Return the number of requests for archived objects since it was asked, by method."""
        counted = sum(
            times
            for (command, name), times in self.asked.items()
            if command == method and self.classes.get(name, "GLACIER_IR") != "GLACIER_IR"
        )
        self.asked.clear()
        return counted


@pytest.mark.slow
@pytest.mark.parametrize(
    "restores",
    [
        "listed",
        pytest.param("ignored", marks=pytest.mark.soak),
        pytest.param("refused", marks=pytest.mark.soak),
    ],
)
def test_archived_images_are_left_out_until_they_are_restored(
    restores: Literal["listed", "ignored", "refused"],
    request: pytest.FixtureRequest,
    tiny_model: str,
    s3_server: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A third of them is archived; ten are restored, then all."""
    bucket = new_bucket(request)
    write_scenes(Storage.of(f"{bucket}/archive"), 100)
    names = [f"{index:03d}.png" for index in range(100)]
    archived = names[:30]
    glacier = Glacier(
        dict.fromkeys(archived[::2], "GLACIER")
        | dict.fromkeys(archived[1::2], "DEEP_ARCHIVE")
        | dict.fromkeys(names[30:35], "GLACIER_IR"),
        restores,
        under_way=set(archived[:12]),
    )
    config = SegmentConfig(
        model=tiny_model, images=f"{bucket}/archive", output=f"{bucket}/tables", date="2026-01-01"
    )
    with faulty_store(s3_server, answer=glacier.answer, rewrite=glacier.rewrite) as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint)
        dry = segment(replace(config, dry_run=True))
        assert (dry.images_listed, dry.images_archived) == (100, 30)
        assert "30 archived images are left out; restore them and run again" in caplog.text
        glacier.asked.clear()
        result = segment(config)
        assert (result.images_done, result.images_failed, result.images_skipped) == (70, 0, 0)
        assert (result.images_archived, result.exit_code) == (30, 0)
        assert "30 archived images are left out; restore them and run again" in summary(
            config, result
        )
        assert glacier.count("GET") == 0
        problems = verify(VerifyConfig(tables=config.output, images=config.images)).problems
        assert not problems

        glacier.restored = set(archived[:10])
        result = segment(replace(config, date="2026-01-02"))
        assert (result.images_done, result.images_failed, result.images_skipped) == (10, 0, 70)
        assert result.images_archived == 20
        glacier.asked.clear()
        glacier.restored = set(archived)
        assert segment(replace(config, date="2026-01-03")).images_done == 20
        # those that were done are not asked about, nor those of which the listing tells
        assert glacier.count("HEAD") == (0 if restores == "listed" else 20)
        glacier.restored = set()
        result = segment(replace(config, date="2026-01-04"))
        assert (result.images_done, result.images_skipped, result.images_archived) == (0, 100, 0)
        assert glacier.count("HEAD") == 0


@pytest.mark.slow
def test_an_image_that_turns_out_to_be_archived_is_tried_again_and_fails_no_run(
    request: pytest.FixtureRequest,
    tiny_model: str,
    s3_server: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The archive tiers of INTELLIGENT_TIERING are in no listing."""
    bucket = new_bucket(request)
    write_scenes(Storage.of(f"{bucket}/archive"), 4)
    glacier = Glacier(dict.fromkeys(["000.png", "001.png"], "GLACIER"), is_listed=False)
    config = SegmentConfig(
        model=tiny_model, images=f"{bucket}/archive", output=f"{bucket}/tables", date="2026-01-01"
    )
    with faulty_store(s3_server, answer=glacier.answer, rewrite=glacier.rewrite) as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint)
        result = segment(config)
        assert (result.images_done, result.error_types, result.exit_code) == (
            2,
            {"archived": 2},
            0,
        )
        assert result.error_messages == {
            "the store has archived the file; restore it and run again": 2
        }
        assert segment(replace(config, date="2026-01-02")).error_types == {"archived": 2}
        glacier.restored = {"000.png", "001.png"}
        result = segment(replace(config, date="2026-01-03"))
        assert (result.images_done, result.images_skipped, result.images_failed) == (2, 2, 0)
        assert not verify(VerifyConfig(tables=config.output, images=config.images)).problems
