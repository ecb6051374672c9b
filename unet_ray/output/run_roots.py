"""Roots of the images that tables name, so that their author cannot choose what is opened."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from unet_ray.storage.roots import Roots
from unet_ray.storage.storage import Storage
from unet_ray.storage.uris import uri_store
from unet_ray.store_options import StoreOptions
from unet_ray.tables.runs import MOST_ROOTS, recorded_roots


def roots_of_runs(
    output: Storage,
    records: Iterable[Mapping[str, Any]],
    image_roots: str | None,
    options: StoreOptions = StoreOptions(),  # noqa: B008 (it is frozen)
) -> Roots:
    """Return the roots below which the images of some runs may be opened.

    Args:
        output: Root of the tables. Anyone who can write there can also write records, so records
            can admit only places on the store of the tables: the same bucket, or this machine.
        records: Records of the runs; their first hundred different roots count.
        image_roots: Value of the flag that names the roots instead; None: not given.
        options: Options of the store of the images. Options in a record are ignored, since its
            author must not choose where the credentials of this process go.

    Raises:
        InputError: The flag has a URI that is not valid.
    """
    given = Roots.parse(image_roots, options=options)
    store = uri_store(output.uri)
    ours: dict[str, None] = {}  # an ordered set
    for record in records:
        for root in recorded_roots(record):
            if uri_store(root) == store:
                ours[root] = None
    return given.or_default(*sorted(islice(ours, MOST_ROOTS)))
