"""Dataset statistics: sizes, channels, mask values and sample statistics of a labelled set.

They come from one pass over all files of the set.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray

from unet_ray.cluster.ray_data import TASK_CPUS, ordinals
from unet_ray.errors import CredentialsError, ImageError, InputError
from unet_ray.imaging.channels import ChannelSelection, InputChannels
from unet_ray.imaging.codecs.decoded_image import COLOURS
from unet_ray.imaging.codecs.pixel_size import SizeUm
from unet_ray.imaging.labels.labelling import Labelling
from unet_ray.imaging.labels.mask_values import MaskValues, add_up
from unet_ray.imaging.labels.plausibility import look_misplaced
from unet_ray.imaging.resampling import find_factors
from unet_ray.labelled_data.alignment import check_fit, settle_frame
from unet_ray.labelled_data.image_facts import ImageFacts, describe_image
from unet_ray.labelled_data.labelled_set import Encoded, LabelledSet
from unet_ray.labelled_data.readers import (
    FileReader,
    Reader,
    StoreReader,
    decoded_row,
    decoded_schema,
    fits_in_store,
    store_reader,
)
from unet_ray.labelled_data.sample_ranges import SampleRange, note_sample_ranges
from unet_ray.network.config import Normalisation
from unet_ray.network.preprocessing import ChannelStatistics, Preprocessing
from unet_ray.prefetch import ahead

_IMAGES_PER_TASK = 16
_READS = 8
"""Images whose files are read in parallel, because stores have a high latency."""
_SAMPLED_PIXELS = 2**19
"""Pixels sampled from the whole set for mean, deviation and percentiles; as many per image."""
_NAMED = 3


@dataclass(frozen=True)
class DatasetStatistics:
    """Statistics of a labelled set, and its reader."""

    facts: tuple[ImageFacts, ...]
    """Statistics of each image, in the order of the set."""
    reader: Reader
    decoded_once: bool
    """True if the images lie decoded in the object store."""
    orphans: tuple[str, ...] = ()
    """Labels without an image."""
    notes: tuple[str, ...] = ()
    """Choices that were made for the set."""
    drawn: Labelling | None = None
    """Meaning of masks that were drawn from label files; None for mask files."""

    @property
    def usable(self) -> tuple[int, ...]:
        """Indices of the images that could be read."""
        return tuple(index for index, facts in enumerate(self.facts) if facts.is_usable)

    @property
    def values(self) -> MaskValues:
        """Values that all masks hold."""
        masks = [(values, facts.mask_uri) for facts in self._read for values in facts.values]
        count = max((len(facts.values) for facts in self._read), default=0)
        of_classes = list[MaskValues]()
        if count > 1:  # the masks of each image are those of the classes in turn
            for index in range(count):
                of_classes.append(add_up(masks[index::count]))
        return replace(add_up(masks), of_classes=tuple(of_classes))

    def check_readable(self, max_error_rate: float) -> list[str]:
        """Return a line about the images that cannot be used, if there are any.

        Args:
            max_error_rate: Largest share of such images that is accepted, 0 to 1.

        Raises:
            InputError: The share is larger.
        """
        broken = [f"{facts.uri}: {facts.error}" for facts in self.facts if facts.error]
        broken += self.orphans
        if not broken:
            return []
        count = len(self.facts) + len(self.orphans)
        found = f"{len(broken)} of {count} labelled images cannot be used"
        if len(broken) > max_error_rate * count:
            raise InputError(
                f"{found}, more than --max-error-rate {max_error_rate} allows; the first is "
                f"{broken[0]}; repair or remove them, or give a higher rate"
            )
        named = broken[:_NAMED]
        if len(broken) > _NAMED:
            named.append("…")
        return [f"{found} and are skipped: {'; '.join(named)}"]

    def check_types(self) -> list[str]:
        """Return a line about grey images among images with more channels, if there are any.

        Raises:
            InputError: The images have several sample types, or several numbers of channels
                other than 1.
        """
        dtypes = _group_uris((facts.dtype, facts.uri) for facts in self._read)
        if len(dtypes) > 1:
            raise InputError(
                f"the images have samples of several types: {_format_groups(dtypes)}; "
                "convert them to one"
            )
        kinds = {facts.used.kind: facts.used for facts in self._read}
        if len(kinds) < 2:
            return []
        named = []
        for facts in self._read:
            named.append((str(kinds[facts.used.kind]), facts.uri))
        channels = _format_groups(_group_uris(named))
        if not all(each.is_grey or each.is_colour for each in kinds.values()):
            raise InputError(
                f"the images differ in their channels: {channels}; give channels that all of them "
                "have (--channels), or convert the images"
            )
        return [f"{channels}: grey images are repeated over the channels"]

    def find_inputs(self, indices: Sequence[int]) -> InputChannels:
        """Return the input channels of a network that learns from some of the images.

        Args:
            indices: Indices of the images in the set, which agree in their channels.
        """
        chosen = [self.facts[index] for index in indices]
        widest = max(chosen, key=lambda facts: facts.channels)
        used, places = widest.used, widest.places
        if used.keys:
            return InputChannels(used.count, names=used.names)
        are_all = places == tuple(range(widest.file_channels))
        # three channels without names must not be taken for colours
        if are_all and used.count != len(COLOURS):
            return InputChannels(used.count)
        counts = {facts.file_channels for facts in chosen}
        image_channels = counts.pop() if len(counts) == 1 else None
        return InputChannels(used.count, indices=places, image_channels=image_channels)

    def note_sample_ranges(self) -> list[str]:
        """Return a line for each finding in the sample ranges that the user should know."""
        ranges = []
        for facts in self._read:
            low, high = min(facts.low), max(facts.high)
            ranges.append(SampleRange(facts.uri, facts.dtype, low, high))
        return note_sample_ranges(ranges)

    def exclude_extremes(self, constants: Preprocessing) -> DatasetStatistics:
        """Return the statistics with an error for each image whose samples overflow a network.

        Args:
            constants: Preprocessing of the network; images have its sample type and channels.
        """
        checked = list[ImageFacts]()
        for facts in self.facts:
            error = facts.error
            try:
                if facts.is_usable:
                    constants.check_range(facts.low, facts.high)
            except ImageError as failure:
                error = str(failure)
            checked.append(replace(facts, error=error))
        return replace(self, facts=tuple(checked))

    def check_fits(self, constants: Preprocessing, where: str) -> None:
        """Raise InputError if images do not have the sample type and channels of a model.

        Args:
            constants: Preprocessing of the model.
            where: Source of the images, for the message.
        """
        for facts in self._read:
            if facts.dtype != constants.dtype or facts.channels not in (1, constants.channels):
                raise InputError(
                    f"{where}: {facts.uri} has {facts.dtype} samples and {facts.channels} "
                    f"channels, but the model was trained on {constants.dtype} and "
                    f"{constants.channels}; convert the images"
                )

    def preprocessing_of(self, kind: Normalisation, indices: Sequence[int]) -> Preprocessing:
        """Compute the preprocessing constants of some of the images.

        Args:
            kind: Kind of preprocessing.
            indices: Indices of the images in the set.
        """
        chosen = [self.facts[i] for i in indices]
        channels = max(facts.channels for facts in chosen)
        low = np.array([np.broadcast_to(facts.low, channels) for facts in chosen])
        high = np.array([np.broadcast_to(facts.high, channels) for facts in chosen])
        samples_of_images = []
        for facts in chosen:
            own = facts.samples.astype(np.float64)
            samples_of_images.append(np.broadcast_to(own, (len(own), channels)))
        samples = np.concatenate(samples_of_images)
        found = ChannelStatistics(
            mean=samples.mean(0),
            deviation=samples.std(0),
            low=low.min(0),
            high=high.max(0),
            percentiles=ChannelStatistics.percentiles_of(samples),
        )
        return Preprocessing.of(kind, chosen[0].dtype, found)

    def find_factors(self, wanted_um: SizeUm | None) -> list[tuple[float, float]] | None:
        """Return the factors that give each usable image pixels of another size.

        Args:
            wanted_um: Width and height of the pixels (µm); None: they stay as they are.

        Returns:
            Factors of each image, down and across; None if images are not resampled.

        Raises:
            InputError: An image does not state its pixel size, or is too different.
        """
        if wanted_um is None:
            return None
        found = []
        for index in self.usable:
            facts = self.facts[index]
            try:
                found.append(find_factors(facts.pixel_size_um, wanted_um))
            except ImageError as error:
                raise InputError(f"{facts.uri}: {error.message}") from None
        return found

    def find_pixel_size(self, indices: Sequence[int]) -> SizeUm | None:
        """Return the median pixel size of some of the images (µm).

        Args:
            indices: Indices of the images in the set.

        Returns:
            Width and height; None if fewer than half of these images state theirs.
        """
        sizes = [self.facts[index].pixel_size_um for index in indices]
        known = [size for size in sizes if size is not None]
        if not known or 2 * len(known) < len(sizes):
            return None
        width, height = np.median(np.array(known), axis=0).tolist()
        return width, height

    @property
    def _read(self) -> list[ImageFacts]:
        return [facts for facts in self.facts if facts.is_usable]


def compute_statistics(
    labelled: LabelledSet,
    decode_once: bool = False,
    count_objects: bool = False,
    more_per_px: float = 0.0,
) -> DatasetStatistics:
    """Read all labelled images once, in Ray Data tasks.

    Args:
        labelled: Labelled set.
        decode_once: True to keep the decoded images in the object store if all of them fit.
        count_objects: True to count the components of each mask value.
        more_per_px: Bytes to store for each pixel in addition to image and masks.

    Raises:
        InputError: Images are turned by EXIF, but it is unclear whether their masks are.
        CredentialsError: The credentials for the files ended.
    """
    count = len(labelled.items)
    files = FileReader(labelled.access, labelled.items)
    keep = decode_once and fits_in_store(files, more_per_px)
    shared = ray.put(files)
    sampled = int(np.clip(_SAMPLED_PIXELS // count, 16, 4096))

    schema = pa.schema([("id", pa.int64()), ("facts", pa.large_binary())])
    if keep:
        schema = pa.unify_schemas([schema, decoded_schema(len(labelled.items[0].masks))])

    def statistics(batch: dict[str, NDArray[np.int64]]) -> pa.Table:
        """Describe a batch of images; files are read in parallel and decoded one by one."""
        mine: FileReader = ray.get(shared)
        indices = batch["id"].tolist()
        with ThreadPoolExecutor(_READS) as pool:
            encoded = ahead(pool, partial(_read_files, mine), indices, _READS)
            rows = [
                _build_row(mine, *each, sampled, keep, count_objects)
                for each in zip(indices, encoded, strict=True)
            ]
        return pa.Table.from_pylist(rows, schema=schema)

    rows = ordinals(count, count // _IMAGES_PER_TASK).map_batches(
        statistics, batch_size=None, num_cpus=TASK_CPUS
    )
    if keep:
        rows = rows.materialize()
    facts: dict[int, ImageFacts] = {}
    for row in rows.select_columns(["id", "facts"]).take_all():
        described = pickle.loads(row["facts"])  # noqa: S301 (our own tasks pickled it)
        if isinstance(described, CredentialsError):
            raise described
        facts[row["id"]] = described
    reader = store_reader(rows, count) if keep else files
    return settle_statistics(labelled, [facts[index] for index in range(count)], reader, keep)


def compute_both(
    training: LabelledSet,
    validation: LabelledSet | None,
    channels: ChannelSelection | None,
    decode_once: bool = False,
    count_objects: bool = False,
    more_per_px: float = 0.0,
) -> tuple[DatasetStatistics, DatasetStatistics | None]:
    """Compute the statistics of a labelled set and of the set to validate on, if there is one.

    Args:
        training: Labelled set.
        validation: Set to validate on; the same channels of it are used.
        channels: Channels to use of each image; None: all, which must be the same in all images.
        decode_once: True to keep the decoded images in the object store if all of them fit.
        count_objects: True to count the components of each mask value of the labelled set.
        more_per_px: Bytes to store for each pixel of the labelled set in addition to image and
            masks.

    Raises:
        InputError: Same as `compute_statistics`.
    """
    statistics = compute_statistics(
        training.with_channels(channels), decode_once, count_objects, more_per_px
    )
    if validation is None:
        return statistics, None
    if channels is None and statistics.usable:
        channels = statistics.find_inputs(statistics.usable)
    return statistics, compute_statistics(validation.with_channels(channels), decode_once)


def settle_statistics(
    labelled: LabelledSet,
    found: Sequence[ImageFacts],
    reader: FileReader | StoreReader,
    decoded_once: bool,
) -> DatasetStatistics:
    """Return the statistics of a set, with the decisions that need the whole set.

    Args:
        labelled: Labelled set.
        found: Statistics of each image.
        reader: Reader of the images.
        decoded_once: True if the images lie decoded in the object store.

    Raises:
        InputError: Images are turned by EXIF, but it is unclear whether their masks are.
    """
    options, masks = labelled.access.options, f"--masks {labelled.access.masks.uri}"
    fits = [(each.fit, each.uri) for each in found]
    frame, notes = settle_frame(fits, options.frame, masks)
    overlaps = [each.overlap for each in found if each.overlap]
    if overlaps:  # tools show the object on top, but label files do not say which one is meant
        notes.append(
            f"{sum(overlaps)} pixels in {len(overlaps)} images belong to several classes: an "
            "object drawn over one of another class counts as both, since each class has its own "
            "mask"
        )
    contrast = look_misplaced([each.edge_contrast for each in found])
    if contrast:
        notes.append(
            f"the labels look misplaced: along their outlines the images have {contrast:.2f} times "
            "the gradient beside them, as if the labels were turned, shifted, drawn too large or "
            "made for other images; look at labels.png (--dry-run writes it without training)"
        )
    found, order = _align_channels(found)
    if order:
        reader = reader.with_channels(order)
    facts = list[ImageFacts]()
    for each in found:
        error = each.error
        try:
            if each.fit is not None:
                check_fit(each.fit, frame)
        except ImageError as failure:
            error = str(failure)
        facts.append(replace(each, error=error))
    return DatasetStatistics(
        facts=tuple(facts),
        reader=replace(reader, frame=frame),
        decoded_once=decoded_once,
        orphans=labelled.orphans,
        notes=tuple(notes),
        drawn=labelled.labelling,
    )


def _align_channels(found: Sequence[ImageFacts]) -> tuple[list[ImageFacts], InputChannels | None]:
    """Bring named channels of all images into the order of the first image.

    Returns:
        The statistics in that order, and the order; None if the images have it already, or differ
        in their channels.
    """
    used = [facts.used for facts in found if facts.is_usable]
    orders = {each.keys for each in used}
    if len({each.kind for each in used}) != 1 or len(orders) == 1:
        return [*found], None
    order = InputChannels(used[0].count, names=used[0].names)
    aligned = []
    for facts in found:
        aligned.append(facts.take(order.locate(facts.used)) if facts.is_usable else facts)
    return aligned, order


def _read_files(files: FileReader, index: int) -> Encoded | ImageError | CredentialsError:
    """Return the files of an image, or the error of reading them.

    The error is not raised: other images are read in parallel, and Ray would log its whole stack.
    """
    try:
        return files.items[index].read_encoded(files.access)
    except (ImageError, CredentialsError) as error:
        return error


def _build_row(
    files: FileReader,
    index: int,
    encoded: Encoded | ImageError | CredentialsError,
    sampled: int,
    keep: bool,
    count_objects: bool,
) -> dict[str, Any]:
    if isinstance(encoded, CredentialsError):
        return {"id": index, "facts": pickle.dumps(encoded)}
    facts, decoded = describe_image(files, index, encoded, sampled, count_objects)
    row = {"id": index, "facts": pickle.dumps(facts)}
    return row | (decoded_row(decoded) if keep and decoded else {})


def _group_uris(named: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Group URIs by their key, with the most frequent key first."""
    groups: dict[str, list[str]] = {}
    for key, uri in named:
        groups.setdefault(key, []).append(uri)
    return dict(sorted(groups.items(), key=lambda item: -len(item[1])))


def _format_groups(groups: dict[str, list[str]]) -> str:
    shown = []
    for key, uris in groups.items():
        shown.append(f"{len(uris)} of {key} (for instance {uris[0]})")
    return ", ".join(shown)
