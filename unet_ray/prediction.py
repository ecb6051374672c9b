"""What a notebook wants: a model that predicts one image, masks out of tables, pictures; no Ray."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from unet_ray.errors import ImageError, InputError
from unet_ray.image_sources.encoded import find_place, read_encoded
from unet_ray.image_sources.names import page_uri, split_page
from unet_ray.imaging.codecs.decode import decode_image
from unet_ray.imaging.drawing import overlay as drawing
from unet_ray.imaging.geometry import Box
from unet_ray.network import model_folder
from unet_ray.network.config import PredictorConfig
from unet_ray.network.model_folder import Model
from unet_ray.network.predictor import Predictor
from unet_ray.output.reader import Tables, image_masks, read_tables
from unet_ray.segmentation.stages.measure import Measure
from unet_ray.storage.storage import Storage

if TYPE_CHECKING:
    import geopandas
    from PIL import Image

_HERE = "array"
"""What rows of regions call an image that came as an array."""


@dataclass(frozen=True)
class Prediction:
    """What a model found in one image."""

    image_hwc: NDArray[Any]
    """As the model saw it, (H, W, C)."""
    probabilities: dict[str, NDArray[np.float32]]
    """Class name → (H, W), 0 to 1 in steps of 1/255."""
    masks: dict[str, NDArray[np.bool_]]
    """Class name → (H, W), by the model's own thresholds."""
    regions: Any
    """Arrow table with the columns of the `regions` table."""

    @property
    def geodataframe(self) -> geopandas.GeoDataFrame:
        """The regions for GeoPandas, geometry in pixels, y down; needs the package geopandas."""
        import geopandas

        frame = self.regions.to_pandas()
        return geopandas.GeoDataFrame(
            frame, geometry=geopandas.GeoSeries.from_wkb(frame["geometry"])
        )

    def overlay(self) -> Image.Image:
        """Return the image with its regions drawn over it."""
        return drawing.overlay(self.image_hwc, self.regions)


class Segmenter:
    """A trained model, ready to predict images in this process.

    Args:
        model — as `load_model` of a model folder returns it.
        device — `cpu` or `cuda`.
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
        return Predictor(
            self.model.build(), self.model.preprocessing, PredictorConfig(device=self._device)
        )  # type: ignore[arg-type]

    def predict(self, image: NDArray[Any] | str) -> Prediction:
        """Find the classes in an image: what `jobs/segment.py` would write for it.

        Args:
            image — (H, W) or (H, W, C) of the training images' dtype, or the URI of a file.

        Raises: ImageError — an image that the model was not trained for; InputError — an URI that cannot be read.

        Example:
            >>> import numpy as np, unet_ray
            >>> model = unet_ray.load_model("model")
            >>> found = model.predict(np.zeros((40, 60, 3), np.uint8))
            >>> found.masks["cell"].shape
            (40, 60)
            >>> found.regions.column_names[:4]
            ['image_uri', 'run_id', 'region_id', 'class_id']
        """
        name, pixels = (
            (_named(image), _decoded(image)) if isinstance(image, str) else (_HERE, image)
        )
        pixels = self.model.preprocessing.check(pixels if pixels.ndim == 3 else pixels[:, :, None])
        prob_u8_khw = self._predictor.predict([pixels])[0]
        classes, rule = self.model.classes, self.model.rule
        row = {"image_uri": name, "image_etag": "", "image_bytes": 0, "pages": 1}
        row |= dict(zip(("height", "width", "channels"), pixels.shape, strict=True))
        found = Measure("", self.model.digest, "", classes, rule).image(row, prob_u8_khw)
        planes = enumerate(classes)
        return Prediction(
            pixels,
            {spec.name: prob_u8_khw[index].astype(np.float32) / 255 for index, spec in planes},
            {spec.name: rule.cut(index, prob_u8_khw)[0] for index, spec in enumerate(classes)},
            found.regions,
        )


def load_model(uri: str, device: str = "cpu") -> Segmenter:
    """Load a model folder; that runs no code of the folder.

    Args:
        uri — what `jobs/train.py` wrote.
        device — `cpu` or `cuda`.

    Raises: InputError — no model there, or a damaged one.

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
        tables — what `read_tables` returned, or the URI of an output.
        image_uri — as in the tables; of a local file its path will do.
        class_name — of the model.
        window — unet_ray.Box(top, left, bottom, right) in px; None: all of the image.

    Raises: InputError — an image or a class that is not in the tables, a window that leaves the image.

    Example:
        >>> import unet_ray
        >>> tables = unet_ray.read_tables("tables")
        >>> uri = tables.images["image_uri"][0].as_py()
        >>> unet_ray.mask(tables, uri, "cell", unet_ray.Box(0, 0, 20, 30)).shape
        (20, 30)
    """
    masks = image_masks(
        read_tables(tables) if isinstance(tables, str) else tables, _named(image_uri), window
    )
    if class_name not in masks:
        raise InputError(
            f"{class_name}: no class of {image_uri}; there are {', '.join(sorted(masks))}"
        )
    return masks[class_name]


def overlay(image: NDArray[Any] | str, regions: Any) -> Image.Image:
    """Draw regions over their image, a colour per class that colour-blind people can tell from the others.

    Args:
        image — (H, W, C), or the URI of a file.
        regions — rows of the regions table; with a URI, those of other images are left out.

    Example:
        >>> import unet_ray
        >>> tables = unet_ray.read_tables("tables")
        >>> uri = tables.images["image_uri"][0].as_py()
        >>> picture = unet_ray.overlay(uri, tables.regions)
        >>> picture.mode
        'RGB'
    """
    if isinstance(image, str):
        regions = regions.filter(pc.field("image_uri") == _named(image))
        image = _decoded(image)
    return drawing.overlay(image, regions)


def _named(uri: str) -> str:
    """Return what the tables call an image: relative paths become absolute."""
    file, page = split_page(uri)
    return page_uri(Storage.of(file).uri, page)


def _decoded(uri: str) -> NDArray[Any]:
    file, page = split_page(uri)
    try:
        access = Storage.of(file)
        data = read_encoded(access, access.uri, find_place(access, access.entry(), page))
    except (OSError, ImageError) as error:
        raise InputError(f"{uri}: cannot be read ({error})") from None
    return decode_image(data)
