"""Requests of a node to one shard, each with one outcome."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from ..contract import EngineError, EngineUnavailable
from .commands import Command
from .replica import PlacedReply

_ids = count(1)


class ShardRequest:
    """A request. `prepare` returns its commands each time that it is sent; `fail` gets an error as its outcome.

    `on_answer` gets the outcome of a request that has a place in the order of a channel or a peer. One that
    `is_repeatable` is sent again after a loss; of another one nobody knows whether it has been carried out.
    """

    __slots__ = ("deadline", "fail", "id", "is_repeatable", "is_sent", "kind", "on_answer", "prepare")

    def __init__(
        self,
        kind: str,
        prepare: Callable[[ShardRequest], Sequence[Command]],
        fail: Callable[[EngineError], None],
        *,
        on_answer: Callable[[PlacedReply], None] | None = None,
        is_repeatable: bool = True,
    ) -> None:
        self.id = next(_ids)
        self.kind = kind
        self.prepare = prepare
        self.fail = fail
        self.on_answer = on_answer
        self.is_repeatable = is_repeatable
        self.is_sent = False
        self.deadline = 0.0


def unavailable() -> EngineError:
    """Return the error of a request that had no effect that lasts."""
    return EngineUnavailable("Redis does not answer")


def unknown() -> EngineError:
    """Return the error of a request that may have had its effect."""
    return EngineError("Redis was lost before it answered")


def refused(error: Any) -> EngineError:
    """Return the error of a request that Redis answers with an error."""
    return EngineError(f"Redis answers with {type(error).__name__}")
