"""Keys, and the apps that they belong to."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from ..core.wire.key_forms import (
    PUBLISHABLE_PREFIX,
    PUBLISHABLE_RANDOM,
    SECRET_ID_PREFIX,
    SECRET_ID_RANDOM,
    SECRET_PREFIX,
    local_key,
    local_secret_id,
)
from .plan import UNBOUNDED, Plan
from .rights import ACTIONS

MIN_SECRET_LENGTH = 32
"""Minimum size of an HS256 key, in bytes (RFC 7518, 3.2)."""

KEYS_PER_APP = 50

DEFAULT_PUBLISHABLE_ACTIONS = ACTIONS - {"send"}
"""Default actions of a publishable key. It is public, so `send` is not among them: that reaches every peer of the
app."""

EVERYWHERE = ("**",)

_SUFFIX = re.compile(r"[A-Za-z0-9_-]{1,128}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishableKey:
    """A key for browsers and devices. The key itself is the credential, so the repr hides it.

    `allowed_origins` are `https://host` entries; empty allows every origin. If there are any, a client without an
    Origin header is refused, unless `origin_required` is False.
    """

    key: str = field(repr=False)
    channel_patterns: tuple[str, ...] = EVERYWHERE
    actions: frozenset[str] = DEFAULT_PUBLISHABLE_ACTIONS
    allowed_origins: tuple[str, ...] = ()
    origin_required: bool = True
    inject_ice_servers: bool = True
    revoked: bool = False

    def __post_init__(self) -> None:
        check_publishable_key(self.key)
        _check_actions(self.actions)


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretKey:
    """The key pair of a backend: a public id, and the secret that signs tokens."""

    id: str
    secret: str = field(repr=False)
    channel_patterns: tuple[str, ...] = EVERYWHERE
    actions: frozenset[str] = ACTIONS
    inject_ice_servers: bool = True
    revoked: bool = False

    def __post_init__(self) -> None:
        check_secret_pair(self.id, self.secret)
        _check_actions(self.actions)


@dataclass(frozen=True, slots=True)
class App:
    """An isolated tenant of the server, with its own peers, channels and keys.

    Connections to a `suspended` app are closed with 4012.
    """

    id: str
    publishable_keys: tuple[PublishableKey, ...] = ()
    secret_keys: tuple[SecretKey, ...] = ()
    plan: Plan = UNBOUNDED
    suspended: bool = False

    def __post_init__(self) -> None:
        count = len(self.publishable_keys) + len(self.secret_keys)
        if count > KEYS_PER_APP:
            raise ValueError(f"app {self.id!r} has {count} keys, the limit is {KEYS_PER_APP}")


class Keyring:
    """Looks up keys and their apps by the credentials of clients.

    Raises:
        ValueError: two apps have the same id, or the same key.
    """

    def __init__(self, apps: Iterable[App]) -> None:
        self._publishable: dict[str, tuple[App, PublishableKey]] = {}
        self._secret: dict[str, tuple[App, SecretKey]] = {}
        self.apps: dict[str, App] = {}
        for app in apps:
            _put(self.apps, app.id, app, f"app {app.id!r}")
            for publishable in app.publishable_keys:
                _put(self._publishable, publishable.key, (app, publishable), f"a publishable key of app {app.id!r}")
            for secret in app.secret_keys:
                _put(self._secret, secret.id, (app, secret), f"secret key {secret.id!r}")

    def publishable(self, key: str) -> tuple[App, PublishableKey] | None:
        """Return the app and the key. None if the key is unknown or revoked."""
        found = self._publishable.get(key)
        return None if found is None or found[1].revoked else found

    def is_revoked(self, key: str) -> bool:
        """Return whether a publishable key, or the secret key with an id, is known and revoked."""
        found = self._publishable.get(key) or self._secret.get(key)
        return found is not None and found[1].revoked

    def secret(self, key_id: str) -> tuple[App, SecretKey] | None:
        """Return the app and the key. None if the key is unknown or revoked."""
        found = self._secret.get(key_id)
        return None if found is None or found[1].revoked else found


def new_publishable_key() -> str:
    """Return a new publishable key."""
    return local_key(secrets.token_hex(PUBLISHABLE_RANDOM // 2))


def new_secret_pair() -> tuple[str, str]:
    """Return the id and the secret of a new secret key."""
    return local_secret_id(secrets.token_hex(SECRET_ID_RANDOM // 2)), SECRET_PREFIX + secrets.token_hex(32)


def check_publishable_key(key: str) -> None:
    """Raise ValueError unless the text is a well-formed publishable key."""
    if not _has_form(key, PUBLISHABLE_PREFIX):
        raise ValueError(f"a publishable key is {PUBLISHABLE_PREFIX!r} and 1 to 128 letters, digits, - or _: {key!r}")


def check_secret_pair(key_id: str, secret: str) -> None:
    """Raise ValueError unless id and secret are well-formed. The message does not contain the secret."""
    if not _has_form(key_id, SECRET_ID_PREFIX):
        raise ValueError(f"secret_id is {SECRET_ID_PREFIX!r} and 1 to 128 letters, digits, - or _, not {key_id!r}")
    if not _has_form(secret, SECRET_PREFIX):
        raise ValueError(f"secret is {SECRET_PREFIX!r} and 1 to 128 letters, digits, - or _; this one is not")
    if len(secret) < MIN_SECRET_LENGTH:
        raise ValueError(f"secret must have at least {MIN_SECRET_LENGTH} characters, not {len(secret)}")


def _has_form(text: object, prefix: str) -> bool:
    return isinstance(text, str) and text.startswith(prefix) and _SUFFIX.fullmatch(text, len(prefix)) is not None


def _check_actions(actions: frozenset[str]) -> None:
    unknown = sorted(actions - ACTIONS)
    if unknown:
        raise ValueError(f"unknown actions {unknown}; there are {sorted(ACTIONS)}")


V = TypeVar("V")


def _put(table: dict[str, V], key: str, value: V, what: str) -> None:
    if key in table:
        raise ValueError(f"{what} is there twice")
    table[key] = value
