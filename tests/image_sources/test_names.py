"""Names of images inside files."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unet_ray.image_sources.names import image_uri, split_uri
from unet_ray.imaging.codecs.image_place import WHOLE, ImageKey

NUMBERS = st.none() | st.integers(0, 999_999_999)
KEYS = st.builds(ImageKey, page=st.integers(1, 999_999_999)) | st.builds(
    ImageKey, series=NUMBERS, t=NUMBERS, z=NUMBERS
)


@given(st.text(), KEYS)
def test_a_name_is_split_into_what_it_was_made_of(path: str, key: ImageKey) -> None:
    uri = f"file:///{path}.tif"
    assert split_uri(image_uri(uri, key)) == (uri, key)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("a.tif", WHOLE),
        ("a.tif#page=3", ImageKey(page=3)),
        ("a.tif#s=1,t=2,z=5", ImageKey(series=1, t=2, z=5)),
        ("a.tif#t=0", ImageKey(t=0)),
        ("a.tif#s=0,z=10", ImageKey(series=0, z=10)),
    ],
)
def test_axes_stand_in_the_order_of_the_tables(name: str, key: ImageKey) -> None:
    assert split_uri(name) == ("a.tif", key)
    assert image_uri("a.tif", key) == name


@pytest.mark.parametrize(
    "name",
    [
        "a#",
        "a/s#1.tif",
        "a#page=0",
        "a#page=01",
        "a#page=3\n",
        "a#page=٣",
        f"a#page={'9' * 5000}",
        "a#z=1,t=2",
        "a#,z=1",
        "a#t=1z=2",
        "a#z=01",
        "a#z=1 ",
    ],
)
def test_what_is_no_such_name_is_a_file(name: str) -> None:
    assert split_uri(name) == (name, WHOLE)
