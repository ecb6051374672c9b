"""Prediction of one image, masks from tables, and overlays for notebooks; no Ray."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from unet_ray.errors import ImageError, InputError
from unet_ray.image_sources.encoded import find_place, read_encoded
from unet_ray.image_sources.names import image_uri, split_uri
from unet_ray.image_sources.sources import ImageSource
from unet_ray.imaging.channels import ChannelSelection, take_channels, take_pages
from unet_ray.imaging.codecs.decode import match_channels
from unet_ray.imaging.codecs.decoded_image import DecodedImage
from unet_ray.imaging.codecs.sandbox import process_decoder
from unet_ray.imaging.drawing import overlay as drawing
from unet_ray.imaging.geometry import Box
from unet_ray.imaging.regions.run_lengths import decode_rle
from unet_ray.network import model_folder
from unet_ray.network.config import PredictorConfig
from unet_ray.network.model_folder import Model
from unet_ray.network.predictor import Predictor, clear_missing
from unet_ray.output.reader import Tables, image_masks, read_tables
from unet_ray.segmentation.stages.image_record import ImageRecord
from unet_ray.segmentation.stages.measure import Measure
from unet_ray.segmentation.stages.run_tables import RunStamp, split_into_tables
from unet_ray.storage.storage import Storage
from unet_ray.storage.uris import uri_scheme

if TYPE_CHECKING:
    import geopandas
    from PIL import Image

_HERE = "array"
"""Name in `regions` rows of an image that is given as an array."""


@dataclass(frozen=True)
class Prediction:
    """Prediction of a model for one image."""

    image_hwc: NDArray[Any]
    """Image with the channels that the model takes; (H, W, C)."""
    probabilities: dict[str, NDArray[np.float32]]
    """Class name → probability; (H, W), 0 to 1 in steps of 1/255."""
    masks: dict[str, NDArray[np.bool_]]
    """Class name → mask by the model's own thresholds; (H, W)."""
    regions: pa.Table
    """Table with the columns of the `regions` table."""

    @property
    def geodataframe(self) -> geopandas.GeoDataFrame:
        """Regions for GeoPandas, geometry in pixels, y down; needs the package geopandas."""
        import geopandas

        frame = self.regions.to_pandas()
        geometry = geopandas.GeoSeries.from_wkb(frame["geometry"])
        return geopandas.GeoDataFrame(frame, geometry=geometry)

    def overlay(self) -> Image.Image:
        """Return the image with its regions drawn over it."""
        return drawing.overlay(self.image_hwc, self.regions)


class Segmenter:
    """A trained model, ready to predict images in this process.

    Args:
        model: Model, as `load_model` of a model folder returns it.
        device: `cpu` or `cuda`.
    """

    def __init__(self, model: Model, device: str = "cpu") -> None:
        self.model = model
        self._device = device

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(spec.name for spec in self.model.classes)

    @cached_property
    def _predictor(self) -> Predictor:
        config = PredictorConfig(device=self._device)  # type: ignore[arg-type]
        return Predictor(self.model.build(), self.model.preprocessing, config)

    def predict(self, image: NDArray[Any] | str, channels: str | None = None) -> Prediction:
        """Find the classes in an image, as `jobs/segment.py` would write them.

        Args:
            image: (H, W) or (H, W, C) of the training images' dtype, with the model's channels in
                their order; or the URI of a file, from which they are taken by name.
            channels: Channels to take from a file instead, as `--channels` of `jobs/segment.py`.

        Returns:
            Probabilities, masks and regions.

        Raises:
            ImageError: An image that the model was not trained for, or that overflows it.
            InputError: A URI that cannot be read.

        Example:
            >>> import numpy as np, unet_ray
            >>> model = unet_ray.load_model("model")
            >>> found = model.predict(np.zeros((40, 60, 3), np.uint8))
            >>> found.masks["cell"].shape
            (40, 60)
            >>> found.regions.column_names[:4]
            ['image_uri', 'run_id', 'region_id', 'class_id']
        """
        selection = self.model.select_channels(channels)
        if isinstance(image, str):
            name = resolve_uri(image)
            read = _read_image(image, selection)
        elif channels is not None:
            raise InputError(
                f"channels {channels}: an array has no channel names; "
                "give an array of these channels"
            )
        else:
            name = _HERE
            read = DecodedImage(image[:, :, None] if image.ndim == 2 else image)
        pixels = self.model.preprocessing.check(read.samples, read.valid)
        prob_u8_khw = clear_missing(self._predictor.predict([pixels])[0], read.valid)
        record = ImageRecord(ImageSource(*split_uri(name), etag="", size=0))
        record = record.with_decoded(read, pixels.shape[2])
        measure = Measure(self.model.classes, self.model.postprocessing)
        found = measure.image(record, prob_u8_khw)
        tables = split_into_tables(Measure.join([found]), RunStamp("", self.model.digest, ""))
        probabilities = {}
        planes = prob_u8_khw[: len(self.classes)]  # those of markers come after them
        for class_name, plane in zip(self.classes, planes, strict=True):
            probabilities[class_name] = plane.astype(np.float32) / 255
        masks = {}
        for row in found.masks.to_pylist():
            masks[row["class_name"]] = decode_rle(row["counts"], row["height"], row["width"])
        return Prediction(
            image_hwc=match_channels(read.samples, pixels.shape[2]),
            probabilities=probabilities,
            masks=masks,
            regions=tables["regions"],
        )


def load_model(uri: str, device: str = "cpu") -> Segmenter:
    """Load a model folder; no code from the folder runs.

    Args:
        uri: Model folder that `jobs/train.py` wrote.
        device: `cpu` or `cuda`.

    Returns:
        The model, ready to predict.

    Raises:
        InputError: There is no model, or it is damaged.

    Example:
        >>> import unet_ray
        >>> unet_ray.load_model("model").classes
        ('cell', 'fibre')
    """
    return Segmenter(model_folder.load_model(Storage.of(uri)), device)


def mask(
    tables: Tables | str, image_uri: str, class_name: str, window: Box | None = None
) -> NDArray[np.bool_]:
    """Return the mask of a class in an image, (H, W), or in a window of it.

    Args:
        tables: Tables that `read_tables` returned, or the URI of an output.
        image_uri: URI as in the tables; for a local file also its path.
        class_name: Class of the model.
        window: unet_ray.Box(top, left, bottom, right) in px; None: all of the image.

    Returns:
        The mask; (H, W), bool.

    Raises:
        InputError: An image or a class is not in the tables, or the window leaves the image.

    Example:
        >>> import unet_ray
        >>> tables = unet_ray.read_tables("tables")
        >>> uri = tables.images["image_uri"][0].as_py()
        >>> unet_ray.mask(tables, uri, "cell", unet_ray.Box(0, 0, 20, 30)).shape
        (20, 30)
    """
    found = read_tables(tables) if isinstance(tables, str) else tables
    masks = image_masks(found, resolve_uri(image_uri), window)
    if class_name not in masks:
        raise InputError(
            f"{image_uri} has no class {class_name}; choose one of {', '.join(sorted(masks))}"
        )
    return masks[class_name]


def overlay(image: NDArray[Any] | str, regions: pa.Table) -> Image.Image:
    """Draw regions over their image, in a colour per class that colour-blind people can tell apart.

    Args:
        image: (H, W, C), or the URI of a file.
        regions: Rows of the regions table; with a URI, rows of other images are left out.

    Returns:
        The picture, RGB.

    Example:
        >>> import unet_ray
        >>> tables = unet_ray.read_tables("tables")
        >>> uri = tables.images["image_uri"][0].as_py()
        >>> picture = unet_ray.overlay(uri, tables.regions)
        >>> picture.mode
        'RGB'
    """
    if isinstance(image, str):
        regions = regions.filter(pc.field("image_uri") == resolve_uri(image))
        image = _read_image(image).samples
    return drawing.overlay(image, regions)


def resolve_uri(uri: str) -> str:
    """Return the URI of an image as in the tables: relative paths become absolute."""
    file, key = split_uri(uri)
    if uri_scheme(file) == "file":
        file = Storage.of(file).uri
    return image_uri(file, key)


def _read_image(uri: str, channels: ChannelSelection | None = None) -> DecodedImage:
    file, key = split_uri(uri)
    try:
        access = Storage.of(file)
        place = find_place(process_decoder(), access, access.entry(), key)
        pages = take_pages(place, channels)
        data = read_encoded(access, access.uri, pages)
    except (OSError, ImageError) as error:
        raise InputError(f"{uri}: cannot be read ({error})") from None
    return take_channels(process_decoder().decode(data), place, channels)
