"""`RedisEngine`: the engine of nodes on many machines, over one Redis or several.

What happens to a channel or a peer is one script at the shard that keeps it, so that all nodes hear of it in the order
of the scripts. A node hears through one inbox for each shard; a request that has a place in the order is answered when
its own item comes there (`replica`). docs/cluster.md tells what is kept where, and what each failure does.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from redis.exceptions import ResponseError

from ....log import Logger, NoopLogger
from ..contract import (
    ConnectResult,
    Done,
    EngineLimits,
    EngineListener,
    EngineUnavailable,
    Entry,
    Envelope,
    JoinResult,
    Member,
    MissedMessages,
    Position,
    Usage,
)
from .commands import Command, script_command
from .connecting import ConnectSteps
from .following import ScopeFollower
from .items import pack_envelope, pack_raw
from .keys import Keys, ScopeId
from .outcomes import fail_ordered, finish_with
from .replica import PlacedReply, Reply, Snapshot
from .replies import read_members, read_missed
from .requests import ShardRequest, unavailable
from .scopes import Scope
from .scripts import script
from .shard import Shard
from .stats import EngineStats
from .timings import DEFAULTS, RedisTimings
from .urls import parse_redis_url

FRESH_EPOCH_BYTES = 9
"""Random bytes in the name of a count, so that no two are the same."""


class RedisEngine:
    """One node's part of what several share by Redis. See `contract.Engine` for its methods.

    Channels and peers are spread over all `urls`: every node needs the same ones, in any order. A `namespace` separates
    servers that use the same Redis.

    Attributes:
        stats: What has been counted since the start.

    Raises:
        ValueError: there is no URL, one cannot be read, two name the same database, or the namespace has characters
            that keys must not have.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        limits: EngineLimits | None = None,
        logger: Logger | None = None,
        namespace: str = "metered",
        timings: RedisTimings = DEFAULTS,
    ) -> None:
        self._urls = [parse_redis_url(url) for url in urls]
        if not self._urls or len({url.name for url in self._urls}) < len(self._urls):
            raise ValueError("a RedisEngine needs one URL or several, each of another database")
        self.stats = EngineStats()
        self._keys = Keys(namespace)
        self._limits = limits if limits is not None else EngineLimits()
        self._logger = logger if logger is not None else NoopLogger()
        self._timings = timings
        self._follower: ScopeFollower | None = None

    def __repr__(self) -> str:
        return f"<RedisEngine {', '.join(url.name for url in self._urls)}>"

    async def start(self, node_id: str, listener: EngineListener) -> None:
        """Attach a node."""
        timings, stats = self._timings, self.stats
        follower = ScopeFollower(self._keys, self._limits, timings, stats, self._logger, listener, _fresh_epoch)
        run = f"{node_id}~{secrets.token_hex(4)}"
        shards = [
            Shard(index, url, run, follower, self._keys, timings, stats, self._logger)
            for index, url in enumerate(self._urls)
        ]
        follower.use(shards)
        self._follower = follower
        try:
            for shard in shards:
                await shard.start()
            async with asyncio.timeout(timings.request * 2):
                for shard in shards:
                    await shard.wait_until_up()
        except BaseException as error:
            await self.stop()
            if isinstance(error, TimeoutError):
                raise EngineUnavailable("Redis does not answer") from None
            raise

    async def stop(self) -> None:
        """Detach the node."""
        if self._follower is not None:
            follower, self._follower = self._follower, None
            await asyncio.gather(*(shard.stop() for shard in follower.shards))

    @property
    def is_up(self) -> bool:
        """Whether all shards can be reached."""
        return self._follower is not None and self._follower.is_up

    # --- connections, and directs to their peers

    def connect(
        self,
        app: str,
        entry: Entry,
        done: Done[ConnectResult],
        *,
        since: Position | None = None,
        resumes: bool = False,
        max_connections: int | None = None,
    ) -> None:
        """Register a connection."""
        if self._follower is None:
            done(unavailable())
            return
        ConnectSteps(self._follower, app, entry, done, since, resumes, max_connections).begin()

    def disconnect(self, app: str, entry: Entry, done: Done[None]) -> None:
        """End a connection."""
        follower = self._follower
        scope_id = ScopeId("p", app, entry.peer_id)
        if follower is None:
            done(unavailable())
            return
        arriving = follower.arriving.pop((app, entry.connection), None)
        if arriving is not None:
            arriving.end()
        scope = follower.entries.find(scope_id)
        if scope is not None:
            follower.drop_connection(scope, entry.connection)
            follower.close(scope)
        self._request("disconnect", scope_id, (entry.connection,), done, lambda _: None)
        follower.send_count(app)

    def send(self, app: str, to: str, envelope: Envelope, done: Done[bool]) -> None:
        """DeliverStored a direct to a peer, and keep it."""
        arguments = (pack_envelope(envelope), *self._bounds)
        self._request("send", ScopeId("p", app, to), arguments, done, bool, is_repeatable=False)

    def has_peer(self, app: str, peer_id: str, done: Done[bool]) -> None:
        """Return whether a peer has a connection."""
        self._request("count_peer", ScopeId("p", app, peer_id), (), done, bool)

    def kick(self, app: str, peer_id: str, done: Done[int]) -> None:
        """Have all nodes close the connections of a peer."""
        self._request("kick", ScopeId("p", app, peer_id), (), done, int)

    def revoke(self, app: str, key_id: str, done: Done[None]) -> None:
        """Have all nodes close the connections of a key, and remember it."""
        follower, keys = self._follower, self._keys
        if follower is None:
            done(unavailable())
            return
        shard, field = follower.shard_of_revoked, f"{app}\0{key_id}"

        def prepare(request: ShardRequest) -> list[Command]:
            return [
                Command(("HSET", keys.revoked, field, 1), None),
                Command(("PEXPIRE", keys.revoked, int(self._timings.revocation * 1000)), None),
                Command(("PUBLISH", keys.revoke_topic, field), finish_with(shard, request, done, lambda _: None)),
            ]

        shard.submit(ShardRequest("revoke", prepare, done))

    # --- channels

    def join(
        self, app: str, channel: str, entry: Entry, done: Done[JoinResult], *, since: Position | None = None
    ) -> None:
        """Add a connection to a channel, or change its metadata."""
        follower, scope_id = self._follower, ScopeId("c", app, channel)
        if follower is None:
            done(unavailable())
            return
        if not follower.entries.is_connected(app, entry):
            self._request("peek", scope_id, (), done, _as_join_result)
            return
        shard, state = follower.shard_of(scope_id), _Joining()

        def prepare(request: ShardRequest) -> list[Command]:
            scope, before = follower.open(scope_id, shard)
            jump = not scope.standing
            wants_members = jump or scope.replica.state == "new"
            state.scope, scope.standing[entry.connection] = scope, entry
            scope.replica.expect(request.id)
            extra: list[str | bytes | int] = [entry.peer_id, entry.connection, pack_raw(entry.metadata)]
            extra += [int(wants_members), *self._bounds, *(since if since is not None else ())]
            replied = partial(_joined, follower, request, scope, entry, jump)
            return [*before, follower.command("join", scope_id, shard, *extra, request=request.id, on_reply=replied)]

        def answer(result: PlacedReply) -> None:
            assert state.scope is not None
            if entry.connection in state.scope.standing:
                state.scope.entries[entry.connection] = entry
            is_first, missed = result.reply.value
            done(JoinResult(result.members, result.position, missed, is_first))

        shard.submit(ShardRequest("join", prepare, done, on_answer=answer))

    def leave(self, app: str, channel: str, entry: Entry, done: Done[bool], *, expelled: bool = False) -> None:
        """Remove a connection from a channel."""
        follower, scope_id = self._follower, ScopeId("c", app, channel)
        if follower is None:
            done(unavailable())
            return
        shard, known = follower.shard_of(scope_id), follower.entries.find(scope_id)
        if known is not None:
            known.entries.pop(entry.connection, None)

        def prepare(request: ShardRequest) -> list[Command]:
            scope, before = follower.open(scope_id, shard)
            scope.entries.pop(entry.connection, None)
            scope.standing.pop(entry.connection, None)
            scope.replica.expect(request.id)
            replied = partial(_left, follower, request, scope)
            extra = (entry.connection, int(expelled))
            return [*before, follower.command("leave", scope_id, shard, *extra, request=request.id, on_reply=replied)]

        shard.submit(ShardRequest("leave", prepare, done, on_answer=lambda answer: done(answer.reply.value)))

    def publish(self, app: str, channel: str, envelope: Envelope, done: Done[int]) -> None:
        """DeliverStored a message to a channel, and keep it."""
        topic = self._keys.topic(app, channel)
        arguments = (envelope.sender, pack_envelope(envelope), topic, *self._bounds)
        self._request("publish", ScopeId("c", app, channel), arguments, done, int, is_repeatable=False)

    def roster(self, app: str, channel: str, done: Done[tuple[Member, ...]]) -> None:
        """Return all peers of a channel."""
        self._request("roster", ScopeId("c", app, channel), (), done, lambda flat: tuple(read_members(flat).values()))

    def listen(self, app: str, pattern: str) -> None:
        """DeliverStored messages of channels that match a pattern to this node."""
        if self._follower is not None:
            self._follower.listen(app, pattern)

    def unlisten(self, app: str, pattern: str) -> None:
        """Stop what `listen` began."""
        if self._follower is not None:
            self._follower.unlisten(app, pattern)

    # --- counts

    def lease_messages(self, app: str, period: int, wanted: int, limit: int | None, done: Done[int]) -> None:
        """Count messages of a period before they are used."""
        self._app_request("lease", app, period, (wanted, -1 if limit is None else limit), done, int)

    def return_messages(self, app: str, period: int, unused: int) -> None:
        """Give back what is left of a block."""
        if unused > 0:
            self._app_request("lease", app, period, (-unused, -1), _ignore, int)

    def usage(self, app: str, period: int, done: Done[Usage]) -> None:
        """Return the use over all nodes."""
        self._app_request("read_usage", app, period, (), done, lambda reply: Usage(*reply))

    # --- requests without a place in an order

    @property
    def _bounds(self) -> tuple[int, int, int]:
        return self._follower.bounds if self._follower is not None else (0, 0, 0)

    def _request(
        self,
        kind: str,
        scope_id: ScopeId,
        arguments: Sequence[str | bytes | int],
        done: Callable[[Any], None],
        convert: Callable[[Any], Any],
        *,
        is_repeatable: bool = True,
    ) -> None:
        follower = self._follower
        if follower is None:
            done(unavailable())
            return
        shard = follower.shard_of(scope_id)

        def prepare(request: ShardRequest) -> list[Command]:
            replied = finish_with(shard, request, done, convert)
            return [follower.command(kind, scope_id, shard, *arguments, on_reply=replied)]

        shard.submit(ShardRequest(kind, prepare, done, is_repeatable=is_repeatable))

    def _app_request(
        self,
        kind: str,
        app: str,
        period: int,
        arguments: Sequence[int],
        done: Callable[[Any], None],
        convert: Callable[[Any], Any],
    ) -> None:
        follower = self._follower
        if follower is None:
            done(unavailable())
            return
        shard, head = follower.shard_of_app(app), follower.app_head(period)

        def prepare(request: ShardRequest) -> list[Command]:
            replied = finish_with(shard, request, done, convert)
            return [script_command(script(kind), self._keys.of_app(app), (*head, *arguments), replied)]

        shard.submit(ShardRequest(kind, prepare, done, is_repeatable=kind != "lease"))


class _Joining:
    """What a join needs to remember."""

    scope: Scope | None = None


def _joined(follower: ScopeFollower, request: ShardRequest, scope: Scope, entry: Entry, jump: bool, reply: Any) -> None:
    if isinstance(reply, ResponseError):
        scope.standing.pop(entry.connection, None)
        fail_ordered(follower, request, scope, reply)
        return
    is_first, missed, epoch, seq, offset, members = reply
    snapshot = None if members is None else Snapshot(epoch.decode(), seq, offset, read_members(members))
    value: tuple[bool, MissedMessages | None] = (bool(is_first), read_missed(missed))
    follower.carry_out(scope, scope.replica.reply(request.id, Reply(value, snapshot, jump)))


def _left(follower: ScopeFollower, request: ShardRequest, scope: Scope, reply: Any) -> None:
    if isinstance(reply, ResponseError):
        fail_ordered(follower, request, scope, reply)
        return
    is_empty, stays = reply
    follower.carry_out(scope, scope.replica.reply(request.id, Reply(bool(is_empty), stays=bool(stays))))


def _as_join_result(reply: Sequence[Any]) -> JoinResult:
    epoch, _, offset, members = reply
    return JoinResult(tuple(read_members(members).values()), Position(epoch.decode(), offset))


def _ignore(_: object) -> None:
    pass


def _fresh_epoch() -> str:
    return secrets.token_urlsafe(FRESH_EPOCH_BYTES)
