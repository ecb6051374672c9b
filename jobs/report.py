"""Write one HTML page about a run: what was done, found and failed, with pictures.

The same as `unet-ray report`; `--help` lists the flags.
"""

from unet_ray.cli.report import command

if __name__ == "__main__":
    command()
