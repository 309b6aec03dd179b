"""Resume tokens: a client with a publishable key keeps its peer id when it reconnects.

A token is a JWT with a peer id and an expiry. It is not an access token: it is valid only together with the publishable
key that it was issued for, its header has a separate `typ`, and it is signed with a separate secret, derived from a
secret key of the app, the app and the publishable key. It is therefore valid on every server with the same
configuration, and after a restart, but in no other app and with no other key. Nothing is stored.

The tokens of an app without a secret key are signed with a secret of this process, and are invalid after it ends.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import secrets
from typing import Any

import jwt

from ..core.wire.frames import is_resume_token
from ..core.wire.names import identity_fault
from .keys import App, PublishableKey
from .tokens import ALGORITHM, RESUME_TYPE, SIGNATURE_ONLY

LIFETIME = 86_400
"""Lifetime of a token in seconds. A laptop that slept over night keeps its peer id; a token in an old log is
useless."""

REISSUE_INTERVAL = LIFETIME / 2
"""Seconds after which a live connection gets a new token, so that at least half a lifetime is left when it ends."""

_PURPOSE = b"metered_realtime resume 1"


class ResumeTokens:
    """Issues and verifies resume tokens. Times are in unix seconds."""

    def __init__(self) -> None:
        self._process_secret = secrets.token_bytes(32)

    def issue(self, app: App, key: PublishableKey, peer_id: str, now: float) -> str:
        """Return a token that restores this peer id for a connection by this key."""
        claims = {"sub": peer_id, "exp": math.floor(now) + LIFETIME}
        headers = {"typ": RESUME_TYPE}
        return jwt.encode(claims, self._signing_keys(app, key)[0], algorithm=ALGORITHM, headers=headers)

    def read(self, token: str, app: App, key: PublishableKey, now: float) -> str | None:
        """Return the peer id that a token restores for a key. None if the token is invalid for any reason."""
        if not is_resume_token(token):
            return None
        for signing_key in self._signing_keys(app, key):
            peer_id = _peer_id(token, signing_key, now)
            if peer_id is not None:
                return peer_id
        return None

    def _signing_keys(self, app: App, key: PublishableKey) -> list[bytes]:
        """Return the secrets that tokens may be signed with. New tokens are signed with the first."""
        bases = [secret.secret.encode() for secret in app.secret_keys if not secret.revoked]
        # A publishable key contains no NUL, so that the text is unambiguous.
        scope = b"\0".join((_PURPOSE, key.key.encode(), app.id.encode()))
        return [hmac.digest(base, scope, hashlib.sha256) for base in (*bases, self._process_secret)]


def _peer_id(token: str, signing_key: bytes, now: float) -> str | None:
    try:
        decoded: dict[str, Any] = jwt.decode_complete(
            token, signing_key, algorithms=[ALGORITHM], options=SIGNATURE_ONLY
        )
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        return None
    claims = decoded["payload"]
    is_good = decoded["header"].get("typ") == RESUME_TYPE and _is_later(claims.get("exp"), now)
    return claims["sub"] if is_good and identity_fault(claims.get("sub")) is None else None


def _is_later(expires_at: object, now: float) -> bool:
    return isinstance(expires_at, int) and not isinstance(expires_at, bool) and expires_at > now
