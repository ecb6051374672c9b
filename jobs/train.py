"""Train a U-Net on labelled images and write a model folder.

The same as `unet-ray train`; `--help` lists the flags.
"""

from unet_ray.cli.train import command

if __name__ == "__main__":
    command()
