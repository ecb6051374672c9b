"""Lines, event files, curves and comparisons of a training, read back as a user sees them."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unet_ray.imaging.drawing.overlay import COLOURS, GREY, class_colour
from unet_ray.imaging.drawing.panels import (
    PANEL_PX,
    Comparison,
    draw_comparison,
    image_panel,
    mask_panel,
    panel_size,
)
from unet_ray.storage.storage import Storage
from unet_ray.training.console import duration_text, epoch_line, summary_lines
from unet_ray.training.curves import draw_curves
from unet_ray.training.progress import EpochRecord
from unet_ray.training.tensorboard import EventLog

RECORD = EpochRecord(
    epoch=7,
    crops_seen=7000,
    loss=0.21434,
    learning_rate=3e-4,
    iou={"leaf": 0.901, "symptom": None},
    dice={"leaf": 0.951, "symptom": None},
    thresholds={"leaf": 0.5, "symptom": 0.35},
    score=0.951,
    crops_per_s=212.04,
    data_wait=0.034,
    elapsed_s=50.0,
    validation_s=10.0,
    workers=2,
    gpu_memory_bytes=int(10.25 * 2**30),
    worst=[(4, 0.25), (1, 0.5)],
)


def unvalidated(record: EpochRecord) -> EpochRecord:
    return replace(record, iou={}, dice={}, thresholds={}, score=None, worst=[])


def with_classes(names: list[str], dice: float) -> EpochRecord:
    values = dict.fromkeys(names, dice)
    return replace(RECORD, iou=values, dice=values, thresholds=dict.fromkeys(names, 0.5))


# --- records, lines, summary


def test_a_record_survives_json() -> None:
    assert EpochRecord(**json.loads(json.dumps(asdict(RECORD)))) == RECORD


def test_a_line_holds_what_a_user_watches() -> None:
    line = epoch_line(RECORD, 40, eta_s=1390, is_best=True)
    for part in (
        "epoch  7/40",
        "loss  0.2143",
        "leaf 0.951/0.901",
        "symptom  n/a",
        "212.0 crops/s",
        "data wait   3%",
    ):
        assert part in line
    assert line.endswith("GPU  10.2 GiB  ETA 23m10s  best")
    assert len(line) < 160


def test_lines_of_a_run_align() -> None:
    first = replace(
        RECORD,
        epoch=1,
        loss=1.5,
        iou=dict.fromkeys(RECORD.iou, 0.1),
        dice=dict.fromkeys(RECORD.dice, 0.2),
    )
    last = replace(first, epoch=100, crops_per_s=1812.3, data_wait=1.0)
    lines = [
        epoch_line(r, 100, eta, False) for r, eta in ((first, 360_000), (RECORD, 61), (last, 0))
    ]
    assert (
        len(
            {
                (len(line), line.index("loss"), line.index("crops/s"), line.index("ETA"))
                for line in lines
            }
        )
        == 1
    )


@pytest.mark.parametrize("count", [2, 3, 4, 5, 11, 80])
@pytest.mark.parametrize("name_chars", [1, 9, 60])
def test_a_line_stays_short_with_many_classes(count: int, name_chars: int) -> None:
    names = [f"{i:02d}" + "x" * name_chars for i in range(count)]
    record = with_classes(names, 0.8)
    record.dice[names[-1]] = 0.111
    line = epoch_line(record, 1000, 1e5, is_best=True)
    assert len(line) < 160
    assert "mean Dice 0." in line
    assert "0.111" in line


def test_a_line_of_one_class_and_one_without_validation_or_gpu() -> None:
    assert "Dice 0.832  IoU 0.832" in epoch_line(with_classes(["nuclei"], 0.832), 9, 1, False)
    line = epoch_line(replace(unvalidated(RECORD), gpu_memory_bytes=None), 9, 1, False)
    assert "no validation" in line
    assert "GPU" not in line


@pytest.mark.parametrize(
    ("duration_s", "text"),
    [
        (0, "0s"),
        (59.6, "1m00s"),
        (185, "3m05s"),
        (7620, "2h07m"),
        (273_600, "3d04h"),
        (float("inf"), "?"),
    ],
)
def test_durations_are_printed_in_two_units(duration_s: float, text: str) -> None:
    assert duration_text(duration_s) == text


def test_the_summary_weighs_epochs_by_their_training_time() -> None:
    slow = replace(
        RECORD, epoch=8, crops_seen=8000, crops_per_s=100.0, elapsed_s=90.0, workers=1, score=0.5
    )
    text = "\n".join(summary_lines([RECORD, slow], 7, "mean Dice"))
    assert "best epoch: 7 of 8, mean Dice 0.9510" in text
    assert "leaf     0.951  0.901       0.50" in text
    assert "symptom   n/a    n/a        0.35" in text
    mean = (212.04 * 40 + 100 * 80) / 120  # 40 s and 80 s of training
    assert (
        f"2 epochs in 2m20s (validation 20s), 8,000 crops, {mean:.1f} crops/s by 1 to 2 workers"
        in text
    )
    assert "data wait 3%, GPU memory up to 10.2 GiB" in text


def test_the_summary_without_validation_has_no_table_of_classes() -> None:
    lines = summary_lines(
        [replace(unvalidated(RECORD), workers=1, gpu_memory_bytes=None)], 7, "loss"
    )
    assert len(lines) == 2  # the best epoch and the cost
    assert lines[1].endswith("by 1 worker, data wait 3%")


# --- TensorBoard


def parse_events(data: bytes) -> list[object]:
    """Parse an event file: length, its checksum, the event, its checksum, and so on."""
    from tensorboardX.proto.event_pb2 import Event

    events, at = [], 0
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        events.append(Event.FromString(data[at + 12 : at + 12 + length]))
        at += length + 16
    assert at == len(data)
    return events


def parse_scalars(data: bytes) -> dict[tuple[str, int], float]:
    return {
        (value.tag, event.step): value.simple_value
        for event in parse_events(data)
        for value in event.summary.value
    }


def read_event_files(run_folder: Storage) -> list[bytes]:
    return [
        run_folder.read(entry.path)
        for entry in run_folder.entries()
        if entry.path.startswith("tensorboard/")
    ]


def test_the_event_file_is_whole_after_every_epoch(tmp_path: Path) -> None:
    run_folder = Storage.of(str(tmp_path / "run"))
    log = EventLog(run_folder)
    log.write(RECORD)
    (first,) = read_event_files(run_folder)
    assert parse_scalars(first)["loss", 7] == pytest.approx(0.21434)
    log.write(replace(RECORD, epoch=8, loss=0.1, gpu_memory_bytes=None))
    log.close()
    (both,) = read_event_files(run_folder)
    scalars = parse_scalars(both)
    assert scalars["loss", 8] == pytest.approx(0.1)
    assert {tag for tag, step in scalars if step == 7} == {
        "loss",
        "learning_rate",
        "dice/leaf",
        "iou/leaf",
        "crops_per_s",
        "data_wait",
        "gpu_memory_gib",
    }
    assert scalars["gpu_memory_gib", 7] == pytest.approx(10.25)
    assert ("gpu_memory_gib", 8) not in scalars
    assert scalars["iou/leaf", 8] == pytest.approx(0.901)


def test_a_restarted_training_writes_a_file_beside_the_old_one(tmp_path: Path) -> None:
    run_folder = Storage.of(str(tmp_path))
    for epoch in (7, 5):
        log = EventLog(run_folder)
        log.write(replace(RECORD, epoch=epoch))
        log.close()
    files = read_event_files(run_folder)
    assert len(files) == 2
    starts = {
        event.step
        for data in files
        for event in parse_events(data)
        if event.HasField("session_log")
    }
    assert starts == {5, 7}  # from there on, TensorBoard forgets what older files hold


def test_the_event_log_leaves_no_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    log = EventLog(Storage.of(str(tmp_path / "run")))
    assert len(os.listdir(tmp_path)) == 1
    log.close()
    log.close()
    assert os.listdir(tmp_path) == []


def test_importing_the_console_loads_no_heavy_library() -> None:
    code = (
        "import sys, unet_ray.training.console; "
        "print({'ray', 'torch', 'matplotlib', 'tensorboardX'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# --- curves


def read_pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def count_near(pixels: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((np.abs(pixels.astype(int) - colour).max(axis=-1) < 12).sum())


def make_history(epochs: int) -> list[EpochRecord]:
    values = [0.9 * (1 - 0.9**e) for e in range(1, epochs + 1)]
    return [
        replace(
            RECORD,
            epoch=e,
            loss=1 - v,
            iou={"leaf": v / 2, "symptom": None},
            dice={"leaf": v, "symptom": v * 0.6},
        )
        for e, v in enumerate(values, 1)
    ]


def test_curves_are_drawn_in_their_panels() -> None:
    pixels = read_pixels(draw_curves(make_history(40), best_epoch=38))
    assert pixels.shape == (750, 1300, 3)
    loss, dice, iou = (pixels[80:340, left : left + 380] for left in (30, 460, 910))
    assert count_near(loss, class_colour(5)) > 200
    assert count_near(dice, class_colour(0)) > 200
    assert count_near(dice, class_colour(1)) > 200
    assert count_near(iou, class_colour(0)) > 200
    assert count_near(iou, class_colour(1)) == 0  # undefined all along
    for left in (30, 460, 910):
        assert count_near(pixels[420:700, left : left + 380], class_colour(5)) > 200


def test_curves_are_drawn_for_one_epoch_and_for_unusual_names() -> None:
    one = read_pixels(draw_curves([with_classes(["$a", "_b", "叶"], 0.5)], best_epoch=7))
    assert count_near(one[80:340], class_colour(2)) > 5  # the class drawn last is on top


def test_curves_without_validation_say_so() -> None:
    pixels = read_pixels(draw_curves([unvalidated(r) for r in make_history(3)]))
    for left in (600, 1060):
        assert (pixels[155:175, left : left + 100] < 150).sum() > 100
    assert count_near(pixels, class_colour(0)) == 0


# --- comparison


def comparison(
    image: np.ndarray, truth: np.ndarray, found: np.ndarray, name: str = "a.png"
) -> Comparison:
    return Comparison(
        name, 0.25, image, truth, found, tuple(f"class{i}" for i in range(len(truth)))
    )


def cut_panels(sheet: np.ndarray, size: int) -> list[np.ndarray]:
    """Return the panels of the one row of a sheet: the lowest rows of pixels, in three columns."""
    top = sheet.shape[0] - 16 - size
    return [sheet[top : top + size, left : left + size] for left in (8, 16 + size, 24 + 2 * size)]


def test_a_comparison_shows_image_truth_and_prediction() -> None:
    image = np.full((400, 400, 3), 200, np.uint8)
    truth = np.zeros((2, 400, 400), np.uint8)
    truth[0, 100:200, 100:200] = 1
    truth[:, 300:380, 300:380] = 255
    found = np.zeros((2, 400, 400), bool)
    found[1, 50:90, 50:90] = True
    sheet = read_pixels(draw_comparison([comparison(image, truth, found)]))
    shown, wanted, predicted = cut_panels(sheet, 400)
    assert (shown == 200).all()
    assert (wanted[100, 150] == COLOURS[0]).all()  # edge
    assert np.abs(wanted[150, 150] - (200 * 0.6 + np.array(COLOURS[0]) * 0.4)).max() <= 1
    assert (wanted[60, 60] == 200).all()
    assert count_near(wanted[300:380, 300:380], GREY) > 1000
    assert (predicted[50, 70] == COLOURS[1]).all()
    assert (predicted[150, 150] == 200).all()
    legend = sheet[:-430]
    assert all(count_near(legend, colour) > 50 for colour in (COLOURS[0], COLOURS[1], GREY))


def test_a_comparison_has_rows_of_any_size_and_type() -> None:
    rng = np.random.default_rng(0)
    rows = []
    for (height, width), channels, dtype in (
        ((64, 48), 1, "uint16"),
        ((700, 1500), 3, "uint8"),
        ((9, 3000), 5, "f4"),
    ):
        image = rng.integers(0, 200, (height, width, channels)).astype(dtype)
        truth = rng.integers(0, 2, (3, height, width)).astype(np.uint8)
        rows.append(comparison(image, truth, truth == 1, "very long name " * 20))
    sheet = read_pixels(draw_comparison(row for row in rows))
    assert sheet.shape[1] == 3 * PANEL_PX + 5 * 8
    # panels of 384, 239 and 2 px in height, and at most 400 px of text and gaps
    assert 384 + 239 + 2 < sheet.shape[0] < 384 + 239 + 2 + 400


@pytest.mark.parametrize(
    "shape", [(1024, 2048), (2048, 1000), (513, 513), (512, 300), (50, 40), (1, 2000), (20_000, 3)]
)
def test_panels_of_images_and_masks_are_of_one_size(shape: tuple[int, int]) -> None:
    expected = panel_size(*shape)
    assert max(expected) <= PANEL_PX
    assert image_panel(np.zeros((*shape, 1), np.uint8)).shape == (*expected, 3)
    mask = np.zeros(shape, bool)
    mask[-1, -1] = True
    panel = mask_panel(mask)
    assert panel.shape == expected
    assert panel[-1, -1]


def test_thin_objects_survive_shrinking() -> None:
    mask = np.zeros((3000, 2000), bool)
    mask[1234] = True
    assert mask_panel(mask).any(axis=0).all()


def test_one_hot_pixel_leaves_a_16_bit_image_visible() -> None:
    image = np.tile(np.linspace(0, 400, 300, dtype=np.uint16)[None, :, None], (300, 1, 1))
    image[0, 0] = 65535
    panel = image_panel(image)
    assert panel[150, 10, 0] < 20
    assert panel[150, 290, 0] > 230


def test_photographs_keep_their_colours() -> None:
    image = np.random.default_rng(0).integers(0, 256, (400, 400, 3)).astype(np.uint8)
    assert (image_panel(image) == image).all()
