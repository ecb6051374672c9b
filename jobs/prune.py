"""Remove the rows of one model, or of a range of dates, from an output.

The same as `unet-ray prune`; `--help` lists the flags.
"""

from unet_ray.cli.prune import command

if __name__ == "__main__":
    command()
