"""The format of the keys that this server makes.

They look like those of the hosted service, so that every client accepts them. The last eight hex digits are a checksum
of the others, by which a client recognises a key that was made here and must not be sent to the hosted service. One in
2**32 keys of the service is mistaken for one of these. Keys of other forms work where they are configured; they are
only not recognised.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re

PUBLISHABLE_PREFIX, SECRET_ID_PREFIX, SECRET_PREFIX = "pk_live_", "sk_id_", "sk_secret_"

PUBLISHABLE_RANDOM, SECRET_ID_RANDOM = 32, 16
"""Random hex digits in a publishable key, which is a credential, and in the id of a secret key, which is not."""

CHECK_DIGITS = 8

MAX_TOKEN_HEADER = 1_024
"""Maximum length of a token header that is decoded, in characters. Those of this server have about 100."""

_PURPOSE = "metered-realtime-mesh key 1:"
_PUBLISHABLE = re.compile(rf"{PUBLISHABLE_PREFIX}[0-9a-f]{{{PUBLISHABLE_RANDOM + CHECK_DIGITS}}}")
_SECRET_ID = re.compile(rf"{SECRET_ID_PREFIX}[0-9a-f]{{{SECRET_ID_RANDOM + CHECK_DIGITS}}}")


def local_key(random_digits: str) -> str:
    """Return the publishable key for `PUBLISHABLE_RANDOM` random hex digits."""
    return _with_check(PUBLISHABLE_PREFIX + random_digits)


def local_secret_id(random_digits: str) -> str:
    """Return the id of a secret key for `SECRET_ID_RANDOM` random hex digits."""
    return _with_check(SECRET_ID_PREFIX + random_digits)


def is_local_key(api_key: str) -> bool:
    """Return whether a publishable key was made by this kind of server."""
    return _PUBLISHABLE.fullmatch(api_key) is not None and _has_check(api_key)


def is_local_secret_id(key_id: str) -> bool:
    """Return whether the id of a secret key was made by this kind of server."""
    return _SECRET_ID.fullmatch(key_id) is not None and _has_check(key_id)


def is_local_token(token: str) -> bool:
    """Return whether the header of a token (RFC 7519) names a secret key made by this kind of server.

    Only the header is read, up to `MAX_TOKEN_HEADER` characters; the signature is not checked.
    """
    header, dot, _ = token[: MAX_TOKEN_HEADER + 1].partition(".")
    if not dot or not header.isascii():
        return False
    try:
        fields = json.loads(base64.urlsafe_b64decode(header + "=" * (-len(header) % 4)))
    except (ValueError, RecursionError):
        return False
    key_id = fields.get("kid") if isinstance(fields, dict) else None
    return isinstance(key_id, str) and is_local_secret_id(key_id)


def _with_check(text: str) -> str:
    return text + hashlib.sha256((_PURPOSE + text).encode()).hexdigest()[:CHECK_DIGITS]


def _has_check(key: str) -> bool:
    return _with_check(key[:-CHECK_DIGITS]) == key
