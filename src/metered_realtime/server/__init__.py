"""The signalling server: channels, presence and direct messages over WebSocket, and the room page."""

from __future__ import annotations

from .auth import mint_token
from .keys import App, PublishableKey, SecretKey
from .limits import Limits
from .server import SignallingServer

__all__ = ["App", "Limits", "PublishableKey", "SecretKey", "SignallingServer", "mint_token"]
