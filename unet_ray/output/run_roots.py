"""Roots of the images that tables name: who wrote the tables does not choose what is opened."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain, islice
from typing import Any

from unet_ray.flags import StoreOptions
from unet_ray.storage.roots import Roots
from unet_ray.storage.storage import Storage
from unet_ray.storage.uris import uri_store
from unet_ray.tables.runs import MOST_ROOTS, recorded_roots


def roots_of_runs(
    output: Storage,
    records: Iterable[Mapping[str, Any]],
    image_roots: str | None,
    options: StoreOptions = StoreOptions(),  # noqa: B008 (it is frozen)
) -> Roots:
    """Return the roots below which the images of some runs may be opened.

    Args:
        output: Root of the tables. Whoever writes there can also write records, so that these only
            count for the store that the tables are on: the same bucket, or this machine.
        records: Records of the runs; the first hundred roots that differ count.
        image_roots: Flag that names the roots instead; None: not given.
        options: Options of the store of the images. Those that a record has do not count: whoever
            wrote it does not choose where the credentials of this process go.

    Raises:
        InputError: The flag names no place.
    """
    given, store = Roots.parse(image_roots, options=options), uri_store(output.uri)
    recorded = chain.from_iterable(map(recorded_roots, records))
    ours = dict.fromkeys(root for root in recorded if uri_store(root) == store)
    return given.or_default(*sorted(islice(ours, MOST_ROOTS)))
