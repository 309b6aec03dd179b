"""The outcomes of requests that Redis has answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from redis.exceptions import ResponseError

from .following import ScopeFollower
from .requests import ShardRequest, refused
from .scopes import Scope
from .shard import Shard


def finish_with(
    shard: Shard, request: ShardRequest, done: Callable[[Any], None], convert: Callable[[Any], Any]
) -> Callable[[Any], None]:
    """Return what to do with a reply: the outcome of a request is what `convert` makes of it."""

    def replied(reply: Any) -> None:
        is_error = isinstance(reply, ResponseError)
        if shard.finish(request, "error" if is_error else "ok"):
            done(refused(reply) if is_error else convert(reply))

    return replied


def fail_ordered(follower: ScopeFollower, request: ShardRequest, scope: Scope, error: ResponseError) -> None:
    """Handle that Redis has refused a request that would have had a place in the order."""
    if follower.shard_of(scope.id).finish(request, "error"):
        request.fail(refused(error))
    follower.carry_out(scope, scope.replica.forget(request.id))
