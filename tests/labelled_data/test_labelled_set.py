"""Labelled folders: files that are left out are counted, and pages have names."""

from pathlib import Path

import numpy as np

from unet_ray.image_sources.names import page_uri, split_page
from unet_ray.labelled_data.labelled_set import find_labelled
from unet_ray.storage.storage import Storage
from unet_ray.synthetic import encode


def test_files_that_are_not_images_are_counted(tmp_path: Path) -> None:
    png = encode(np.zeros((8, 8, 3), np.uint8), "png")
    for name, data in (
        ("images/a.png", png),
        ("images/notes.txt", b""),
        ("masks/a.png", png),
        ("masks/b.npy", b""),
    ):
        Storage.of(str(tmp_path)).write(name, data)
    found = find_labelled(f"{tmp_path}/images", f"{tmp_path}/masks", (), None)
    assert [item.image.uri for item in found.items] == [f"{tmp_path}/images/a.png"]
    assert found.notes == (
        f"skipped 1 files in {tmp_path}/images that do not have an image suffix",
        f"skipped 1 files in {tmp_path}/masks that do not have an image suffix",
    )


def test_pages_of_stacks_have_names() -> None:
    for uri, parts in (("a/s.tif#page=12", ("a/s.tif", 12)), ("a/s#1.tif", ("a/s#1.tif", None))):
        assert split_page(uri) == parts
        assert page_uri(*parts) == uri
