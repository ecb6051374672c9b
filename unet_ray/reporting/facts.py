"""What the tables say of a night and of the nights before it with the same model and settings: sums, never rows."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import pyarrow.compute as pc

from unet_ray.archive.ledger import open_dataset
from unet_ray.archive.runs import run_records
from unet_ray.archive.scratch import Scratch
from unet_ray.archive.storage import Storage
from unet_ray.archive.tables import SCHEMAS
from unet_ray.errors import InputError

AREA_BINS_PER_DOUBLING = 2
SCORE_BINS = 20
_EXAMPLES = 3
_NIGHTS = 60
"""Earlier nights that are compared with, at most."""


@dataclass(frozen=True)
class Estimate:
    """A figure of a night and what chance does to it."""

    value: float
    error: float
    """Standard error over images."""


@dataclass(frozen=True)
class ClassNight:
    """One class in one night."""

    pixels: int
    regions: int
    figures: dict[str, Estimate]
    """By name: share of pixels, regions per image, mean score, typical area."""


@dataclass
class Histogram:
    """Counts of regions by bin, of the night and of all earlier nights together."""

    night: dict[int, int] = field(default_factory=dict)
    before: dict[int, int] = field(default_factory=dict)


@dataclass
class Facts:
    """Everything that the page shows but its pictures."""

    date: str
    run_ids: list[str]
    """Of the night, with its model and settings."""
    records: list[dict[str, Any]]
    """Of these runs."""
    model_digest: str
    images: int
    """That went well."""
    images_by_night: dict[str, int]
    classes: dict[int, str]
    nights: dict[str, dict[int, ClassNight]]
    """Date → class id → what was found; the last is the night itself."""
    areas: dict[int, Histogram]
    scores: dict[int, Histogram]
    errors: list[tuple[str, int, list[tuple[str, str]]]]
    """Type, images, and a few of them with their message."""

    @property
    def earlier(self) -> list[str]:
        """Dates before the night, the oldest first."""
        return [date for date in self.nights if date != self.date]


def gather(database: Scratch, output: Storage, date: str | None) -> Facts:
    """Ask the tables for the facts of a night.

    Args:
        database — to ask with; it spills.
        output — root of the tables.
        date — of the night; None: the last one.

    Raises: InputError — no tables, or no image of that date.
    """
    if not output.exists("images"):
        raise InputError(f"{output.uri}: no tables here (images/); check --tables")
    images = open_dataset(output, "images", SCHEMAS["images"])
    columns = ("date", "run_id", "model_digest", "config_digest", "error_type", "segmented_at", "image_uri", "error")
    database.read("images", images, columns)
    named = database.table("SELECT DISTINCT date FROM images")["date"].to_pylist()
    date = date or max(named, default="")
    if date not in named:
        raise InputError(f"{output.uri}: no images of --date {date}; there are {', '.join(sorted(named)) or 'none'}")
    night = f"date = '{date}'"
    model, config = (
        database.table(
            f"SELECT model_digest, config_digest FROM images WHERE {night} ORDER BY segmented_at DESC LIMIT 1"  # noqa: S608
        )
        .to_pylist()[0]
        .values()
    )
    ours = f"model_digest = '{model}' AND config_digest = '{config}' AND date <= '{date}'"
    database.store(
        "runs",
        f"SELECT date, run_id, count(*) FILTER (error_type IS NULL) AS images FROM images WHERE {ours} GROUP BY ALL",  # noqa: S608
    )
    by_night = database.table("SELECT date, sum(images)::BIGINT AS images FROM runs GROUP BY date ORDER BY date")
    counts = dict(zip(by_night["date"].to_pylist(), by_night["images"].to_pylist(), strict=True))
    counts = dict([*counts.items()][-_NIGHTS - 1 :])
    run_ids = database.table(f"SELECT run_id FROM runs WHERE {night} ORDER BY run_id")["run_id"].to_pylist()  # noqa: S608
    classes, pixels = _pixels(database, output, list(counts))
    nights = _nights(database, output, counts, classes, pixels)
    records = dict(run_records(output))
    return Facts(
        date=date,
        run_ids=run_ids,
        records=[records[run_id] for run_id in run_ids if run_id in records],
        model_digest=model,
        images=counts[date],
        images_by_night=counts,
        classes=classes,
        nights=nights,
        areas=_histograms(database, classes, date, f"floor({AREA_BINS_PER_DOUBLING} * log2(area))"),
        scores=_histograms(database, classes, date, f"least(floor({SCORE_BINS} * score), {SCORE_BINS - 1})"),
        errors=_errors(database, night),
    )


def _pixels(
    database: Scratch, output: Storage, dates: list[str]
) -> tuple[dict[int, str], dict[tuple[str, int], dict[str, float]]]:
    """Return the classes, and of each night and class the sums of its masks."""
    masks = open_dataset(output, "masks", SCHEMAS["masks"]).filter(pc.field("date").isin(dates))
    database.read("masks", masks, ("date", "run_id", "class_id", "class_name", "area", "height", "width"))
    found = database.table(
        "WITH m AS (SELECT date, class_id, class_name, area::DOUBLE AS a, height::DOUBLE * width AS p FROM masks "
        "SEMI JOIN runs USING (date, run_id)) "
        "SELECT date, class_id, any_value(class_name) AS class_name, sum(a) AS a, sum(p) AS p, sum(a * a) AS aa, "
        "sum(a * p) AS ap, sum(p * p) AS pp FROM m GROUP BY date, class_id ORDER BY class_id"
    ).to_pylist()
    return {row["class_id"]: row["class_name"] for row in found}, {(r["date"], r["class_id"]): r for r in found}


def _nights(
    database: Scratch,
    output: Storage,
    images: dict[str, int],
    classes: dict[int, str],
    pixels: dict[tuple[str, int], dict[str, float]],
) -> dict[str, dict[int, ClassNight]]:
    regions = open_dataset(output, "regions", SCHEMAS["regions"]).filter(pc.field("date").isin(list(images)))
    database.read("named", regions, ("date", "run_id", "image_uri", "region_id", "class_id", "area", "score"))
    database.store(
        "ours",
        "SELECT date, class_id, hash(image_uri, run_id) AS image, area, score FROM named "
        "SEMI JOIN runs USING (date, run_id)",
    )
    sums = {
        (row["date"], row["class_id"]): row
        for row in database.table(
            "WITH i AS (SELECT date, class_id, count(*)::DOUBLE AS c, sum(score)::DOUBLE AS s, sum(log2(area)) AS l "
            "FROM ours GROUP BY date, class_id, image) SELECT date, class_id, sum(c) AS c, sum(c * c) AS cc, "
            "sum(s) AS s, sum(s * s) AS ss, sum(s * c) AS sc, sum(l) AS l, sum(l * l) AS ll, sum(l * c) AS lc "
            "FROM i GROUP BY date, class_id"
        ).to_pylist()
    }
    nothing: dict[str, float] = defaultdict(float)
    return {
        date: {
            number: _class_night(pixels.get((date, number), nothing), sums.get((date, number), nothing), count)
            for number in classes
        }
        for date, count in images.items()
    }


def _class_night(p: dict[str, float], r: dict[str, float], images: int) -> ClassNight:
    figures = {"share of pixels": _ratio(p["a"], p["p"], p["aa"], p["ap"], p["pp"])}
    per_image = r["c"] / max(1, images)
    spread = max(0.0, r["cc"] / max(1, images) - per_image**2)
    figures["regions per image"] = Estimate(per_image, math.sqrt(spread / max(1, images)))
    figures["mean score"] = _ratio(r["s"], r["c"], r["ss"], r["sc"], r["cc"])
    log_area = _ratio(r["l"], r["c"], r["ll"], r["lc"], r["cc"])
    area = 2**log_area.value
    figures["typical area (px)"] = Estimate(area, area * math.log(2) * log_area.error)
    return ClassNight(int(p["a"]), int(r["c"]), figures)


def _ratio(top: float, bottom: float, top2: float, cross: float, bottom2: float) -> Estimate:
    """Return Σt/Σb over images and its standard error (Cochran 1977, Sampling Techniques, section 6.4)."""
    if not bottom:
        return Estimate(0.0, 0.0)
    ratio = top / bottom
    return Estimate(ratio, math.sqrt(max(0.0, top2 - 2 * ratio * cross + ratio**2 * bottom2)) / bottom)


def _histograms(database: Scratch, classes: dict[int, str], date: str, bin_of: str) -> dict[int, Histogram]:
    found = {number: Histogram() for number in classes}
    rows = database.table(
        f"SELECT class_id, date = '{date}' AS now, ({bin_of})::INTEGER AS bin, count(*) AS n FROM ours GROUP BY ALL"  # noqa: S608
    )
    for row in rows.to_pylist():
        histogram = found[row["class_id"]]
        (histogram.night if row["now"] else histogram.before)[row["bin"]] = row["n"]
    return found


def _errors(database: Scratch, night: str) -> list[tuple[str, int, list[tuple[str, str]]]]:
    failed = f"FROM images WHERE {night} AND error_type IS NOT NULL"
    kinds = database.table(
        f"SELECT error_type, count(*) AS n {failed} GROUP BY error_type ORDER BY n DESC, error_type"
    ).to_pylist()
    found = []
    for kind in kinds:
        some = database.table(
            f"SELECT image_uri, error {failed} AND error_type = '{kind['error_type']}' "
            f"ORDER BY image_uri LIMIT {_EXAMPLES}"
        ).to_pylist()
        found.append((kind["error_type"], kind["n"], [(row["image_uri"], row["error"]) for row in some]))
    return found
