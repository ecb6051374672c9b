"""The record of a training in its run folder (`train.json`): the flags and files it began with.

A training resumes only with the flags and files that it began with. The record also keeps what the
training decided about them, so that these decisions do not depend on which files can be read when
it is resumed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, get_args

from unet_ray.errors import InputError, one_line
from unet_ray.flags import ClassSpec
from unet_ray.imaging.channels import InputChannels
from unet_ray.imaging.labels.labelling import Labelling
from unet_ray.labelled_data.grouping.groups import Grouping
from unet_ray.labelled_data.labelled_set import LabelledSet
from unet_ray.labelled_data.statistics import DatasetStatistics
from unet_ray.network.config import Precision
from unet_ray.network.json_object import JsonObject
from unet_ray.network.model_folder import (
    inputs_as_json,
    parse_inputs,
    parse_preprocessing,
    preprocessing_as_json,
)
from unet_ray.network.preprocessing import Preprocessing
from unet_ray.storage.json_file import read_json
from unet_ray.storage.storage import Storage
from unet_ray.training.config import TrainConfig

RECORD = "train.json"
"""Name of the record in the run folder."""
_MAY_CHANGE = (
    "epochs",
    "workers",
    "device",
    "output",
    "storage",
    "learning_rate",
    "batch_size",
    "compile",
    "patience",
    "checkpoint_minutes",
    "keep_checkpoints",
    "max_error_rate",
    "resize_check_s",
    "image_roots",
    "follow_links",
    "images_options",
    "masks_options",
    "model_options",
    "output_options",
)
"""Settings that may differ when a training is resumed."""
_PLACES = ("images", "masks", "val_images", "val_masks", "labelled_images")
"""Settings that identify the labelled files if the record does not list them."""
_WAYS_ON = "give another --storage to train anew, with --init-from MODEL to start from a model"


@dataclass(frozen=True)
class LabelledFile:
    """One file of the labelled set, or one page of it."""

    size: int
    """Size of the file (bytes)."""
    sha256: str | None
    """SHA-256 of the bytes that were read. None: not read yet, or it cannot be read."""

    def differs(self, other: LabelledFile) -> bool:
        """Return whether the sizes differ, or the SHA-256s where both are known."""
        if self.size != other.size:
            return True
        is_known = self.sha256 is not None and other.sha256 is not None
        return is_known and self.sha256 != other.sha256


@dataclass(frozen=True)
class DataDecisions:
    """Decisions of a training about its labelled images, made when it begins."""

    labelling: Labelling
    """Meaning of the masks, with the classes."""
    preprocessing: Preprocessing
    """Preprocessing with the constants of the training images."""
    validation: tuple[str, ...]
    """Names of the labelled images that are kept for validation, as in `LabelledSet.names`."""
    inputs: InputChannels | None = None
    """Channels that the network takes; None: an earlier version began the training."""
    groups: Mapping[str, str] | None = None
    """Group of each labelled image by its name. None: images are not split, or an earlier version
    split them one by one."""
    grouped_by: str = "image"
    """Name of what groups are."""

    def with_grouping(self, names: Sequence[str], grouping: Grouping | None) -> DataDecisions:
        """Return the decisions with the groups of the labelled images, if there are any.

        Args:
            names: Names of all labelled images, as in `LabelledSet.names`.
            grouping: Their groups in the same order.
        """
        if grouping is None:
            return self
        groups = dict(zip(names, grouping.groups, strict=True))
        return replace(self, groups=groups, grouped_by=grouping.by)


@dataclass(frozen=True)
class TrainingRecord:
    """Settings, files and decisions that a training began with."""

    settings: dict[str, Any]
    """Flags, and `labelled_images`, the number of labelled images."""
    files: dict[str, LabelledFile] | None = None
    """Files of the labelled set by name. None: a version before 2026-12 wrote the record."""
    decisions: DataDecisions | None = None
    """Decisions about the labelled images; None if and only if `files` is None."""
    cpu_precision: Precision = "float32"
    """Arithmetic of workers on CPUs; float32 for a record of an earlier version."""

    def check_settings(self, settings: Mapping[str, Any], run_folder: Storage) -> None:
        """Raise InputError if a run has other settings.

        The number of labelled images is a setting, because the split depends on it. If the record
        lists the files, the files are compared instead, and their folders may differ.

        Args:
            settings: Settings of the run that would resume.
            run_folder: Run folder of this record, for the message.
        """
        skipped = set(_MAY_CHANGE)
        if self.files is not None:
            skipped.update(_PLACES)
        # a flag that an earlier version did not have was at its default
        before = {field.name: field.default for field in fields(TrainConfig)} | dict(self.settings)
        for name, value in settings.items():
            if name not in skipped and before.get(name) != value:
                old = _show_setting(name, before.get(name))
                new = _show_setting(name, value)
                raise InputError(
                    f"--storage {run_folder.uri} holds a training with {old}, but this one has "
                    f"{new}; use the same to resume, or {_WAYS_ON}"
                )

    def check_files(
        self, files: dict[str, LabelledFile], run_folder: Storage
    ) -> dict[str, LabelledFile]:
        """Check that a run has the same files.

        Args:
            files: Files of the run that would resume.
            run_folder: Run folder of this record, for messages.

        Returns:
            The files; those that cannot be read now have the SHA-256 of this record.

        Raises:
            InputError: The files differ; the message counts the differences and names the first.
        """
        if self.files is None:
            return files
        shared = self.files.keys() & files.keys()
        differences = {
            "changed": {name for name in shared if self.files[name].differs(files[name])},
            "missing": self.files.keys() - shared,
            "new": files.keys() - shared,
        }
        found = []
        for what, names in differences.items():
            if names:
                verb = "is" if len(names) == 1 else "are"
                found.append(f"{len(names)} {verb} {what} (first: {min(names)})")
        if found:
            raise InputError(
                f"--storage {run_folder.uri} holds a training on {len(self.files)} other labelled "
                f"files: {', '.join(found)}; restore them to resume, or {_WAYS_ON}"
            )
        checked = {}
        for name, file in files.items():
            checked[name] = self.files[name] if file.sha256 is None else file
        return checked

    def write(self, run_folder: Storage) -> None:
        """Write the record to the run folder."""
        found = dict(self.settings) | {"cpu_precision": self.cpu_precision}
        if self.files is not None and self.decisions is not None:
            found["files"] = {name: asdict(file) for name, file in self.files.items()}
            found["decisions"] = _decisions_as_json(self.decisions)
        run_folder.write(RECORD, json.dumps(found, indent=2).encode())


def _show_setting(name: str, value: object) -> str:
    if name == "labelled_images":
        return f"{value} labelled images"
    return f"--{name.replace('_', '-')} {value}"


def _decisions_as_json(decisions: DataDecisions) -> dict[str, Any]:
    found: dict[str, Any] = {
        "labelling": asdict(decisions.labelling),
        "preprocessing": preprocessing_as_json(decisions.preprocessing),
        "validation": decisions.validation,
    }
    if decisions.groups is not None:
        found["groups"] = dict(decisions.groups)
        found["grouped_by"] = decisions.grouped_by
    if decisions.inputs:
        found["channels"] = inputs_as_json(decisions.inputs)
    return found


def read_record(run_folder: Storage) -> TrainingRecord:
    """Read the record of a training.

    Raises:
        InputError: The record is missing, damaged, or cannot be read.
    """
    try:
        return _parse(read_json(run_folder, RECORD))
    except FileNotFoundError:
        fault = "is missing"
    except OSError as error:
        fault = f"cannot be read: {one_line(error)}"
    except InputError as error:
        what = str(error).removeprefix(f"{run_folder.uri}/{RECORD}: ")
        fault = f"is damaged: {what}"
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        fault = f"is damaged: {one_line(error)}"
    raise InputError(
        f"{run_folder.uri}/{RECORD} records what this training began with, but {fault}; restore it "
        f"to resume, or {_WAYS_ON}"
    )


def _parse(found: dict[str, Any]) -> TrainingRecord:
    others = ("files", "decisions", "cpu_precision")
    settings = {name: value for name, value in found.items() if name not in others}
    precision = found.get("cpu_precision", "float32")
    if precision not in get_args(Precision):
        raise ValueError(f"cpu_precision {precision!r}")
    num_images = settings["labelled_images"]  # every version wrote it
    if not isinstance(num_images, int):
        raise TypeError(f"labelled_images {num_images!r}")
    if "files" not in found:
        return TrainingRecord(settings, cpu_precision=precision)
    files = {name: LabelledFile(**file) for name, file in found["files"].items()}
    return TrainingRecord(settings, files, _parse_decisions(found["decisions"]), precision)


def _parse_decisions(found: dict[str, Any]) -> DataDecisions:
    labelling = found["labelling"]
    classes = tuple(ClassSpec(**spec) for spec in labelling["classes"])
    preprocessing = parse_preprocessing(JsonObject.of(found["preprocessing"], "preprocessing"))
    inputs = None
    if "channels" in found:
        channels = JsonObject.of(found["channels"], "channels")
        inputs = parse_inputs(channels, preprocessing.channels)
    groups = found.get("groups")
    if groups is not None and not all(isinstance(group, str) for group in groups.values()):
        raise TypeError("groups must be names")
    return DataDecisions(
        labelling=Labelling(**(labelling | {"classes": classes})),
        preprocessing=preprocessing,
        validation=tuple(found["validation"]),
        inputs=inputs,
        groups=groups,
        grouped_by=str(found.get("grouped_by", "image")),
    )


def list_labelled_files(
    labelled: LabelledSet, statistics: DatasetStatistics | None, prefix: str = ""
) -> dict[str, LabelledFile]:
    """Return the files of a labelled set by name: `images/a.png`, `masks/a.png`.

    Args:
        labelled: Labelled set.
        statistics: Statistics of the set, which hold the SHA-256 of its files. None: not known yet.
        prefix: Beginning of each name.
    """
    images, masks = labelled.access.images, labelled.access.masks
    files = {}
    for index, item in enumerate(labelled.items):
        hashes = statistics.facts[index].sha256 if statistics else ()
        sources = [(f"images/{images.name_of(item.image.uri)}", item.image)]
        sources += [(f"masks/{masks.name_of(mask.uri)}", mask) for mask in item.masks]
        for place, (name, source) in enumerate(sources):
            sha256 = hashes[place] if hashes else None
            files[f"{prefix}{name}"] = LabelledFile(source.size, sha256)
    return files
