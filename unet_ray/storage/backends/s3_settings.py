"""Settings of S3 from the driver's variables and files, which travel to nodes.

A node adds what the driver does not say: its own variables and files, or the role of its machine.
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
from unet_ray.flags import StoreOptions
from unet_ray.storage.backends.s3_credentials import Way
from unet_ray.storage.temporary import temporary_prefix

_CHECKSUMS = ("request_checksum_calculation", "response_checksum_validation")
"""Settings of the SDK that stores need which do not know its newer checksums."""


@dataclass(frozen=True)
class CaBundle:
    """Certificates by which a store is known. Their text travels: nodes need no file of theirs."""

    digest: str
    """SHA-256 of the text, as hex."""
    text: bytes = field(repr=False, compare=False)

    @staticmethod
    def read(path: str, named: str) -> CaBundle:
        """Read a file of this machine.

        Args:
            path: Its path.
            named: Variable or option that names it, for the message.

        Raises:
            InputError: It cannot be read, or holds no certificate.
        """
        try:
            text = Path(path).expanduser().read_bytes()
        except OSError as error:
            raise InputError(
                f"{named} {path}: cannot be read ({error.strerror}); name a file of certificates"
            ) from None
        if b"-----BEGIN " not in text:
            raise InputError(f"{named} {path}: no certificate in it; name a file in PEM format")
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
    """Return options of `PlainS3FileSystem`: what the variables and files of this process say.

    Args:
        wanted: Options of a flag, which come before them.

    Raises:
        InputError: A profile that is not there, or certificates that cannot be read.
    """
    return dict(_find_settings(wanted, tuple(sorted(os.environ.items()))))


@lru_cache(8)
def _find_settings(wanted: StoreOptions, variables: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    environment = dict(variables)
    profile = _read_profile(wanted.profile)
    region = wanted.region or _find_region(environment, profile)
    endpoint = wanted.endpoint_url or _find_endpoint(environment, profile)
    is_plain = endpoint is not None and endpoint.startswith("http://")  # knows no certificates
    found = {
        "config_kwargs": _find_config(wanted, environment, profile, endpoint, region),
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
    """Return what goes into the SDK's `Config`."""
    config: dict[str, Any] = {}
    for name in _CHECKSUMS:
        if value := environment.get(f"AWS_{name.upper()}") or profile.get(name):
            config[name] = value
    section = profile.get("s3")
    known = section.get("addressing_style") if isinstance(section, Mapping) else None
    if style := wanted.addressing_style or known:
        config["s3"] = {"addressing_style": style}
    if getproxies_environment():
        # chosen here, by the driver's NO_PROXY, so that nodes do not choose by their own
        place = endpoint or f"https://s3.{region or 'us-east-1'}.amazonaws.com"
        chosen = get_environ_proxies(place)
        config["proxies"] = {kind: chosen[kind] for kind in ("http", "https") if kind in chosen}
    return config


def _find_credentials(wanted: StoreOptions, environment: Mapping[str, str]) -> dict[str, Any]:
    """Return keys that variables hold, or else the way to some that they name."""
    if wanted.anon:
        return {"anon": True}
    key, secret = environment.get("AWS_ACCESS_KEY_ID"), environment.get("AWS_SECRET_ACCESS_KEY")
    if key and secret and not wanted.profile:
        token = environment.get("AWS_SESSION_TOKEN")
        return {"key": key, "secret": secret} | ({"token": token} if token else {})
    way = Way.of(environment, wanted.profile)
    return {"way": way} if way else {}


def _read_profile(name: str | None) -> Mapping[str, Any]:
    """Return what the shared files say for a profile; None: that of this process."""
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
    return next((CaBundle.read(path, name) for name, path in named.items() if path), None)


def _find_region(environment: Mapping[str, str], profile: Mapping[str, Any]) -> str | None:
    named = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")
    return named or profile.get("region")


def _find_endpoint(environment: Mapping[str, str], profile: Mapping[str, Any]) -> str | None:
    named = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
    return named or profile.get("endpoint_url")
