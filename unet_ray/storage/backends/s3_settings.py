"""Settings of S3 from the driver's variables and files, which travel to nodes.

A node fills in what the driver leaves open from its own variables, files, or machine role.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.request import getproxies_environment

import botocore.session
from botocore.exceptions import BotoCoreError
from botocore.utils import get_environ_proxies

from unet_ray.errors import InputError
from unet_ray.storage.backends.s3_credentials import Way
from unet_ray.storage.temporary import temporary_prefix
from unet_ray.store_options import StoreOptions

_CHECKSUMS = ("request_checksum_calculation", "response_checksum_validation")
"""Settings of the SDK for stores that do not support its newer checksums."""


@dataclass(frozen=True)
class CaBundle:
    """Certificates to verify a store with. Their text travels, so nodes need no file."""

    digest: str
    """SHA-256 of the text, as hex."""
    text: bytes = field(repr=False, compare=False)

    @staticmethod
    def read(path: str, named: str) -> CaBundle:
        """Read a file of this machine.

        Args:
            path: Path of the file.
            named: Variable or option that names the file, for the message.

        Raises:
            InputError: The file cannot be read, or holds no certificate.
        """
        try:
            text = Path(path).expanduser().read_bytes()
        except OSError as error:
            raise InputError(
                f"{named} {path}: cannot be read ({error.strerror}); name a file of certificates"
            ) from None
        if b"-----BEGIN " not in text:
            raise InputError(
                f"{named} {path}: it contains no certificate; name a file in PEM format"
            )
        return CaBundle(sha256(text).hexdigest(), text)

    def find_path(self) -> str:
        """Return the path of a file with these certificates on this node."""
        return _write_bundle(self)


@cache
def _write_bundle(bundle: CaBundle) -> str:
    folder = Path(tempfile.mkdtemp(prefix=temporary_prefix()))
    file = folder / "ca.pem"
    file.write_bytes(bundle.text)
    return str(file)


def find_settings(wanted: StoreOptions) -> dict[str, Any]:
    """Return options for `PlainS3FileSystem` from the variables and files of this process.

    Args:
        wanted: Options of a flag, which override them.

    Raises:
        InputError: A profile does not exist, or certificates cannot be read.
    """
    return dict(_find_settings(wanted, tuple(sorted(os.environ.items()))))


@lru_cache(8)
def _find_settings(wanted: StoreOptions, variables: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    environment = dict(variables)
    profile = _read_profile(wanted.profile)
    region = (
        wanted.region
        or environment.get("AWS_REGION")
        or environment.get("AWS_DEFAULT_REGION")
        or profile.get("region")
    )
    endpoint = (
        wanted.endpoint_url
        or environment.get("AWS_ENDPOINT_URL_S3")
        or environment.get("AWS_ENDPOINT_URL")
        or profile.get("endpoint_url")
    )
    is_plain = endpoint is not None and endpoint.startswith("http://")  # has no certificates
    config = _find_config(
        wanted=wanted, environment=environment, profile=profile, endpoint=endpoint, region=region
    )
    found = {
        "config_kwargs": config,
        **_find_credentials(wanted, environment),
        "requester_pays": wanted.requester_pays or None,
        "client_kwargs": {"region_name": region} if region else None,
        "endpoint_url": endpoint,
        "ca_bundle": None if is_plain else _read_bundle(wanted, environment, profile),
    }
    return {name: value for name, value in found.items() if value is not None}


def _find_config(
    wanted: StoreOptions,
    environment: Mapping[str, str],
    profile: Mapping[str, Any],
    endpoint: str | None,
    region: str | None,
) -> dict[str, Any]:
    """Return the arguments of the SDK's `Config`."""
    config: dict[str, Any] = {}
    for name in _CHECKSUMS:
        value = environment.get(f"AWS_{name.upper()}") or profile.get(name)
        if value:
            config[name] = value
    style: str | None = wanted.addressing_style
    section = profile.get("s3")
    if not style and isinstance(section, Mapping):
        style = section.get("addressing_style")
    if style:
        config["s3"] = {"addressing_style": style}
    if getproxies_environment():
        # chosen here by the driver's NO_PROXY; the nodes may have another one
        home = region or "us-east-1"
        place = endpoint or f"https://s3.{home}.amazonaws.com"
        chosen = get_environ_proxies(place)
        config["proxies"] = {kind: chosen[kind] for kind in ("http", "https") if kind in chosen}
    return config


def _find_credentials(wanted: StoreOptions, environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the keys in the variables or, without any, the way to keys that the variables name."""
    if wanted.anon:
        return {"anon": True}
    key = environment.get("AWS_ACCESS_KEY_ID")
    secret = environment.get("AWS_SECRET_ACCESS_KEY")
    token = environment.get("AWS_SESSION_TOKEN")
    if key and secret and not wanted.profile:
        keys = {"key": key, "secret": secret}
        if token:
            keys["token"] = token
        return keys
    way = Way.of(environment, wanted.profile)
    return {"way": way} if way else {}


def _read_profile(name: str | None) -> Mapping[str, Any]:
    """Return the settings of a profile in the shared files; None: the profile of this process."""
    try:
        found: Mapping[str, Any] = botocore.session.Session(profile=name).get_scoped_config()
    except BotoCoreError as error:
        named = f"the option profile={name}" if name else "AWS_PROFILE"
        raise InputError(f"{error}; check {named} and the shared AWS files") from None
    return found


def _read_bundle(
    wanted: StoreOptions, environment: Mapping[str, str], profile: Mapping[str, Any]
) -> CaBundle | None:
    named = {
        "the option ca_bundle": wanted.ca_bundle,
        "AWS_CA_BUNDLE": environment.get("AWS_CA_BUNDLE"),
        "ca_bundle of the shared AWS configuration": profile.get("ca_bundle"),
    }
    for name, path in named.items():
        if path:
            return CaBundle.read(path, name)
    return None
