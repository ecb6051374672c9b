"""Whole runs on images that are read in windows: from S3, beside small ones, killed midway."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from tests.builders import write_scenes
from tests.conftest import new_bucket, start_job
from unet_ray.image_sources.image_files import open_ranges
from unet_ray.imaging.codecs.range_file import RangeFile
from unet_ray.imaging.codecs.sandbox import Decoder
from unet_ray.imaging.geometry import Box
from unet_ray.network.config import PredictorConfig
from unet_ray.network.model_folder import load_model
from unet_ray.network.predictor import Predictor
from unet_ray.output.config import VerifyConfig
from unet_ray.output.reader import image_masks, read_tables
from unet_ray.output.verify import verify
from unet_ray.storage.storage import Storage
from unet_ray.synthetic import draw_scene

HEIGHT, WIDTH = 8192, 6400


def large_scene() -> NDArray[np.uint8]:
    """Return copies of a scene side by side, HEIGHT×WIDTH×3; neighbours differ in brightness."""
    scene = draw_scene(HEIGHT // 8, WIDTH // 8, np.random.default_rng(0))[0]
    rows = [
        np.concatenate([scene // (1 + (x + y) % 3) for x in range(8)], axis=1) for y in range(8)
    ]
    return np.concatenate(rows)


@pytest.mark.soak
def test_a_large_image_that_was_killed_in_the_middle_is_done_by_the_next_run(
    request: pytest.FixtureRequest, tiny_model: str, tmp_path: Path
) -> None:
    root, image = new_bucket(request), large_scene()
    tifffile.imwrite(
        tmp_path / "large.tif", image, tile=(256, 256), compression="zlib", photometric="rgb"
    )
    archive = Storage.of(f"{root}/archive")
    write_scenes(archive, 20)
    archive.write("large.tif", (tmp_path / "large.tif").read_bytes())
    flags = ["--model", tiny_model, "--images", archive.uri, "--output", f"{root}/tables"]

    first = start_job("segment", *flags)
    assert first.stdout
    seen = []
    for line in first.stdout:
        seen.append(line)
        tiles = re.search(r"20/21 images.* (\d+)/56 tiles", line)
        if tiles and int(tiles[1]) > 2:
            break  # the small ones did not wait for it
    first.kill()
    first.communicate()
    assert tiles, "".join(seen)
    assert not any(
        "/date=" in entry.path for entry in Storage.of(f"{root}/tables").entries("images")
    )

    second = start_job("segment", *flags)
    assert "21 images done" in second.communicate(timeout=600)[0]
    assert not verify(VerifyConfig(tables=f"{root}/tables", images=archive.uri)).problems
    tables = read_tables(f"{root}/tables")
    (row,) = [row for row in tables.images.to_pylist() if row["image_uri"].endswith("large.tif")]
    assert (row["height"], row["width"], row["channels"]) == (HEIGHT, WIDTH, 3)
    assert row["region_count"] == sum(
        uri.endswith("large.tif") for uri in tables.regions["image_uri"].to_pylist()
    )
    model = load_model(Storage.of(tiny_model))
    predictor = Predictor(model.build(), model.preprocessing, PredictorConfig())
    # windows of 300 px over seams and in the last corner, predicted with a halo of 100 px
    for top, left in ((1000, 2000), (HEIGHT - 300, WIDTH - 300)):
        read = Box(top - 100, left - 100, min(top + 400, HEIGHT), min(left + 400, WIDTH))
        (prob_u8,) = predictor.predict([image[read.top : read.bottom, read.left : read.right]])
        found = image_masks(tables, row["image_uri"], Box(top, left, top + 300, left + 300))
        for index, spec in enumerate(model.classes):
            expected = prob_u8[index, 100:400, 100:400] >= 128
            assert (found[spec.name] != expected).mean() <= 1e-4


def test_a_window_on_s3_is_fetched_in_ranges(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (2000, 2100, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "large.tif", image, tile=(256, 256), photometric="rgb")
    archive = Storage.of(new_bucket(request))
    archive.write("large.tif", (tmp_path / "large.tif").read_bytes())
    (entry,) = archive.entries()
    fetch, fetched = open_ranges(archive, entry.uri), []

    def counted(ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        fetched.extend(ranges)
        return fetch(ranges)

    decoder = Decoder()
    try:
        assert decoder.open(RangeFile(counted, entry.size)) == (2000, 2100)
        window = decoder.window(Box(700, 900, 1200, 1300)).samples
    finally:
        decoder.close()
    assert np.array_equal(window, image[700:1200, 900:1300])
    # the header and several rows of tiles; the window is a twentieth of the image
    assert len(fetched) > 3
    assert sum(size for _, size in fetched) < entry.size / 3
