"""`unet-ray`: one entry point for all commands."""

from __future__ import annotations

import sys
from importlib import import_module

from unet_ray.cli.streams import show

COMMANDS = {
    "train": "Train a U-Net on labelled images and write a model folder.",
    "segment": "Segment an image archive into tables of masks and regions.",
    "evaluate": "Evaluate a trained model on labelled images.",
    "verify": "Check an output of segmentation against its rules.",
    "prune": "Remove the rows of one model, or of a range of dates, from an output.",
    "report": "Write one HTML page about a run: what was done, found and failed, with pictures.",
    "export": "Export the current results: COCO, label PNGs, GeoJSON, GeoParquet.",
    "quickstart": "Make a small archive, train, evaluate and segment it in a few minutes.",
}
"""Commands, each a module of this package, and what they do (the first sentence of their help)."""


def main() -> None:
    """Run the command that the first argument names."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in COMMANDS:
        sys.argv = [f"unet-ray {name}", *sys.argv[2:]]
        import_module(f"unet_ray.cli.{name}").command()
    elif name in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        lines = [f"  {each.ljust(width)}  {summary}" for each, summary in COMMANDS.items()]
        show("Usage: unet-ray COMMAND [FLAGS]", "", *lines, "")
        show("Run unet-ray COMMAND --help for its flags.")
    elif name == "--version":
        from unet_ray import __version__

        show(__version__)
    else:
        show(f"error: unknown command {name}; choose one of {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)
