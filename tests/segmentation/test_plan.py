from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from unet_ray.errors import InputError
from unet_ray.flags import EtagBy, Reread
from unet_ray.segmentation.plan import Plan, make_plan
from unet_ray.storage.listing import Selection, scan_files
from unet_ray.storage.roots import Roots
from unet_ray.storage.storage import Storage
from unet_ray.tables.duckdb_workspace import Workspace, open_workspace
from unet_ray.tables.ledger import TRANSIENT_ERRORS
from unet_ray.tables.output_folder import take_inventory
from unet_ray.tables.parquet_file import to_parquet
from unet_ray.tables.schemas import IMAGES

ERRORS = [None, None, "unreadable", "too_large", *TRANSIENT_ERRORS]
LEDGER = st.lists(
    st.tuples(*(st.sampled_from(x) for x in ("abcdef", "12", "mn", "cd", ERRORS))), max_size=30
)
LISTED = st.dictionaries(st.sampled_from("abcdefgh"), st.sampled_from("123"), min_size=1)


def write_ledger(
    output: Storage,
    rows: list[tuple[str, str, str, str, str | None]],
    pages: Mapping[str, int] = {},
    version: int | None = 1,
) -> None:
    """Write ledger rows as two shards of two dates.

    Args:
        output: Output folder.
        rows: URI, etag, model digest, configuration digest and error of each row.
        pages: Number of pages of each file that is a stack, by its URI.
        version: Version of the reader, None in rows of earlier versions.
    """
    for run in range(2):
        images = [
            dict.fromkeys(IMAGES.names)
            | {
                "image_uri": uri,
                "image_etag": etag,
                "image_bytes": 1,
                "model_digest": model,
                "config_digest": config,
            }
            | {"error_type": error, "run_id": f"run-{run}", "segmented_at": datetime.now(UTC)}
            | {"pages": pages.get(uri.partition("#")[0], 1), "reader_version": version}
            for uri, etag, model, config, error in rows[run::2]
        ]
        data = to_parquet(pa.Table.from_pylist(images, schema=IMAGES))
        output.write(f"images/date=2026-01-0{run + 1}/run-{run}-000000.parquet", data)


def write_manifest(
    path: Path, listed: list[tuple[str, str]], sizes: list[int] | None = None
) -> str:
    uris, etags = zip(*listed, strict=True)
    sizes = sizes or [7] * len(uris)
    table = pa.table(
        {"image_uri": uris, "image_etag": etags, "image_bytes": pa.array(sizes, pa.int64())}
    )
    pq.write_table(table, path, row_group_size=3)
    return str(path)


def make_test_plan(
    database: Workspace,
    images: str,
    output: Storage,
    *,
    retry: bool = False,
    limit: int | None = None,
    reread: Reread | None = None,
    etag_by: EtagBy = "store",
) -> Plan:
    roots = Roots(("s3://archive", str(Path(images).parent)))  # of manifests; folders need none
    scan = scan_files(images, {".png", ".tif"}, "--images", roots=roots)
    return make_plan(
        *(database, scan, take_inventory(output), ("m", "c"), retry, limit),
        reread=reread,
        etag_by=etag_by,
    )


def planned_rows(plan: Plan) -> list[dict[str, Any]]:
    return [row for block in plan.blocks(2, 0, 2) for row in block.to_pylist()]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    return (tmp_path_factory.mktemp("plan") for _ in iter(int, 1))


@settings(max_examples=40, deadline=None)
@given(LEDGER, LISTED, st.booleans(), st.one_of(st.none(), st.integers(1, 4)))
def test_a_plan_is_the_difference_of_listing_and_ledger(
    folders: Iterator[Path],
    ledger: list[Any],
    listed: dict[str, str],
    retry: bool,
    limit: int | None,
) -> None:
    """The reference computes with sets what is done, what failed by its own fault, what is new."""
    folder = next(folders)
    output = Storage.of(f"{folder}/tables")
    archive = sorted((f"s3://archive/{name}", etag) for name, etag in listed.items())
    ours = [
        ((f"s3://archive/{u}", e), error)
        for u, e, model, config, error in ledger
        if (model, config) == ("m", "c")
    ]
    done = {key for key, error in ours if error is None}
    failed = {key for key, error in ours if error and error not in TRANSIENT_ERRORS} - done
    left_out = done if retry else done | failed
    open_keys = [key for key in archive if key not in left_out]
    write_ledger(output, [(f"s3://archive/{uri}", *rest) for uri, *rest in ledger])
    with open_workspace() as database:
        plan = make_test_plan(
            database,
            write_manifest(folder / "a.parquet", archive),
            output,
            retry=retry,
            limit=limit,
        )
        todo = [(row["image_uri"], row["image_etag"]) for row in planned_rows(plan)]
    assert todo == open_keys[:limit]
    known = {f"s3://archive/{uri}" for uri, *_ in ledger}
    assert plan.changed == sum(uri in known for uri, _ in todo)
    assert (plan.todo, plan.listed) == (len(todo), len(archive))
    assert plan.failed_before == (0 if retry else len(failed & set(archive)))
    assert plan.done == len(archive) - len(open_keys) - plan.failed_before


@pytest.mark.parametrize(
    ("listed", "sizes", "said"),
    [
        ("12", (1, 1), "2 changed by etag, all of the same size; --etag-by content tells those of"),
        ("12", (1, 2), "2 changed by etag, 1 of them of the same size; --etag-by content tells"),
        ("12", (2, 2), "2 changed by etag, none of the same size"),
        ("10", (1, 1), "1 changed by etag, all of the same size"),
        ("00", (1, 1), ""),
    ],
)
def test_the_plan_says_how_many_images_changed_by_etag_alone(
    tmp_path: Path, listed: str, sizes: tuple[int, int], said: str
) -> None:
    """The third is new, and the rows of the fourth are of another model."""
    output = Storage.of(f"{tmp_path}/tables")
    uris = [f"s3://archive/{name}" for name in "abcd"]
    rows = [(uri, "0", "m", "c", None) for uri in uris[:2]]
    write_ledger(output, [*rows, (uris[3], "0", "other", "c", None)])
    with open_workspace() as database:
        manifest = write_manifest(
            tmp_path / "m.parquet",
            [*zip(uris, [*listed, "1", "1"], strict=True)],
            [*sizes, 1, 1],
        )
        plan = make_test_plan(database, manifest, output)
    assert plan.changed_etags.startswith(said)
    assert bool(plan.changed_etags) == bool(said)


def test_the_plan_says_what_was_left_out(tmp_path: Path) -> None:
    """Rows of excluded images are no sign of a disk that is not mounted."""
    output, archive = Storage.of(f"{tmp_path}/tables"), Storage.of(f"{tmp_path}/archive")
    for name in ("a.png", "thumbs/a.png", "thumbs/b.png"):
        archive.write(name, b"x")
    write_ledger(output, [(f"{archive.uri}/a.png", "1", "m", "c", None)])
    inventory = take_inventory(output)

    def plan(**flags: str | None) -> str:
        selection = Selection.parse(**({"include": None, "exclude": None} | flags))
        with open_workspace() as database:
            scan = scan_files(archive.uri, {".png"}, "--images", selection)
            return str(make_plan(database, scan, inventory, ("m", "c")))

    assert plan().endswith("; 0 other files")
    assert plan(exclude="thumbs/*").startswith("1 images listed")
    assert plan(exclude="thumbs/*").endswith("; 0 other files, 2 left out by --include/--exclude")
    assert plan(include="a.png", min_age="1h").endswith(
        ", 1 left out by --include/--exclude, 2 younger than --min-age"
    )
    with pytest.raises(InputError, match=r"leave out all 3 images; .* --allow-empty$"):
        plan(exclude="*")


def test_pages_of_a_stack_are_images(tmp_path: Path) -> None:
    """A stack with one page done gives the other pages; a file of one page is an image itself."""
    output, archive = Storage.of(f"{tmp_path}/tables"), Storage.of(f"{tmp_path}/archive")
    archive.write("plain.png", b"")
    for name, pages in (("stack", 3), ("single", 1)):
        tifffile.imwrite(
            tmp_path / f"archive/{name}.tif",
            np.zeros((pages, 8, 8), np.uint8),
            photometric="minisblack",
        )
    etags = {entry.uri: entry.etag for entry in archive.entries()}
    stack = f"{archive.uri}/stack.tif"
    write_ledger(output, [(f"{stack}#page=2", etags[stack], "m", "c", None)], {stack: 3})
    with open_workspace() as database:
        plan = make_test_plan(database, archive.uri, output)
        names = [(row["image_uri"].rpartition("/")[2], row["page"]) for row in planned_rows(plan)]
    assert names == [
        ("plain.png", None),
        ("single.tif", None),
        ("stack.tif#page=1", 1),
        ("stack.tif#page=3", 3),
    ]
    assert (plan.listed, plan.done, plan.etags_of_store) == (5, 1, True)


@pytest.mark.parametrize("is_done", [False, True])
def test_a_file_whose_pages_are_the_channels_of_one_image_is_planned_once(
    tmp_path: Path, is_done: bool
) -> None:
    output, archive = Storage.of(f"{tmp_path}/tables"), Storage.of(f"{tmp_path}/archive")
    archive.write("plain.png", b"")
    tifffile.imwrite(
        tmp_path / "archive/field.tif",
        np.zeros((3, 8, 8), np.uint8),
        photometric="minisblack",
        ome=True,
        metadata={"axes": "CYX"},
    )
    etags = {entry.uri: entry.etag for entry in archive.entries()}
    field = f"{archive.uri}/field.tif"
    done = [(field, etags[field], "m", "c", None)] if is_done else []
    write_ledger(output, done, {field: 1})
    with open_workspace() as database:
        plan = make_test_plan(database, archive.uri, output)
        names = [row["image_uri"].rpartition("/")[2] for row in planned_rows(plan)]
    assert names == (["plain.png"] if is_done else ["field.tif", "plain.png"])
    assert (plan.listed, plan.done) == (2, int(is_done))


@pytest.mark.parametrize(
    ("errors", "retry", "expected"),
    [
        ((None, None, None), False, (0, 4, 4, 0)),
        ((None, None, "unreadable"), False, (0, 4, 3, 1)),
        ((None, None, "unreadable"), True, (1, 2, 1, 0)),
        ((None, None, "network"), False, (1, 2, 1, 0)),
        ((None, None), False, (1, 2, 1, 0)),
    ],
)
def test_a_stack_whose_pages_are_all_done_is_not_opened(
    tmp_path: Path, errors: tuple[str | None, ...], retry: bool, expected: tuple[int, ...]
) -> None:
    """The file does not exist, which shows whether it was opened: then it counts as one image."""
    output, stack = Storage.of(f"{tmp_path}/tables"), f"{tmp_path}/archive/stack.tif"
    rows = [(f"{stack}#page={page}", "7", "m", "c", error) for page, error in enumerate(errors, 1)]
    write_ledger(output, [*rows, (f"{tmp_path}/a.png", "1", "m", "c", None)], {stack: 3})
    manifest = write_manifest(tmp_path / "m.parquet", [(stack, "7"), (f"{tmp_path}/a.png", "1")])
    with open_workspace() as database:
        plan = make_test_plan(database, manifest, output, retry=retry)
        assert (plan.todo, plan.listed, plan.done, plan.failed_before) == expected


def test_images_that_a_run_did_not_write_are_counted(tmp_path: Path) -> None:
    output, archive = (
        Storage.of(f"{tmp_path}/tables"),
        [(f"s3://archive/{name}", "1") for name in "abc"],
    )
    with open_workspace() as database:
        plan = make_test_plan(database, write_manifest(tmp_path / "m.parquet", archive), output)
        assert plan.unwritten(output, "run-0") == (3, 0)
    write_ledger(
        output,
        [("s3://archive/a", "1", "m", "c", None), ("s3://archive/x", "1", "m", "c", None)] * 2,
    )
    with open_workspace() as database:
        plan = make_test_plan(database, f"{tmp_path}/m.parquet", Storage.of(f"{tmp_path}/nothing"))
        assert plan.unwritten(output, "run-0") == (2, 1)  # missing: b and c; twice: a
        assert not plan.etags_of_store


def test_large_files_have_blocks_of_their_own(tmp_path: Path) -> None:
    listed = [(f"s3://archive/{name}", "1") for name in "abcdefg"]
    sizes = [1, 5 * 10**6, 1, 9 * 10**6, 1, 1, 1]
    with open_workspace() as database:
        manifest = write_manifest(tmp_path / "m.parquet", listed, sizes)
        plan = make_test_plan(database, manifest, Storage.of(f"{tmp_path}/tables"))
        blocks = [
            [uri[-1] for uri in block["image_uri"].to_pylist()] for block in plan.blocks(2, 0, 1000)
        ]
    assert blocks == [["d"], ["b"], ["a", "c"], ["e", "f"], ["g"]]


def test_blocks_of_tiny_images_have_many_rows(tmp_path: Path) -> None:
    """Blocks grow from small ones, each at most twice as long; all images are there, in order."""
    with open_workspace() as database:
        sizes = [10] * 1500 + [400] * 30
        listed = [(f"s3://archive/{index:04}", "1") for index in range(len(sizes))]
        manifest = write_manifest(tmp_path / "m.parquet", listed, sizes)
        plan = make_test_plan(database, manifest, Storage.of(f"{tmp_path}/tables"))
        blocks = plan.blocks(16, 1000, 2000)
    lengths = [len(block) for block in blocks]
    assert lengths[:7] == [2, 4, 8, 16, 32, 64, 100]
    assert set(lengths[7:-3]) == {100}
    assert lengths[-1] <= 16
    assert [uri for block in blocks for uri in block["image_uri"].to_pylist()] == [
        uri for uri, _ in listed
    ]
    with open_workspace() as database:
        lying = write_manifest(tmp_path / "m.parquet", listed, [0] * len(sizes))
        plan = make_test_plan(database, lying, Storage.of(f"{tmp_path}/tables"))
        assert max(len(block) for block in plan.blocks(16, 1000, 2000)) == 256
        assert max(len(block) for block in plan.blocks(16, 1000, 50)) == 50


def test_a_manifest_that_lists_an_image_twice_is_refused(tmp_path: Path) -> None:
    listed = [("s3://archive/a", "1"), ("s3://archive/b", "1"), ("s3://archive/a", "2")]
    with (
        open_workspace() as database,
        pytest.raises(
            InputError, match="1 URIs are listed more than once, the first is s3://archive/a"
        ),
    ):
        make_test_plan(
            database,
            write_manifest(tmp_path / "m.parquet", listed),
            Storage.of(f"{tmp_path}/tables"),
        )


def test_a_file_with_the_name_of_a_page_is_refused(tmp_path: Path) -> None:
    """Both would have the same key in the tables."""
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((3, 8, 8), np.uint8), photometric="minisblack")
    (tmp_path / "a.tif#page=2").write_bytes((tmp_path / "a.tif").read_bytes())
    manifest = write_manifest(tmp_path / "m.parquet", [("a.tif", "1"), ("a.tif#page=2", "1")])
    with (
        open_workspace() as database,
        pytest.raises(
            InputError, match=r"1 URIs are listed more than once, the first is .*#page=2"
        ),
    ):
        make_test_plan(database, manifest, Storage.of(f"{tmp_path}/tables"))


@pytest.mark.parametrize("other", ["./a.png", "sub/../a.png", "{0}/a.png", "/{0}//a.png"])
def test_two_spellings_of_a_path_are_one_image(tmp_path: Path, other: str) -> None:
    other = other.format(tmp_path)
    manifest = write_manifest(tmp_path / "m.parquet", [("a.png", "1"), (other, "1")])
    with (
        open_workspace() as database,
        pytest.raises(InputError, match="1 URIs are listed more than once"),
    ):
        make_test_plan(database, manifest, Storage.of(f"{tmp_path}/tables"))


def write_stack(path: Path, planes: int) -> None:
    """Write a stack of planes of three channels each, which earlier versions read as pages."""
    axes = {"axes": "ZCYX"}
    tifffile.imwrite(path, np.zeros((planes, 3, 8, 8), np.uint8), imagej=True, metadata=axes)


def plan_names(archive: Storage, output: Storage, **flags: Any) -> tuple[list[str], Plan]:
    with open_workspace() as database:
        plan = make_test_plan(database, archive.uri, output, **flags)
        return [row["image_uri"].rpartition("/")[2] for row in planned_rows(plan)], plan


def test_a_stack_of_an_earlier_version_is_done_again_only_on_request(tmp_path: Path) -> None:
    """Nine pages were done; the same file now holds three planes of three channels."""
    output, archive = Storage.of(f"{tmp_path}/tables"), Storage.of(f"{tmp_path}/archive")
    archive.write("plain.png", b"")
    write_stack(tmp_path / "archive/s.tif", 3)
    etags = {entry.uri: entry.etag for entry in archive.entries()}
    stack, plain = f"{archive.uri}/s.tif", f"{archive.uri}/plain.png"
    pages = [(f"{stack}#page={page}", etags[stack], "m", "c", None) for page in range(1, 10)]
    old = [*pages, (plain, etags[plain], "m", "c", None)]
    write_ledger(output, old, {stack: 9}, version=None)
    planes = [f"s.tif#z={z}" for z in range(3)]

    names, plan = plan_names(archive, output)
    assert (names, plan.listed, plan.done) == ([], 10, 10)
    assert plan.earlier.startswith("note: 1 files of several pages (9 images) were read page by")
    names, plan = plan_names(archive, output, reread="stacks")
    assert (names, plan.listed, plan.done, plan.earlier) == (planes, 4, 1, "")
    assert plan_names(archive, output, reread="nodata")[0] == ["plain.png", *planes]

    write_ledger(Storage.of(f"{tmp_path}/more"), [(f"{stack}#z=0", etags[stack], "m", "c", None)],
                 {stack: 3})  # fmt: skip
    for file in (tmp_path / "more/images").rglob("*.parquet"):
        output.write(f"images/date=2026-01-03/{file.name}", file.read_bytes())
    assert plan_names(archive, output)[0] == []
    assert plan_names(archive, output, reread="stacks")[0] == planes[1:]


def test_a_stack_done_half_by_an_earlier_version_is_done_whole(tmp_path: Path) -> None:
    output, archive = Storage.of(f"{tmp_path}/tables"), Storage.of(f"{tmp_path}/archive")
    archive.write("other.png", b"")
    write_stack(tmp_path / "archive/s.tif", 3)
    etags = {entry.uri: entry.etag for entry in archive.entries()}
    stack = f"{archive.uri}/s.tif"
    rows = [(f"{stack}#page={page}", etags[stack], "m", "c", None) for page in range(1, 5)]
    write_ledger(output, rows, {stack: 9}, version=None)
    assert plan_names(archive, output)[0] == ["other.png", *(f"s.tif#z={z}" for z in range(3))]


@pytest.mark.parametrize("version", [None, 0, 1])
def test_a_file_that_failed_under_an_earlier_reader_is_tried_once_more(
    tmp_path: Path, version: int | None
) -> None:
    output, archive = Storage.of(f"{tmp_path}/tables"), Storage.of(f"{tmp_path}/archive")
    archive.write("a.png", b"x")
    (entry,) = archive.entries()
    write_ledger(output, [(entry.uri, entry.etag, "m", "c", "unsupported")], version=version)
    names, plan = plan_names(archive, output)
    assert names == ([] if version == 1 else ["a.png"])
    assert plan.failed_before == (1 if version == 1 else 0)
