"""What the tables say of a night and of the nights before it with the same model and settings: sums, never rows."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import pyarrow.compute as pc

from unet_ray.errors import InputError
from unet_ray.storage.storage import Storage
from unet_ray.tables.duckdb_workspace import Workspace
from unet_ray.tables.ledger import open_dataset
from unet_ray.tables.runs import read_run_record
from unet_ray.tables.schemas import SCHEMAS

AREA_BINS_PER_DOUBLING = 2
SCORE_BINS = 20
_EXAMPLES = 3
_TONIGHT = "date = (SELECT max(date) FROM runs)"
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
    figures: dict[str, Estimate | None]
    """By name: share of pixels, regions per image, mean score, typical area; None: there is nothing to tell it from."""


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


def gather(database: Workspace, output: Storage, date: str | None) -> Facts:
    """Ask the tables for the facts of a night.

    What the tables hold never becomes part of a query: who may write them may not run SQL here.

    Args:
        database — to ask with; it spills. Named afterwards: the night's rows `tonight` of the images and `found` of the
            regions.
        output — root of the tables, as `tables_at` returns it.
        date — of the night; None: the last one.

    Raises: InputError — no image of that date.
    """
    images = open_dataset(output, "images", SCHEMAS["images"])
    night = _night_of(database, images, output, date)
    model, config = _settings_of(database, images, night)
    ours = images.filter(
        (pc.field("model_digest") == model) & (pc.field("config_digest") == config)
    )
    database.read("ours", ours.filter(pc.field("date") <= night), ("date", "run_id", "error_type"))
    columns = (
        "image_uri",
        "run_id",
        "segmented_at",
        "error_type",
        "error",
        "height",
        "width",
        "image_bytes",
    )
    database.read("tonight", ours.filter(pc.field("date") == night), columns)
    database.store(
        "runs",
        "SELECT date, run_id, count(*) FILTER (error_type IS NULL) AS images FROM ours GROUP BY date, run_id",
    )
    by_night = database.table(
        f"SELECT date, sum(images)::BIGINT AS images FROM runs GROUP BY date HAVING sum(images) > 0 OR {_TONIGHT} "
        "ORDER BY date"
    )
    counts = dict(zip(by_night["date"].to_pylist(), by_night["images"].to_pylist(), strict=True))
    counts = dict([*counts.items()][-_NIGHTS - 1 :])
    run_ids = database.table(f"SELECT run_id FROM runs WHERE {_TONIGHT} ORDER BY run_id")[
        "run_id"
    ].to_pylist()
    runs = database.table("SELECT run_id FROM runs")["run_id"].combine_chunks()
    rows = pc.field("date").isin(list(counts)) & pc.field("run_id").isin(
        runs
    )  # joins of millions take more memory
    classes, pixels = _pixels(
        database, open_dataset(output, "masks", SCHEMAS["masks"]).filter(rows)
    )
    regions = open_dataset(output, "regions", SCHEMAS["regions"]).filter(rows)
    found = ("run_id", "image_uri", "region_id", "area", "score")
    database.read("found", regions.filter(pc.field("date") == night), found)
    nights = _nights(database, regions, counts, classes, pixels)
    return Facts(
        date=night,
        run_ids=run_ids,
        records=[record for run_id in run_ids if (record := read_run_record(output, run_id))],
        model_digest=model,
        images=counts[night],
        classes=classes,
        nights=nights,
        areas=_histograms(database, classes, f"floor({AREA_BINS_PER_DOUBLING} * log2(area))"),
        scores=_histograms(
            database, classes, f"least(floor({SCORE_BINS} * score), {SCORE_BINS - 1})"
        ),
        errors=_errors(database),
    )


def _night_of(database: Workspace, images: Any, output: Storage, date: str | None) -> str:
    database.read("images", images, ("date",))
    named = database.table("SELECT DISTINCT date FROM images")["date"].to_pylist()
    night = date or max(named, default="")
    if night not in named:
        raise InputError(
            f"{output.uri}: no images of --date {night}; there are {', '.join(sorted(named)) or 'none'}"
        )
    return night


def _settings_of(database: Workspace, images: Any, night: str) -> tuple[str, str]:
    """Return the digests of the model and the settings that were used last."""
    columns = ("model_digest", "config_digest", "segmented_at")
    database.read("of_any_model", images.filter(pc.field("date") == night), columns)
    last = "SELECT model_digest, config_digest FROM of_any_model ORDER BY segmented_at DESC LIMIT 1"
    model, config = database.table(last).to_pylist()[0].values()
    return model, config


def _pixels(
    database: Workspace, masks: Any
) -> tuple[dict[int, str], dict[tuple[str, int], dict[str, float]]]:
    """Return the classes, and of each night and class the sums of its masks."""
    database.read("masks", masks, ("date", "class_id", "class_name", "area", "height", "width"))
    found = database.table(
        "WITH m AS (SELECT date, class_id, class_name, area::DOUBLE AS a, height::DOUBLE * width AS p FROM masks) "
        "SELECT date, class_id, any_value(class_name) AS class_name, sum(a) AS a, sum(p) AS p, sum(a * a) AS aa, "
        "sum(a * p) AS ap, sum(p * p) AS pp FROM m GROUP BY date, class_id ORDER BY class_id"
    ).to_pylist()
    return {row["class_id"]: row["class_name"] for row in found}, {
        (r["date"], r["class_id"]): r for r in found
    }


def _nights(
    database: Workspace,
    regions: Any,
    images: dict[str, int],
    classes: dict[int, str],
    pixels: dict[tuple[str, int], dict[str, float]],
) -> dict[str, dict[int, ClassNight]]:
    database.read("regions", regions, ("date", "run_id", "image_uri", "class_id", "area", "score"))
    database.store(
        "measured",
        "SELECT date, class_id, hash(image_uri, run_id) AS image, area, score FROM regions",
    )
    sums = {
        (row["date"], row["class_id"]): row
        for row in database.table(
            "WITH i AS (SELECT date, class_id, count(*)::DOUBLE AS c, sum(score)::DOUBLE AS s, sum(log2(area)) AS l "
            "FROM measured GROUP BY date, class_id, image) SELECT date, class_id, sum(c) AS c, sum(c * c) AS cc, "
            "sum(s) AS s, sum(s * s) AS ss, sum(s * c) AS sc, sum(l) AS l, sum(l * l) AS ll, sum(l * c) AS lc "
            "FROM i GROUP BY date, class_id"
        ).to_pylist()
    }
    nothing: dict[str, float] = defaultdict(float)
    return {
        date: {
            number: _class_night(
                pixels.get((date, number), nothing), sums.get((date, number), nothing), count
            )
            for number in classes
        }
        for date, count in images.items()
    }


def _class_night(p: dict[str, float], r: dict[str, float], images: int) -> ClassNight:
    figures: dict[str, Estimate | None] = {
        "share of pixels": _ratio(p["a"], p["p"], p["aa"], p["ap"], p["pp"])
    }
    per_image = r["c"] / max(1, images)
    spread = max(0.0, r["cc"] / max(1, images) - per_image**2)
    figures["regions per image"] = Estimate(per_image, math.sqrt(spread / max(1, images)))
    figures["mean score"] = _ratio(r["s"], r["c"], r["ss"], r["sc"], r["cc"])
    log_area = _ratio(r["l"], r["c"], r["ll"], r["lc"], r["cc"])
    area = 2**log_area.value if log_area else 0.0
    figures["typical area (px)"] = (
        Estimate(area, area * math.log(2) * log_area.error) if log_area else None
    )
    return ClassNight(int(p["a"]), int(r["c"]), figures)


def _ratio(top: float, bottom: float, top2: float, cross: float, bottom2: float) -> Estimate | None:
    """Return Σt/Σb over images and its standard error (Cochran 1977, Sampling Techniques, section 6.4)."""
    if not bottom:
        return None
    ratio = top / bottom
    return Estimate(
        ratio, math.sqrt(max(0.0, top2 - 2 * ratio * cross + ratio**2 * bottom2)) / bottom
    )


def _histograms(database: Workspace, classes: dict[int, str], bin_of: str) -> dict[int, Histogram]:
    found = {number: Histogram() for number in classes}
    rows = database.table(
        f"SELECT class_id, {_TONIGHT} AS now, ({bin_of})::INTEGER AS bin, count(*) AS n FROM measured GROUP BY ALL"
    )
    for row in rows.to_pylist():
        histogram = found[row["class_id"]]
        (histogram.night if row["now"] else histogram.before)[row["bin"]] = row["n"]
    return found


def _errors(database: Workspace) -> list[tuple[str, int, list[tuple[str, str]]]]:
    """Return what kept images from being done that night; those that a later run of it did are none."""
    rows = database.table(
        "WITH failed AS (SELECT image_uri, max_by(error_type, segmented_at) AS error_type, "
        "max_by(error, segmented_at) AS error FROM tonight WHERE error_type IS NOT NULL GROUP BY image_uri), "
        "left_over AS (FROM failed ANTI JOIN (FROM tonight WHERE error_type IS NULL) AS good USING (image_uri)) "
        "SELECT error_type, image_uri, error, count(*) OVER (PARTITION BY error_type) AS n FROM left_over "
        f"QUALIFY row_number() OVER (PARTITION BY error_type ORDER BY image_uri) <= {_EXAMPLES} "
        "ORDER BY n DESC, error_type, image_uri"
    )
    found: dict[str, tuple[int, list[tuple[str, str]]]] = {}
    for row in rows.to_pylist():
        found.setdefault(row["error_type"], (row["n"], []))[1].append(
            (row["image_uri"], row["error"])
        )
    return [(kind, count, examples) for kind, (count, examples) in found.items()]
