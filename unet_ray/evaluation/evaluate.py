"""Evaluate a trained model on labelled images.

Counts per image give the metrics of pixels, objects and boundaries per class.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from unet_ray.cluster.actor_pool import plan_pool
from unet_ray.cluster.session import connect, quiet_ray
from unet_ray.evaluation.config import EvaluateConfig
from unet_ray.flags import COLOUR_TEXT, ClassSpec, is_colour, show_value
from unet_ray.imaging.labels.labelling import Labelling
from unet_ray.imaging.metrics.metrics import (
    COUNTS,
    METRICS,
    add_up_groups,
    bootstrap_intervals,
    compute_metrics,
    count_image,
    pool_metrics,
)
from unet_ray.imaging.regions.postprocessing import Postprocessing
from unet_ray.labelled_data.alignment import LabelledPixels
from unet_ray.labelled_data.find_labelled import find_labelled
from unet_ray.labelled_data.grouping.groups import Grouping, find_grouping
from unet_ray.labelled_data.interpretation import interpret_masks
from unet_ray.labelled_data.predict_labelled import predict_labelled
from unet_ray.labelled_data.statistics import compute_statistics
from unet_ray.network.model_folder import Model, load_model
from unet_ray.storage.output_file import OutputFile
from unet_ray.storage.storage import Storage
from unet_ray.store_options import StoreOptions, keep_for, read_store_options
from unet_ray.tables.parquet_file import to_parquet
from unet_ray.tables.schemas import column

_logger = logging.getLogger("unet_ray")

_SEED = 0
_MOST_GROUPS = 1000
"""Largest number of groups whose figures are in the JSON file; the Parquet file names the group of
each image."""
_TOTALS = (
    *("true_positive", "false_positive", "false_negative", "pixels"),
    *("true_objects", "found_objects", "split_objects", "merged_objects"),
)
"""Counts in the JSON file; the Parquet file has all."""


@dataclass(frozen=True)
class EvaluateResult:
    """Counts of every image, and the metrics that follow from them."""

    config: EvaluateConfig
    model: Model
    image_uris: tuple[str, ...]
    counts: NDArray[np.float64]
    """Counts per image and class; (images, classes, COUNTS), float64."""
    grouping: Grouping | None = None
    """Groups of the images, from which intervals are resampled; None: each image is a group."""

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self.image_uris)

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """Group of each image."""
        return self.grouping.groups if self.grouping else self.image_uris

    def metrics(self) -> dict[str, Any]:
        """Return the content of the JSON file; undefined values are null.

        `image_iou`, `image_dice` and `adapted_rand_error` are means over the images in which they
        are defined: those in which the class is present or found (for the last one: present). All
        others come from counts summed over all images.
        """
        values = {name: found[0] for name, found in pool_metrics(self.counts).items()}
        totals = dict(zip(COUNTS, self.counts.sum(0).T, strict=True))
        values |= {name: totals[name].astype(np.int64) for name in _TOTALS}
        return {
            "model_digest": self.model.digest,
            "config": asdict(self.config),
            "images": self.images,
            "classes": self._by_class(values),
            "intervals": self._by_class(self.intervals),
            "groups": self._describe_groups(),
            "worst": self.worst,
        }

    @cached_property
    def intervals(self) -> dict[str, NDArray[np.float64]]:
        """95 % confidence intervals of each metric, (classes, 2); empty without resamples."""
        resamples = self.config.bootstrap
        if not resamples:
            return {}
        return bootstrap_intervals(self.counts, resamples, _SEED, self._numbered_groups)

    @cached_property
    def _numbered_groups(self) -> NDArray[np.int64]:
        """Number of the group of each image, in the order in which groups first occur."""
        numbers = {group: number for number, group in enumerate(dict.fromkeys(self.groups))}
        return np.array([numbers[group] for group in self.groups], np.int64)

    def _describe_groups(self) -> dict[str, Any]:
        """Return what groups are, how many there are, and the figures of each if it has several.

        Figures come from counts summed over the images of the group.
        """
        names = list(dict.fromkeys(self.groups))
        about = {"by": self.grouping.by if self.grouping else "image", "count": len(names)}
        if len(names) in (1, self.images) or len(names) > _MOST_GROUPS:
            return about
        metrics = compute_metrics(add_up_groups(self.counts, self._numbered_groups))
        sizes = np.bincount(self._numbered_groups).tolist()
        figures = {}
        for number, name in enumerate(names):
            of_group = {metric: values[number] for metric, values in metrics.items()}
            figures[name] = {"images": sizes[number]} | self._by_class(of_group)
        return about | {"figures": figures}

    @cached_property
    def worst(self) -> list[dict[str, Any]]:
        """Worst images, worst first, by mean Dice over the classes that are present or found."""
        dice = compute_metrics(self.counts)["dice"]
        num_defined = (~np.isnan(dice)).sum(1)
        mean = np.nansum(dice, 1) / np.maximum(num_defined, 1)
        order = [image for image in np.argsort(mean, kind="stable") if num_defined[image]]
        names = [spec.name for spec in self.model.classes]
        worst = []
        for image in order[: self.config.worst]:
            dice_of_classes = map(_to_json, dice[image])
            row = {
                "image_uri": self.image_uris[image],
                "dice": _to_json(mean[image]),
                "classes": dict(zip(names, dice_of_classes, strict=True)),
            }
            worst.append(row)
        return worst

    def table(self) -> pa.Table:
        """Return all counts and metrics as an Arrow table in the order of the images.

        There is one row per image and class.
        """
        num_images, num_classes = self.counts.shape[:2]
        classes = self.model.classes
        uris = np.repeat(np.array(self.image_uris, object), num_classes)
        groups = np.repeat(np.array(self.groups, object), num_classes)
        ids = [spec.id for spec in classes] * num_images
        names = [spec.name for spec in classes] * num_images
        columns = {
            column("image_uri", pa.string(), "URI of the image"): uris,
            column("class_id", pa.int32(), "id of the class"): ids,
            column("class_name", pa.string(), "name of the class"): names,
        }
        for index, (name, meaning) in enumerate(COUNTS.items()):
            kind = pa.float64() if name == "iou_sum" else pa.int64()
            columns[column(name, kind, meaning)] = self.counts[..., index].ravel()
        metrics = compute_metrics(self.counts)
        for name, meaning in METRICS.items():
            field = column(name, pa.float64(), f"{meaning}; null where undefined", True)
            columns[field] = metrics[name].ravel()
        columns[column("group", pa.string(), "group of images that belong together")] = groups
        arrays = []
        for field, values in columns.items():
            arrays.append(pa.array(values, from_pandas=True).cast(field.type))
        return pa.table(arrays, pa.schema(list(columns)))

    def _by_class(self, values: dict[str, NDArray[Any]]) -> dict[str, dict[str, Any]]:
        """Return class name → name → value from arrays whose first axis is the classes."""
        of_classes = {}
        for place, spec in enumerate(self.model.classes):
            own = {name: _to_json(array[place]) for name, array in values.items()}
            of_classes[spec.name] = own
        return of_classes


@quiet_ray()
def evaluate(config: EvaluateConfig, ray_address: str = "local") -> EvaluateResult:
    """Predict every labelled image and compare it with its masks.

    Args:
        config: Settings of the evaluation.
        ray_address: Ray to run on: `local` starts one, else `auto` or the address of a cluster.

    Returns:
        Counts of every image.

    Raises:
        InputError: The flags, the model or the labelled images cannot be used.
    """
    model = load_model(Storage.of(config.model, read_store_options(config, "model")))
    options = read_store_options(config, "output")
    pixel_size_um = model.choose_pixel_size(config.pixel_size)
    summary = _find_output("--output", config.output, options)
    details = _find_output("--per-image", config.per_image, options)
    config, classes = _recall_colours(config, model)
    channels = model.select_channels(config.channels)
    labelled = find_labelled(config.images, config.masks, config.label_options(classes))
    grouping = find_grouping(config.group_by, labelled, config.images)
    connect(ray_address)
    pool = plan_pool(config.actors, config.device)
    statistics = compute_statistics(labelled.with_channels(channels), decode_once=True)
    statistics.check_fits(model.preprocessing, f"--images {config.images}")
    statistics = statistics.exclude_extremes(model.preprocessing)
    notes = statistics.check_readable(config.max_error_rate)
    labelling, more = interpret_masks(config, labelled, statistics)
    grouping = grouping.take(statistics.usable)
    notes += more + _note_groups(grouping, config.bootstrap)
    for note in [*labelled.notes, *statistics.notes, *notes]:
        _logger.info(f"note: {note}")
    count = partial(count_against, model.postprocessing, labelling, config.boundary_tolerance)
    factors = statistics.find_factors(pixel_size_um)
    counts = predict_labelled(
        model=model,
        reader=statistics.reader,
        indices=statistics.usable,
        pool=pool,
        count=count,
        factors=factors,
    )
    uris = tuple(statistics.facts[index].uri for index in statistics.usable)
    result = EvaluateResult(config, model, image_uris=uris, counts=counts, grouping=grouping)
    if details:
        details.write(to_parquet(result.table()))
    if summary:
        summary.write(json.dumps(result.metrics(), indent=2).encode())
    return result


def _find_output(flag: str, uri: str | None, options: StoreOptions) -> OutputFile | None:
    """Return the file that a flag names; None if it names none."""
    return OutputFile.of(flag, uri, keep_for(uri, options)) if uri else None


def _note_groups(grouping: Grouping, resamples: int) -> list[str]:
    """Return lines about the groups from which intervals are resampled."""
    notes = [*grouping.notes]
    num_images = len(grouping.groups)
    if resamples and grouping.count == 1 and num_images > 1:
        notes.append(
            f"all {num_images} images are in one group ({grouping.groups[0]}): there are no "
            "intervals, which need several groups"
        )
    return notes


def _recall_colours(
    config: EvaluateConfig, model: Model
) -> tuple[EvaluateConfig, tuple[ClassSpec, ...]]:
    """Return the settings and classes with the colours that masks had in training, if they had any.

    The record of a training may have any content: another program, or an earlier version of this
    one, may have written the model.
    """
    labelling = model.training.get("labelling")
    if not isinstance(labelling, dict):
        return config, model.classes
    background, known = labelling.get("background"), labelling.get("classes")
    if config.background_value == 0 and isinstance(background, int) and is_colour(background):
        config = replace(config, background_value=show_value(background))
    colours: dict[int, str] = {}
    for each in known if isinstance(known, list | tuple) else ():
        if not isinstance(each, dict) or not isinstance(each.get("id"), int):
            continue
        colour = each.get("colour")
        if isinstance(colour, str) and COLOUR_TEXT.fullmatch(colour):
            colours[each["id"]] = colour
    classes = [
        replace(spec, colour=colours[spec.id]) if spec.id in colours else spec
        for spec in model.classes
    ]
    return config, tuple(classes)


def count_against(
    postprocessing: Postprocessing,
    labelling: Labelling,
    boundary_tolerance_px: int,
    prob_u8_khw: NDArray[np.uint8],
    labelled: LabelledPixels,
) -> NDArray[np.float64]:
    """Compare the prediction of an image with its masks, after postprocessing.

    Args:
        postprocessing: Settings that turn probabilities into masks and objects.
        labelling: Meaning of the mask values.
        boundary_tolerance_px: Largest distance at which boundaries match (px).
        prob_u8_khw: Probabilities of each class, (K, H, W) uint8.
        labelled: The image with its masks.

    Returns:
        Counts, (classes, COUNTS).
    """
    _, masks, valid = labelled
    targets = labelling.targets(masks, valid)
    planes, found, truth = [], [], []
    for place in range(len(targets)):
        mask, objects = postprocessing.objects(place, prob_u8_khw)
        planes.append(mask)
        found.append(objects)
        truth.append(labelling.objects(masks, place, valid))
    return count_image(
        masks_khw=np.stack(planes),
        targets_khw=targets,
        found_objects=found,
        true_objects=truth,
        boundary_tolerance_px=boundary_tolerance_px,
    )


def _to_json(value: np.number[Any] | NDArray[Any]) -> object:
    """Return a number or an array of numbers for JSON; None if it is undefined."""
    return None if np.isnan(value).any() else value.tolist()
