"""Evaluate a trained model on labelled images.

The same as `unet-ray evaluate`; `--help` lists the flags.
"""

from unet_ray.cli.evaluate import command

if __name__ == "__main__":
    command()
