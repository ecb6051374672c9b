"""What lies below roots, by what paths really are, and what to give where something does not."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unet_ray.errors import InputError
from unet_ray.storage.listing import list_files
from unet_ray.storage.roots import Gate, Roots, default_root
from unet_ray.storage.storage import Storage

PNG = {".png"}


@pytest.mark.parametrize(
    ("uri", "is_held"),
    [
        ("s3://bucket/a/x.png", True),
        ("s3://bucket/a", True),
        ("s3://bucket/a//x.png", True),
        ("s3://bucket/a/..x.png", True),
        ("s3://bucket/ab/x.png", False),
        ("s3://bucket//a/x.png", False),
        ("s3://bucket/a/../b/x.png", False),
        ("s3://bucket/a/..", False),
        ("s3://bucket", False),
        ("s3a://bucket/a/x.png", False),
        ("gs://bucket/a/x.png", False),
        ("gs://other/x.png", True),
        ("https://bucket/a/x.png", False),
        ("/s3://bucket/a/x.png", False),
        ("a/x.png", False),
    ],
)
def test_remote_uris_lie_below_buckets_and_folders(uri: str, is_held: bool) -> None:
    assert Roots(("s3://bucket/a", "gs://other")).hold(uri) is is_held


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a root `a`, a sibling `ab`, and links in, out, up and to nothing."""
    folder = tmp_path_factory.mktemp("tree")
    for name in ("a/b", "a/c", "ab", "out"):
        (folder / name).mkdir(parents=True)
        (folder / name / "x.png").write_bytes(b"x")
    (folder / "a/b/in").symlink_to("../c")
    (folder / "a/b/out").symlink_to(folder / "out")
    (folder / "a/b/up").symlink_to("../..")
    (folder / "a/b/y.png").symlink_to("../../ab/x.png")
    (folder / "a/b/loop").symlink_to("loop")
    (folder / "other").symlink_to("a")
    return folder


PARTS = st.lists(
    st.sampled_from(
        ["a", "ab", "b", "c", "in", "out", "up", "other", "loop", "..", ".", "", "x.png", "y.png"]
    ),
    max_size=6,
)


@given(PARTS)
def test_a_path_lies_below_a_root_if_what_it_really_is_does(tree: Path, parts: list[str]) -> None:
    path = "/".join([str(tree), *parts])
    real, root = os.path.realpath(path), os.path.realpath(tree / "a")
    expected = Path(real) == Path(root) or Path(root) in Path(real).parents
    for roots in (Roots((f"{tree}/a",)), Roots((f"{tree}/other",)), Roots(("s3://b", str(root)))):
        assert roots.hold(path) is expected


def test_links_may_leave_the_roots_if_they_are_followed(tree: Path) -> None:
    strict, following = Roots((f"{tree}/a",)), Roots((f"{tree}/a",), follow_links=True)
    for name in ("a/b/y.png", "a/b/out/x.png", "a/b/up/ab/x.png"):
        assert not strict.hold(f"{tree}/{name}")
        assert following.hold(f"{tree}/{name}")
    assert not following.hold(f"{tree}/a/../ab/x.png")


@given(st.lists(st.text("ab/.:s3", max_size=12)))
def test_many_uris_are_judged_as_each_of_them(uris: list[str]) -> None:
    roots = Roots(("s3://a", "/a"))
    found = roots.find_outside(pa.array(uris, pa.string())).to_pylist()
    assert found == [not roots.hold(uri) for uri in uris]


def test_the_flag_that_a_message_gives_lets_all_pass(tmp_path: Path) -> None:
    uris = [
        *("s3://b/day 1/x.png", "s3://b/day 1/y.png", "s3://b/day 2/x.png", "gs://c/x.png"),
        *(f"{tmp_path}/a,b/c/x.png", f"{tmp_path}/a,b/d/y.png", "/it's/x.png"),
    ]
    gate = Gate(Roots((str(tmp_path / "in"),)))
    assert [gate.admits(uri) for uri in uris] == [False] * len(uris)
    assert gate.admits(f"{tmp_path}/in/x.png")
    assert gate.stopped == 7
    flag, value = shlex.split(gate.flag)
    assert (flag, value) == ("--image-roots", f"{tmp_path}/in,/it's,{tmp_path},gs://c,s3://b")
    roots = Roots(tuple(value.split(",")))
    assert all(map(roots.hold, [*uris, f"{tmp_path}/in/x.png"]))
    assert gate.reason.startswith(
        f"not below {tmp_path}/in, for example s3://b/day 1/x.png; to open"
    )


def test_places_that_no_root_can_hold_get_no_flag() -> None:
    for uri in ("https://u:pw@h/x.png?sig=pw", "s3://b/../x.png", "memory://x", "s3://u:pw@b"):
        gate = Gate(Roots(("s3://b",)))
        gate.admits("s3://c/x.png")
        gate.admits(uri)
        assert "at places that are never opened" in gate.reason
        assert "--image-roots" not in gate.reason
        assert "pw" not in gate.reason


@pytest.mark.parametrize(
    ("images", "root"),
    [
        ("/data/images", "/data/images"),
        ("/data/images/*/x[0-9].png", "/data/images"),
        ("/*.png", "/"),
        ("/data/m.parquet", "/data"),
        ("/m.parquet", "/"),
        ("s3://b/images/", "s3://b/images"),
        ("s3://b/images/**/*.png", "s3://b/images"),
        ("s3://b/deep/m.parquet", "s3://b"),
    ],
)
def test_where_images_lie_by_default(images: str, root: str) -> None:
    assert default_root(images) == root


def write_manifest(path: Path, uris: list[str], **more: list[object]) -> str:
    pq.write_table(pa.table({"image_uri": uris, **more}), path, row_group_size=2)
    return str(path)


def test_a_manifest_names_files_below_its_folder_or_the_roots_that_are_given(
    tmp_path: Path,
) -> None:
    """The message counts all of them, and its flag can be pasted."""
    for name in ("man/a.png", "images/b.png", "images/c.png", "images_not/d.png"):
        Storage.of(str(tmp_path)).write(name, b"x")
    outside = [f"{tmp_path}/{name}" for name in ("images/b.png", "images/c.png")]
    uris = ["a.png", f"{tmp_path}/man/../man/a.png#", *outside, f"{tmp_path}/images_not/d.png"]
    manifest = write_manifest(tmp_path / "man/m.parquet", uris)
    with pytest.raises(InputError) as error:
        list_files(manifest, PNG, "--images")
    assert str(error.value) == (
        f"--images {manifest}: 3 images are not below {tmp_path}/man, for example {outside[0]}; "
        f"to open them, give --image-roots {tmp_path}/man,{tmp_path}"
    )
    roots = Roots.parse(f"{tmp_path}/man/,{tmp_path}/images")
    with pytest.raises(
        InputError, match=r"1 images are not below .*/images_not/d.png; to open them"
    ):
        list_files(manifest, PNG, "--images", roots)
    found = list_files(manifest, PNG, "--images", Roots.parse(str(tmp_path)))
    assert len(found.entries) == 5


@pytest.mark.parametrize(
    "uri",
    [
        *("http://127.0.0.1:9/x.png", "memory://x", "local:///etc/passwd", "s3a://b/x.png"),
        *("s3://b/../x.png", "zip://x.png::/tmp/a.zip", "https://u:pw@h/x.png"),
    ],
)
@pytest.mark.parametrize("whole", [True, False])
def test_a_manifest_does_not_choose_what_is_opened(tmp_path: Path, uri: str, whole: bool) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    more: dict[str, list[object]] = (
        {"image_etag": ["1", "2"], "image_bytes": [1, 2]} if whole else {}
    )
    manifest = write_manifest(tmp_path / "m.parquet", ["a.png", uri], **more)
    for roots in (Roots(), Roots.parse(f"s3://b,{tmp_path}")):
        with pytest.raises(InputError, match="1 images are at places that are never") as error:
            list_files(manifest, PNG, "--images", roots)
        assert "pw" not in str(error.value)


def test_links_lead_out_of_the_roots_of_a_manifest_only_if_they_are_followed(
    tmp_path: Path,
) -> None:
    (tmp_path / "secret.png").write_bytes(b"x")
    (tmp_path / "man/real").mkdir(parents=True)
    (tmp_path / "man/real/a.png").write_bytes(b"x")
    (tmp_path / "man/link.png").symlink_to("../secret.png")
    (tmp_path / "man/folder").symlink_to("real")
    (tmp_path / "man/up").symlink_to("..")
    inside = write_manifest(
        tmp_path / "man/in.parquet", ["folder/a.png", f"{tmp_path}/man/real/a.png"]
    )
    assert len(list_files(inside, PNG, "--images").entries) == 2
    for name in ("link.png", "up/secret.png"):
        manifest = write_manifest(tmp_path / "man/m.parquet", [name])
        with pytest.raises(InputError, match=f"to open them, give --image-roots {tmp_path}$"):
            list_files(manifest, PNG, "--images")
        found = list_files(manifest, PNG, "--images", Roots(follow_links=True))
        assert len(found.entries) == 1


def test_a_manifest_in_a_bucket_may_name_all_of_it_and_nothing_else(root: str) -> None:
    store = Storage.of(root)
    for name in ("lists/deep/m.parquet", "images/a.png"):
        store.write(name, b"x")
    table = pa.table({"image_uri": [f"{root}/images/a.png"]})
    pq.write_table(table, (sink := pa.BufferOutputStream()))
    store.write("lists/deep/m.parquet", sink.getvalue().to_pybytes())
    manifest = f"{root}/lists/deep/m.parquet"
    if store.is_local:
        with pytest.raises(InputError, match=f"--image-roots {root}/images$"):
            list_files(manifest, PNG, "--images")
    else:
        assert len(list_files(manifest, PNG, "--images").entries) == 1
    assert len(list_files(manifest, PNG, "--images", Roots.parse(root)).entries) == 1
    with pytest.raises(InputError, match="to open them, give --image-roots"):
        list_files(manifest, PNG, "--images", Roots.parse("s3://other"))
