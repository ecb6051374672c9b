"""The settings of the commands that read or tend the tables of an output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from unet_ray.errors import InputError
from unet_ray.flags import check_day


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Of what, and where to."""

    tables: str
    """Output of segmentation (URI)."""
    output: str
    """HTML file (URI)."""
    date: str | None = None
    """Partition, YYYY-MM-DD; default: the last one."""
    pictures: int = 8
    """Of each kind: most regions, largest regions, least certain regions, random."""

    def __post_init__(self) -> None:
        if not self.output.endswith(".html"):
            raise InputError(f"--output {self.output}: name a .html file")
        if self.pictures < 0:
            raise InputError(f"--pictures {self.pictures}: choose 0 or more")
        check_day("--date", self.date)


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """What to check."""

    tables: str
    """Output of segmentation (URI)."""
    images: str | None = None
    """Folder, glob or manifest (URI) of the archive: is every image of it in the ledger of the newest run's model?"""
    pixels: bool = True
    """Decode every mask and measure its regions again; --no-pixels checks rows and counts only."""


_DIGITS = 8
"""Fewest digits that name a model."""


@dataclass(frozen=True, kw_only=True)
class PruneConfig:
    """What to remove; with several conditions: what meets all of them."""

    tables: str
    """Output of segmentation (URI)."""
    model_digest: str | None = None
    """Rows of this model: its digest, or the first eight or more digits of it."""
    first_date: str | None = None
    """Rows of partitions from this day on, YYYY-MM-DD."""
    last_date: str | None = None
    """Rows of partitions up to and with this day, YYYY-MM-DD."""
    leftovers: bool = False
    """Masks and regions files without an images file go, though no record says that their run did not finish."""
    dry_run: bool = False
    """Say what would be removed, and remove nothing."""

    def __post_init__(self) -> None:
        if not self.names_runs and not self.leftovers:
            conditions = "--model-digest, --first-date, --last-date or --leftovers"
            raise InputError(f"nothing to remove is named; give {conditions}")
        if self.model_digest is not None and len(self.model_digest) < _DIGITS:
            raise InputError(f"--model-digest {self.model_digest}: give at least {_DIGITS} digits")
        for flag, day in (("first", self.first_date), ("last", self.last_date)):
            check_day(f"--{flag}-date", day)

    @property
    def names_runs(self) -> bool:
        """Whether runs are to be removed."""
        return any(
            condition is not None
            for condition in (self.model_digest, self.first_date, self.last_date)
        )

    def includes(self, day: str) -> bool:
        """Tell whether a partition is among the dates."""
        return (self.first_date or day) <= day <= (self.last_date or day)


Format = Literal["coco", "png", "geojson", "geoparquet"]


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What to export, as what, and where to."""

    tables: str
    """Output of segmentation (URI)."""
    format: Format
    """coco: one JSON; png: palette images of class ids; geojson: a file per image; geoparquet: regions on the map."""
    output: str
    """JSON file for `coco`, else a folder (URI)."""
    date: str | None = None
    """Only rows of this partition, YYYY-MM-DD; default: the latest successful row of each image."""
    polygons: bool = False
    """In COCO, outlines instead of run lengths: more tools edit them, but holes are filled."""

    def __post_init__(self) -> None:
        if self.format not in get_args(Format):
            raise InputError(f"--format {self.format}: choose {', '.join(get_args(Format))}")
        if self.format == "coco" and not self.output.endswith(".json"):
            raise InputError(f"--output {self.output}: name a .json file for --format coco")
        if self.polygons and self.format != "coco":
            raise InputError(f"--polygons is for --format coco, not {self.format}")
