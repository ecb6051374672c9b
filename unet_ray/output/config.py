"""Settings of the commands that read or maintain the tables of an output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from unet_ray.errors import InputError
from unet_ray.flags import check_day, check_fields, check_numbers, parse_patterns, parse_uris
from unet_ray.store_options import check_store_options, read_store_options


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Settings of the report: its tables, its date and its HTML file."""

    tables: str
    """Output of segmentation (URI)."""
    tables_options: str | None = None
    """Options of the store of --tables (NAME=VALUE,…), where it is not that of the AWS_* variables:
    requester_pays, anon, endpoint_url, profile, region, addressing_style, ca_bundle."""
    output: str
    """HTML file to write (URI)."""
    output_options: str | None = None
    """Options of the store of --output, as for --tables."""
    date: str | None = None
    """Partition to report on, YYYY-MM-DD; default: the last one."""
    pictures: int = 8
    """Number of pictures of each kind: most regions, largest, least certain, random."""
    image_roots: str | None = None
    """Folders or buckets (URIs, separated by commas) below which images are opened for pictures.
    Default: those of the runs, if they are in the bucket of --tables, or both on local disks."""
    images_options: str | None = None
    """Options of the store of the images, as for --tables."""

    def __post_init__(self) -> None:
        check_store_options(self, "tables", (self.tables,))
        check_store_options(self, "output", (self.output,))
        read_store_options(self, "images")
        if not self.output.endswith(".html"):
            raise InputError(f"--output {self.output}: name a .html file")
        check_fields(self, ["pictures"], lambda value: 0 <= value <= 1000, "0 to 1000")
        check_numbers(self)
        check_day("--date", self.date)
        parse_uris(self.image_roots, "--image-roots")


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """Settings of verify: the tables and what to check them against."""

    tables: str
    """Output of segmentation (URI)."""
    tables_options: str | None = None
    """Options of the store of --tables (NAME=VALUE,…), where it is not that of the AWS_* variables:
    requester_pays, anon, endpoint_url, profile, region, addressing_style, ca_bundle."""
    images: str | None = None
    """Archive (folder, glob or manifest URI); each image needs a row of the newest run's model."""
    images_options: str | None = None
    """Options of the store of --images, as for --tables."""
    include: str | None = None
    """Expect rows only of the images that segment does with this --include."""
    exclude: str | None = None
    """Expect no rows of the images that segment leaves out with this --exclude."""
    image_roots: str | None = None
    """Folders or buckets (URIs, separated by commas) below which the files of a manifest lie, as
    for segment."""
    follow_links: bool = False
    """Expect rows of the images that segment finds with --follow-links."""
    pixels: bool = True
    """Decode every mask and measure its regions again; --no-pixels checks only rows and counts."""

    def __post_init__(self) -> None:
        check_store_options(self, "tables", (self.tables,))
        check_store_options(self, "images", (self.images,))
        parse_patterns(self.include, "--include")
        parse_patterns(self.exclude, "--exclude")
        parse_uris(self.image_roots, "--image-roots")


_MIN_DIGITS = 8
"""Fewest digits that name a model."""


@dataclass(frozen=True, kw_only=True)
class PruneConfig:
    """Settings of prune: images to remove, or conditions for runs to remove.

    A run is removed if it meets all the conditions that are given.
    """

    tables: str
    """Output of segmentation (URI)."""
    tables_options: str | None = None
    """Options of the store of --tables (NAME=VALUE,…), where it is not that of the AWS_* variables:
    requester_pays, anon, endpoint_url, profile, region, addressing_style, ca_bundle."""
    model_digest: str | None = None
    """Remove rows of this model: its digest, or at least its first eight digits."""
    first_date: str | None = None
    """Remove rows of partitions from this day on, YYYY-MM-DD."""
    last_date: str | None = None
    """Remove rows of partitions up to and including this day, YYYY-MM-DD."""
    image: str | None = None
    """Remove the rows of these images from all runs, as after withdrawn consent: URIs, separated by
    commas; that of a file stands for all its pages."""
    leftovers: bool = False
    """Remove masks and regions files without an images file, even those of
    runs that no record calls unfinished."""
    damaged: bool = False
    """Remove shards that have a damaged file; the next segment does their images again."""
    dry_run: bool = False
    """Report what would be removed, and remove nothing."""

    def __post_init__(self) -> None:
        check_store_options(self, "tables", (self.tables,))
        if not (self.names_runs or self.leftovers or self.damaged or self.image is not None):
            raise InputError(
                "nothing to remove; give --model-digest, --first-date, --last-date, "
                "--image, --leftovers or --damaged"
            )
        if self.image is not None and self.names_runs:
            raise InputError(
                f"--image {self.image} removes rows from all runs; give it without "
                "--model-digest, --first-date and --last-date"
            )
        if self.image is not None and not all(part.strip() for part in self.image.split(",")):
            raise InputError(
                f"--image {self.image!r}: an empty URI; give URIs, separated by commas"
            )
        if self.model_digest is not None and len(self.model_digest) < _MIN_DIGITS:
            raise InputError(
                f"--model-digest {self.model_digest}: give at least {_MIN_DIGITS} digits"
            )
        check_day("--first-date", self.first_date)
        check_day("--last-date", self.last_date)

    @property
    def names_runs(self) -> bool:
        """True if a condition for runs to remove is given."""
        conditions = (self.model_digest, self.first_date, self.last_date)
        return any(condition is not None for condition in conditions)

    def includes(self, day: str) -> bool:
        """Tell whether a partition lies in the range of dates."""
        return (self.first_date or day) <= day <= (self.last_date or day)


Format = Literal["coco", "png", "geojson", "geoparquet"]


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Settings of export: the tables, the format and the destination."""

    tables: str
    """Output of segmentation (URI)."""
    tables_options: str | None = None
    """Options of the store of --tables (NAME=VALUE,…), where it is not that of the AWS_* variables:
    requester_pays, anon, endpoint_url, profile, region, addressing_style, ca_bundle."""
    format: Format
    """coco: one JSON; png: class ids; geojson: a file per image; geoparquet: regions on a map."""
    output: str
    """JSON file for `coco`, a folder for the other formats (URI)."""
    output_options: str | None = None
    """Options of the store of --output, as for --tables."""
    date: str | None = None
    """Export only this partition, YYYY-MM-DD; default: the latest successful row of each image."""
    polygons: bool = False
    """Write COCO polygons instead of run lengths: more tools edit them, but holes are filled."""
    image_roots: str | None = None
    """Folders or buckets (URIs, separated by commas) below which images are opened for their place
    on the map. Default: those of the runs, if they are in the bucket of --tables, or both on local
    disks."""
    images_options: str | None = None
    """Options of the store of the images, as for --tables."""

    def __post_init__(self) -> None:
        check_store_options(self, "tables", (self.tables,))
        check_store_options(self, "output", (self.output,))
        read_store_options(self, "images")
        if self.format not in get_args(Format):
            raise InputError(f"--format {self.format}: choose {', '.join(get_args(Format))}")
        if self.format == "coco" and not self.output.endswith(".json"):
            raise InputError(f"--output {self.output}: name a .json file for --format coco")
        if self.polygons and self.format != "coco":
            raise InputError(f"--polygons is for --format coco, not {self.format}")
        parse_uris(self.image_roots, "--image-roots")
