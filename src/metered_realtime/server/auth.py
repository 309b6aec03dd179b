"""Who connects: a publishable key or a token becomes an identity, or a close code.

An unknown, a wrong and a revoked credential look the same from outside: the same close code and reason, after the
same work.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ..core.frames import encode_payload
from ..events import WsCloseCode
from .hub import Identity
from .keys import Keyring, PublishableKey, SecretKey, new_secret_pair
from .limits import Limits
from .rights import Grant
from .tokens import Claims, InvalidTokenError, key_id, mint_token, verify_token

__all__ = ["Admission", "Authenticator", "RefusedError", "mint_token"]


class RefusedError(Exception):
    """A connection that ends before its welcome, with this close code."""

    def __init__(self, code: WsCloseCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Admission:
    """A connection that is let in: to which app, as whom."""

    app: str
    identity: Identity


class Authenticator:
    """Turns what a handshake shows into an admission."""

    def __init__(
        self, keyring: Keyring, ice_servers: Sequence[dict[str, Any]] = (), limits: Limits | None = None
    ) -> None:
        self._keyring = keyring
        self._ice_servers = list(ice_servers)
        self._limits = limits if limits is not None else Limits()
        # What tokens of unknown keys are verified with, so that they take as long as others.
        decoy_id, decoy_secret = new_secret_pair()
        self._decoy = SecretKey(id=decoy_id, secret=decoy_secret)

    def admit(self, keys: Sequence[str], tokens: Sequence[str], origin: str | None, now: float) -> Admission:
        """Admit a handshake by the `key` and `token` values of its query. `now` is unix seconds.

        Raises:
            RefusedError: with the close code to end the connection with.
        """
        if len(keys) + len(tokens) != 1:
            raise RefusedError(WsCloseCode.INVALID_TOKEN, "exactly one of key and token is needed")
        if keys:
            return self._by_key(keys[0], origin)
        return self._by_token(tokens[0], now)

    def _by_key(self, value: str, origin: str | None) -> Admission:
        found = self._keyring.publishable(value)
        if found is None or not _origin_allowed(found[1], origin):
            raise _invalid()
        app, key = found
        grant = Grant(key.actions, key.channel_patterns)
        identity = Identity(str(uuid.uuid4()), _with_a_channel(grant), metadata=self._metadata(key, None))
        return Admission(app.id, identity)

    def _by_token(self, token: str, now: float) -> Admission:
        found = self._keyring.secret(key_id(token) or "")
        try:
            claims = verify_token(token, found[1] if found else self._decoy, now, self._limits)
        except InvalidTokenError as error:
            if error.expired:
                raise RefusedError(WsCloseCode.TOKEN_EXPIRED, "token expired") from None
            raise _invalid() from None
        if found is None:
            raise _invalid()
        app, key = found
        return Admission(app.id, self._identity(key, claims))

    def _identity(self, key: SecretKey, claims: Claims) -> Identity:
        grant = Grant(key.actions, key.channel_patterns, claims.permissions, claims.channels)
        peer_metadata = claims.peer_metadata
        return Identity(
            claims.peer_id,
            _with_a_channel(grant),
            expires_at=claims.expires_at,
            metadata=self._metadata(key, claims.metadata),
            peer_metadata=None if peer_metadata is None else encode_payload(peer_metadata),
        )

    def _metadata(self, key: PublishableKey | SecretKey, claimed: dict[str, Any] | None) -> dict[str, Any] | None:
        if not (self._ice_servers and key.inject_ice_servers) or "iceServers" in (claimed or {}):
            return claimed
        return {**(claimed or {}), "iceServers": self._ice_servers}


def _invalid() -> RefusedError:
    return RefusedError(WsCloseCode.INVALID_TOKEN, "invalid credential")


def _with_a_channel(grant: Grant) -> Grant:
    if not grant.reaches_anything():
        raise RefusedError(WsCloseCode.CHANNEL_NOT_AUTHORIZED, "no channel is in scope")
    return grant


def _origin_allowed(key: PublishableKey, origin: str | None) -> bool:
    if not key.allowed_origins:
        return True
    if origin is None:
        return not key.origin_required
    return _normal(origin) in {_normal(allowed) for allowed in key.allowed_origins}


def _normal(origin: str) -> tuple[str, str | None, int | None] | str:
    try:
        parts = urlsplit(origin)
        default = {"http": 80, "https": 443}.get(parts.scheme)
        return parts.scheme, parts.hostname, parts.port or default
    except ValueError:
        return origin
