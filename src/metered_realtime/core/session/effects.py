"""The effects of a `Session`: what its shell has to do, in this order."""

from __future__ import annotations

from typing import Literal

import msgspec

from ...events import Event
from ...options import SignallingClientState


class Emit(msgspec.Struct, frozen=True):
    """Emit an event to the program."""

    event: Event


class EnterState(msgspec.Struct, frozen=True):
    """Change the public state and emit `StateChange`."""

    from_: SignallingClientState
    to: SignallingClientState


class Dial(msgspec.Struct, frozen=True):
    """Get a credential and open a socket. Report `opened` or `dial_failed`."""


class FetchToken(msgspec.Struct, frozen=True):
    """Get a new token for the live connection. Report `token_fetched` or `token_failed`, with this number.

    A fetch in progress when the connection ends may be dropped.
    """

    number: int


class HangUp(msgspec.Struct, frozen=True):
    """Close the socket in any phase. Its later reports are ignored."""

    code: int
    reason: str


class Transmit(msgspec.Struct, frozen=True):
    """Write a text frame."""

    frame: bytes


class Settle(msgspec.Struct, frozen=True):
    """Complete a request, with an error or without."""

    request_id: str
    error: Exception | None = None


class FinishConnect(msgspec.Struct, frozen=True):
    """Complete the call of `connect()`, with an error or without."""

    error: Exception | None = None


class TearDown(msgspec.Struct, frozen=True):
    """Release handlers and streams. No effect follows until the next `connect()`."""


class Log(msgspec.Struct, frozen=True):
    """Write a log line."""

    level: Literal["debug", "info", "warning"]
    message: str
    context: dict[str, object]


Effect = Emit | EnterState | Dial | FetchToken | HangUp | Transmit | Settle | FinishConnect | TearDown | Log
Effects = list[Effect]
