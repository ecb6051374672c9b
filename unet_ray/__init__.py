"""Train a U-Net and segment image archives with it, on Ray."""

__version__ = "0.1.0"
