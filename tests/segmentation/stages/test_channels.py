"""Channels are chosen before they are read, and are the same whatever the file's layout."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tifffile
import torch
from numpy.typing import NDArray

from unet_ray.flags import ClassSpec
from unet_ray.image_sources.sources import expand_stacks, header_decoders
from unet_ray.imaging.channels import ChannelSelection, ChosenChannels, InputChannels
from unet_ray.imaging.regions.postprocessing import ObjectRule, Postprocessing
from unet_ray.network.config import PredictorConfig, UNetConfig
from unet_ray.network.predictor import Predictor
from unet_ray.network.preprocessing import Preprocessing
from unet_ray.network.unet import UNet
from unet_ray.segmentation.stages import decode
from unet_ray.segmentation.stages.columns import plan_table, read_pixels
from unet_ray.segmentation.stages.decode import Decode
from unet_ray.segmentation.stages.image_reading import ImageReading
from unet_ray.segmentation.stages.large_image import PredictLarge
from unet_ray.segmentation.stages.measure import Measure
from unet_ray.segmentation.stages.predict import Predict
from unet_ray.segmentation.stages.run_tables import RunStamp, split_into_tables
from unet_ray.storage.storage import Content, Storage

NAMES = ("DAPI", "actin", "tubulin", "brightfield", "mito")
FIELD = np.random.default_rng(0).integers(0, 60_000, (5, 150, 130), np.uint16)
CONSTANTS = Preprocessing("uint16", (3e4, 3e4), (2e4, 2e4))
TRAINED = InputChannels(2, names=("mito", "dapi"))


def encode(order: Sequence[int], field: NDArray[Any] = FIELD, **options: Any) -> bytes:
    """Encode a field as an OME-TIFF with a page for each channel, in an order."""
    file = io.BytesIO()
    metadata = {"axes": "CYX", "Channel": {"Name": [NAMES[index] for index in order]}}
    options |= {"ome": True, "photometric": "minisblack"}
    tifffile.imwrite(file, field[[*order]], metadata=metadata, **options)
    return file.getvalue()


@dataclass(frozen=True)
class CountingStorage(Storage):
    """A folder that counts the bytes that are read of its files."""

    read_sizes: list[int] = field(default_factory=list, compare=False)

    def at(self, uri: str) -> Storage:
        found = super().at(uri)
        return CountingStorage(found.uri, found.options, read_sizes=self.read_sizes)

    def read_content(self, offset: int = 0, size: int | None = None, **more: Any) -> Content:
        content = super().read_content(offset, size, **more)
        self.read_sizes.append(len(content.data))
        return content


def list_plan(archive: Storage) -> pa.Table:
    with header_decoders() as decoders:
        return plan_table(expand_stacks(decoders, archive, archive.entries()))


def decode_all(archive: Storage, channels: ChannelSelection) -> list[Any]:
    """Return the samples of each image, or the text of its error."""
    found = []
    for table in Decode(ImageReading(archive, True, channels), CONSTANTS, 2**25)(
        list_plan(archive)
    ):
        for error, pixels in zip(table["error"].to_pylist(), read_pixels(table), strict=True):
            found.append(error if pixels is None else pixels)
    return found


@pytest.mark.parametrize("channels", [TRAINED, ChosenChannels(("MITO", "DAPI"))], ids=repr)
def test_any_order_of_the_pages_gives_the_same_pixels(
    tmp_path: Path, channels: ChannelSelection
) -> None:
    archive = Storage.of(str(tmp_path))
    orders = ((0, 1, 2, 3, 4), (4, 3, 2, 1, 0), (2, 0, 4), (4, 0))
    for number, order in enumerate(orders):
        archive.write(f"{number}.tif", encode(order))
        archive.write(f"{number}-tiled.tif", encode(order, tile=(32, 48), compression="zlib"))
    found = decode_all(archive, channels)
    assert len(found) == 8
    for image in found:
        np.testing.assert_array_equal(image, np.moveaxis(FIELD[[4, 0]], 0, -1))


def test_of_channels_that_are_pages_only_those_that_are_taken_are_read(tmp_path: Path) -> None:
    large = np.random.default_rng(0).integers(0, 60_000, (5, 800, 700), np.uint16)
    plain = Storage.of(str(tmp_path))
    plain.write("a.tif", encode(range(5), large))
    archive = CountingStorage(plain.uri, plain.options)
    plan, plane = list_plan(plain), large[0].nbytes
    (table,) = Decode(ImageReading(archive, True, TRAINED), CONSTANTS, 2**25)(plan)
    assert table["error"].to_pylist() == [None]
    assert 2 * plane <= sum(archive.read_sizes) < 2.2 * plane


def test_an_image_without_the_channels_is_an_error_row_and_is_not_read(tmp_path: Path) -> None:
    plain = Storage.of(str(tmp_path))
    plain.write("a.tif", encode((0, 1, 2)))
    archive = CountingStorage(plain.uri, plain.options)
    (table,) = Decode(ImageReading(archive, True, TRAINED), CONSTANTS, 2**25)(list_plan(plain))
    (row,) = table.to_pylist()
    assert (row["error_type"], row["error_stage"]) == ("unsupported", "decode")
    assert row["error"].startswith("there is no channel mito: the image has the channels DAPI, act")
    assert not archive.read_sizes


def test_windows_take_the_same_channels_as_whole_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = Storage.of(str(tmp_path))
    archive.write("all.tif", encode(range(5)))
    archive.write("other.tif", encode((3, 4, 0), tile=(32, 48)))
    archive.write("lacking.tif", encode((1, 2)))
    torch.manual_seed(0)
    network = UNet(UNetConfig(in_channels=2, num_classes=1, base_channels=4, depth=2))
    classes, rule = (ClassSpec(1, "cell"),), Postprocessing((ObjectRule(),))
    measure = Measure(classes, rule)
    predictor = Predictor(network, CONSTANTS, PredictorConfig(tile=64))
    reading = ImageReading(archive, True, TRAINED)
    large = PredictLarge(reading, predictor, measure, lambda *_: None)
    found = []
    for pixels in (decode.WHOLE_PIXELS, 1000):
        monkeypatch.setattr(decode, "WHOLE_PIXELS", pixels)
        decoded = Decode(ImageReading(archive, True, TRAINED), CONSTANTS, 2**25)(list_plan(archive))
        rows = [
            rows
            for table in decoded
            for each in Predict(predictor, large)(table)
            for rows in measure(each)
        ]
        tables = split_into_tables(pa.concat_tables(rows), RunStamp("run", "model", "config"))
        regions = tables["regions"].sort_by(
            [("image_uri", "ascending"), ("region_id", "ascending")]
        )
        errors = sorted(filter(None, tables["images"]["error"].to_pylist()))
        found.append((regions.drop_columns(["image_uri"]).to_pylist(), errors))
    assert found[0] == found[1]
    regions, errors = found[0]
    assert regions[: len(regions) // 2] == regions[len(regions) // 2 :]
    assert len(regions) > 0
    assert [error.partition(":")[0] for error in errors] == ["there is no channel mito, dapi"]
