"""Make a small archive, train, evaluate and segment it in a few minutes.

The same as `unet-ray quickstart`; `--help` lists the flags.
"""

from unet_ray.cli.quickstart import command

if __name__ == "__main__":
    command()
