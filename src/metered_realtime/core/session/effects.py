"""What a `Session` asks its shell to do, in the order in which it has to happen."""

from __future__ import annotations

from typing import Literal

import msgspec

from ...events import Event
from ...options import SignallingClientState


class Emit(msgspec.Struct, frozen=True):
    """Tell the program."""

    event: Event


class EnterState(msgspec.Struct, frozen=True):
    """Show this state from now on, and tell the program."""

    from_: SignallingClientState
    to: SignallingClientState


class Dial(msgspec.Struct, frozen=True):
    """Get a credential and open a socket. Report `opened` or `dial_failed`."""


class FetchToken(msgspec.Struct, frozen=True):
    """Get a token for the live connection. Report `token_fetched` or `token_failed`, with this number.

    A fetch that is under way when the connection ends may be dropped.
    """

    number: int


class HangUp(msgspec.Struct, frozen=True):
    """Close the socket, whatever phase it is in. Nothing it still reports counts."""

    code: int
    reason: str


class Transmit(msgspec.Struct, frozen=True):
    """Write a text frame."""

    frame: bytes


class Settle(msgspec.Struct, frozen=True):
    """End a request: with an error, or well."""

    request_id: str
    error: Exception | None = None


class FinishConnect(msgspec.Struct, frozen=True):
    """End the call of `connect()`: with an error, or well."""

    error: Exception | None = None


class TearDown(msgspec.Struct, frozen=True):
    """Let go of handlers and streams: nothing follows until the next `connect()`."""


class Log(msgspec.Struct, frozen=True):
    """Write a log line."""

    level: Literal["debug", "info", "warning"]
    message: str
    context: dict[str, object]


Effect = Emit | EnterState | Dial | FetchToken | HangUp | Transmit | Settle | FinishConnect | TearDown | Log
Effects = list[Effect]
