"""The U-Net of Ronneberger et al. 2015 (arXiv 1505.04597).

It has a contracting path, an expansive path and skip connections. The output is one filter of
logits per class, for a sigmoid each, so classes may overlap.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unet_ray.imaging.geometry import Box
from unet_ray.network.config import UNetConfig

_SPOILT_PX = 2
"""Pixels at each edge of a part that two 3×3 convolutions get wrong for lack of neighbours."""


class UNet(nn.Module):
    """A U-Net as a torch module.

    Args:
        config: Architecture.

    Example:
        >>> logits_nkhw = UNet(config)(images_nchw)
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.base_channels << level for level in range(config.depth + 1)]
        inputs = [config.in_channels, *widths[:-1]]
        self.contracting = nn.ModuleList(
            _double_conv(i, o, config) for i, o in zip(inputs, widths, strict=True)
        )
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, stride=2) for w in widths[:-1])
        self.expansive = nn.ModuleList(_double_conv(2 * w, w, config) for w in widths[:-1])
        self.head = nn.Conv2d(widths[0], config.num_classes, 1)
        self.apply(_initialise)

    def forward(self, images: Tensor, wanted: Box | None = None) -> Tensor:
        """Map images to logits.

        Args:
            images: Preprocessed images, of a size that `UNetConfig.check_size` accepts;
                (N, in_channels, H, W), float.
            wanted: Part of the output to return. None: all of it. A `same` network computes the
                expansive path, the larger part of the work, for this part only.

        Returns:
            Logits; (N, num_classes, H − 2·margin, W − 2·margin), or the wanted part of that.

        Raises:
            InputError: A size that does not work.
        """
        self.config.check_size(*images.shape[-2:])
        skips = []
        features = self.contracting[0](images)
        for level in self.contracting[1:]:
            skips.append(features)
            features = level(self._pool(features))
        if wanted and not self.config.margin:
            part: Tensor = self.head(self._expand_part(features, skips, wanted))
            return part
        for up, level in zip(reversed(self.up), reversed(self.expansive), strict=True):
            features = level(self._merge_skip(up, features, skips.pop()))
        logits: Tensor = self.head(features)
        return _cut(logits, wanted) if wanted else logits

    def _expand_part(self, features: Tensor, skips: list[Tensor], wanted: Box) -> Tensor:
        """Run the expansive path of a `same` network for a part of the output.

        This empties the list of skip connections.
        """
        place = Box(0, 0, *features.shape[-2:])  # the box of the features in their level
        needs = _plan_levels(wanted, skips)
        for up, level, need in zip(reversed(self.up), reversed(self.expansive), needs, strict=True):
            below = _cut(features, need.below, place)
            features = level(self._merge_skip(up, below, skips.pop(), need))
            place = need.computed
        return _cut(features, wanted, place)

    def _merge_skip(
        self, up: nn.Module, features: Tensor, skip: Tensor, need: _Need | None = None
    ) -> Tensor:
        """Return the input of a level of the expansive path.

        Args:
            up: Up-convolution from the level below.
            features: Output of the level below.
            skip: Skip connection of the level.
            need: Part of the level to compute. None: all of it.
        """
        raised = self._upsample(up, features)
        if need:
            skip = _cut(skip, need.computed)
            raised = _cut(raised, need.computed, need.below.scaled(2))
        # Without padding, the skip connection is larger: its centre is joined.
        height, width = raised.shape[-2:]
        top = (skip.shape[-2] - height) // 2
        left = (skip.shape[-1] - width) // 2
        centre = skip[..., top : top + height, left : left + width]
        return self._join(centre, raised, up)

    def _pool(self, features: Tensor) -> Tensor:
        return nn.functional.max_pool2d(features, 2)

    def _upsample(self, up: nn.Module, features: Tensor) -> Tensor:
        raised: Tensor = up(features)
        return raised

    def _join(self, skip: Tensor, raised: Tensor, up: nn.Module) -> Tensor:  # noqa: ARG002
        return torch.cat([skip, raised], dim=1)


def _double_conv(inputs: int, outputs: int, config: UNetConfig) -> nn.Sequential:
    padding = 1 if config.padding == "same" else 0
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers.append(nn.Conv2d(channels, outputs, 3, padding=padding, bias=config.norm == "none"))
        if config.norm == "batch":
            layers.append(nn.BatchNorm2d(outputs))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def _cut(planes: Tensor, box: Box, place: Box | None = None) -> Tensor:
    """Cut a box out of planes that lie at `place`; None: at the origin."""
    top, left = (place.top, place.left) if place else (0, 0)
    return planes[..., box.top - top : box.bottom - top, box.left - left : box.right - left]


@dataclass(frozen=True)
class _Need:
    """The parts of two levels that a part of the output needs."""

    computed: Box
    """Part of the level that goes into its convolutions (px of the level). The two outermost pixels
    of the result are wrong, except at the edge of the image."""
    below: Box
    """Part of the level below that this part needs (px of the level below)."""


def _plan_levels(wanted: Box, skips: list[Tensor]) -> list[_Need]:
    """Return the part that each level has to compute, from the deepest level to the first.

    Args:
        wanted: Part of the output (px).
        skips: Skip connections, from the first level to the deepest.
    """
    needs = []
    for skip in skips:
        computed = wanted.grown(_SPOILT_PX, *skip.shape[-2:])
        wanted = Box(
            top=computed.top // 2,
            left=computed.left // 2,
            bottom=-(-computed.bottom // 2),
            right=-(-computed.right // 2),
        )
        needs.append(_Need(computed, wanted))
    return needs[::-1]


def _initialise(module: nn.Module) -> None:
    """Draw weights with deviation √(2/N) (He et al. 2015; section 3.1 of the U-Net paper)."""
    # Nothing is drawn for a network on the meta device, for which torch would load its compiler.
    if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
