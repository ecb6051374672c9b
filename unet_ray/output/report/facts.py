"""The facts of a report: sums over the tables for a date and for the dates before it.

Only runs with the model and settings of the date's last run count. The rows are never all in
memory: shards are read once, in parallel, and the columns that matter go to disk.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pds

from unet_ray.errors import InputError
from unet_ray.output.namings import find_superseded
from unet_ray.output.pixel_area import PIXEL_SIDES, has_pixel_area
from unet_ray.output.sound_rows import SOUND_COLUMNS, SOUND_ROWS
from unet_ray.storage.storage import Storage
from unet_ray.tables.committed import CommittedShards, row_schema
from unet_ray.tables.duckdb_workspace import Workspace
from unet_ray.tables.runs import read_run_records
from unet_ray.tables.schemas import SCHEMAS

AREA_BINS_PER_DOUBLING = 2
"""Number of histogram bins from an area to its double."""
SCORE_BINS = 20
"""Number of histogram bins from score 0 to 1."""
MAX_CLASSES = 256
"""Largest number of classes, each of which has charts; a mask of bytes has no more."""
_EXAMPLES = 3
"""Number of images that are shown for each type of error."""
_IS_CURRENT = "date = (SELECT max(date) FROM runs)"
"""SQL condition for rows of the report's date."""
_MAX_EARLIER_DATES = 60
"""Maximum number of earlier dates that the date is compared with."""
_IMAGE_COLUMNS = (
    "image_uri",
    "run_id",
    "segmented_at",
    "error_type",
    "error",
    "height",
    "width",
    "image_bytes",
    *PIXEL_SIDES,
    "shard",
)
"""Columns of the view `date_images`."""
_STORED_IMAGES = (*_IMAGE_COLUMNS, "pages", "model_digest", "config_digest")
_STORED_MASKS = ("image_uri", "run_id", "class_id", "class_name", "area", "height", "width")
_NAMING_COLUMNS = ("date", "image_uri", "run_id", "pages", "segmented_at")
"""Columns of the view `good`: the successful images, current or not."""
_REGION_COLUMNS = ("run_id", "image_uri", "region_id", "area", "score")
"""Columns of the view `date_regions`."""
_STORED_REGIONS = (*_REGION_COLUMNS, "class_id")
_SUM_REGIONS = (
    "WITH i AS (SELECT date, class_id, image, count(*)::DOUBLE AS c, sum(score)::DOUBLE AS s, "
    "sum(log2(area)) AS l FROM measured GROUP BY date, class_id, image), "
    "j AS (SELECT i.*, if(um2 IS NULL, 0, c) AS n, if(um2 IS NULL, 0, l + c * log2(um2)) AS u "
    "FROM i LEFT JOIN pixel_areas USING (image)) "
    "SELECT date, class_id, sum(c) AS c, sum(c * c) AS cc, sum(s) AS s, sum(s * s) AS ss, "
    "sum(s * c) AS sc, sum(l) AS l, sum(l * l) AS ll, sum(l * c) AS lc, "
    "sum(n) AS n, sum(n * n) AS nn, sum(u) AS u, sum(u * u) AS uu, sum(u * n) AS un "
    "FROM j GROUP BY date, class_id"
)
"""Query for sums over images by date and class id. They are `c` number of regions, `s` sum of
scores, `l` sum of log2 of areas, and their squares and products `cc`, `ss`, `ll`, `sc` and `lc`.
Over the images with pixels of a known area `um2` they are `n` number of regions, `u` sum of log2 of
areas in µm², `nn`, `uu` and `un`."""


@dataclass(frozen=True)
class Estimate:
    """A figure and its uncertainty."""

    value: float
    """Value of the figure."""
    error: float
    """Standard error over images."""


@dataclass(frozen=True)
class ClassFigures:
    """The figures of one class on one date."""

    pixels: int
    """Number of pixels of the class."""
    regions: int
    """Number of regions."""
    figures: dict[str, Estimate | None]
    """Figures by name: share of pixels, regions per image, mean score and typical area.

    The area is in pixels, and in µm² too if any image states the size of its pixels. A figure is
    None if it cannot be computed.
    """


@dataclass
class Histogram:
    """Counts of regions by bin."""

    now: dict[int, int] = field(default_factory=dict)
    """Counts on the date."""
    before: dict[int, int] = field(default_factory=dict)
    """Counts on all earlier dates together."""


@dataclass
class Facts:
    """Everything that the page shows, apart from the pictures."""

    date: str
    """Date of the report, YYYY-MM-DD."""
    run_ids: list[str]
    """Runs of the date with its model and settings."""
    records: list[dict[str, Any]]
    """Records of these runs."""
    model_digest: str
    """Model of the date's last run."""
    images: int
    """Number of images that were segmented successfully."""
    classes: dict[int, str]
    """Class names by id; the first 256 of them."""
    by_date: dict[str, dict[int, ClassFigures]]
    """Figures by date, then by class id; the last date is that of the report."""
    areas: dict[int, Histogram]
    """Histogram of region areas by class id."""
    scores: dict[int, Histogram]
    """Histogram of region scores by class id."""
    errors: list[tuple[str, int, list[tuple[str, str]]]]
    """Error types: the type, its number of images, and a few image URIs with their messages."""
    unsound: dict[str, int] = field(default_factory=dict)
    """Numbers of rows of the date that make no sense and are left out, by table."""
    classes_left_out: int = 0
    """Number of further classes, which the page leaves out."""

    @property
    def earlier(self) -> list[str]:
        """The earlier dates, the oldest first."""
        return [date for date in self.by_date if date != self.date]


def gather(database: Workspace, shards: CommittedShards, date: str | None) -> Facts:
    """Gather the facts of a date from the tables.

    Values from the tables never become part of a query, so the author of tables cannot inject SQL.

    Args:
        database: Workspace for the queries, which spills to disk. Afterwards it holds the views
            `date_images` and `date_regions` with the date's rows.
        shards: Shards of the output.
        date: Date of the report, YYYY-MM-DD; None: the last one.

    Returns:
        The facts.

    Raises:
        InputError: There are no images of that date, or a shard is damaged.
    """
    unsound = Counter[tuple[str, str]]()
    images = _store_rows(database, shards, "images", _STORED_IMAGES, unsound)
    date = _find_date(database, images, shards.output, date)
    model, config = _find_settings(database, images, date)
    ours = images.filter(
        (pc.field("model_digest") == model) & (pc.field("config_digest") == config)
    )
    until = ours.filter(pc.field("date") <= date)
    database.read("good", until.filter(pc.field("error_type").is_null()), _NAMING_COLUMNS)
    read = partial(_read_current, database, find_superseded(database, "good", by_date=True))
    read("ours", until, ("date", "run_id", "error_type"))
    read("date_images", ours.filter(pc.field("date") == date), _IMAGE_COLUMNS)
    database.store(
        "runs",
        "SELECT date, run_id, count(*) FILTER (error_type IS NULL) AS images FROM ours "
        "GROUP BY date, run_id",
    )
    totals = database.table(
        "SELECT date, sum(images)::BIGINT AS images FROM runs GROUP BY date "
        f"HAVING sum(images) > 0 OR {_IS_CURRENT} ORDER BY date"
    )
    rows_of_dates = totals.to_pylist()[-_MAX_EARLIER_DATES - 1 :]
    counts = {row["date"]: row["images"] for row in rows_of_dates}
    current = database.table(f"SELECT run_id FROM runs WHERE {_IS_CURRENT} ORDER BY run_id")
    run_ids = current["run_id"].to_pylist()
    runs = database.table("SELECT run_id FROM runs")["run_id"].combine_chunks()
    # a filter, because joins of millions of rows take more memory
    rows = pc.field("date").isin(list(counts)) & pc.field("run_id").isin(runs)
    of_dates = shards.of_dates(counts)
    masks = _store_rows(database, of_dates, "masks", _STORED_MASKS, unsound)
    mask_columns = ("date", "class_id", "class_name", "area", "height", "width")
    read("masks", masks.filter(rows), mask_columns)
    every_class, pixels = _sum_pixels(database)
    classes = dict(islice(every_class.items(), MAX_CLASSES))
    regions = _store_rows(database, of_dates, "regions", _STORED_REGIONS, unsound).filter(
        rows & pc.field("class_id").isin(pa.array(classes, pa.int32()))
    )
    read("date_regions", regions.filter(pc.field("date") == date), _REGION_COLUMNS)
    read("regions", regions, ("date", "run_id", "image_uri", "class_id", "area", "score"))
    _store_pixel_areas(database, ours.filter(rows))
    by_date = _estimate_dates(database, counts, classes, pixels)
    return Facts(
        date=date,
        run_ids=run_ids,
        records=read_run_records(shards.output, run_ids),
        model_digest=model,
        images=counts[date],
        classes=classes,
        by_date=by_date,
        areas=_count_bins(database, classes, f"floor({AREA_BINS_PER_DOUBLING} * log2(area))"),
        scores=_count_bins(
            database, classes, f"least(floor({SCORE_BINS} * score), {SCORE_BINS - 1})"
        ),
        errors=_list_errors(database),
        unsound={name: unsound[name, date] for name in SCHEMAS if unsound[name, date]},
        classes_left_out=len(every_class) - len(classes),
    )


def _store_rows(
    database: Workspace,
    shards: CommittedShards,
    table: str,
    columns: tuple[str, ...],
    unsound: Counter[tuple[str, str]],
) -> pds.Dataset:
    """Store columns of the sound rows of a table, which several queries then read.

    Args:
        database: Workspace that keeps them on disk.
        shards: Shards to read.
        table: Name of the table.
        columns: Columns to keep, beside `date`.
        unsound: Receives the numbers of rows that make no sense, by table and date.

    Returns:
        The stored rows.
    """
    kept = [*columns, "date"]
    needed = {*columns, *SOUND_COLUMNS[table]}
    read = [name for name in SCHEMAS[table].names if name in needed]

    def select() -> Iterator[pa.Table]:
        """Yield the sound rows of each shard."""
        for _, rows in shards.iterate(table, read):
            sound = rows.filter(SOUND_ROWS[table])
            if len(sound) < len(rows):
                date = rows["date"][0].as_py()
                unsound[table, date] += len(rows) - len(sound)
            yield sound.select(kept).cast(schema)

    # a null in a file that another program wrote is no reason to refuse the file
    fields = map(row_schema(table, read).field, kept)
    schema = pa.schema([field.with_nullable(True) for field in fields])
    database.write(f"stored_{table}", schema, select())
    return database.dataset(f"stored_{table}")


def _read_current(
    database: Workspace, is_mixed: bool, name: str, dataset: pds.Dataset, columns: tuple[str, ...]
) -> None:
    """Create a view of columns of a dataset, without the rows that are not current on their date.

    Args:
        database: Workspace with the table `superseded`, if there are any such rows.
        is_mixed: Whether there are any; a join with nothing would still read the keys of all rows.
        name: Name of the view.
        dataset: Arrow dataset with the columns image_uri and run_id.
        columns: Columns of the view.
    """
    database.read(name, dataset, columns)
    if is_mixed:
        rows = f"{name}_rows ANTI JOIN superseded USING (image_uri, run_id)"
        database.view(name, f"SELECT {', '.join(columns)} FROM {rows}")


def _find_date(database: Workspace, images: pds.Dataset, output: Storage, date: str | None) -> str:
    """Return the date of the report: the given one, which must have images, or the last one."""
    database.read("images", images, ("date",))
    dates = database.table("SELECT DISTINCT date FROM images")["date"].to_pylist()
    chosen = date or max(dates, default="")
    if chosen not in dates:
        known = ", ".join(sorted(dates)) or "none"
        raise InputError(f"{output.uri}: no images of --date {chosen}; dates with images: {known}")
    return chosen


def _find_settings(database: Workspace, images: pds.Dataset, date: str) -> tuple[str, str]:
    """Return the digests of the model and the settings that were last used on a date."""
    columns = ("model_digest", "config_digest", "segmented_at")
    database.read("all_models", images.filter(pc.field("date") == date), columns)
    last = "SELECT model_digest, config_digest FROM all_models ORDER BY segmented_at DESC LIMIT 1"
    (digests,) = database.table(last).to_pylist()
    return digests["model_digest"], digests["config_digest"]


def _sum_pixels(
    database: Workspace,
) -> tuple[dict[int, str], dict[tuple[str, int], dict[str, float]]]:
    """Return the class names by id, and sums over the view `masks` by date and class id.

    The sums are over pieces of masks: `a` area of the class, `p` pixels of the piece, and their
    squares and product `aa`, `pp` and `ap`.
    """
    rows = database.table(
        "WITH m AS (SELECT date, class_id, class_name, area::DOUBLE AS a, "
        "height::DOUBLE * width AS p FROM masks) "
        "SELECT date, class_id, any_value(class_name) AS class_name, sum(a) AS a, sum(p) AS p, "
        "sum(a * a) AS aa, sum(a * p) AS ap, sum(p * p) AS pp "
        "FROM m GROUP BY date, class_id ORDER BY class_id"
    ).to_pylist()
    classes = {row["class_id"]: row["class_name"] for row in rows}
    return classes, {(row["date"], row["class_id"]): row for row in rows}


def _store_pixel_areas(database: Workspace, images: pds.Dataset) -> None:
    """Store the area of a pixel, `um2`, of each image that states it, by hash of the image."""
    database.read("sized", images.filter(has_pixel_area()), ("image_uri", "run_id", *PIXEL_SIDES))
    area = " * ".join(PIXEL_SIDES)
    database.store(
        "pixel_areas",
        f"SELECT hash(image_uri, run_id) AS image, any_value({area}) AS um2 "
        "FROM sized GROUP BY image",
    )


def _estimate_dates(
    database: Workspace,
    images: dict[str, int],
    classes: dict[int, str],
    pixels: dict[tuple[str, int], dict[str, float]],
) -> dict[str, dict[int, ClassFigures]]:
    """Return the figures of the view `regions` by date and class id."""
    database.store(
        "measured",
        "SELECT date, class_id, hash(image_uri, run_id) AS image, area, score FROM regions",
    )
    rows = database.table(_SUM_REGIONS).to_pylist()
    sums = {(row["date"], row["class_id"]): row for row in rows}
    nothing: dict[str, float] = defaultdict(float)
    is_sized = database.value("SELECT count(*) FROM pixel_areas") > 0
    by_date = {}
    for date, num_images in images.items():
        by_date[date] = {
            number: _estimate_figures(
                masks=pixels.get((date, number), nothing),
                regions=sums.get((date, number), nothing),
                num_images=num_images,
                is_sized=is_sized,
            )
            for number in classes
        }
    return by_date


def _estimate_figures(
    masks: dict[str, float], regions: dict[str, float], num_images: int, is_sized: bool
) -> ClassFigures:
    """Return the figures of a class.

    Args:
        masks: Sums over pieces of masks, as `_sum_pixels` returns them.
        regions: Sums over regions, as `_SUM_REGIONS` names them.
        num_images: Number of images of the date.
        is_sized: Whether any image states the size of its pixels.
    """
    num_images = max(1, num_images)
    per_image = regions["c"] / num_images
    spread = max(0.0, regions["cc"] / num_images - per_image**2)
    figures = {
        "share of pixels": _estimate_ratio(masks, "a", "p"),
        "regions per image": Estimate(per_image, math.sqrt(spread / num_images)),
        "mean score": _estimate_ratio(regions, "s", "c"),
        "typical area (px)": _raise_to_area(_estimate_ratio(regions, "l", "c")),
    }
    if is_sized:
        figures["typical area (µm²)"] = _raise_to_area(_estimate_ratio(regions, "u", "n"))
    return ClassFigures(pixels=int(masks["a"]), regions=int(regions["c"]), figures=figures)


def _raise_to_area(log_area: Estimate | None) -> Estimate | None:
    """Return an area and its error, given the mean of log2 of areas."""
    if log_area is None:
        return None
    area = 2**log_area.value
    return Estimate(area, area * math.log(2) * log_area.error)


def _estimate_ratio(sums: dict[str, float], top: str, bottom: str) -> Estimate | None:
    """Estimate a ratio of sums over images, Σt/Σb, and its standard error.

    The formula is that of Cochran 1977, Sampling Techniques, section 6.4.

    Args:
        sums: Sums by name: Σt and Σb, and Σt², Σtb and Σb² under the two names together.
        top: Name of Σt.
        bottom: Name of Σb.

    Returns:
        The ratio; None where Σb is 0.
    """
    if not sums[bottom]:
        return None
    ratio = sums[top] / sums[bottom]
    squares = sums[top + top]
    squares -= 2 * ratio * sums[top + bottom]
    squares += ratio**2 * sums[bottom + bottom]
    return Estimate(ratio, math.sqrt(max(0.0, squares)) / sums[bottom])


def _count_bins(
    database: Workspace, classes: dict[int, str], bin_expression: str
) -> dict[int, Histogram]:
    """Return a histogram of regions by class id; an SQL expression gives the bin of a region."""
    histograms = {number: Histogram() for number in classes}
    rows = database.table(
        f"SELECT class_id, {_IS_CURRENT} AS now, ({bin_expression})::INTEGER AS bin, "
        "count(*) AS n FROM measured GROUP BY ALL"
    )
    for row in rows.to_pylist():
        histogram = histograms[row["class_id"]]
        counts = histogram.now if row["now"] else histogram.before
        counts[row["bin"]] = row["n"]
    return histograms


def _list_errors(database: Workspace) -> list[tuple[str, int, list[tuple[str, str]]]]:
    """Return the errors of images that no run of the date segmented successfully."""
    rows = database.table(
        "WITH failed AS (SELECT image_uri, max_by(error_type, segmented_at) AS error_type, "
        "max_by(error, segmented_at) AS error FROM date_images WHERE error_type IS NOT NULL "
        "GROUP BY image_uri), "
        "left_over AS (FROM failed ANTI JOIN (FROM date_images WHERE error_type IS NULL) AS good "
        "USING (image_uri)) "
        "SELECT error_type, image_uri, error, count(*) OVER (PARTITION BY error_type) AS n "
        "FROM left_over "
        f"QUALIFY row_number() OVER (PARTITION BY error_type ORDER BY image_uri) <= {_EXAMPLES} "
        "ORDER BY n DESC, error_type, image_uri"
    )
    found: dict[str, tuple[int, list[tuple[str, str]]]] = {}
    for row in rows.to_pylist():
        _, examples = found.setdefault(row["error_type"], (row["n"], []))
        examples.append((row["image_uri"], row["error"]))
    return [(kind, num_images, examples) for kind, (num_images, examples) in found.items()]
