"""Names in label files find the listed images they mean, or none."""

from collections.abc import Sequence
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unet_ray.errors import InputError
from unet_ray.labelled_data.pairing.image_names import NamedImages, find_images
from unet_ray.storage.file_entry import FileEntry


def make_entries(*paths: str) -> list[FileEntry]:
    return [FileEntry(path, f"/data/{path}", "", 1) for path in paths]


def find(paths: str | Sequence[str], *names: str | Sequence[str]) -> NamedImages:
    """Find names among paths, which may be separated by spaces."""
    entries = make_entries(*(paths.split() if isinstance(paths, str) else paths))
    return find_images(entries, [[n] if isinstance(n, str) else n for n in names], "labels")


def list_found(found: NamedImages) -> list[str | None]:
    return [entry and entry.path for entry in found.entries]


LISTED = "a.jpg day1/b.png day2/b.png day2/c.png"


@pytest.mark.parametrize(
    ("name", "path", "rule"),
    [
        ("day1/b.png", "day1/b.png", None),
        ("/data/day1/b.png", "day1/b.png", None),
        ("day1\\b.png", "day1/b.png", "backslashes as slashes"),
        ("C:\\x\\day1\\b.png", "day1/b.png", "by the end of the path"),
        ("./a.jpg", "a.jpg", "without leading ./ or ../"),
        ("../../day1/b.png", "day1/b.png", "without leading ./ or ../"),
        ("http://host:80/day1/b.png?x=1#y", "day1/b.png", "without host and query"),
        ("https://host/some/where/day1/b.png", "day1/b.png", "by the end of the path"),
        ("s3://bucket/day1/b.png", "day1/b.png", "without host and query"),
        ("gs://bucket/x/day1/b.png", "day1/b.png", "by the end of the path"),
        ("file:///day1/b.png", "day1/b.png", "without host and query"),
        ("/data/local-files/?d=day1/b.png", "day1/b.png", "without host and query"),
        ("/data/local-files/?d=x%2Fday1%2Fb.png", "day1/b.png", "by the end of the path"),
        ("/data/local-files/?d=day1%5Cb.png", "day1/b.png", "percent-decoded"),
        ("day1%2Fb.png", "day1/b.png", "percent-decoded"),
        ("x/y/day1/b.png", "day1/b.png", "by the end of the path"),
        ("x/c.png", "day2/c.png", "by the end of the path"),
        ("c.png", "day2/c.png", "by the end of the path"),
        ("/data/upload/3/0a1b2c3d-c.png", "day2/c.png", "without the id of an upload"),
        ("c", "day2/c.png", "by the end of the path without suffix"),
        ("c.tif", "day2/c.png", "by the end of the path without suffix"),
        ("0a1b2c3d-c.tif", "day2/c.png", "without the id of an upload and the suffix"),
        ("d.png", None, None),
        ("day3/d.png", None, None),
        ("ac.png", None, None),
        ("0a1b2c3-c.png", None, None),
        ("", None, None),
        ("/", None, None),
        ("http://[", None, None),
        ("\ud800.png", None, None),
    ],
)
def test_each_rule_finds_its_names_and_is_said(
    name: str, path: str | None, rule: str | None
) -> None:
    found = find(LISTED, name)
    assert list_found(found) == [path]
    assert dict(found.rules) == ({rule: 1} if rule else {})


def test_rules_are_counted() -> None:
    found = find(LISTED, "a.jpg", "x/day1/b.png", "y/day2/b.png", "day2\\c.png", "no.png")
    assert dict(found.rules) == {"by the end of the path": 2, "backslashes as slashes": 1}


@pytest.mark.parametrize(
    ("paths", "name", "first", "second"),
    [
        (LISTED, "b.png", "day1/b.png", "day2/b.png"),
        (LISTED, "x/b.tif", "day1/b.png", "day2/b.png"),
        ("a.jpg a.png", "a", "a.jpg", "a.png"),
        ("a.jpg a.png", "a.tif", "a.jpg", "a.png"),
        ("x/a.jpg x/a.png", "x/a", "x/a.jpg", "x/a.png"),
        ("1/x/a.png 2/x/a.png", "x/a.png", "1/x/a.png", "2/x/a.png"),
        # a weaker rule would find one
        ("1/b.png 2/b.png b.png.jpg", "b.png", "1/b.png", "2/b.png"),
        # where the images lie in a folder `images`, or not
        ("a.png old/images/a.png", "images/a.png", "old/images/a.png", "a.png"),
        (["\u00fc.png", "u\u0308.png"], "\u00fc.png", "\u00fc.png", "u\u0308.png"),
    ],
)
def test_a_name_of_two_images_is_refused_with_both(
    paths: str, name: str, first: str, second: str
) -> None:
    with pytest.raises(InputError, match=f"labels: {name} may be {first} or {second}; give more"):
        find(paths, name)


def test_more_of_the_path_decides() -> None:
    assert list_found(find(LISTED, "x/day2/b.png", "/y/day1/b.tif")) == ["day2/b.png", "day1/b.png"]
    assert list_found(find("a.jpg a.png", "x/a.jpg")) == ["a.jpg"]


def test_other_texts_decide_between_images_of_one_name() -> None:
    assert list_found(find(LISTED, ["b.png", "/x/day2/b.png"], ["b.png", "day1/b.png"])) == [
        "day2/b.png",
        "day1/b.png",
    ]
    assert list_found(find(LISTED, ["/data/day1/b.png", "day2/b.png"])) == ["day1/b.png"]
    # a whole path is more than the end of one
    assert list_found(find(LISTED, ["x/c.png", "day1/b.png"])) == ["day1/b.png"]


def test_a_name_does_not_take_the_image_of_another_name() -> None:
    """Its own image is gone; that costs one image, not the set."""
    found = find("1/f.png 2/f.png", "1/f.png", "2/f.png", "3/f.png", "x/3/f.png")
    assert list_found(found) == ["1/f.png", "2/f.png", None, None]
    assert list_found(find("1/f.png", "1/f.png", "3/f.png")) == ["1/f.png", None]
    with pytest.raises(InputError, match="3/f.png may be 1/f.png or 2/f.png"):
        find("1/f.png 2/f.png", "1/f.png", "3/f.png")


def test_pages_of_stacks_are_found_by_their_files() -> None:
    found = find("s.tif d/t.tif", "s.tif#page=2", "s.tif#page=1", "x/d/t.tif#page=3")
    assert list_found(found) == ["s.tif", "s.tif", "d/t.tif"]


def test_names_are_compared_composed() -> None:
    assert list_found(find(["u\u0308/a.png"], "\u00fc/a.png")) == ["u\u0308/a.png"]
    for name in ("x/u\u0308.jpg", quote("u\u0308.png")):
        assert list_found(find(["\u00fc.png"], name)) == ["\u00fc.png"]


@pytest.mark.parametrize(
    "name",
    [
        *("../secret.png", "/etc/passwd", "..\\..\\secret.png", "file:///etc/passwd"),
        *("day1/../../secret.png", "%2e%2e/secret.png", "http://evil/secret.png", "~/secret.png"),
    ],
)
def test_names_that_leave_the_folder_find_nothing(name: str) -> None:
    assert list_found(find(LISTED, name)) == [None]


PATHS = st.lists(
    st.lists(st.sampled_from(["a", "b", "1", "ü", "x y", "a%20b"]), min_size=1, max_size=4).map(
        lambda parts: "/".join(parts) + ".png"
    ),
    min_size=1,
    max_size=6,
    unique=True,
)
DISGUISES = [
    lambda path: path,
    lambda path: path.replace("/", "\\"),
    lambda path: f"./{path}",
    lambda path: f"/home/me/set/{path}",
    lambda path: f"C:\\me\\set\\{path}".replace("/", "\\"),
    lambda path: f"https://host/{quote(path)}?x=1",
    lambda path: f"/data/local-files/?d={quote(path)}",
    lambda path: path.removesuffix(".png"),
    lambda path: path.removesuffix(".png") + ".jpg",
]


@given(PATHS, st.sampled_from(DISGUISES))
def test_whole_paths_in_any_form_find_their_own_image_or_are_refused(
    paths: list[str], disguise: object
) -> None:
    try:
        found = list_found(find(paths, *map(disguise, paths)))  # type: ignore[arg-type]
    except InputError:
        return
    assert found == paths


@given(
    PATHS, st.lists(st.text(max_size=12) | st.sampled_from(["../a.png", "a\\b.png"]), max_size=5)
)
def test_any_text_finds_a_listed_image_that_ends_so_or_none(
    paths: list[str], names: list[str]
) -> None:
    try:
        found = find(paths, *names)
    except InputError:
        return
    for entry in found.entries:
        assert entry is None or entry.path in paths


def test_many_images_of_one_name_take_no_time() -> None:
    paths = [f"{n}/image.png" for n in range(20_000)]
    found = find(paths, *(f"/elsewhere/{path}" for path in paths))
    assert list_found(found) == paths
    assert list_found(find(paths, "/".join("x" * 100_000) + "/7/image.png")) == ["7/image.png"]
