"""Flags of training, checked before anything starts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from operator import ge
from typing import Any, Literal

from unet_ray.errors import InputError
from unet_ray.flags import (
    MAX_MINUTES,
    MAX_SIDE_PX,
    Device,
    check_fields,
    check_metric,
    check_numbers,
    parse_classes,
    parse_range,
)
from unet_ray.labelled_data.config import LabelConfig
from unet_ray.network.config import (
    PRESETS,
    Loss,
    Norm,
    Normalisation,
    Padding,
    UNetConfig,
    parse_augmentations,
)
from unet_ray.store_options import check_store_options

_DEFAULT_CROP = 256
_NETWORK = ("base_channels", "depth", "padding", "norm")
"""Fields that describe the network."""
_LARGEST = {"epochs": 10**6, "batch_size": 2**16, "crop": MAX_SIDE_PX, "border_sigma": MAX_SIDE_PX}
"""Largest values of fields."""
_FROM_1 = ("epochs", "batch_size", "keep_checkpoints")
_MAX_SEED = 2**63 - 1
"""Largest number that torch takes."""
_FROM_0 = ("patience", "border_weight")
_ABOVE_0 = ("learning_rate", "border_sigma")
_DURATIONS = ("checkpoint_minutes", "resize_check_s")
_SHARES = ("foreground_share", "max_error_rate")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(LabelConfig):
    """Settings of a training: labelled images, network and optimisation."""

    output: str
    """Model folder to write (URI)."""
    output_options: str | None = None
    """Options of the store of --output and --storage, as for --images."""
    classes: str | None = None
    """Class names. a,b numbers them from 1; a=1,b=7 gives their mask values."""
    max_error_rate: float = 0.01
    """Share of the labelled images that may be unreadable, 0..1; they are named and left out. If
    more are unreadable, training ends with exit code 2."""
    normalise: Normalisation = "mean"
    """Normalisation of each channel by constants of the training images: mean (and deviation),
    percentile, or range."""
    epochs: int = 20
    """Passes over the area of the training images."""
    batch_size: int = 8
    """Crops per step and worker."""
    crop: int | None = None
    """Side of the labelled square of a crop (px); default: 256, or the next size that fits a valid
    network (260)."""
    foreground_share: float = 0.33
    """Share of the crops that are cut around a pixel of a class, 0..1; the class is drawn first,
    among those in the image."""
    augment: str = "all"
    """Augmentations of crops: all, none, or some of
    flip,rotate,scale,elastic,brightness,contrast,gamma,noise,blur."""
    workers: str = "1"
    """Number of training workers: N, or MIN,MAX to start with as many as the cluster has resources
    for and to add more later."""
    resize_check_s: float = 60.0
    """Time between two checks for resources for more workers (s), if --workers is MIN,MAX; adding
    workers costs a restart."""
    device: Device = "auto"
    """Device that workers use; auto: GPUs if the cluster has enough of them."""
    preset: str | None = None
    """Network by name, paper or article; the flags of the network override its settings."""
    base_channels: int | None = None
    """Channels of the first level (default 32)."""
    depth: int | None = None
    """Number of pooling steps (default 4)."""
    padding: Padding | None = None
    """Padding of the convolutions: same (default), or valid, the paper's unpadded convolutions."""
    norm: Norm | None = None
    """Normalisation layers: batch (default) or none."""
    init_from: str | None = None
    """Model folder (URI) to start from: its network, preprocessing and weights are used; classes
    that it does not have get new filters."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the network. auto: bfloat16 where GPU or CPUs have instructions for it, else
    float32. The choice for CPUs is kept when a training is resumed."""
    compile: bool = False
    """Compile the network with torch.compile."""
    loss: Loss = "bce"
    """Loss to minimise. bce: binary cross entropy per class; bce_dice: that plus soft Dice."""
    model_options: str | None = None
    """Options of the store of --init-from, as for --images."""
    class_weights: str | None = None
    """Weight of a pixel of each class relative to one outside it, in order of --classes: 1,5."""
    separate: bool = False
    """Learn to separate touching objects as well, from the ids of instance masks; in other masks
    the objects are the components."""
    border_weight: float = 0.0
    """Extra weight of pixels in the narrowest gaps between objects, w0 of the U-Net paper, which
    uses 10; 0: none."""
    border_sigma: float = 5.0
    """Distance over which the extra weight of gaps falls off, σ of the U-Net paper (px)."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW; it rises over the first steps, then falls as a cosine."""
    val_fraction: float = 0.1
    """Share of the images kept for validation, unless --val-images is given, 0..1; 0: none. They
    are drawn group by group (--group-by)."""
    val_images: str | None = None
    """Folder (URI) of the validation images."""
    val_masks: str | None = None
    """Folder (URI) of their masks."""
    best_by: str = "dice"
    """Metric that the best epoch is chosen by: dice or iou for the mean over classes, or with the
    name of one class, as in dice:leaf."""
    patience: int = 0
    """Number of epochs without a better score after which training ends; 0: never."""
    storage: str | None = None
    """Run folder (URI) for checkpoints and curves; a rerun with the same folder resumes, if the
    labelled files are the same. Default: a new folder below --output."""
    checkpoint_minutes: float = 10.0
    """Time between checkpoints within an epoch (min); there is one after each epoch, too."""
    keep_checkpoints: int = 2
    """Number of newest checkpoints that are kept; each holds the best weights as well."""
    dry_run: bool = False
    """Read the labelled set, report how it is understood, and write labels.png to --output, but do
    not train."""
    seed: int = 0
    """Seed of the split, the weights, the crops and the augmentation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_ranges()
        check_store_options(self, "output", (self.output, self.storage))
        check_store_options(self, "model", (self.init_from,))
        if (self.val_images is None) != (self.val_masks is None):
            raise InputError("--val-images and --val-masks go together; give both or neither")
        if self.group_by is not None and (self.val_images or not self.val_fraction):
            given = "--val-images" if self.val_images else "--val-fraction 0"
            raise InputError(
                f"--group-by {self.group_by} says how images are split, but with {given} none "
                "are; leave out one of them"
            )
        if self.preset is not None and self.preset not in PRESETS:
            raise InputError(f"--preset {self.preset}: choose {' or '.join(PRESETS)}")
        describes_network = any(getattr(self, name) is not None for name in _NETWORK)
        if self.init_from and (self.preset or describes_network):
            raise InputError(
                "--init-from brings its own network; leave out --preset and the network flags"
            )
        parse_range(self.workers, "--workers")
        parse_classes(self.classes)
        parse_augmentations(self.augment)
        check_metric(self.best_by)
        self.parse_class_weights(len(parse_classes(self.classes)))
        if not self.init_from:
            self.check_crop(self.network(1, 1))

    def _check_ranges(self) -> None:
        """Raise InputError if a number is out of its range."""
        for name, most in _LARGEST.items():
            check_fields(self, [name], partial(ge, most), f"at most {most}")
        check_fields(self, _FROM_1, lambda value: value >= 1, "at least 1")
        check_fields(self, ["seed"], lambda value: 0 <= value <= _MAX_SEED, f"0 to {_MAX_SEED}")
        check_fields(
            self, _DURATIONS, lambda value: 0 < value <= MAX_MINUTES, f"above 0 up to {MAX_MINUTES}"
        )
        check_fields(self, _FROM_0, lambda value: value >= 0, "at least 0")
        check_fields(self, _ABOVE_0, lambda value: value > 0, "above 0")
        check_fields(self, _SHARES, lambda value: 0 <= value <= 1, "0 to 1")
        check_fields(
            self, ["val_fraction"], lambda value: 0 <= value < 1, "from 0 up to (not including) 1"
        )
        check_numbers(self)

    def parse_class_weights(self, num_classes: int) -> tuple[float, ...] | None:
        """Return --class-weights as numbers; None: not given.

        Args:
            num_classes: Number of classes; 0: not known yet.

        Raises:
            InputError: The flag does not give one number above 0 for each class.
        """
        if self.class_weights is None:
            return None
        try:
            weights = tuple(float(part) for part in self.class_weights.split(","))
        except ValueError:
            weights = ()
        num_wanted = num_classes or len(weights)
        is_complete = len(weights) == num_wanted > 0
        if not is_complete or not all(0 < weight < math.inf for weight in weights):
            wanted = f"{num_classes} numbers" if num_classes else "numbers"
            raise InputError(
                f"--class-weights {self.class_weights}: give {wanted} above 0 with commas, "
                "one per class"
            )
        return weights

    def crop_px(self, network: UNetConfig) -> int:
        """Return the side of the labelled square of a crop (px)."""
        if self.crop is not None:
            return self.crop
        return network.input_sizes.input_size(_DEFAULT_CROP) - 2 * network.margin

    def plane_bytes_per_px(self, num_classes: int) -> int:
        """Return the size of the planes that crops are cut from beside image and masks (bytes/px).

        Args:
            num_classes: Number of classes; 0: not known yet.
        """
        marker_bytes = 1 if self.separate else 0
        weight_bytes = 2 if self.border_weight > 0 else 0
        return max(1, num_classes) * (marker_bytes + weight_bytes)

    def network(self, in_channels: int, num_classes: int) -> UNetConfig:
        """Return the network that preset and flags describe.

        Args:
            in_channels: Number of channels of the images.
            num_classes: Number of output filters.
        """
        chosen: dict[str, Any] = dict(PRESETS.get(self.preset or "", {}))
        for name in _NETWORK:
            value = getattr(self, name)
            if value is not None:
                chosen[name] = value
        return UNetConfig(in_channels=in_channels, num_classes=num_classes, **chosen)

    def check_crop(self, network: UNetConfig) -> None:
        """Raise InputError if --crop does not fit a network."""
        crop = self.crop_px(network)
        covered = network.input_sizes.input_size(max(1, crop)) - 2 * network.margin
        if covered != crop:
            below = covered - network.multiple
            nearest = f"{below} and {covered}" if below > 0 else str(covered)
            raise InputError(
                f"--crop {crop} px does not fit depth {network.depth}, padding {network.padding}; "
                f"nearest: {nearest}"
            )
