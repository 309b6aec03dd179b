"""What is checked of a frame before anything is done."""

from __future__ import annotations

from collections.abc import Callable

from ...core.wire.frames import FrameError, Subscribe
from ...core.wire.names import is_reserved_channel
from ...core.wire.patterns import MAX_WILDCARDS, count_wildcards, is_pattern
from ..limits import Limits
from ..rights import Action
from ..routing import PatternTable, Subscriber


def check_action(subscriber: Subscriber, action: Action, request_id: str | None) -> None:
    """Raise FrameError unless an action is granted."""
    if not subscriber.grant.permits(action):
        raise FrameError("action_not_permitted", f"'{action}' is not granted", request_id)


def check_channel(channel: str, in_scope: Callable[[str], bool], request_id: str | None) -> None:
    """Raise FrameError if a channel is reserved or out of scope."""
    if is_reserved_channel(channel):
        raise FrameError("channel_reserved", "the channel is reserved", request_id)
    if not in_scope(channel):
        raise FrameError("channel_not_authorized", "the channel is out of scope", request_id)


def check_wildcards(frame: Subscribe) -> None:
    """Raise FrameError if a pattern has too many wildcards."""
    if count_wildcards(frame.channel) > MAX_WILDCARDS:
        raise FrameError("invalid_channel", f"a pattern has at most {MAX_WILDCARDS} wildcards", frame.request_id)


def check_room(subscriber: Subscriber, frame: Subscribe, limits: Limits, patterns: PatternTable[Subscriber]) -> None:
    """Raise FrameError if a connection, or the app, has as many subscriptions as it may have."""
    if frame.channel in subscriber.subscriptions:
        return
    limit = limits.channels_per_connection
    if len(subscriber.subscriptions) >= limit:
        raise FrameError("channel_limit_exceeded", f"at most {limit} channels per connection", frame.request_id)
    if not is_pattern(frame.channel):
        return
    limit = limits.patterns_per_connection
    if sum(map(is_pattern, subscriber.subscriptions)) >= limit:
        raise FrameError("channel_limit_exceeded", f"at most {limit} patterns per connection", frame.request_id)
    limit = limits.patterns_per_app
    if frame.channel not in patterns and len(patterns) >= limit:
        raise FrameError("channel_limit_exceeded", f"at most {limit} patterns per app", frame.request_id)


def may_return(subscriber: Subscriber, name: str) -> bool:
    """Return whether a connection may subscribe to a channel where its peer was."""
    return subscriber.grant.permits("subscribe") and subscriber.grant.reaches(name)
