"""Registering a connection: in the count of its app, and at its peer, which another shard may keep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from redis.exceptions import ResponseError

from ..contract import ConnectResult, Done, EngineError, Entry, OverConnectionLimit, Position
from .commands import Command
from .following import ScopeFollower
from .keys import ScopeId
from .outcomes import fail_ordered
from .replica import PlacedReply, Reply, Snapshot
from .replies import digest_key, read_missed
from .requests import ShardRequest, refused
from .scopes import Scope


class ConnectSteps:
    """One `connect`: first the count of the app, then the peer. If it may replace others, which do not count, the peer
    comes first: only it knows them. A connection that is then refused has been there for a moment."""

    def __init__(
        self,
        follower: ScopeFollower,
        app: str,
        entry: Entry,
        done: Done[ConnectResult],
        since: Position | None,
        resumes: bool,
        limit: int | None,
    ) -> None:
        self._follower = follower
        self._app = app
        self._entry = entry
        self._done = done
        self._since = since
        self._resumes = resumes
        self._limit = limit
        self._count = follower.entries.count(app)
        self._scope_id = ScopeId("p", app, entry.peer_id)
        self._is_counted = False
        self._is_over = False

    def end(self) -> None:
        """Handle that the connection has ended before its outcome. It is not registered."""
        self._is_over = True

    def begin(self) -> None:
        """Send the first request."""
        self._follower.arriving[self._app, self._entry.connection] = self
        if not self._resumes:
            self._admit((), self._connect)
        else:
            self._connect()

    def _admit(self, replaced: Sequence[str], then: Callable[[], None]) -> None:
        follower, app, count = self._follower, self._app, self._count
        shard = follower.shard_of_app(app)
        count.pending += 1

        def prepare(request: ShardRequest) -> list[Command]:
            number = count.held + count.pending

            def replied(reply: Any) -> None:
                if isinstance(reply, ResponseError):
                    if shard.finish(request, "error"):
                        settle(False)
                        self._fail(refused(reply))
                elif shard.finish(request, "ok" if reply else "refused"):
                    settle(bool(reply))
                    if reply:
                        then()
                    else:
                        self._refuse()

            return [
                *follower.app_index_commands(app),
                follower.admit_command(app, number, self._limit, replaced, replied),
            ]

        def settle(is_admitted: bool) -> None:
            count.pending -= 1
            count.held += is_admitted
            self._is_counted = is_admitted
            count.is_dirty |= not is_admitted
            if count.is_dirty and not count.pending:
                count.is_dirty = False
                follower.send_count(app)

        def fail(error: EngineError) -> None:
            settle(False)
            self._fail(error)

        shard.submit(ShardRequest("admit", prepare, fail))

    def _connect(self) -> None:
        follower, entry, scope_id = self._follower, self._entry, self._scope_id
        shard = follower.shard_of(scope_id)

        def prepare(request: ShardRequest) -> list[Command]:
            scope, before = follower.open(scope_id, shard)
            jump = not scope.standing
            scope.standing[entry.connection] = entry
            scope.replica.expect(request.id)
            extra: list[str | bytes | int] = [entry.connection, digest_key(entry.key), int(self._resumes)]
            extra += [*follower.bounds, *(self._since if self._since is not None else ())]
            replied = partial(_connected, follower, request, scope, entry, jump)
            return [*before, follower.command("connect", scope_id, shard, *extra, request=request.id, on_reply=replied)]

        shard.submit(ShardRequest("connect", prepare, self._fail, on_answer=self._answer))

    def _answer(self, answer: PlacedReply) -> None:
        gone, missed = answer.reply.value
        result = ConnectResult(answer.position, missed)
        follower, scope = self._follower, self._follower.entries.find(self._scope_id)
        shard = follower.shard_of(self._scope_id)
        for node, connection in gone:
            if node == shard.node and scope is not None:
                follower.drop_connection(scope, connection)
        nodes = [node for node, _ in gone if node != shard.node]
        if self._is_counted:
            self._succeed(result)
        else:
            self._admit(nodes, lambda: self._succeed(result))

    def _succeed(self, result: ConnectResult) -> None:
        self._register()
        self._done(result)

    def _register(self) -> None:
        """Keep the connection, which has been counted, through failures."""
        self._follower.arriving.pop((self._app, self._entry.connection), None)
        if self._is_over:
            self._count.held -= 1
            self._follower.send_count(self._app)
            return
        scope, _ = self._follower.open(self._scope_id, self._follower.shard_of(self._scope_id))
        scope.entries[self._entry.connection] = self._entry

    def _refuse(self) -> None:
        follower, entry = self._follower, self._entry
        follower.arriving.pop((self._app, entry.connection), None)
        scope = follower.entries.find(self._scope_id)
        if self._resumes and scope is not None:  # it has been entered already
            scope.standing.pop(entry.connection, None)
            shard = follower.shard_of(self._scope_id)
            shard.send(follower.command("disconnect", self._scope_id, shard, entry.connection))
            follower.close(scope)
        self._done(OverConnectionLimit(f"the app has {self._limit} connections"))

    def _fail(self, error: EngineError) -> None:
        """Register the connection as soon as Redis is back."""
        if not self._is_counted:
            self._is_counted = True
            self._count.held += 1
        self._register()
        self._done(error)


def _connected(
    follower: ScopeFollower, request: ShardRequest, scope: Scope, entry: Entry, jump: bool, reply: Any
) -> None:
    if isinstance(reply, ResponseError):
        scope.standing.pop(entry.connection, None)
        fail_ordered(follower, request, scope, reply)
        return
    gone, missed, epoch, seq, offset = reply
    pairs = [(node.decode(), connection.decode()) for node, connection in zip(gone[::2], gone[1::2], strict=True)]
    value = (pairs, read_missed(missed))
    snapshot = Snapshot(epoch.decode(), seq, offset)
    follower.carry_out(scope, scope.replica.reply(request.id, Reply(value, snapshot, jump)))
