"""Other ways to segment an archive, which `segment.py` compares with the job.

    python -m tests.benchmarks.sides SIDE --model MODEL --images DIR --tables DIR --events FILE
        [--device gpu]

Each runs in a process of its own. All use the same weights (batch normalisation folded,
channels_last), the same measures and the same Parquet writer. Each appends the time to the events
file when an image was predicted; all except `bare` write when each was measured.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import DataLoader, Dataset

from unet_ray.image_sources.sources import ImageSource
from unet_ray.imaging.codecs.decode import decode_image
from unet_ray.imaging.codecs.image_place import WHOLE
from unet_ray.network.config import PredictorConfig
from unet_ray.network.model_folder import Model, load_model
from unet_ray.network.predictor import Predictor
from unet_ray.segmentation.stages.image_record import ImageRecord
from unet_ray.segmentation.stages.measure import Measure
from unet_ray.segmentation.stages.run_tables import RunStamp, split_into_tables
from unet_ray.storage.storage import Storage
from unet_ray.tables.shards import ShardName, write_shard

_GPU_BATCH = 16
_BARE_BATCHES = 64
"""Number of batches that `bare` keeps on a GPU, and takes again and again."""
_WINDOW = 512
_DOCS_BATCH = 8
Image = tuple[str, NDArray[np.uint8]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=_SIDES)
    for name in ("model", "images", "tables", "events"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    flags = parser.parse_args()
    model = load_model(Storage.of(flags.model))
    place = Place(model, Path(flags.images), Path(flags.tables), Path(flags.events), flags.device)
    _SIDES[flags.side](place)


@dataclass(frozen=True)
class Place:
    """Model, folders and device of a side."""

    model: Model
    images: Path
    tables: Path
    events: Path
    device: str

    @property
    def paths(self) -> list[str]:
        """Paths of all images."""
        return [str(path) for path in sorted(self.images.iterdir())]

    @property
    def is_gpu(self) -> bool:
        return self.device == "gpu"

    def predictor(self) -> Predictor:
        how = (
            PredictorConfig(device="cuda", precision="bfloat16")
            if self.is_gpu
            else PredictorConfig(threads=_cpus())
        )
        return Predictor(self.model.build(), self.model.preprocessing, how)

    def measure(self) -> Measure:
        return Measure(self.model.classes, self.model.postprocessing)

    def stamp(self) -> RunStamp:
        return RunStamp("side", self.model.digest, "")

    def tell(self, images: int = 1) -> None:
        """Record that this number of images was predicted just now."""
        with open(self.events, "a") as file:  # one short write is atomic beside other writers
            file.write(f"{time.time()}\n" * images)


def _cpus() -> int:
    return len(os.sched_getaffinity(0))


def bare(place: Place) -> None:
    """Run the network alone on frames that are its input already, in as many lanes as the job."""
    predictor = place.predictor()
    frames = ((path, _decode(place.model, path)) for path in place.paths)
    batches = islice(_batches(place, frames), _BARE_BATCHES if place.is_gpu else None)
    inputs = [_stack(place, [image for _, image in alike]) for alike in batches]
    turns = range(len(place.paths) // len(inputs[0]) if place.is_gpu else len(inputs))
    if place.is_gpu:
        # the lanes' streams do not wait for the stream that brought the frames
        torch.cuda.synchronize()

    @torch.inference_mode()
    def forward(pixels: Tensor) -> None:
        predictor.network(pixels)
        if place.is_gpu:
            torch.cuda.current_stream().synchronize()
        place.tell(len(pixels))

    list(predictor.lanes.map(forward, inputs[: predictor.lane_count]))
    list(predictor.lanes.map(lambda turn: forward(inputs[turn % len(inputs)]), turns))


def loop(place: Place) -> None:
    """Run a good loop by hand: a DataLoader decodes ahead, batches have equal frames, one shard."""
    network = place.predictor().network

    @torch.inference_mode()
    def predict(images: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        return _to_prob_u8(network(_stack(place, images)))

    _by_hand(place, predict)


def monai(place: Place) -> None:
    """Run the same loop with MONAI's sliding window, 512 px, and its default overlap."""
    from monai.inferers import SlidingWindowInferer

    network = place.predictor().network
    inferer = SlidingWindowInferer(
        (_WINDOW, _WINDOW), sw_batch_size=_GPU_BATCH if place.is_gpu else 1
    )

    @torch.inference_mode()
    def predict(images: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        return _to_prob_u8(inferer(_stack(place, images, multiple=1), network))

    _by_hand(place, predict)


def docs(place: Place) -> None:
    """Run Ray Data as its documentation does: read_images, map_batches twice, write_parquet."""
    import ray

    class Predict:
        def __init__(self) -> None:
            torch.set_num_threads(_cpus())  # Ray gives an actor of one CPU one thread
            self.network = place.predictor().network

        @torch.inference_mode()
        def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, Any]:
            found = np.empty(len(batch["path"]), object)
            images = list(zip(map(str, range(len(found))), batch["image"], strict=True))
            for alike in _batches(place, images):
                logits = self.network(_stack(place, [image for _, image in alike]))
                for (index, image), prob_u8 in zip(alike, _to_prob_u8(logits), strict=True):
                    found[int(index)] = _inner(prob_u8, image)
            place.tell(len(found))
            return {"path": batch["path"], "prob_u8": found}

    measure = place.measure()

    def measure_batch(batch: dict[str, NDArray[Any]]) -> Any:
        images = zip(batch["path"], batch["prob_u8"], strict=True)
        return Measure.join([measure.image(_record(*image), image[1]) for image in images])

    gpus = {"num_gpus": 1} if place.is_gpu else {"num_cpus": 1}
    images = ray.data.read_images(str(place.images), mode="RGB", include_paths=True)
    predicted = images.map_batches(Predict, batch_size=_DOCS_BATCH, concurrency=1, **gpus)
    predicted.map_batches(measure_batch).write_parquet(str(place.tables / "images"))


def _by_hand(place: Place, predict: Callable[[list[NDArray[np.uint8]]], NDArray[np.uint8]]) -> None:
    torch.set_num_threads(_cpus())
    measure, rows = place.measure(), []
    loader = DataLoader(
        _Files(place),
        batch_size=None,
        num_workers=max(1, _cpus() // 2),
        prefetch_factor=4,
        collate_fn=_as_it_is,
    )
    for alike in _batches(place, loader):
        found = predict([image for _, image in alike])
        place.tell(len(alike))
        for (path, image), prob_u8 in zip(alike, found, strict=True):
            inner = _inner(prob_u8, image)
            rows.append(measure.image(_record(path, inner), inner))
    tables = split_into_tables(Measure.join(rows), place.stamp())
    write_shard(
        Storage.of(str(place.tables)),
        ShardName("2026-01-01", "side", 0),
        tables,
        may_commit=lambda: None,
    )


def _as_it_is(image: Image) -> Image:
    return image


def _batches(place: Place, images: Iterable[Image]) -> Iterator[list[Image]]:
    """Yield images of equal shape together: one at a time on CPUs, where more are no faster."""
    size = _GPU_BATCH if place.is_gpu else 1
    waiting: dict[tuple[int, ...], list[Image]] = defaultdict(list)
    for path, image in images:
        alike = waiting[image.shape]
        alike.append((path, image))
        if len(alike) == size:
            yield waiting.pop(image.shape)
    yield from waiting.values()


class _Files(Dataset[Image]):
    def __init__(self, place: Place) -> None:
        self._model, self._paths = place.model, place.paths

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Image:
        return self._paths[index], _decode(self._model, self._paths[index])


def _decode(model: Model, path: str) -> NDArray[np.uint8]:
    return model.preprocessing.check(decode_image(Path(path).read_bytes()).samples)


def _input(place: Place, image: NDArray[np.uint8], multiple: int | None = None) -> Tensor:
    """Return an image as network input, (1, C, H, W) float or bfloat16.

    It is filled up to a multiple of what the network pools.
    """
    multiple = multiple or place.model.network.multiple
    pixels = torch.from_numpy(np.array(image)[None]).permute(0, 3, 1, 2)
    inputs = place.model.preprocessing.apply(pixels.to("cuda" if place.is_gpu else "cpu"))
    inputs = inputs.to(torch.bfloat16) if place.is_gpu else inputs
    height, width = image.shape[:2]
    return pad(inputs, (0, -width % multiple, 0, -height % multiple)).contiguous(
        memory_format=torch.channels_last
    )


def _stack(place: Place, images: list[NDArray[np.uint8]], multiple: int | None = None) -> Tensor:
    return torch.cat([_input(place, image, multiple) for image in images])


def _to_prob_u8(logits: Tensor) -> NDArray[np.uint8]:
    return logits.float().sigmoid().mul(255).round().to(torch.uint8).cpu().numpy()


def _inner(prob_u8_khw: NDArray[np.uint8], image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(prob_u8_khw[:, : image.shape[0], : image.shape[1]])


def _record(path: str, prob_u8: NDArray[np.uint8]) -> ImageRecord:
    source = ImageSource(path, WHOLE, etag="", size=Path(path).stat().st_size)
    return ImageRecord(source, *prob_u8.shape[1:], channels=3)


_SIDES: dict[str, Callable[[Place], None]] = {
    "bare": bare,
    "loop": loop,
    "docs": docs,
    "monai": monai,
}


if __name__ == "__main__":
    main()
