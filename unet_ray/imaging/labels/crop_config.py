"""Settings of the random crops for training."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CropConfig:
    """Settings for cutting crops."""

    side: int
    """Side of the labelled square (px)."""
    margin: int
    """Pixels read around the labelled square, for networks with unpadded convolutions (px)."""
    foreground_share: float = 0.0
    """Share of the crops that are drawn to hold a pixel of a class, 0 to 1.

    The class is drawn first, so that rare classes come as often as others.
    """
    border_weight: float = 0.0
    """w₀ of the border weight map (Ronneberger et al. 2015, equation 2); 0 means no map."""
    border_sigma: float = 5.0
    """σ of the border weight map (px)."""
    markers: bool = False
    """True to add targets of the objects' markers, which tell touching objects apart."""

    @property
    def filters_per_class(self) -> int:
        """Number of target planes for each class."""
        return 2 if self.markers else 1
