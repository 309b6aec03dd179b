"""Expiring TURN credentials, derived from a secret that the server shares with coturn (`use-auth-secret`).

The user name is `<unix time of expiry>:<peer id>`, the credential the base64 of its HMAC-SHA1 under the secret, as
in draft-uberti-behave-turn-rest.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .ice import ice_server_list

DEFAULT_LIFETIME = 86_400
"""Lifetime in seconds. A TURN server checks the expiry with each refresh, so this limits the duration of relayed
calls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnServer:
    """TURN servers with a shared secret, which the repr hides. `lifetime` of the credentials is in seconds.

    Raises:
        ValueError: a URL, the secret or the lifetime is invalid. The message does not contain the secret.
    """

    urls: Sequence[str]
    shared_secret: str = field(repr=False)
    lifetime: int = DEFAULT_LIFETIME

    def __post_init__(self) -> None:
        urls = [self.urls] if isinstance(self.urls, str) else list(self.urls)
        ice_server_list([{"urls": urls}])
        for url in urls:
            if not url.lower().startswith(("turn:", "turns:")):
                raise ValueError(f"urls of a TURN server must begin with turn: or turns:, not {url!r}")
        if not isinstance(self.shared_secret, str) or not self.shared_secret:
            raise ValueError("shared_secret must be text, and not empty")
        if isinstance(self.lifetime, bool) or not isinstance(self.lifetime, int) or self.lifetime < 1:
            raise ValueError(f"lifetime must be a whole number of seconds above 0, not {self.lifetime!r}")
        object.__setattr__(self, "urls", tuple(urls))

    def ice_server(self, peer_id: str, now: float) -> dict[str, Any]:
        """Return the `iceServers` entry for a peer. `now` is unix seconds."""
        username = f"{int(now) + self.lifetime}:{peer_id}"
        digest = hmac.digest(self.shared_secret.encode(), username.encode(), hashlib.sha1)
        return {"urls": list(self.urls), "username": username, "credential": base64.b64encode(digest).decode()}
