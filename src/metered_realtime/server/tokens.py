"""Tokens: JWTs that a backend signs with its secret key and a client presents to the server."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jwt

from ..core.wire.frames import encode_payload
from ..core.wire.names import channel_fault, identity_fault
from .keys import SecretKey, check_secret_pair
from .limits import Limits
from .rights import ACTIONS

ALGORITHM = "HS256"

RESUME_TYPE = "resume"
"""The `typ` in the header of a resume token. A token with it is never accepted as an access token."""

LEEWAY = 5.0
"""Tolerance for clock differences, in seconds."""

MAX_TOKEN_CHANNELS = 100

MAX_TIME = 2**53
"""Latest expiry in unix seconds: exact in JavaScript, and within the range of date functions."""

SIGNATURE_ONLY: Any = {
    "verify_signature": True,
    **dict.fromkeys(
        ("verify_exp", "verify_nbf", "verify_iat", "verify_aud", "verify_iss", "verify_sub", "verify_jti"), False
    ),
}
"""Options of PyJWT, which checks the signature only. The claims are checked here, against the caller's time: PyJWT
reads the clock itself, and refuses tokens for claims without a meaning here, such as `aud`."""

_DEFAULTS = Limits()


class InvalidTokenError(Exception):
    """A token is not accepted. `expired` if its expiry is the only reason."""

    def __init__(self, message: str, *, expired: bool = False) -> None:
        super().__init__(message)
        self.expired = expired


@dataclass(frozen=True, slots=True)
class Claims:
    """The claims of a valid token."""

    peer_id: str
    expires_at: float
    channels: tuple[str, ...] | None
    permissions: frozenset[str] | None
    metadata: dict[str, Any] | None
    peer_metadata: dict[str, Any] | None


def mint_token(
    *,
    secret_id: str,
    secret: str,
    peer_id: str,
    channels: Sequence[str] | None = None,
    permissions: Iterable[str] | None = None,
    expires_in: float = 3600,
    metadata: dict[str, Any] | None = None,
    peer_metadata: dict[str, Any] | None = None,
    now: float | None = None,
) -> str:
    """Sign a token for a peer. For backends, which keep the secret to themselves.

    `channels` (names or patterns) and `permissions` narrow the rights of the key; None keeps them. `expires_in` is in
    seconds. `metadata` is sent to the peer only, in its welcome; `peer_metadata` is sent to all peers that see it.
    `now` is unix seconds, by default the current time.

    Raises:
        ValueError: a server would not accept an argument. The message names it and does not contain the secret.
    """
    check_secret_pair(secret_id, secret)
    issued = math.floor(time.time() if now is None else now)
    claims: dict[str, Any] = {
        "sub": _peer_id(peer_id),
        "iat": issued,
        "exp": issued + _lifetime(expires_in),
        "channels": None if channels is None else _channels(channels),
        "permissions": None if permissions is None else _permissions(permissions),
        "metadata": _bag("metadata", metadata, _DEFAULTS.metadata_size),
        "peerMetadata": _bag("peer_metadata", peer_metadata, _DEFAULTS.peer_metadata_size),
    }
    present = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(present, secret.encode(), algorithm=ALGORITHM, headers={"kid": secret_id})


def key_id(token: str) -> str | None:
    """Return the id of the key that a token claims to be signed with."""
    try:
        kid = jwt.get_unverified_header(token).get("kid")
    except (jwt.PyJWTError, ValueError, RecursionError):
        return None
    return kid if isinstance(kid, str) else None


def verify_token(token: str, key: SecretKey, now: float, limits: Limits = _DEFAULTS) -> Claims:
    """Verify a token with its key, at a time in unix seconds. Return its claims.

    Raises:
        InvalidTokenError: the signature or a claim is invalid, or the token has expired.
    """
    try:
        decoded = jwt.decode_complete(token, key.secret.encode(), algorithms=[ALGORITHM], options=SIGNATURE_ONLY)
        if decoded["header"].get("typ") == RESUME_TYPE:
            raise ValueError("a resume token is no access token")
        return _read(decoded["payload"], now, limits)
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
        raise InvalidTokenError(str(error)) from None


def _read(claims: dict[str, Any], now: float, limits: Limits) -> Claims:
    expires_at = _time(claims, "exp")
    if expires_at is None:
        raise ValueError("exp is missing")
    not_before = _time(claims, "nbf")
    _time(claims, "iat")
    channels = _strings(claims, "channels")
    permissions = _strings(claims, "permissions")
    read = Claims(
        peer_id=_peer_id(claims.get("sub")),
        expires_at=expires_at,
        channels=None if channels is None else tuple(channels),
        permissions=None if permissions is None else frozenset(permissions),
        metadata=_bag("metadata", claims.get("metadata"), limits.metadata_size),
        peer_metadata=_bag("peerMetadata", claims.get("peerMetadata"), limits.peer_metadata_size),
    )
    if not_before is not None and not_before > now + LEEWAY:
        raise ValueError(f"the token is not valid before {not_before - now:.1f} s from now")
    if expires_at <= now - LEEWAY:
        raise InvalidTokenError(f"the token has expired {now - expires_at:.1f} s ago", expired=True)
    return read


def _time(claims: dict[str, Any], name: str) -> float | None:
    """Return a NumericDate claim (RFC 7519, 2), which may have a fraction."""
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MAX_TIME:
        raise ValueError(f"{name} is no time in unix seconds")
    return value


def _strings(claims: dict[str, Any], name: str) -> list[str] | None:
    value = claims.get(name)
    if value is not None and not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
        raise ValueError(f"{name} is no array of strings")
    return value


def _peer_id(value: object) -> str:
    fault = identity_fault(value)
    if fault is not None:
        raise ValueError(f"peer_id must be 1 to 128 characters of printable ASCII, not {value!r} ({fault})")
    return str(value)


def _lifetime(expires_in: float) -> int:
    if isinstance(expires_in, bool) or not isinstance(expires_in, int | float) or not 1 <= expires_in < MAX_TIME / 2:
        raise ValueError(f"expires_in must be a number of seconds, at least 1, not {expires_in!r}")
    return math.floor(expires_in)


def _channels(channels: Sequence[str]) -> list[str]:
    if isinstance(channels, str):
        raise ValueError(f"channels must be a list of names, not the text {channels!r}")
    if len(channels) > MAX_TOKEN_CHANNELS:
        raise ValueError(f"channels must have at most {MAX_TOKEN_CHANNELS} entries, not {len(channels)}")
    for channel in channels:
        fault = channel_fault(channel)
        if fault is not None:
            raise ValueError(f"channels has an entry that is no channel name or pattern: {channel!r} ({fault})")
    return list(channels)


def _permissions(permissions: Iterable[str]) -> list[str]:
    if isinstance(permissions, str):
        raise ValueError(f"permissions must be a list of actions, not the text {permissions!r}")
    granted = list(permissions)
    for action in granted:
        if not isinstance(action, str) or action not in ACTIONS:
            raise ValueError(f"permissions has the unknown action {action!r}; there are {sorted(ACTIONS)}")
    return sorted(set(granted))


def _bag(name: str, value: object, cap: int) -> dict[str, Any] | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be an object, not {type(value).__name__}")
    try:
        size = len(bytes(encode_payload(value)))
    except TypeError as error:
        raise ValueError(f"{name} is not JSON: {error}") from None
    if size > cap:
        raise ValueError(f"{name} must have at most {cap} bytes as JSON, not {size}")
    return value
