"""What the hub is told of a connection, and what it tells of changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from msgspec import Raw

from ...core.wire.frames import MAX_OFFSET, is_epoch
from ..engine.contract import Position
from ..rights import Grant

MAX_OFFSET_DIGITS = len(str(MAX_OFFSET))


@dataclass(frozen=True, slots=True)
class Identity:
    """The identity of a connection. `expires_at` is unix seconds; `metadata` and `resume_token` are for its welcome
    only. `key` tells credentials apart; a connection that `resumes` replaces those of its peer with the same."""

    peer_id: str
    grant: Grant
    expires_at: float | None = None
    metadata: dict[str, Any] | None = None
    peer_metadata: Raw | None = None
    resume_token: str | None = field(default=None, repr=False)
    key: str = field(default="", repr=False)
    resumes: bool = False


@dataclass(frozen=True, slots=True)
class Recovery:
    """The wish of a client to get what it misses. `since` is how far it has its directs, None on its first connect."""

    since: Position | None = None


def parse_recovery(values: Sequence[str]) -> Recovery | None:
    """Return the wish of the query parameter `recover`: `1`, or `<epoch>:<offset>`. None if there is none.

    A value that can be neither is ignored. The client then gets a welcome without a position, as from a server that
    does not know the parameter.
    """
    if len(values) != 1:
        return None
    if values[0] == "1":
        return Recovery()
    epoch, _, offset = values[0].partition(":")
    is_number = offset.isascii() and offset.isdigit() and len(offset) <= MAX_OFFSET_DIGITS
    return (
        Recovery(Position(epoch, int(offset))) if is_epoch(epoch) and is_number and int(offset) <= MAX_OFFSET else None
    )


OnChange: TypeAlias = Callable[[Literal["opened", "joined", "left", "emptied"], str, str], None]
"""Called with what has changed, the channel and the peer. It must neither block, raise, nor call back."""

Later: TypeAlias = Callable[[float, Callable[[], object]], object]
"""Calls a function after some seconds, as `loop.call_later` does."""
