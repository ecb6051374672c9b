"""What training takes: its flags, checked before anything starts."""

from __future__ import annotations

from dataclasses import dataclass

from unet_ray.errors import InputError
from unet_ray.flags import Device, MaskKind, check_metric, parse_classes, parse_range
from unet_ray.network.config import (
    PRESETS,
    Loss,
    Norm,
    Normalisation,
    Padding,
    UNetConfig,
    parse_augmentations,
)

_DEFAULT_CROP = 256
_NETWORK = ("base_channels", "depth", "padding", "norm")
_AT_LEAST = {
    "epochs": 1,
    "batch_size": 1,
    "keep_checkpoints": 1,
    "patience": 0,
    "border_weight": 0,
    "seed": 0,
}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What to learn from, what network, and how."""

    images: str
    """Folder or glob (URI) of the labelled images."""
    masks: str
    """Folder or glob (URI) of their masks, paired by relative path without suffix; or a COCO instances JSON."""
    output: str
    """Model folder to write (URI)."""
    classes: str | None = None
    """Class names: a,b numbers them from 1; a=1,b=7 gives the mask values."""
    mask_kind: MaskKind | None = None
    """What mask values mean; default: inferred from all masks."""
    background_value: int = 0
    """Mask value of no class."""
    ignore_value: int | None = 255
    """Mask value that is not counted; none: there is no such value."""
    max_error_rate: float = 0.01
    """Share of the labelled images that may be unreadable; they are named and left out. More of them: exit code 2."""
    normalise: Normalisation = "mean"
    """Preprocessing per channel, by constants of the training images: mean and deviation, percentile, or range."""
    epochs: int = 20
    """Passes over the area of the training images."""
    batch_size: int = 8
    """Crops per step and worker."""
    crop: int | None = None
    """Side of the labelled square of a crop (px); default: 256, or the next that fits a valid network (260)."""
    foreground_share: float = 0.33
    """Share of the crops that are cut around a pixel of a class, drawn first among those that the image holds."""
    augment: str = "all"
    """Distortions of crops: all, none, or some of flip,rotate,scale,elastic,brightness,contrast,gamma,noise,blur."""
    workers: str = "1"
    """Training workers, N, or MIN,MAX: those that find room, and those that come later."""
    resize_check_s: float = 60.0
    """With MIN,MAX: how often training looks for workers that came (s); taking them in costs a restart."""
    device: Device = "auto"
    """Where workers run; auto: GPUs where the cluster has enough of them."""
    preset: str | None = None
    """Network by name: paper or article; the flags below win over it."""
    base_channels: int | None = None
    """Channels of the first level (default 32)."""
    depth: int | None = None
    """Number of poolings (default 4)."""
    padding: Padding | None = None
    """Convolutions: same (default) or valid, the paper's unpadded ones."""
    norm: Norm | None = None
    """Normalisation: batch (default) or none."""
    init_from: str | None = None
    """Model folder (URI) to start from: its network, preprocessing and weights; other classes get fresh filters."""
    compile: bool = False
    """Compile the network with torch.compile."""
    loss: Loss = "bce"
    """bce: per-class binary cross entropy; bce_dice: with soft Dice."""
    class_weights: str | None = None
    """What a pixel of each class weighs against one that is not of it, in the order of --classes: 1,5."""
    separate: bool = False
    """Learn to part touching objects as well: from the ids of instance masks (of others, their components)."""
    border_weight: float = 0.0
    """Weight of the narrowest gaps between objects, w0 of the U-Net paper (which takes 10); 0: none."""
    border_sigma: float = 5.0
    """How far apart objects may be for their gap to count, σ of the U-Net paper (px)."""
    learning_rate: float = 1e-3
    """Of AdamW, at its peak: it warms up over the first steps and falls as a cosine."""
    val_fraction: float = 0.1
    """Share of the images kept for validation, where --val-images is not given; 0: none."""
    val_images: str | None = None
    """Folder (URI) of validation images."""
    val_masks: str | None = None
    """Folder (URI) of their masks."""
    best_by: str = "dice"
    """What the best epoch is chosen by: dice or iou, the mean of the classes, or of one of them, as in dice:leaf."""
    patience: int = 0
    """Epochs without gain after which training ends; 0: never."""
    storage: str | None = None
    """Run folder (URI): checkpoints, curves; a rerun with the same one resumes. Default: a new one below --output."""
    checkpoint_minutes: float = 10.0
    """Time between checkpoints, beside the one after each epoch (min)."""
    keep_checkpoints: int = 2
    """Newest checkpoints that are kept; each holds the best weights as well."""
    seed: int = 0
    """Of the split, the weights, the crops and the augmentation."""

    def __post_init__(self) -> None:
        for name, least in _AT_LEAST.items():
            if getattr(self, name) < least:
                raise InputError(
                    f"--{name.replace('_', '-')} {getattr(self, name)}: choose at least {least}"
                )
        for name in ("learning_rate", "border_sigma", "checkpoint_minutes", "resize_check_s"):
            if not getattr(self, name) > 0:
                raise InputError(
                    f"--{name.replace('_', '-')} {getattr(self, name)}: choose above 0"
                )
        for name in ("foreground_share", "max_error_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"--{name.replace('_', '-')} {getattr(self, name)}: choose 0 to 1")
        if not 0 <= self.val_fraction < 1:
            raise InputError(
                f"--val-fraction {self.val_fraction}: choose from 0 up to (not including) 1"
            )
        if (self.val_images is None) != (self.val_masks is None):
            raise InputError("--val-images and --val-masks go together; give both or none")
        if self.preset is not None and self.preset not in PRESETS:
            raise InputError(f"--preset {self.preset}: there are {', '.join(PRESETS)}")
        if self.init_from and (
            self.preset or any(getattr(self, name) is not None for name in _NETWORK)
        ):
            raise InputError(
                "--init-from brings its own network; leave out --preset and the flags of the network"
            )
        parse_range(self.workers, "--workers")
        parse_classes(self.classes)
        parse_augmentations(self.augment)
        check_metric(self.best_by)
        self.parse_class_weights(len(parse_classes(self.classes)))
        if not self.init_from:
            self.check_crop(self.network(1, 1))

    def parse_class_weights(self, classes: int) -> tuple[float, ...] | None:
        """Return --class-weights as numbers; raise InputError where they are not one above 0 per class."""
        if self.class_weights is None:
            return None
        try:
            weights = tuple(float(part) for part in self.class_weights.split(","))
        except ValueError:
            weights = ()
        if (
            not weights
            or (classes and len(weights) != classes)
            or not all(0 < w < float("inf") for w in weights)
        ):
            wanted = f"{classes} numbers" if classes else "numbers"
            raise InputError(
                f"--class-weights {self.class_weights}: give {wanted} above 0 with commas, one per class"
            )
        return weights

    def crop_px(self, network: UNetConfig) -> int:
        """Return the side of the labelled square of a crop (px)."""
        if self.crop is not None:
            return self.crop
        return network.input_sizes.input_size(_DEFAULT_CROP) - 2 * network.margin

    def network(self, in_channels: int, classes: int) -> UNetConfig:
        """Return the network of preset and flags."""
        given = {n: getattr(self, n) for n in _NETWORK}
        chosen = PRESETS.get(self.preset or "", {}) | {
            n: v for n, v in given.items() if v is not None
        }
        return UNetConfig(in_channels=in_channels, num_classes=classes, **chosen)

    def check_crop(self, network: UNetConfig) -> None:
        """Raise InputError where --crop does not fit a network."""
        crop = self.crop_px(network)
        covered = network.input_sizes.input_size(max(1, crop)) - 2 * network.margin
        if covered != crop:
            below = covered - network.multiple
            nearest = f"{below} and {covered}" if below > 0 else str(covered)
            raise InputError(
                f"--crop {crop} px does not fit depth {network.depth}, padding {network.padding}; nearest: {nearest}"
            )
