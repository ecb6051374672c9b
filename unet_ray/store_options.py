"""Options of the store of one flag's URI: what they are, and the parsing of their text."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from unet_ray.errors import InputError
from unet_ray.flags import NAME_RULE, is_name

AddressingStyle = Literal["auto", "path", "virtual"]
"""Place of the bucket's name in requests: in the path, in the host name, or as the SDK decides."""


@dataclass(frozen=True)
class StoreOptions:
    """Options of the store of one flag's URI, if it is not the store of the others.

    They override the variables and the shared files of the driver. None of them is secret.
    """

    requester_pays: bool = False
    """Agree to pay for requests and transfers."""
    anon: bool = False
    """Send no signature, even if there are keys: for public buckets."""
    endpoint_url: str | None = None
    """Address of the store, `https://HOST[:PORT]`."""
    profile: str | None = None
    """Profile of the shared AWS files, on all nodes."""
    region: str | None = None
    addressing_style: AddressingStyle | None = None
    ca_bundle: str | None = None
    """File of this machine with the certificates by which the store is known."""


_SECRETS = re.compile(r"key|secret|token|passw|user|credential|signature", re.IGNORECASE)
"""Parts of names that options with secrets would have."""
_ENDPOINT = re.compile(r"https?://[A-Za-z0-9._:\[\]-]+(/[A-Za-z0-9._/-]*)?")
"""Form of the address of a store."""


def parse_store_options(text: str | None, flag: str) -> StoreOptions:
    """Return the options of a store, given as NAME=VALUE separated by commas; by default none.

    Example:
        `requester_pays=true,region=us-west-2`.

    Raises:
        InputError: An option is not known, is secret, is given twice, or cannot have its value.
    """
    if text is None:
        return StoreOptions()
    known = [each.name for each in fields(StoreOptions)]
    found: dict[str, Any] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        name = name.strip()
        value = value.strip()
        if _SECRETS.search(name):
            raise InputError(
                f"{flag} {name}=…: secrets do not belong in flags, which others can see; put them "
                "into AWS_* variables, or into a profile of the shared files, and give profile=NAME"
            )
        if name not in known or not equals:
            raise InputError(f"{flag}: {name!r:.100}: give NAME=VALUE of {', '.join(known)}")
        if not value:
            raise InputError(f"{flag}: {name} is empty: give NAME=VALUE of {', '.join(known)}")
        if name in found:
            raise InputError(f"{flag}: {name} is given twice; give it once")
        found[name] = _parse_value(name, value, flag)
    if found.get("anon") and "profile" in found:
        raise InputError(
            f"{flag}: anon sends no signature, but profile is for one; give only one of them"
        )
    return StoreOptions(**found)


def read_store_options(config: object, name: str) -> StoreOptions:
    """Return the options of the store of one URI of a config.

    Args:
        config: Config whose fields are flags.
        name: Field of the URI; for `images`, the options are in `images_options`.

    Raises:
        InputError: Same as `parse_store_options`.
    """
    return parse_store_options(getattr(config, f"{name}_options"), f"--{name}-options")


def check_store_options(config: object, name: str, uris: Iterable[str | None]) -> None:
    """Raise InputError for options of a config that are not valid, or that none of its URIs takes.

    Args:
        config: Config whose fields are flags.
        name: Name of the options: `images` for `images_options`.
        uris: URIs to which they apply. Those at `s3://` take options, and the files of a manifest
            may take them.
    """
    if read_store_options(config, name) == StoreOptions():
        return
    given = [uri for uri in uris if uri]
    if not any(uri.startswith("s3://") or uri.endswith(".parquet") for uri in given):
        found = ", ".join(given) or "none is given"
        raise InputError(
            f"--{name}-options: only URIs at s3:// have options ({found}); leave them out"
        )


def keep_for(uri: str, options: StoreOptions) -> StoreOptions | None:
    """Return options that several URIs share for one that takes options; None for another URI."""
    return options if uri.startswith("s3://") else None


def _parse_value(name: str, value: str, flag: str) -> str | bool:
    """Return the value of an option in its type."""
    if name in ("requester_pays", "anon"):
        if value.lower() not in ("true", "false"):
            raise InputError(f"{flag} {name}={value!r:.100}: choose true or false")
        return value.lower() == "true"
    if name == "addressing_style" and value not in get_args(AddressingStyle):
        raise InputError(
            f"{flag} {name}={value!r:.100}: choose {', '.join(get_args(AddressingStyle))}"
        )
    if name == "endpoint_url" and not _ENDPOINT.fullmatch(value):
        raise InputError(
            f"{flag} {name}=…: give https://HOST or http://HOST:PORT, without a user, a password "
            "or a query"
        )
    if not is_name(value):
        raise InputError(f"{flag} {name}={value!r:.100}: choose {NAME_RULE}")
    return value
