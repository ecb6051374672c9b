"""The page of a date: its facts match the tables, its drift sign is right, a browser shows it."""

import base64
import io
import json
import re
import shutil
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from threading import Thread
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import shapely
import tifffile
from PIL import Image

from tests.builders import make_tiny_model, rename_images
from unet_ray.errors import ImageError, InputError
from unet_ray.imaging.codecs.sandbox import Decoder
from unet_ray.imaging.geometry import Box
from unet_ray.output.config import ReportConfig
from unet_ray.output.reader import read_tables
from unet_ray.output.report import gallery
from unet_ray.output.report.drift import _compare_figure, compare
from unet_ray.output.report.facts import Estimate
from unet_ray.output.report.page import format_figure
from unet_ray.output.report.report import ReportResult, report
from unet_ray.segmentation.config import SegmentConfig
from unet_ray.segmentation.segment import segment
from unet_ray.storage.roots import Roots
from unet_ray.storage.storage import Storage
from unet_ray.synthetic import draw_scene, encode

DATES = ("2026-03-01", "2026-03-02", "2026-03-03", "2026-03-04")
CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)


def open_image(
    uri: str, known: dict[str, Any], decoder: Decoder, folder: Path
) -> gallery._OpenImage:
    """Open an image in a folder as the gallery does."""
    roots = Roots((str(folder),))
    fetched = gallery._fetch_image(uri, known, decoder, roots, None)
    return gallery._OpenImage(fetched, decoder)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> Path:
    """Return a folder with the tables of four dates; images of the last one are of another kind."""
    folder = tmp_path_factory.mktemp("report")
    model, rng = make_tiny_model(folder), np.random.default_rng(0)
    for number, date in enumerate(DATES):
        for index in range(6):
            scene = draw_scene(60, 80, rng)[0]
            pixels = 255 - scene // 3 if date == DATES[-1] else scene
            name = "<b>bold.png" if number == index == 0 else f"{number}-{index}.png"
            Storage.of(f"{folder}/archive").write(name, encode(pixels, "png"))
        Storage.of(f"{folder}/archive").write(f"broken-{number}.png", b"no image")
        flags = {
            "model": model,
            "images": f"{folder}/archive",
            "output": f"{folder}/tables",
            "date": date,
        }
        segment(SegmentConfig(**flags, threshold=0.45, max_error_rate=0.5))  # type: ignore[arg-type]
    return folder


@pytest.fixture(scope="module")
def made(place: Path) -> ReportResult:
    return report(ReportConfig(tables=f"{place}/tables", output=f"{place}/report.html", pictures=3))


def test_facts_are_those_of_the_tables(place: Path, made: ReportResult) -> None:
    facts, tables = made.facts, read_tables(f"{place}/tables")
    assert (facts.date, facts.images, len(facts.earlier)) == (DATES[-1], 6, 3)
    assert [(kind, count) for kind, count, _ in facts.errors] == [("unreadable", 1)]
    for number, name in facts.classes.items():
        for date, classes in facts.by_date.items():
            masks, regions = (
                [r for r in table.to_pylist() if r["date"] == date and r["class_id"] == number]
                for table in (tables.masks, tables.regions)
            )
            assert classes[number].regions == len(regions), name
            shares = [row["area"] / (row["height"] * row["width"]) for row in masks]
            found = {
                name: figure or Estimate(0, 0) for name, figure in classes[number].figures.items()
            }
            assert found["share of pixels"].value == pytest.approx(
                np.mean(shares)
            )  # images of one size
            assert found["share of pixels"].error == pytest.approx(
                np.std(shares) / len(shares) ** 0.5
            )
            assert found["regions per image"].value == pytest.approx(len(regions) / 6)
            assert found["mean score"].value == pytest.approx(
                np.mean([row["score"] for row in regions])
            )
            typical = np.exp(np.mean(np.log([row["area"] for row in regions])))
            assert found["typical area (px)"].value == pytest.approx(typical)
        assert sum(facts.areas[number].now.values()) == facts.by_date[DATES[-1]][number].regions
        assert sum(facts.scores[number].before.values()) == sum(
            facts.by_date[d][number].regions for d in facts.earlier
        )


def test_a_date_with_images_of_another_kind_has_the_sign_and_others_have_not(
    place: Path, made: ReportResult
) -> None:
    assert any(row.differs for number in made.facts.classes for row in compare(made.facts, number))
    before = report(
        ReportConfig(
            tables=f"{place}/tables", output=f"{place}/third.html", date=DATES[2], pictures=0
        )
    )
    assert not any(
        row.differs for number in before.facts.classes for row in compare(before.facts, number)
    )
    assert "▲ differs" in (place / "report.html").read_text()
    assert "▲ differs" not in (place / "third.html").read_text()


@pytest.mark.parametrize(
    ("now", "before", "differs"),
    [
        (12.9, [10, 11, 12], True),  # beyond twice what the dates differ, less their errors
        (12.7, [10, 11, 12], False),
        (11.2, [11, 11, 11], False),  # within three standard errors
        (11.5, [11, 11, 11], True),
        (99, [11], False),  # one earlier date says nothing
        (99, [11, None, None], False),  # the class did not occur on two of the dates
        (None, [11, 12, 11], False),
    ],
)
def test_the_sign_takes_more_than_dates_usually_differ_and_more_than_chance(
    now: float | None, before: list[float | None], differs: bool
) -> None:
    current, *earlier = (
        None if value is None else Estimate(value, 0.1) for value in (now, *before)
    )
    assert _compare_figure("x", current, earlier).differs == differs


def test_the_page_stands_alone_and_escapes_what_it_shows(place: Path, made: ReportResult) -> None:
    page = (place / "report.html").read_text()
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    first = report(
        ReportConfig(
            tables=f"{place}/tables", output=f"{place}/first.html", date=DATES[0], pictures=6
        )
    )
    assert "&lt;b&gt;bold.png" in (place / "first.html").read_text()
    assert "<b>bold" not in (place / "first.html").read_text()
    assert first.pictures == 24  # four kinds of pictures, six of each
    assert made.pictures == 12  # three of each


@pytest.mark.parametrize("side", [1200, 6000])  # decoded whole, and read in strips
def test_a_large_image_is_shown_as_a_whole_and_where_it_is_densest(
    side: int, tmp_path: Path
) -> None:
    corner = np.arange(5)[:, None] * [20, 0, 20, 0] + [
        side - 300,
        side - 200,
        side - 290,
        side - 190,
    ]
    boxes = np.concatenate([[[10, 20, 40, 50]], corner]).astype(float)
    rows = pa.table(
        {
            "region_id": range(1, 7),
            "class_id": [1] * 6,
            "class_name": ["cell"] * 6,
            "area": [900] + [100] * 5,
            "score": [0.9] * 6,
            "bbox": [
                dict(zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
                for box in boxes.tolist()
            ],
            "geometry": shapely.to_wkb(shapely.box(*boxes.T)),
        }
    )
    pixels = np.random.default_rng(0).integers(0, 255, (side, side + 7, 3), np.uint8)
    tifffile.imwrite(tmp_path / "large.tif", pixels, tile=(512, 512), photometric="rgb")
    decoder = Decoder()
    uri = f"{tmp_path}/large.tif"
    known = {"height": side, "width": side + 7, "image_bytes": Path(uri).stat().st_size}
    image = open_image(uri, known, decoder, tmp_path)
    step = (side + 7) // 1024
    assert np.array_equal(image.thumbnail, pixels[::step, ::step])
    found = gallery._Found.of(rows, Namespace(classes={1: "cell"}), known)  # type: ignore[arg-type]
    most, largest = (
        gallery._draw_card(kind, image, found, region)
        for kind, region in (("most regions", None), ("largest", 1))
    )
    decoder.close()
    assert f"6 regions; {side + 7}×{side} px, of which 768×768 at x " in most.caption
    assert most.regions == [("cell", 100, 0.9)]
    assert largest.regions == [("cell", 900, 0.9)]
    for card in (most, largest):
        assert card.whole
        whole = np.asarray(Image.open(io.BytesIO(base64.b64decode(card.whole))))
        assert max(whole.shape) == 512
    overview = np.asarray(
        Image.open(io.BytesIO(base64.b64decode(most.whole or ""))).convert("RGB")
    ).astype(int)
    white = (overview.min(2) > 225) @ np.ones(overview.shape[1])  # pixels of the box in each row
    assert white.argmax() > 100


def test_a_rotated_image_has_a_picture_and_a_changed_one_has_none(
    tmp_path: Path,
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    uri, decoder = f"{tmp_path}/phone.jpg", Decoder()
    Image.new("RGB", (40, 30), "red").save(uri, exif=exif)
    known = {"height": 40, "width": 30, "image_bytes": Path(uri).stat().st_size}
    opened = open_image(uri, known, decoder, tmp_path)
    assert opened.read(Box(0, 0, 40, 30)).shape == (40, 30, 3)
    with pytest.raises(ImageError, match="the file has changed since it was segmented"):
        open_image(uri, known | {"image_bytes": 7}, decoder, tmp_path)
    decoder.close()


def test_all_parts_of_a_multipolygon_are_outlined() -> None:
    parts = shapely.MultiPolygon([shapely.box(5, 5, 20, 20), shapely.box(20, 20, 35, 35)])
    rows = pa.table({"class_id": [1], "geometry": [shapely.to_wkb(parts)]})
    box = np.array([[5.0, 5.0, 35.0, 35.0]])
    found = gallery._Found(rows, box, np.array([parts]), {1: (255, 0, 0)})
    drawn = np.asarray(
        gallery._draw_regions(np.zeros((384, 384, 3), np.uint8), Box(0, 0, 384, 384), found, None)
    )
    assert drawn[5, 10].tolist() == drawn[35, 30].tolist() == [255, 0, 0]
    assert not drawn[12, 12].any()


def test_filters_know_all_regions_that_no_other_region_beats() -> None:
    columns = {
        "class_name": ["a", "a", "a", "b"],
        "area": [9, 5, 5, 1],
        "score": [0.5, 0.4, 0.75, 0.1],
    }
    found = gallery._Found(pa.table(columns), np.zeros((4, 4)), np.array([None] * 4), {})
    assert found.list_best() == [("a", 9, 0.5), ("a", 5, 0.75), ("b", 1, 0.1)]


def test_numbers_are_written_readably() -> None:
    assert [format_figure(value) for value in (None, 0, 1234567, 12.345, 0.00012345)] == [
        *("–", "0", "1,234,567", "12.3", "0.000123"),
    ]


def test_tables_do_not_choose_what_a_report_opens(place: Path, tmp_path: Path) -> None:
    """Whoever wrote them names an address, a bucket, and a picture elsewhere on this machine."""
    tables, secret = tmp_path / "tables", tmp_path / "secret.png"
    secret.write_bytes((place / "archive/3-0.png").read_bytes())
    shutil.copytree(place / "tables", tables)
    with listening() as (address, sent):
        names = f"{address}/secret.png", "s3://others/x.png", str(secret)
        known: dict[str, str] = {}
        rename_images(
            tables, lambda uri: known.setdefault(uri, f"{names[len(known) % 3]}?{len(known)}")
        )
        made = report(ReportConfig(tables=str(tables), output=f"{tmp_path}/x.html", pictures=3))
        assert sent == []
    assert made.pictures == 0
    (problem,) = made.problems
    assert re.match(r"\d images at places that are never opened, for example http://127.0", problem)


def test_a_picture_needs_a_folder_of_the_run_on_the_store_of_the_tables(
    place: Path, tmp_path: Path
) -> None:
    """The note counts the images, and its flag can be pasted."""
    tables = tmp_path / "tables"
    shutil.copytree(place / "tables", tables)
    shutil.copytree(place / "archive", tmp_path / "archive_of_others")
    rename_images(
        tables, lambda uri: uri.replace(f"{place}/archive", f"{tmp_path}/archive_of_others")
    )
    config = ReportConfig(tables=str(tables), output=f"{tmp_path}/x.html", pictures=3)
    made = report(config)
    assert made.pictures == 0
    (problem,) = made.problems
    flag = f"--image-roots {tmp_path}/archive_of_others"
    assert re.fullmatch(
        rf"\d images not below {place}/archive, for example {tmp_path}/archive_of_others/3-\d.png; "
        rf"to open them, give {flag}",
        problem,
    )
    assert f"No picture of {problem}" in (tmp_path / "x.html").read_text()
    pasted = replace(config, image_roots=flag.partition(" ")[2])
    assert report(pasted).pictures == 12
    for path in tables.glob("runs/*.json"):
        record = json.loads(path.read_text())
        assert record["image_roots"] == [f"{place}/archive"]
        record["image_roots"] = [f"s3://elsewhere/{tmp_path}"]
        path.write_text(json.dumps(record))
    assert report(config).pictures == 0
    for path in tables.glob("runs/*.json"):  # of an earlier version
        record = json.loads(path.read_text())
        del record["image_roots"]
        record["config"]["images"] = f"{tmp_path}/archive_of_others/*.png"
        path.write_text(json.dumps(record))
    assert report(config).pictures == 12


@contextmanager
def listening() -> Iterator[tuple[str, list[str]]]:
    """Listen at an address of this machine; yield it, and the first lines that were sent there."""
    sent = list[str]()

    class Recorder(StreamRequestHandler):
        def handle(self) -> None:
            sent.append(self.rfile.readline().decode())

    with ThreadingTCPServer(("127.0.0.1", 0), Recorder) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", sent
        server.shutdown()


def test_what_cannot_be_reported_is_refused_in_one_line(place: Path) -> None:
    with pytest.raises(
        InputError, match="no images of --date 2020-01-01; dates with images: 2026-03-01, "
    ):
        report(ReportConfig(tables=f"{place}/tables", output=f"{place}/x.html", date="2020-01-01"))
    with pytest.raises(InputError, match="no tables here"):
        report(ReportConfig(tables=f"{place}/archive", output=f"{place}/x.html"))
    with pytest.raises(InputError, match="name a .html file"):
        ReportConfig(tables="t", output="folder")
    with pytest.raises(InputError, match="--date monday"):
        ReportConfig(tables="t", output="x.html", date="monday")


@pytest.fixture
def browser_page(place: Path, made: ReportResult) -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.problems = []
        page.on("console", lambda message: page.problems.append(message.text))
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.goto(f"file://{place}/report.html")
        yield page
        browser.close()


@pytest.mark.slow
def test_filters_work_in_a_browser(browser_page: Any) -> None:
    page = browser_page
    cards = page.locator(".card")
    described = [
        json.loads(cards.nth(i).get_attribute("data-regions")) for i in range(cards.count())
    ]
    visible = page.locator(".card:visible")
    assert visible.count() == 12
    page.fill("[name=area]", "40")
    page.fill("[name=score]", "0.47")
    page.select_option("[name=class]", "cell")
    expected = sum(
        any(n == "cell" and a >= 40 and s >= 0.47 for n, a, s in found) for found in described
    )
    assert visible.count() == expected
    page.fill("[name=area]", "0")
    page.fill("[name=score]", "0")
    page.select_option("[name=class]", "")
    page.fill("[name=text]", "3-1.PNG")
    names = {
        visible.nth(i).get_attribute("data-uri").rpartition("/")[2] for i in range(visible.count())
    }
    assert names <= {"3-1.png"}
    assert (
        page.locator("#count").inner_text()
        == f"{visible.count()} picture{'s' * (visible.count() != 1)} of 12"
    )
    page.fill("[name=text]", "")
    page.select_option("[name=kind]", "random")
    assert visible.count() == 3
    page.locator(".card:visible .zoom").first.press("Enter")
    assert page.locator("dialog img").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("dialog img").is_visible()
    assert page.problems == []
