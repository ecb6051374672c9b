"""The way to credentials of S3, which travels to nodes instead of the credentials if possible.

Keys in AWS_* variables are copied to all nodes and have priority everywhere. Without them, a node
gets the names by which the driver finds its credentials, and its own SDK renews the credentials:

    keys in the driver's variables
      ─▶ else a way in the node's own variables
      ─▶ else the driver's way, where the node has what it names
      ─▶ else what the SDK finds on the node: its shared files, the role of the machine

A profile that an option names is the only way for its store on all nodes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from aiobotocore.credentials import AioAssumeRoleWithWebIdentityProvider
from aiobotocore.session import AioSession
from botocore import exceptions as boto
from botocore.credentials import ReadOnlyCredentials

from unet_ray.storage.backends.s3_answers import find_answer

_OWN_WAY = (
    "AWS_ACCESS_KEY_ID",
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
"""Variables; any of them shows that a node has its own way to credentials."""
_ENDED = (
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidToken",
    "RequestExpired",
    "TokenRefreshRequired",
)
"""Codes by which AWS and similar stores refuse credentials that were valid before."""
_ENDED_WORDS = ("token has expired", "token is expired", "credentials are still expired")
_NOT_RENEWED = (
    boto.CredentialRetrievalError,
    boto.LoginError,
    boto.RefreshWithMFAUnsupportedError,
    boto.SSOError,
    boto.TokenRetrievalError,
)
"""Errors of the SDK when it cannot renew credentials."""
_TOKEN_SERVICES = ("AssumeRole", "GetRoleCredentials", "CreateToken", "GetSessionToken")
"""Beginnings of the names of operations that hand out credentials."""


@dataclass(frozen=True)
class Way:
    """Names by which the driver finds its credentials: no secrets."""

    profile: str | None = None
    """Profile of the shared files."""
    config_file: str | None = None
    """Path of the shared configuration file; None: its usual place."""
    credentials_file: str | None = None
    """Path of the shared credentials file; None: its usual place."""
    role_arn: str | None = None
    """Role that a web identity may assume."""
    role_session_name: str | None = None
    token_file: str | None = None
    """Path of the token of a web identity."""
    is_only: bool = False
    """True if an option names the profile, so no other way is tried."""

    @staticmethod
    def of(environment: Mapping[str, str], profile: str | None = None) -> Way | None:
        """Return the way that variables or an option name; None if they name none.

        Args:
            environment: Variables of the driver.
            profile: Profile that an option names.
        """
        find = environment.get
        way = Way(
            profile=profile or find("AWS_DEFAULT_PROFILE") or find("AWS_PROFILE"),
            config_file=find("AWS_CONFIG_FILE"),
            credentials_file=find("AWS_SHARED_CREDENTIALS_FILE"),
            role_arn=find("AWS_ROLE_ARN"),
            role_session_name=find("AWS_ROLE_SESSION_NAME"),
            token_file=find("AWS_WEB_IDENTITY_TOKEN_FILE"),
            is_only=profile is not None,
        )
        return None if way == Way() else way


def open_session(way: Way | None) -> AioSession:
    """Return a session of the SDK on this node, which finds and renews credentials.

    Args:
        way: Way of the driver; None: it has none.
    """
    session = AioSession()
    has_own = any(os.environ.get(name) for name in _OWN_WAY)
    if way is None or (has_own and not way.is_only):
        return session
    if not has_own:
        files = {"config_file": way.config_file, "credentials_file": way.credentials_file}
        for name, path in files.items():
            if path and os.path.isfile(os.path.expanduser(path)):
                session.set_config_variable(name, path)
    if way.profile and (way.is_only or way.profile in session.available_profiles):
        session.set_config_variable("profile", way.profile)
    elif way.role_arn and way.token_file and os.path.isfile(way.token_file):
        # the role is assumed by the token file, as if variables named both here
        profile = {
            "role_arn": way.role_arn,
            "role_session_name": way.role_session_name,
            "web_identity_token_file": way.token_file,
        }
        web_identity = AioAssumeRoleWithWebIdentityProvider(
            load_config=lambda: {"profiles": {"driver": profile}},
            client_creator=session.create_client,
            profile_name="driver",
            cache={},
            disable_env_vars=True,
        )
        session.get_component("credential_provider").providers.insert(0, web_identity)
    return session


async def freeze_credentials(session: AioSession) -> ReadOnlyCredentials | None:
    """Return the keys that a session has at this moment; None where it finds none."""
    found = await session.get_credentials()
    return None if found is None else await found.get_frozen_credentials()


def find_end(error: BaseException) -> str | None:
    """Return why credentials ended if an error of a request says so; None for other errors."""
    _, code = find_answer(error)
    text = str(error)
    if code in _ENDED:
        return code
    client_errors = [e for e in (error, error.__cause__) if isinstance(e, boto.ClientError)]
    is_of_token_service = any(
        each.operation_name.startswith(_TOKEN_SERVICES) for each in client_errors
    )
    if is_of_token_service or isinstance(error, _NOT_RENEWED):
        return f"{type(error).__name__}: {text}"
    if any(words in text for words in _ENDED_WORDS):
        return code or text
    return None


def find_lack(error: BaseException) -> str | None:
    """Return the credentials that a node lacks if an error says so; None for other errors."""
    lacks = (boto.NoCredentialsError, boto.PartialCredentialsError, boto.ProfileNotFound)
    return str(error) if isinstance(error, lacks) else None
