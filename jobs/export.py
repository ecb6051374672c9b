"""Export the current results: COCO, label PNGs, GeoJSON, GeoParquet.

The same as `unet-ray export`; `--help` lists the flags.
"""

from unet_ray.cli.export import command

if __name__ == "__main__":
    command()
