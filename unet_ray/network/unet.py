"""The U-Net of Ronneberger et al. 2015 (arXiv 1505.04597): contracting path, expansive path, skip connections.

One sigmoid filter per class comes out as logits; classes may overlap.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unet_ray.imaging.geometry import Box
from unet_ray.network.config import UNetConfig

_SPOILT = 2
"""By how much two 3×3 convolutions see beyond the edge of what they are given (px)."""


class UNet(nn.Module):
    """logits_nkhw = UNet(config)(images_nchw)."""

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
            images — float N, in_channels, H, W; sizes that `UNetConfig.check_size` accepts.
            wanted — the part of the output to return; None: all. Of a `same` network the expansive path, the larger
                part of the work, is computed for it alone.

        Returns: N, classes, H − 2·margin, W − 2·margin, or the wanted part of that.

        Raises: InputError — a size that does not work.
        """
        self.config.check_size(*images.shape[-2:])
        skips = []
        features = self.contracting[0](images)
        for level in self.contracting[1:]:
            skips.append(features)
            features = level(self._pooled(features))
        if wanted and not self.config.margin:
            part: Tensor = self.head(self._expand_part(features, skips, wanted))
            return part
        for up, level in zip(reversed(self.up), reversed(self.expansive), strict=True):
            features = level(self._lifted(up, features, skips.pop()))
        logits: Tensor = self.head(features)
        return _cut(logits, wanted) if wanted else logits

    def _expand_part(self, features: Tensor, skips: list[Tensor], wanted: Box) -> Tensor:
        """Run the expansive path of a `same` network for a part of the output; empties the list of skips."""
        place = Box(0, 0, *features.shape[-2:])  # where the features lie in their level
        for up, level, need in zip(
            reversed(self.up), reversed(self.expansive), _needs(wanted, skips), strict=True
        ):
            features = level(self._lifted(up, _cut(features, need.below, place), skips.pop(), need))
            place = need.computed
        return _cut(features, wanted, place)

    def _lifted(
        self, up: nn.Module, features: Tensor, skip: Tensor, need: _Need | None = None
    ) -> Tensor:
        """Return what a level of the expansive path is given, of features from below and its skip connection."""
        raised = self._raised(up, features)
        if need:
            skip, raised = (
                _cut(skip, need.computed),
                _cut(raised, need.computed, need.below.scaled(2)),
            )
        return self._joined(_centre(skip, raised), raised, up)

    def _pooled(self, features: Tensor) -> Tensor:
        return nn.functional.max_pool2d(features, 2)

    def _raised(self, up: nn.Module, features: Tensor) -> Tensor:
        raised: Tensor = up(features)
        return raised

    def _joined(self, skip: Tensor, raised: Tensor, up: nn.Module) -> Tensor:  # noqa: ARG002
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


def _centre(skip: Tensor, raised: Tensor) -> Tensor:
    """Return the centre of a skip connection, as large as what comes from below."""
    top = (skip.shape[-2] - raised.shape[-2]) // 2
    left = (skip.shape[-1] - raised.shape[-1]) // 2
    return skip[..., top : top + raised.shape[-2], left : left + raised.shape[-1]]


def _cut(planes: Tensor, box: Box, place: Box | None = None) -> Tensor:
    """Return the part of some planes that lies in a box; the planes lie at `place`, else at the origin."""
    top, left = (place.top, place.left) if place else (0, 0)
    return planes[..., box.top - top : box.bottom - top, box.left - left : box.right - left]


@dataclass(frozen=True)
class _Need:
    """What of a level of the expansive path a part of the output needs."""

    computed: Box
    """What its convolutions are given (px of the level); the outer two come out wrong, but at the image's edge."""
    below: Box
    """What that takes of the level below (px of that)."""


def _needs(wanted: Box, skips: list[Tensor]) -> list[_Need]:
    """Return what each level has to compute, from the deepest to the first; skips are in the other order."""
    needs = []
    for skip in skips:
        computed = wanted.grown(_SPOILT, *skip.shape[-2:])
        wanted = Box(
            computed.top // 2, computed.left // 2, -(-computed.bottom // 2), -(-computed.right // 2)
        )
        needs.append(_Need(computed, wanted))
    return needs[::-1]


def _initialise(module: nn.Module) -> None:
    """Draw weights with deviation √(2/N) (He et al. 2015, section 3.1 of the U-Net paper)."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
