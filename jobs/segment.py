"""Segment an image archive into tables of masks and regions.

The same as `unet-ray segment`; `--help` lists the flags.
"""

from unet_ray.cli.segment import command

if __name__ == "__main__":
    command()
