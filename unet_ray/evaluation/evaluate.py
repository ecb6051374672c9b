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
from unet_ray.flags import (
    COLOUR_TEXT,
    ClassSpec,
    is_colour,
    keep_for,
    read_store_options,
    show_value,
)
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
    """Groups of the images, over which intervals are; None: each image is one."""

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
        others come from counts added up over all images.
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

        Figures come from counts added up over the images of the group.
        """
        names = list(dict.fromkeys(self.groups))
        about = {"by": self.grouping.by if self.grouping else "image", "count": len(names)}
        if len(names) in (1, self.images) or len(names) > _MOST_GROUPS:
            return about
        found = compute_metrics(add_up_groups(self.counts, self._numbered_groups))
        sizes = np.bincount(self._numbered_groups).tolist()
        figures = {
            name: {"images": sizes[i]} | self._by_class({key: of[i] for key, of in found.items()})
            for i, name in enumerate(names)
        }
        return about | {"figures": figures}

    @cached_property
    def worst(self) -> list[dict[str, Any]]:
        """Worst images, worst first, by mean Dice over the classes that are present or found."""
        dice = compute_metrics(self.counts)["dice"]
        defined = (~np.isnan(dice)).sum(1)
        mean = np.nansum(dice, 1) / np.maximum(defined, 1)
        order = [i for i in np.argsort(mean, kind="stable") if defined[i]]
        names = [c.name for c in self.model.classes]
        return [
            {
                "image_uri": self.image_uris[i],
                "dice": _plain(mean[i]),
                "classes": dict(zip(names, map(_plain, dice[i]), strict=True)),
            }
            for i in order[: self.config.worst]
        ]

    def table(self) -> Any:
        """Return all counts and metrics as an Arrow table in the order of the images.

        There is one row per image and class.
        """
        count, classes = self.counts.shape[:2]
        columns = {
            column("image_uri", pa.string(), "URI of the image"): np.repeat(
                np.array(self.image_uris, object), classes
            ),
            column("class_id", pa.int32(), "id of the class"): [c.id for c in self.model.classes]
            * count,
            column("class_name", pa.string(), "name of the class"): [
                c.name for c in self.model.classes
            ]
            * count,
        }
        for (name, meaning), values in zip(
            COUNTS.items(), np.moveaxis(self.counts, -1, 0), strict=True
        ):
            columns[column(name, pa.float64() if name == "iou_sum" else pa.int64(), meaning)] = (
                values.ravel()
            )
        metrics = compute_metrics(self.counts)
        for name, meaning in METRICS.items():
            columns[column(name, pa.float64(), f"{meaning}; null where undefined", True)] = metrics[
                name
            ].ravel()
        groups = np.repeat(np.array(self.groups, object), classes)
        columns[column("group", pa.string(), "group of images that belong together")] = groups
        arrays = [
            pa.array(values, from_pandas=True).cast(field.type) for field, values in columns.items()
        ]
        return pa.table(arrays, pa.schema(list(columns)))

    def _by_class(self, values: dict[str, NDArray[Any]]) -> dict[str, dict[str, Any]]:
        """Return class name → name → value from arrays whose first axis is the classes."""
        return {
            c.name: {name: _plain(of_classes[i]) for name, of_classes in values.items()}
            for i, c in enumerate(self.model.classes)
        }


@quiet_ray()
def evaluate(config: EvaluateConfig, ray_address: str = "local") -> EvaluateResult:
    """Predict every labelled image and compare it with its masks.

    Args:
        config: Settings of the evaluation.
        ray_address: Ray to run on: `local` starts one, else `auto` or the address of a cluster.

    Returns:
        Counts of every image.

    Raises:
        InputError: Anything that cannot work.
    """
    model = load_model(Storage.of(config.model, read_store_options(config, "model")))
    options = read_store_options(config, "output")
    pixel_size_um = model.choose_pixel_size(config.pixel_size)
    summary, details = (
        OutputFile.of(flag, uri, keep_for(uri, options)) if uri else None
        for flag, uri in (("--output", config.output), ("--per-image", config.per_image))
    )
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
        model, statistics.reader, statistics.usable, pool, count, factors=factors
    )
    uris = tuple(statistics.facts[i].uri for i in statistics.usable)
    result = EvaluateResult(config, model, uris, counts, grouping)
    if details:
        details.write(to_parquet(result.table()))
    if summary:
        summary.write(json.dumps(result.metrics(), indent=2).encode())
    return result


def _note_groups(grouping: Grouping, resamples: int) -> list[str]:
    """Return lines about the groups that intervals are over."""
    if grouping.count == 1 < len(grouping.groups) and resamples:
        return [
            *grouping.notes,
            f"all {len(grouping.groups)} images are in one group ({grouping.groups[0]}): there are "
            "no intervals, which need several groups",
        ]
    return [*grouping.notes]


def _recall_colours(
    config: EvaluateConfig, model: Model
) -> tuple[EvaluateConfig, tuple[ClassSpec, ...]]:
    """Return the settings and classes with the colours that masks had in training, if they had."""
    labelling = model.training.get("labelling")
    if not isinstance(labelling, dict):  # a model of an earlier version, or of another program
        return config, model.classes
    background, known = labelling.get("background"), labelling.get("classes")
    if config.background_value == 0 and isinstance(background, int) and is_colour(background):
        config = replace(config, background_value=show_value(background))
    colours = {
        each.get("id"): each.get("colour")
        for each in (known if isinstance(known, list | tuple) else ())
        if isinstance(each, dict) and isinstance(each.get("id"), int)
    }
    found = [(spec, colours.get(spec.id)) for spec in model.classes]
    return config, tuple(
        replace(spec, colour=colour)
        if isinstance(colour, str) and COLOUR_TEXT.fullmatch(colour)
        else spec
        for spec, colour in found
    )


def count_against(
    postprocessing: Postprocessing,
    labelling: Labelling,
    boundary_tolerance_px: int,
    prob_u8_khw: NDArray[np.uint8],
    labelled: LabelledPixels,
) -> NDArray[np.float64]:
    """Compare an image with its masks after postprocessing; return counts, (classes, COUNTS)."""
    _, masks, valid = labelled
    targets = labelling.targets(masks, valid)
    found = [postprocessing.objects(place, prob_u8_khw) for place in range(len(targets))]
    truth = [labelling.objects(masks, place, valid) for place in range(len(targets))]
    planes = np.stack([mask for mask, _ in found])
    return count_image(
        planes, targets, [objects for _, objects in found], truth, boundary_tolerance_px
    )


def _plain(value: Any) -> Any:
    """Return a number or an array of numbers for JSON; None if it is undefined."""
    return None if np.isnan(value).any() else value.tolist()
