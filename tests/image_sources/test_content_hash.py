import hashlib
from pathlib import Path

import numpy as np
import pytest
import tifffile

from unet_ray.errors import ImageError
from unet_ray.image_sources.content_hash import hash_read, hash_stored
from unet_ray.image_sources.encoded import find_places, read_encoded
from unet_ray.imaging.codecs.sandbox import process_decoder
from unet_ray.storage.storage import Storage


@pytest.mark.parametrize("size", [0, 1, 2**22, 2**22 + 1, 5 * 2**22 + 3])
def test_the_hash_of_a_file_is_that_of_its_bytes_however_it_is_read(
    tmp_path: Path, size: int
) -> None:
    data = np.random.default_rng(size).bytes(size)
    (tmp_path / "a.png").write_bytes(data)
    access = Storage.of(str(tmp_path))
    uri = f"{access.uri}/a.png"
    expected = hashlib.sha256(data).hexdigest()
    assert hash_stored(access, uri) == expected
    assert hash_read(read_encoded(access, uri)) == expected
    with pytest.raises(ImageError, match="changed"):
        hash_stored(access, uri, etag="another")


def test_the_hash_of_an_image_in_a_stack_is_its_own(tmp_path: Path) -> None:
    """Planes that are smaller than the gaps between reads may share the hash of what is read."""
    planes = np.random.default_rng(0).integers(0, 255, (4, 400, 400), np.uint8)
    planes[2] = planes[1]
    tifffile.imwrite(tmp_path / "s.tif", planes, photometric="minisblack")
    access = Storage.of(str(tmp_path))
    (entry,) = access.entries()
    places = find_places(process_decoder(), access, entry)
    hashes = [hash_stored(access, entry.uri, place, entry.etag) for place in places]
    assert hashes == [hash_read(read_encoded(access, entry.uri, place)) for place in places]
    assert len(set(hashes)) == 4
    data = bytearray((tmp_path / "s.tif").read_bytes())
    data[data.find(planes[3].tobytes())] ^= 1
    (tmp_path / "s.tif").write_bytes(data)
    again = [hash_stored(access, entry.uri, place) for place in places]
    assert [a == b for a, b in zip(hashes, again, strict=True)] == [True, True, True, False]
