"""The outcome of a segmentation run, as its record holds it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from unet_ray.imaging.codecs.pixel_size import format_pixel_size

_NAMED = 3
"""Number of pixel sizes that a line names."""


@dataclass(frozen=True)
class ShardSums:
    """Sums over the images of one shard."""

    number: int
    """Number of the shard within its run."""
    images: int
    """Its images, failed ones included."""
    error_types: Counter[str]
    """Failed images by error type."""
    error_messages: Counter[str]
    """The most frequent error messages and their counts."""
    batch_divisor: int
    megapixels: float
    regions: Counter[str]
    """Regions by name of their class."""
    stage_s: Counter[str]
    """Seconds that each stage worked."""
    other_pixel_sizes: Counter[str] = field(default_factory=Counter)
    """Images whose pixel size differs from the model's, by pixel size as text."""
    notes: Counter[str] = field(default_factory=Counter)
    """Images by the choice made where their files can be read in two ways."""
    taken_over: int = 0
    """Images whose rows were taken over, because only their etag had changed."""


@dataclass
class SegmentResult:
    """Fields of a run's record that are found during the run."""

    run_id: str
    date: str = ""
    """Partition of its rows, YYYY-MM-DD."""
    image_roots: list[str] = field(default_factory=list)
    """Folders or buckets (URIs) below which its images lie."""
    status: str = "running"
    exit_code: int | None = None
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    ended_at: datetime | None = None
    images_listed: int = 0
    images_skipped: int = 0
    images_archived: int = 0
    """Images left out because they must be restored from an archive first."""
    images_done: int = 0
    images_failed: int = 0
    images_taken_over: int = 0
    """Images done whose rows were taken over, because only their etag had changed."""
    shards: list[int] = field(default_factory=list)
    """Numbers of the shards written: `date=DATE/RUN_ID-NUMBER.parquet` in each table."""
    regions: dict[str, int] = field(default_factory=dict)
    megapixels: float = 0.0
    elapsed_s: float = 0.0
    first_images: int = 0
    """Images of the first measured block."""
    first_images_at: datetime | None = None
    """Time at which the first block was measured; everything before it is start-up."""
    steady_images_per_s: float = 0.0
    """Rate after the first block of images, which waits for actors to start."""
    stage_s: dict[str, float] = field(default_factory=dict)
    """Seconds that each stage worked, summed over its processes."""
    predictor_busy_share: float = 0.0
    node_hours: dict[str, float] = field(default_factory=dict)
    """Hours that nodes were up while the chain ran, by type of node."""
    cost: dict[str, Any] | None = None
    """Cost of these hours, if their price was given."""
    object_store_bytes: int = 0
    """Bytes that the stages handed to each other."""
    spilled_bytes: int = 0
    """Bytes that Ray wrote to disk for lack of memory, for this run and all else on the cluster."""
    is_exact: bool = True
    """True if tiles give the same result as whole images; false with a --context too small."""
    batch_divisor: int = 1
    """Largest divisor of the batch size after a predictor ran out of memory; 1: none did."""
    error_types: dict[str, int] = field(default_factory=dict)
    """Failed images by error type."""
    error_messages: dict[str, int] = field(default_factory=dict)
    """The most frequent error messages of each shard and their counts, the most frequent first."""
    set_aside: list[list[str]] = field(default_factory=list)
    """Groups of images whose process died twice, and that are not done yet. A later run segments
    these groups separately."""
    model_pixel_size_um: tuple[float, float] | None = None
    """Median width and height of the pixels that the model was trained on (µm), if known."""
    notes: dict[str, int] = field(default_factory=dict)
    """Images by the choice made where their files can be read in two ways."""
    other_pixel_sizes: dict[str, int] = field(default_factory=dict)
    """Successful images whose pixel size differs from the model's by more than a quarter, by pixel
    size with two digits, such as `0.25 µm`; the most frequent first."""
    decoder_confinement: dict[str, int] = field(default_factory=dict)
    """Number of decoders by the measures that confine them."""
    message: str = ""

    def add(self, sums: ShardSums) -> None:
        """Add the sums of a committed shard."""
        failed = sums.error_types.total()
        self.shards = sorted([*self.shards, sums.number])
        self.images_done += sums.images - failed
        self.images_failed += failed
        self.images_taken_over += sums.taken_over
        self.megapixels += sums.megapixels
        self.batch_divisor = max(self.batch_divisor, sums.batch_divisor)
        for name in (
            "stage_s",
            "regions",
            "error_types",
            "error_messages",
            "other_pixel_sizes",
            "notes",
        ):
            counts = Counter[str](getattr(self, name))
            counts.update(getattr(sums, name))
            setattr(self, name, dict(counts.most_common()))

    @property
    def images_per_s(self) -> float:
        """Successful images of the chain per second of its running time."""
        done = self.images_done - self.images_taken_over
        return done / self.elapsed_s if self.elapsed_s else 0.0

    @property
    def megapixels_per_s(self) -> float:
        """Megapixels per second, of successful images and of failed ones that were decoded."""
        return self.megapixels / self.elapsed_s if self.elapsed_s else 0.0


def describe_archived(count: int) -> str:
    """Say how many images are left out because they must be restored first."""
    return f"{count} archived images are left out; restore them and run again"


def describe_other_sizes(
    sizes: Mapping[str, int], model_size_um: Sequence[float] | None
) -> str | None:
    """Return a line about images whose pixel size differs from that of a model.

    Args:
        sizes: Number of these images by their size, the most frequent first.
        model_size_um: Width and height of the pixels that the model was trained on (µm).

    Returns:
        The line; None if there are no such images.
    """
    if not sizes or not model_size_um:
        return None
    named = [
        f"{count:,} {'image' if count == 1 else 'images'} at {size}"
        for size, count in list(sizes.items())[:_NAMED]
    ]
    left = sum(list(sizes.values())[_NAMED:])
    others = [f"{left:,} at other sizes"] if left else []
    trained = format_pixel_size((model_size_um[0], model_size_um[1]))
    return f"{', '.join([*named, *others])}, the model was trained at {trained}"
