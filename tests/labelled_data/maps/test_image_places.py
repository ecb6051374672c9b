"""Images of a listing are located by their tags."""

from pathlib import Path

import numpy as np

from tests.builders import encode_pillow, encode_tiff
from tests.labelled_data.map_images import EPSG, HEIGHT, WIDTH, images_of, write_maps
from unet_ray.imaging.codecs.decode import IMAGE_SUFFIXES
from unet_ray.imaging.georeference import Georeference
from unet_ray.labelled_data.maps.image_places import locate_images
from unet_ray.storage.listing import list_files


def test_positions_are_read_from_the_tags(tmp_path: Path) -> None:
    folder = write_maps(tmp_path)
    (folder / "photo.png").write_bytes(encode_pillow(np.zeros((HEIGHT, WIDTH), np.uint8)))
    (folder / "broken.tif").write_bytes(b"II*\0 no more")
    pages = [np.zeros((HEIGHT, WIDTH), np.uint8)] * 3
    (folder / "stack.tif").write_bytes(encode_tiff(*pages))
    found = locate_images(list_files(str(folder), IMAGE_SUFFIXES, "--images"))
    assert found == images_of(folder)
    assert {image.name: image.georeference is not None for image in found} == {
        **dict.fromkeys(["far.tif", "left.tif", "right.tif"], True),
        **dict.fromkeys(["broken.tif", "photo.png"], False),
        **dict.fromkeys([f"stack.tif#page={n}" for n in (1, 2, 3)], False),
    }
    (image,) = [each for each in found if each.name == "left.tif"]
    assert (image.width, image.height) == (WIDTH, HEIGHT)
    assert image.georeference == Georeference(EPSG, (0.5, 0.0, 500_000.0, 0.0, -0.5, 5_400_000.0))
