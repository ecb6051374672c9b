"""Settings of a segmentation run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from unet_ray.errors import InputError
from unet_ray.flags import (
    MAX_MINUTES,
    Device,
    EtagBy,
    Reread,
    check_day,
    check_fields,
    check_numbers,
    parse_age,
    parse_channels,
    parse_patterns,
    parse_pixel_size,
    parse_prices,
    parse_range,
    parse_uris,
)
from unet_ray.limits import MAX_REGIONS
from unet_ray.network.config import Precision, PredictorConfig
from unet_ray.store_options import check_store_options


@dataclass(frozen=True, kw_only=True)
class SegmentConfig:
    """Settings of `segment`: the model, the images, the output, and how to run."""

    model: str
    """Model folder (URI) that jobs/train.py wrote."""
    images: str
    """Folder (recursive), glob or Parquet manifest (URI) of the images."""
    output: str
    """Folder (URI) of the tables; a later run with the same folder does only what is new."""
    model_options: str | None = None
    """Options of the store of --model, as for --images."""
    images_options: str | None = None
    """Options of the store of --images (NAME=VALUE,…), where it is not that of the AWS_* variables:
    requester_pays, anon, endpoint_url, profile, region, addressing_style, ca_bundle."""
    output_options: str | None = None
    """Options of the store of --output, as for --images."""
    include: str | None = None
    """Do only images whose path below --images, or whose file name, matches one of these shell
    patterns, separated by commas; * matches / too."""
    exclude: str | None = None
    """Leave out images that match one of these patterns, even if --include names them."""
    min_age: str | None = None
    """Leave out files modified less than this ago (90s, 30m, 1h, 2d), which may still be uploading;
    a later run does them."""
    image_roots: str | None = None
    """Folders or buckets (URIs, separated by commas) below which the files of a manifest lie.
    Default: the bucket of the manifest, or its folder on a local disk."""
    follow_links: bool = False
    """Follow symbolic links that lead out of --images; otherwise they are left out and counted."""
    channels: str | None = None
    """Channels of the images that the network takes, by name or index from 0: DAPI,actin or 0,2.
    Default: those that the model was trained on."""
    date: str | None = None
    """Label of the partition, YYYY-MM-DD; default: the day the run starts (UTC)."""
    actors: str | None = None
    """Predictor actors, N or MIN,MAX; default: one per GPU, or one per four CPUs."""
    device: Device = "auto"
    """Device of the network; auto: GPUs if the cluster has them."""
    precision: Precision = PredictorConfig.precision
    """Arithmetic of the network. If the hardware has it, bfloat16 is several times as fast on GPUs
    and nearly twice as fast on CPUs; prob_u8 then differs by a few."""
    tile: int = PredictorConfig.tile
    """Side of the tiles in which larger images are predicted (px); not visible in the result."""
    context: int | None = None
    """Pixels read around the tile core; default: as many as make tiles exact. Fewer are faster and
    not exact."""
    pixel_size: str | None = None
    """Pixel size at which the network sees images: a number (µm), or model for that of its training
    images. They are resampled for the network only: masks and regions are in their own pixels.
    Images that do not state their pixel size fail. Default: never resampled."""
    threshold: float | None = None
    """Lowest probability at which a pixel belongs to a class; default: the model's own."""
    min_area: int | None = None
    """Smallest area of a region (px); smaller ones are dropped, masks keep their pixels. Default:
    the model's own, else 1."""
    min_score: float | None = None
    """Lowest mean probability of a region; regions below it are dropped, masks keep their pixels.
    Default: the model's own, else 0."""
    max_regions: int = MAX_REGIONS
    """Largest number of regions of a class in an image, small ones included; more are the error
    too_large."""
    lossy_samples: bool = False
    """Round whole numbers beyond 16,777,216, which 32-bit floats do not hold; otherwise images with
    such samples are error rows."""
    shard_images: int = 2000
    """Images per shard, which is what a crash can cost. A shard closes sooner once its rows reach
    64 MiB."""
    max_error_rate: float = 0.01
    """Share of failed images above which the exit code is 3."""
    stall_minutes: float = 30.0
    """Longest time without a measured image (min). Then the run ends; what is written is kept, and
    running it again goes on."""
    node_price: str | None = None
    """Price of a node hour, and TYPE=PRICE,… for node types with another price; the run record then
    has the cost."""
    retry_failed: bool = False
    """Retry images that failed before with the same content."""
    reread: Reread | None = None
    """Redo files that earlier versions read in another way: stacks (files of several images, where
    planes were read as pages) or nodata (TIFF, PNG and WebP, where pixels without data were read as
    values). Only rows with a reader_version then count as done."""
    etag_by: EtagBy = "store"
    """Sign that an image changed. store: its etag; it is done again if that differs.
    content: its bytes, of which the ledger then keeps a hash; an image with another etag is read,
    and if its bytes are those of its last row, the rows are taken over without the network.
    Switching redoes nothing."""
    limit: int | None = None
    """Largest number of images to do."""
    allow_empty: bool = False
    """Continue if the archive has no image at all although the tables have rows of it."""
    dry_run: bool = False
    """Report what there is to do, and do nothing."""

    def __post_init__(self) -> None:
        for name in ("model", "images", "output"):
            check_store_options(self, name, (getattr(self, name),))
        parse_patterns(self.include, "--include")
        parse_patterns(self.exclude, "--exclude")
        parse_age(self.min_age, "--min-age")
        parse_uris(self.image_roots, "--image-roots")
        parse_channels(self.channels)
        parse_pixel_size(self.pixel_size)
        check_day("--date", self.date)
        check_fields(self, ["threshold"], lambda value: 0 < value <= 1, "above 0 up to 1")
        shares = ("min_score", "max_error_rate")
        check_fields(self, shares, lambda value: 0 <= value <= 1, "0 to 1")
        counts = ("min_area", "max_regions", "shard_images", "limit")
        check_fields(self, counts, lambda value: 1 <= value < 2**31, f"1 to {2**31 - 1}")
        check_fields(
            self,
            ["stall_minutes"],
            lambda value: 0 < value <= MAX_MINUTES,
            f"above 0 up to {MAX_MINUTES}",
        )
        check_numbers(self)
        if self.actors is not None:
            parse_range(self.actors, "--actors")
        if self.node_price is not None:
            parse_prices(self.node_price)
        if self.precision not in get_args(Precision):
            raise InputError(
                f"--precision {self.precision}: choose {' or '.join(get_args(Precision))}"
            )
        if self.reread is not None and self.reread not in get_args(Reread):
            raise InputError(f"--reread {self.reread}: choose {' or '.join(get_args(Reread))}")
        if self.etag_by not in get_args(EtagBy):
            raise InputError(f"--etag-by {self.etag_by}: choose {' or '.join(get_args(EtagBy))}")
        PredictorConfig(tile=self.tile, context=self.context)
