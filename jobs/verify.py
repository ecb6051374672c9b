"""Check an output of segmentation against its rules.

The same as `unet-ray verify`; `--help` lists the flags.
"""

from unet_ray.cli.verify import command

if __name__ == "__main__":
    command()
