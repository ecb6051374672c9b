"""Images that are read in windows give the rows of the same image read whole."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders import encode_tiff
from unet_ray.errors import InputError
from unet_ray.flags import ClassSpec
from unet_ray.image_sources.sources import expand_stacks, header_decoders
from unet_ray.imaging.regions.filter import ANY
from unet_ray.imaging.regions.postprocessing import ObjectRule, Postprocessing
from unet_ray.network.config import PredictorConfig, UNetConfig
from unet_ray.network.predictor import Predictor
from unet_ray.network.preprocessing import Preprocessing
from unet_ray.network.unet import UNet
from unet_ray.output.reader import Box, Tables, image_masks
from unet_ray.output.shard_checks import RegionRules, check_shard
from unet_ray.segmentation.stages import decode
from unet_ray.segmentation.stages.columns import plan_table
from unet_ray.segmentation.stages.decode import Decode
from unet_ray.segmentation.stages.image_reading import ImageReading
from unet_ray.segmentation.stages.large_image import PredictLarge
from unet_ray.segmentation.stages.measure import Measure
from unet_ray.segmentation.stages.predict import Predict
from unet_ray.segmentation.stages.run_tables import RunStamp, split_into_tables
from unet_ray.storage.storage import Storage
from unet_ray.synthetic import draw_scene, encode

CLASSES = (ClassSpec(1, "cell"), ClassSpec(2, "fibre"))
CONSTANTS = Preprocessing("uint8", (128.0,) * 3, (64.0,) * 3)


def make_network(padding: str = "same", seed: int = 0, filters: int = 2) -> UNet:
    torch.manual_seed(seed)
    network = UNet(
        UNetConfig(in_channels=3, num_classes=filters, base_channels=4, depth=2, padding=padding)
    )
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network


PLAIN = Postprocessing((ObjectRule(),) * 2)
SEPARATING = Postprocessing((ObjectRule(0.5, 0.6), ObjectRule(0.5, 0.4)), steps=5)


def segment(
    archive: Storage,
    network: UNet,
    tile: int,
    postprocessing: Postprocessing = PLAIN,
    constants: Preprocessing = CONSTANTS,
    pixel_size_um: tuple[float, float] | None = None,
    **limits: Any,
) -> dict[str, Any]:
    """Take an archive through the stages in a `for` loop."""
    measure = Measure(CLASSES, postprocessing, **limits)
    predictor = Predictor(network, constants, PredictorConfig(tile=tile, halo=postprocessing.halo))
    told: list[tuple[int, int]] = []
    reading = ImageReading(archive, True, pixel_size_um=pixel_size_um, keep_hash=True)
    large = PredictLarge(reading, predictor, measure, lambda *tiles: told.append(tiles))
    with header_decoders() as decoders:
        plan = plan_table(expand_stacks(decoders, archive, archive.entries()))
    found = []
    for pixels in Decode(reading, constants, block_bytes=2**25)(plan):
        predicted = Predict(predictor, large, pixel_size_um)(pixels)
        for prob_u8 in predicted:
            found += measure(prob_u8)
    stamp = RunStamp("run", "model", "config")
    return split_into_tables(pa.concat_tables(found), stamp) | {"told": told}


def comparable(tables: dict[str, Any], whole_masks: bool) -> dict[str, Any]:
    kept = {}
    for name in ("images", "masks", "regions"):
        table = tables[name].drop_columns(["segmented_at"] if name == "images" else [])
        kept[name] = table.sort_by(
            [(key, "ascending") for key in table.column_names[:1]]
        ).to_pylist()
    if whole_masks:
        kept["masks"] = [
            (uri, name, mask.tobytes())
            for uri in sorted({row["image_uri"] for row in kept["masks"]})
            for name, mask in image_masks(
                Tables(**{k: tables[k] for k in ("images", "masks", "regions")}), uri
            ).items()
        ]
    return kept


def test_an_image_has_one_hash_whether_it_is_read_whole_or_in_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, rng = Storage.of(f"{tmp_path}/archive"), np.random.default_rng(0)
    archive.write("a.png", encode(draw_scene(90, 110, rng)[0], "png"))
    stack = np.stack([draw_scene(90, 110, rng)[0] for _ in range(3)])
    archive.write("s.tif", encode_tiff(*stack, photometric="rgb"))
    hashes = []
    for whole_bytes in (2**20, 1000):
        monkeypatch.setattr(decode, "WHOLE_BYTES", whole_bytes)
        tables = segment(archive, make_network(), tile=64)
        assert (len(tables["told"]) > 0) == (whole_bytes == 1000)
        rows = tables["images"].sort_by("image_uri")
        assert rows["error_type"].null_count == len(rows) == 4
        hashes.append(rows["content_hash"].to_pylist())
    assert hashes[0] == hashes[1]
    assert hashes[0][0] == hashlib.sha256(archive.read("a.png")).hexdigest()


@pytest.mark.parametrize("postprocessing", [PLAIN, SEPARATING], ids=["components", "separated"])
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("kind", ["png", "jpg", "tif", "stack"])
def test_windows_and_whole_images_give_the_same_rows(
    tmp_path: Path,
    padding: str,
    kind: str,
    postprocessing: Postprocessing,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sizes lie at several phases of the pooling grid; one image is small."""
    archive, rng = Storage.of(f"{tmp_path}/archive"), np.random.default_rng(0)
    is_separated = postprocessing.separates
    network = make_network(padding, seed=5, filters=4) if is_separated else make_network(padding)
    scenes = [
        draw_scene(height, width, rng)[0] for height, width in ((160, 161), (99, 202), (30, 33))
    ]
    size = {"resolution": (20_000, 40_000), "resolutionunit": "CENTIMETER"}
    if kind == "stack":
        archive.write("stack.tif", encode_tiff(*scenes, **size))
    else:
        for scene in scenes:
            data = encode_tiff(scene, **size) if kind == "tif" else encode(scene, kind)
            archive.write(f"{len(scene)}.{kind}", data)
    whole = segment(archive, network, tile=48, postprocessing=postprocessing)
    assert len(whole["regions"]) > 10
    expected = [0.5, 0.25] if kind in ("tif", "stack") else [None, None]
    sides = [whole["images"][f"pixel_size_{axis}_um"].to_pylist() for axis in "xy"]
    assert sides == [[side] * len(scenes) for side in expected]
    monkeypatch.setattr(decode, "WHOLE_PIXELS", 2000)
    windows = segment(archive, network, tile=48, postprocessing=postprocessing)
    assert comparable(windows, whole_masks=True) == comparable(whole, whole_masks=True)
    assert len(windows["masks"]) == 2 * (16 + 15 + 1)  # two classes; tiles of the three images
    assert sum(done for done, _ in windows["told"]) == sum(of for _, of in windows["told"]) == 31
    rules = {"run": RegionRules({spec.id: ANY for spec in CLASSES}, is_separated)}
    assert not check_shard({name: windows[name] for name in ("images", "masks", "regions")}, rules)


@pytest.mark.parametrize("postprocessing", [PLAIN, SEPARATING], ids=["components", "separated"])
def test_windows_and_whole_images_are_resampled_alike(
    tmp_path: Path, postprocessing: Postprocessing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pixels are 0.2 to 1.3 µm wide and high, and the network sees pixels of 0.4 µm."""
    archive, rng = Storage.of(f"{tmp_path}/archive"), np.random.default_rng(0)
    network = make_network(seed=5, filters=4)
    scene = draw_scene(110, 121, rng)[0]
    for name, (x_um, y_um) in {"a": (0.2, 0.2), "b": (0.4, 0.4), "c": (1.3, 0.9)}.items():
        resolution = {"resolution": (1e4 / x_um, 1e4 / y_um), "resolutionunit": "CENTIMETER"}
        archive.write(f"{name}.tif", encode_tiff(scene, **resolution))
    archive.write("unknown.tif", encode_tiff(scene))
    archive.write("far.tif", encode_tiff(scene, resolution=(7, 7), resolutionunit="CENTIMETER"))
    found = []
    for whole_pixels, tile in ((10**6, 48), (2000, 48), (2000, 80)):
        monkeypatch.setattr(decode, "WHOLE_PIXELS", whole_pixels)
        tables = segment(archive, network, tile, postprocessing, pixel_size_um=(0.4, 0.4))
        found.append(comparable(tables, whole_masks=True))
        rows = {Path(row["image_uri"]).name: row for row in tables["images"].to_pylist()}
        for name, reason in (("unknown.tif", "not state its pixel size"), ("far.tif", "up to 16;")):
            assert (rows[name]["error_type"], rows[name]["error_stage"]) == (
                "unsupported",
                "decode",
            )
            assert reason in rows[name]["error"]
        assert (rows["a.tif"]["height"], rows["a.tif"]["width"]) == (110, 121)
    assert len({row["image_uri"] for row in found[0]["regions"]}) == 3
    unused = ("height", "width", "channels", "valid_pixels")  # of an image that failed
    for tables in found:
        for row in tables["images"]:
            if row["error_type"]:
                row |= dict.fromkeys(unused) | {"pixel_size_x_um": None, "pixel_size_y_um": None}
    assert found[0] == found[1] == found[2]
    plain = segment(archive, network, 48, postprocessing)
    own = comparable(plain, whole_masks=True)
    same, other = (
        [[mask for mask in each["masks"] if Path(mask[0]).name == name] for each in (own, found[0])]
        for name in ("b.tif", "a.tif")
    )
    assert same[0] == same[1]  # its pixels have the size already
    assert other[0] != other[1]


def test_an_image_that_fails_at_any_stage_is_an_error_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, rng = Storage.of(f"{tmp_path}/archive"), np.random.default_rng(0)
    good = encode(draw_scene(100, 120, rng)[0], "png")
    archive.write("cut.png", good[: len(good) // 2])
    archive.write("good.png", good)
    archive.write("grey.tif", encode_tiff(np.zeros((100, 120), np.uint16)))
    archive.write("bomb.tif", encode_tiff(np.zeros((2000, 2000, 3), np.uint8), compression="zlib"))
    monkeypatch.setattr(decode, "WHOLE_PIXELS", 2000)
    rows = segment(archive, make_network(), tile=64)["images"].to_pylist()
    found = {
        Path(row["image_uri"]).name: (row["error_type"], row["error_stage"], row["error"])
        for row in rows
    }
    assert found["good.png"] == (None, None, None)
    assert found["cut.png"][:2] == ("unreadable", "decode")
    assert found["grey.tif"] == (
        "unsupported",
        "decode",
        "uint16 samples, but the model was trained on uint8; convert the image",
    )
    assert found["bomb.tif"][:2] == ("too_large", "decode")
    assert "decompression bomb" in found["bomb.tif"][2]
    crowded = Storage.of(f"{tmp_path}/crowded")
    crowded.write("good.png", good)
    for whole_pixels in (2000, 10**6):
        monkeypatch.setattr(decode, "WHOLE_PIXELS", whole_pixels)
        (row,) = segment(crowded, make_network(), 64, max_regions=1)["images"].to_pylist()
        assert (row["error_type"], row["error_stage"]) == ("too_large", "measure")
        assert row["error"].startswith("more than 1 regions of a class")


@pytest.mark.parametrize("stated", [1, 2**62])
def test_the_size_of_a_large_image_is_what_its_store_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stated: int
) -> None:
    """A manifest may state any: neither a bomb passes, nor is an image called one, nor cut."""
    archive, rng = Storage.of(f"{tmp_path}/archive"), np.random.default_rng(0)
    archive.write("bomb.tif", encode_tiff(np.zeros((2000, 2000, 3), np.uint8), compression="zlib"))
    archive.write("good.png", encode(draw_scene(100, 120, rng)[0], "png"))
    archive.write("stack.tif", encode_tiff(*np.zeros((2, 90, 90, 3), np.uint8)))
    expected = {
        name: (tmp_path / "archive" / name).stat().st_size for name in ("good.png", "stack.tif")
    }
    monkeypatch.setattr(decode, "WHOLE_PIXELS", 2000)
    entries = Storage.entries
    monkeypatch.setattr(
        Storage, "entries", lambda self: [replace(e, size=stated) for e in entries(self)]
    )
    rows = segment(archive, make_network(), tile=64)["images"].to_pylist()
    found = {Path(row["image_uri"]).name: row for row in rows}
    assert (found["bomb.tif"]["error_type"], found["good.png"]["error_type"]) == ("too_large", None)
    assert "decompression bomb" in found["bomb.tif"]["error"]
    assert found["good.png"]["image_bytes"] == expected["good.png"]
    assert found["stack.tif#page=2"]["image_bytes"] == expected["stack.tif"]


@pytest.mark.parametrize("whole_pixels", [2000, 10**6], ids=["windows", "whole"])
def test_values_that_overflow_the_network_are_error_rows_and_no_holes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole_pixels: int
) -> None:
    """Samples that are too large are the file's fault, other output that is not finite is not."""
    archive, rng = Storage.of(f"{tmp_path}/archive"), np.random.default_rng(0)
    scene = draw_scene(100, 120, rng)[0].astype(np.float32)
    for name, sample in (("good", 255.0), ("large", 1e20), ("nodata", -3.4e38)):
        scene[50, 60] = sample
        archive.write(f"{name}.tif", encode_tiff(scene))
    monkeypatch.setattr(decode, "WHOLE_PIXELS", whole_pixels)
    constants = Preprocessing("float32", CONSTANTS.offset, CONSTANTS.scale)
    found = segment_float(archive, make_network(), constants)
    assert found["good.tif"] == (None, None, None)
    assert found["large.tif"][:2] == ("unsupported", "decode")
    assert found["large.tif"][2].startswith("a sample of 1e+20 in channel 1, 1.6e+18 times")
    assert found["nodata.tif"][:2] == ("unsupported", "decode")
    assert found["nodata.tif"][2].startswith("a sample of -3.4e+38; the limit is 1.3e+30")
    network = make_network()
    with torch.no_grad():
        network.head.weight.fill_(3e38)
    found = segment_float(archive, network, constants)
    assert found["good.tif"][:2] == ("internal", "predict")
    assert found["good.tif"][2].startswith("the network's output is NaN or infinite")


def segment_float(archive: Storage, network: UNet, constants: Preprocessing) -> dict[str, Any]:
    """Return error type, stage and message of each image."""
    rows = segment(archive, network, tile=64, constants=constants)["images"].to_pylist()
    return {
        Path(row["image_uri"]).name: (row["error_type"], row["error_stage"], row["error"])
        for row in rows
    }


@pytest.mark.parametrize("whole_pixels", [2000, 10**6], ids=["windows", "whole"])
def test_a_lost_gpu_is_not_the_fault_of_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole_pixels: int
) -> None:
    """A lost GPU is an error of the stage; a full memory is one of the image."""
    archive, rng = Storage.of(f"{tmp_path}/archive"), np.random.default_rng(0)
    archive.write("good.png", encode(draw_scene(100, 120, rng)[0], "png"))
    monkeypatch.setattr(decode, "WHOLE_PIXELS", whole_pixels)
    reason = "an illegal memory access was encountered"

    def fail(*_: object) -> None:
        raise torch.AcceleratorError(f"CUDA error: {reason}")

    monkeypatch.setattr(UNet, "forward", fail)
    with pytest.raises(torch.AcceleratorError, match=reason):
        segment(archive, make_network(), tile=64)
    reason = "out of memory"
    (row,) = segment(archive, make_network(), tile=64)["images"].to_pylist()
    assert row["error_type"] == "out_of_memory"


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 40), st.integers(1, 40))
def test_a_window_of_a_mask_is_that_window_of_the_whole_mask(
    top: int, left: int, height: int, width: int
) -> None:
    """Masks are stored in pieces of 32 px; windows cross them."""
    rng = np.random.default_rng(0)
    mask = rng.random((110, 110)) < 0.5
    measure = Measure(CLASSES, PLAIN)
    pieces = [
        Box(t, x, min(t + 32, 110), min(x + 32, 110))
        for t in range(0, 110, 32)
        for x in range(0, 110, 32)
    ]
    rows = [measure.mask_row("a", 0, mask[b.top : b.bottom, b.left : b.right], b) for b in pieces]
    tables = Tables(None, pa.Table.from_pylist(rows), None)
    window = Box(top, left, top + height, left + width)
    np.testing.assert_array_equal(
        image_masks(tables, "a", window)["cell"], mask[top : top + height, left : left + width]
    )
    with pytest.raises(InputError, match="extends beyond the image of 110×110 px"):
        image_masks(tables, "a", Box(0, 0, 111, 1))
