"""Make a small archive, train, evaluate and segment it in a few minutes, and draw what was found.

unet-ray quickstart --output quickstart
"""

from __future__ import annotations

import io
import time
from dataclasses import dataclass
from typing import NoReturn

from unet_ray.cli.command import run
from unet_ray.cli.evaluate import table
from unet_ray.cli.segment import summary
from unet_ray.cli.streams import show


@dataclass(frozen=True, kw_only=True)
class QuickstartConfig:
    """Settings of the quickstart."""

    output: str = "quickstart"
    """Folder for everything that is made: archive, model, tables, picture."""


def main(config: QuickstartConfig, ray_address: str) -> None:
    """Run every step, and print its results and their paths."""
    from unet_ray.evaluation.config import EvaluateConfig
    from unet_ray.evaluation.evaluate import evaluate
    from unet_ray.segmentation.config import SegmentConfig
    from unet_ray.segmentation.segment import segment
    from unet_ray.storage.storage import Storage
    from unet_ray.synthetic import CLASSES, make_archive
    from unet_ray.training.config import TrainConfig
    from unet_ray.training.train import train

    root = Storage.of(config.output)
    root.check_writable()
    started = time.perf_counter()

    def say(step: str) -> None:
        show("", f"[{time.perf_counter() - started:3.0f} s] {step}")

    say("making an archive: 24 labelled images, 8 to check on, 30 to segment, one of them corrupt")
    made = make_archive(root.join("data"), labelled=24, check=8, archive=29)
    model = root.join(f"model-{int(time.time())}").uri
    tables = root.join("tables").uri

    say("training a U-Net")
    training = TrainConfig(
        images=made.labelled_images.uri,
        masks=made.labelled_masks.uri,
        classes=CLASSES,
        output=model,
        base_channels=12,
        depth=3,
        crop=128,
        epochs=8,
        learning_rate=4e-3,
    )
    train(training, ray_address)

    say("evaluating it on images that it has not seen")
    checked = evaluate(
        EvaluateConfig(model=model, images=made.check_images.uri, masks=made.check_masks.uri),
        ray_address,
    )
    show(*table(checked))

    say("segmenting the archive")
    settings = SegmentConfig(
        model=model, images=made.archive.uri, output=tables, min_area=20, max_error_rate=0.1
    )
    show(*summary(settings, segment(settings, ray_address)))

    root.write("overlays.png", _draw(tables))
    say(f"done: look at {config.output}/overlays.png; query {tables}; the model is {model}")


def _draw(tables_uri: str) -> bytes:
    """Return a PNG of the first images, each beside a copy with its regions."""
    import pyarrow.compute as pc

    from unet_ray.imaging.codecs.sandbox import process_decoder
    from unet_ray.output.reader import contact_sheet, overlay, read_tables
    from unet_ray.storage.storage import Storage

    tables = read_tables(tables_uri)
    pictures = []
    for uri in sorted(tables.images["image_uri"].to_pylist())[:6]:
        image = process_decoder().decode(Storage.of(uri).read()).samples
        found = tables.regions.filter(pc.field("image_uri") == uri)
        pictures += [overlay(image, found.slice(0, 0)), overlay(image, found)]
    png = io.BytesIO()
    contact_sheet(pictures, columns=4).save(png, "PNG")
    return png.getvalue()


def command() -> NoReturn:
    """Run the command with the flags of this process."""
    run(QuickstartConfig, main, __doc__)
