"""Names of exports: the image's own path where that is safe, else one that no other image has."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unet_ray.output.formats.names import ImageNames
from unet_ray.storage.storage import Storage

DIGEST = "~[0-9a-f]{16}"


def names_of(*uris: str) -> ImageNames:
    return ImageNames(pa.table({"image_uri": pa.array(uris, pa.string())}))


def test_ordinary_names_are_the_paths_of_the_images() -> None:
    paths = [
        *("a/one.png", "b c/zwei ü.png", "b/x.y.tif", "b/'; DROP %41 $(ls) [*?] \N{SNOWMAN}.png"),
        *("deep/er/still/.hidden.png", "b/con-fuse.png", "l" * 195 + ".tif"),
    ]
    uris = [f"s3://bucket/archive/{path}" for path in paths]
    stack = "s3://bucket/archive/stack.tif#page=12"
    names = names_of(*uris, stack)
    assert names.root == "s3://bucket/archive"
    assert [names.of(uri) for uri in [*uris, stack]] == [*paths, "stack.tif#page=12"]
    assert [names.with_suffix(uri, ".png") for uri in [*uris, stack]] == [
        *(f"{path}.png" for path in paths),
        "stack.tif.page12.png",
    ]
    assert names.changed == 0


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("../up.png", "%2E%2E/up.png"),
        ("./here.png", "%2E/here.png"),
        ("a//b.png", "a/%2F/b.png"),
        ("a/", "a/%2F"),
        ("..", "%2E%2E"),
        ("C:\\evil.png", "C:%5Cevil.png"),
        ("line\nfeed\x1b[2J.png", "line%0Afeed%1B[2J.png"),
        ("turned\u202egnp.exe", "turned%E2%80%AEgnp.exe"),
        ("NUL.png", "%4EUL.png"),
        ("aux/a.png", "%61ux/a.png"),
        ("made~0123456789abcdef", "made~0123456789abcdef"),
    ],
)
def test_unsafe_names_are_escaped_and_have_a_digest(path: str, expected: str) -> None:
    names = names_of("/d/a.png", f"/d/{path}", "/d/z.png")
    assert re.fullmatch(re.escape(expected) + DIGEST, names.of(f"/d/{path}"))
    found = names.with_suffix(f"/d/{path}", ".geojson")
    assert re.fullmatch(re.escape(expected) + DIGEST + r"\.geojson", found)
    assert names.changed == 2


def test_a_uri_outside_the_root_has_an_escaped_name() -> None:
    names = names_of("a.png", "./a.png", "/x/a.png", "s3://b/a.png")
    found = [names.with_suffix(uri, ".png") for uri in ("a.png", "./a.png", "s3://b/a.png")]
    assert len(set(found)) == 3
    assert not any(name.startswith(("/", ".", "s3:/")) for name in found[:2])


def test_a_page_and_a_file_of_its_name_do_not_collide() -> None:
    names = names_of("/d/x.tif#page=2", "/d/x.tif.page2", "/d/x.tif#page=02", "/d/y")
    assert names.with_suffix("/d/x.tif#page=2", ".png") == "x.tif.page2.png"
    assert re.fullmatch(rf"x\.tif\.page2{DIGEST}\.png", names.with_suffix("/d/x.tif.page2", ".png"))
    assert names.with_suffix("/d/x.tif#page=02", ".png") == "x.tif#page=02.png"


def test_names_that_differ_only_in_case_or_composition_are_told_apart() -> None:
    uris = ["/d/A.png", "/d/a.png", "/d/\u00fc.png", "/d/u\u0308.png", "/d/b.png"]
    names = names_of(*uris)
    found = [names.with_suffix(uri, ".png") for uri in uris]
    assert len({name.lower() for name in found}) == 5
    assert found[4] == "b.png.png"
    assert [names.of(uri) for uri in uris] == [uri.removeprefix("/d/") for uri in uris]


@pytest.mark.parametrize("length", [100, 206, 207, 240, 255, 3000])
@pytest.mark.parametrize("letter", ["x", "ü", "\N{SNOWMAN}"])
def test_long_names_are_shortened_and_can_be_written(
    tmp_path: Path, length: int, letter: str
) -> None:
    names = names_of("/d/a", uri := "/d/" + letter * length)
    path = names.with_suffix(uri, ".geojson")
    Storage.of(str(tmp_path)).write(path, b"x")
    assert (tmp_path / path).read_bytes() == b"x"
    deep = "/d/" + "/".join([letter * 200] * 30)
    assert len(names.with_suffix(deep, ".geojson").encode()) < 1000


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.lists(
            st.sampled_from(
                ["a", "A", "..", ".", "", "con", "a.page2", "a#page=2", "\n", "x" * 260]
            )
            | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/"), max_size=4),
            min_size=1,
            max_size=4,
        ).map("/".join),
        min_size=1,
        max_size=8,
        unique=True,
    )
)
def test_no_two_images_share_a_name_and_none_leaves_the_folder(uris: list[str]) -> None:
    names = names_of(*uris)
    for found in (
        [names.of(uri) for uri in uris],
        [names.with_suffix(uri, ".png") for uri in uris],
    ):
        assert len(set(found)) == len(uris)
        for name in found:
            assert Storage.of("/out").uri_of(name) == f"/out/{name}"
            parts = name.split("/")
            assert not {"", ".", ".."} & set(parts)
            assert not re.search(r"[\x00-\x1f\x7f\\]", name)
    written = [names.with_suffix(uri, ".png") for uri in uris]
    assert all(len(part.encode()) <= 255 for name in written for part in name.split("/"))
