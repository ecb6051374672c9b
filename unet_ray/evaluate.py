"""Hold a trained model against masks: IoU, Dice and pixel error per class, from counts over all pixels."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import ray
import ray.data

from unet_ray.archive.storage import Storage
from unet_ray.cluster import Device, connect, parse_range, plan_pool
from unet_ray.errors import InputError
from unet_ray.imaging.labels import Labelling, MaskKind, find_labelling
from unet_ray.imaging.metrics import PixelCounts, no_counts
from unet_ray.inputs import LabelAccess, find_labelled
from unet_ray.network.model_folder import Model, load_model
from unet_ray.network.predictor import Predictor, PredictorConfig
from unet_ray.survey import survey_set
from unet_ray.train_worker import evaluate_image

_IMAGES_PER_TASK = 4


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What to hold against what."""

    model: str
    """Model folder (URI)."""
    images: str
    """Folder or glob (URI) of images."""
    masks: str
    """Folder or glob (URI) of their masks, paired by relative path without suffix."""
    mask_kind: MaskKind | None = None
    """What mask values mean; default: inferred from all masks."""
    background_value: int = 0
    """Mask value of no class."""
    ignore_value: int | None = 255
    """Mask value that is not counted; none: there is no such value."""
    output: str | None = None
    """File (URI) for the metrics as JSON."""
    actors: str | None = None
    """Predictor actors, N or MIN,MAX; default: one per GPU, or one per four CPUs."""
    device: Device = "auto"
    """Where the network runs; auto: GPUs where the cluster has them."""

    def __post_init__(self) -> None:
        if self.actors is not None:
            parse_range(self.actors, "--actors")


@dataclass(frozen=True)
class EvaluateResult:
    """Counts of all images, and what they mean."""

    images: int
    model: Model
    counts: PixelCounts

    def metrics(self) -> dict[str, Any]:
        """Return what goes into the JSON file; a class that is neither present nor found has null metrics."""
        counts = self.counts
        columns = {
            "iou": counts.iou,
            "dice": counts.dice,
            "pixel_error": counts.pixel_error,
            "true_positive": counts.true_positive,
            "false_positive": counts.false_positive,
            "false_negative": counts.false_negative,
            "pixels": counts.total,
        }
        names = [c.name for c in self.model.classes]
        return {
            "model_digest": self.model.digest,
            "images": self.images,
            "classes": {
                name: {key: _plain(values[i]) for key, values in columns.items()} for i, name in enumerate(names)
            },
        }


def evaluate(config: EvaluateConfig, ray_address: str = "local") -> EvaluateResult:
    """Predict every labelled image and count it against its masks.

    Raises: InputError — anything that cannot work.
    """
    model = load_model(Storage.of(config.model))
    labelled = find_labelled(config.images, config.masks, model.classes, config.mask_kind)
    connect(ray_address)
    pool = plan_pool(config.actors, config.device)
    survey = survey_set(labelled)
    survey.check_fits(model.preprocessing, f"--images {config.images}")
    labelling = find_labelling(
        survey.values, model.classes, labelled.kind, config.background_value, config.ignore_value
    )
    items = ray.put(labelled.items)
    predictor = PredictorConfig(device="cuda" if pool.uses_gpu else "cpu", threads=pool.threads)
    count = len(labelled.items)
    rows = (
        ray.data.range(count, override_num_blocks=max(1, count // _IMAGES_PER_TASK))
        .map_batches(
            _EvaluateActor,
            fn_constructor_args=(ray.put(model), predictor, labelling, labelled.access, items),
            compute=pool.strategy(),
            num_cpus=pool.cpus,
            num_gpus=pool.gpus or None,
            batch_size=None,
        )
        .take_all()
    )
    counts = sum((PixelCounts.of_array(row["counts"]) for row in rows), no_counts(len(model.classes)))
    result = EvaluateResult(count, model, counts)
    if config.output:
        _write(config.output, result)
    return result


class _EvaluateActor:
    """Predicts and counts labelled images, the network built once."""

    def __init__(
        self, model: Any, config: PredictorConfig, labelling: Labelling, access: LabelAccess, items: Any
    ) -> None:
        loaded: Model = ray.get(model)
        self._thresholds = loaded.thresholds
        self._predictor = Predictor(loaded.build(), loaded.preprocessing, config)
        self._labelling, self._access, self._items = labelling, access, ray.get(items)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        counts = no_counts(len(self._thresholds))
        for index in batch["id"]:
            counts = counts + evaluate_image(
                self._predictor, self._labelling, self._access, self._items[index], self._thresholds
            )
        return {"counts": counts.as_array()[None]}


def _plain(value: Any) -> float | int | None:
    number: float | int = value.item()
    return None if number != number else number


def _write(uri: str, result: EvaluateResult) -> None:
    folder, slash, name = uri.rpartition("/")
    try:
        Storage.of(folder or ("/" if slash else ".")).write(name, json.dumps(result.metrics(), indent=2).encode())
    except OSError as error:
        raise InputError(f"--output {uri}: cannot be written: {error}") from None
