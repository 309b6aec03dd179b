"""How a node follows its channels and peers at the shards: what it hears, what it missed, and what it keeps alive."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Protocol

from redis.exceptions import ResponseError

from ....core.wire.patterns import literal_prefix
from ....log import Logger, log_exception
from ..contract import EngineLimits, EngineListener, Entry, Stored
from .commands import Command, OnReply, script_command
from .items import Item, pack_raw, parse_item
from .keys import MARK, Keys, ScopeId, app_index, run_of
from .replica import DeliverStored, Effect, Lost, Pass, PlacedReply, Tell
from .replies import digest_key, read_snapshot
from .scopes import NodeEntries, Scope
from .scripts import script
from .shard import Shard
from .stats import EngineStats
from .sweeper import sweep_forever, sweep_nodes
from .timings import RedisTimings
from .urls import choose

WINDOW = 256
"""Number of channels and peers that are read again at a time: enough to fill a round trip, little enough to share."""

REFRESH_SLICES = 50
"""Parts in which everything is kept within `refresh`: a busy node sends a few hundred commands in each."""

FRESH_EPOCH_BYTES = 9
"""Random bytes in the name of a count, so that no two are the same."""


_UNESCAPED = re.compile(rb"\\(.)", re.DOTALL)


class Arriving(Protocol):
    """A connection that is being registered."""

    def end(self) -> None:
        """Handle that it has ended before that."""


class ScopeFollower:
    """See the module. `fresh_epoch` returns a name for a count, another one each time."""

    def __init__(
        self,
        keys: Keys,
        limits: EngineLimits,
        timings: RedisTimings,
        stats: EngineStats,
        logger: Logger,
        listener: EngineListener,
        fresh_epoch: Callable[[], str],
    ) -> None:
        self.entries = NodeEntries()
        self.shards: list[Shard] = []
        self.arriving: dict[tuple[str, str], Arriving] = {}
        self.listener = listener
        self._keys = keys
        self._timings = timings
        self._stats = stats
        self._logger = logger
        self._fresh_epoch = fresh_epoch
        self._names: list[str] = []
        self._is_up: bool | None = None
        keep = int((timings.expiry + limits.retention) * 1000)
        self._expiry = (int(timings.expiry * 1000), keep)
        self.bounds = (limits.messages_per_log, limits.bytes_per_log, int(limits.retention * 1000))

    # --- where things are

    def use(self, shards: Sequence[Shard]) -> None:
        """Set the shards, once."""
        self.shards = list(shards)
        self._names = [shard.url.name for shard in shards]
        self.shard_of_revoked.topics = (self._keys.revoke_topic,)

    def shard_of(self, scope_id: ScopeId) -> Shard:
        """Return the shard of a channel or a peer."""
        return self.shards[choose(self._names, scope_id.tag)]

    def shard_of_app(self, app: str) -> Shard:
        """Return the shard of the counts of an app."""
        return self.shards[choose(self._names, f"a:{app}")]

    @property
    def shard_of_revoked(self) -> Shard:
        """The shard that remembers revoked keys."""
        return self.shards[choose(self._names, "revoked")]

    @property
    def is_up(self) -> bool:
        """Whether all shards can be reached."""
        return bool(self.shards) and all(shard.state != "down" for shard in self.shards)

    # --- commands

    def command(
        self,
        name: str,
        scope_id: ScopeId,
        shard: Shard,
        *arguments: str | bytes | int,
        request: int = 0,
        on_reply: OnReply | None = None,
        node: str | None = None,
    ) -> Command:
        """Return a command that runs a script of a channel or a peer."""
        head = (self._keys.inbox_prefix, scope_id.app, scope_id.name, node if node is not None else shard.node)
        return script_command(
            script(name),
            self._keys.of_scope(scope_id),
            (*head, request, self._fresh_epoch(), *self._expiry, *arguments),
            on_reply,
        )

    def index_command(self, shard: Shard, *what: str) -> Command:
        """Return a command that notes for sweepers that the node has entries in something."""
        return Command(("SADD", self._keys.index(shard.node), *what), None)

    def open(self, scope_id: ScopeId, shard: Shard) -> tuple[Scope, list[Command]]:
        """Return a scope, and what must be sent before its first entry."""
        scope, is_new = self.entries.open(scope_id, shard.node)
        return scope, [self.index_command(shard, scope_id.label)] if is_new else []

    def close(self, scope: Scope) -> None:
        """Remove a scope if nothing needs it."""
        if self.entries.close(scope):
            shard = self.shard_of(scope.id)
            shard.send(Command(("SREM", self._keys.index(shard.node), scope.id.label), None))

    # --- what is heard

    def hear(self, shard: Shard, topic: bytes, data: bytes) -> None:
        """Handle a message of Redis."""
        try:
            if topic.decode() == self._keys.revoke_topic:
                app, _, key_id = data.decode().partition("\0")
                self._tell(self.listener.revoke, app, key_id)
                return
            item = parse_item(data)
        except ValueError:
            self._stats.malformed += 1
            return
        if item.kind == "x":
            self._tell(self.listener.kick, item.app, item.name)
            return
        scope = self.entries.find(ScopeId("c" if item.kind in "mpc" else "p", item.app, item.name))
        if scope is not None:
            self.carry_out(scope, scope.replica.hear(item))

    def hear_pattern(self, shard: Shard, pattern: bytes, topic: bytes, data: bytes) -> None:
        """Handle a message for patterns. Of several that match only the first one counts.

        Databases of one Redis share their topics: what comes by another shard is not for this one.
        """
        assert shard.subscriber is not None
        first = min(each for each in shard.subscriber.patterns | {pattern} if _matches(each, topic))
        if first != pattern:
            return
        try:
            item = parse_item(data)
        except ValueError:
            self._stats.malformed += 1
            return
        if isinstance(item.content, tuple) or not self.entries.listens(item.app, item.name):
            return
        scope_id = ScopeId("c", item.app, item.name)
        scope = self.entries.find(scope_id)
        if self.shard_of(scope_id) is not shard:
            return
        if scope is not None:
            self.carry_out(scope, scope.replica.hear(item, by_pattern=True))
        else:
            self._tell(self.listener.message, item.app, item.name, item.epoch, Stored(item.offset, item.content))

    def carry_out(self, scope: Scope, effects: Iterable[Effect]) -> None:
        """Tell the listener what a replica has found, and read it again if it is behind."""
        shard = self.shard_of(scope.id)
        for effect in effects:
            match effect:
                case PlacedReply():
                    request = shard.find(effect.request)
                    if request is not None and shard.finish(request) and request.on_answer is not None:
                        self._tell(request.on_answer, effect)
                case DeliverStored():
                    self._deliver(scope.id, effect)
                case Tell():
                    self._tell(self.listener.presence, scope.id.app, scope.id.name, effect.joined, effect.left)
                case Lost():
                    self._stats.lost_messages += effect.count or 0
                    told = self.listener.messages_lost if scope.id.kind == "c" else self.listener.directs_lost
                    self._tell(told, scope.id.app, scope.id.name, effect.position, effect.count)
                case Pass():
                    self._replaced(scope, effect.item)
        if scope.replica.is_behind and not scope.is_repairing and shard.state == "up":
            self._stats.repairs += 1
            self._repair(scope, shard)
        self.close(scope)

    def _deliver(self, scope_id: ScopeId, effect: DeliverStored) -> None:
        told = self.listener.message if scope_id.kind == "c" else self.listener.direct
        self._tell(told, scope_id.app, scope_id.name, effect.epoch, effect.stored)

    def _replaced(self, scope: Scope, item: Item) -> None:
        if not isinstance(item.content, tuple):
            return
        connection, *gone = map(str, item.content)
        keys = [self.drop_connection(scope, each) for each in gone]
        own = scope.entries.get(connection) or scope.standing.get(connection)
        found = next((entry for entry in (own, *keys) if entry is not None), None)
        if found is not None:
            entry = Entry(scope.id.name, connection, key=found.key)
            self._tell(self.listener.replaced, scope.id.app, entry)

    def drop_connection(self, scope: Scope, connection: str) -> Entry | None:
        """Remove a connection of this node that another one has replaced. Return it, if it was there."""
        entry = scope.entries.pop(connection, None)
        scope.standing.pop(connection, None)
        if entry is not None:
            self.entries.count(scope.id.app).held -= 1
        return entry

    def _tell(self, listener: Callable[..., None], *arguments: object) -> None:
        try:
            listener(*arguments)
        except Exception as error:  # the others must hear of theirs
            log_exception(self._logger, "A listener of the engine failed", error)

    # --- patterns

    def listen(self, app: str, pattern: str) -> None:
        """Hear of the messages of channels that match a pattern."""
        if self.entries.listen(app, pattern):
            glob = self._keys.glob(app, literal_prefix(pattern))
            for shard in self.shards:
                shard.globs[glob] = shard.globs.get(glob, 0) + 1
                if shard.globs[glob] == 1 and shard.subscriber is not None:
                    shard.subscriber.add_pattern(glob)

    def unlisten(self, app: str, pattern: str) -> None:
        """End what `listen` began."""
        if self.entries.unlisten(app, pattern):
            glob = self._keys.glob(app, literal_prefix(pattern))
            for shard in self.shards:
                shard.globs[glob] -= 1
                if not shard.globs[glob]:
                    del shard.globs[glob]
                    if shard.subscriber is not None:
                        shard.subscriber.remove_pattern(glob)

    # --- after a loss

    def begin(self, shard: Shard) -> None:
        """Handle that the node has another name at a shard, and may have missed something."""
        for scope in self._scopes_at(shard):
            scope.replica.lose(shard.node)  # the shard sends its requests again
            scope.standing = dict(scope.entries)
            scope.is_repairing = True
            if not scope.entries:
                self.entries.close(scope)

    async def read_again(self, shard: Shard) -> None:
        """Register everything at a shard, and catch up."""
        scopes = self._scopes_at(shard)
        # The mark keeps the index, and its expiry, while nothing else is in it.
        shard.send(self.index_command(shard, MARK), self._keep_index(shard))
        for at in range(0, len(scopes), WINDOW):
            chunk = [scope for scope in scopes[at : at + WINDOW] if scope.entries]
            if not chunk:
                continue
            shard.send(self.index_command(shard, *(scope.id.label for scope in chunk)))
            replies = [asyncio.get_running_loop().create_future() for _ in chunk]
            for scope, reply in zip(chunk, replies, strict=True):
                self._repair(scope, shard, partial(_done, reply))
            await asyncio.wait(replies)
        for app in list(self.entries.apps):
            if self.shard_of_app(app) is shard:
                self.send_count(app)
        if self.shard_of_revoked is shard:
            for field in await shard.fetch("HKEYS", self._keys.revoked):
                app, _, key_id = field.decode().partition("\0")
                self._tell(self.listener.revoke, app, key_id)

    def _repair(self, scope: Scope, shard: Shard, then: Callable[[], None] = lambda: None) -> None:
        """Read a scope again, and register its entries."""
        scope.is_repairing = True
        known = scope.replica
        entries = list(scope.standing.values())
        extra: list[str | bytes | int] = [known.epoch, known.seq, known.offset, *self.bounds]
        for entry in entries:
            extra += (
                (entry.peer_id, entry.connection, pack_raw(entry.metadata))
                if scope.id.kind == "c"
                else (entry.connection, digest_key(entry.key))
            )
        name = "sync_channel" if scope.id.kind == "c" else "sync_peer"
        node = shard.node

        def read(reply: Any) -> None:
            if node != shard.node:
                return
            scope.is_repairing = False
            if isinstance(reply, ResponseError):
                shard.fail("refused")
                return
            effects = scope.replica.restore(read_snapshot(reply), _now() + self._timings.settling)
            self.carry_out(scope, effects)
            then()

        shard.send(self.command(name, scope.id, shard, *extra, on_reply=read))

    def send_count(self, app: str) -> None:
        """Tell the number of connections of an app at this node."""
        shard, count = self.shard_of_app(app), self.entries.count(app)
        if not count.held and not count.pending:
            del self.entries.apps[app]
        shard.send(*self.app_index_commands(app), self.admit_command(app, count.held, None, ()))

    def app_index_commands(self, app: str) -> list[Command]:
        """Return what must be sent before the count of an app."""
        shard, count = self.shard_of_app(app), self.entries.count(app)
        if count.indexed_by == shard.node:
            return []
        count.indexed_by = shard.node
        return [self.index_command(shard, app_index(app))]

    def admit_command(
        self, app: str, count: int, limit: int | None, replaced: Iterable[str], on_reply: OnReply | None = None
    ) -> Command:
        """Return a command that counts the connections of an app at this node, unless they are too many."""
        node = self.shard_of_app(app).node
        return script_command(
            script("admit"),
            self._keys.of_app(app),
            (*self.app_head(0), run_of(node), count, -1 if limit is None else limit, node, *map(run_of, replaced)),
            on_reply,
        )

    def app_head(self, period: int) -> tuple[int, int, int]:
        """Return the first arguments of scripts of an app."""
        return self._expiry[1], period, int(self._timings.usage * 1000)

    # --- while a shard is up

    async def keep(self, shard: Shard) -> None:
        """Keep what is registered alive, and look for nodes that are gone, until cancelled."""
        former = shard.take_former()
        if former:
            await sweep_nodes(self, shard, self._keys, former)
        tasks = [
            asyncio.ensure_future(self._refresh_forever(shard)),
            asyncio.ensure_future(sweep_forever(self, shard, self._keys, self._stats, self._timings)),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                await task
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _refresh_forever(self, shard: Shard) -> None:
        pause = self._timings.refresh / REFRESH_SLICES
        while True:
            scopes = self._scopes_at(shard)
            for at in range(REFRESH_SLICES):
                await asyncio.sleep(pause)
                for scope in scopes[at::REFRESH_SLICES]:
                    self._refresh(scope, shard)
            shard.send(self._keep_index(shard))
            for app in list(self.entries.apps):
                if self.shard_of_app(app) is shard:
                    self.send_count(app)

    def _keep_index(self, shard: Shard) -> Command:
        return Command(("PEXPIRE", self._keys.index(shard.node), self._expiry[1]), None)

    def _refresh(self, scope: Scope, shard: Shard) -> None:
        expected = len(scope.standing)
        if not expected:
            return

        def check(count: Any) -> None:
            if count != expected:
                shard.fail("entries differ")

        name = "refresh_channel" if scope.id.kind == "c" else "refresh_peer"
        shard.send(self.command(name, scope.id, shard, on_reply=check))

    def settle(self, shard: Shard) -> None:
        """Give up peers that have not come back after a loss, and register entries that were refused by accident."""
        for scope in self._scopes_at(shard):
            if scope.replica.missing:
                self.carry_out(scope, scope.replica.settle(_now()))
            if not scope.entries.keys() <= scope.standing.keys():
                scope.standing |= scope.entries
                shard.send(self.index_command(shard, scope.id.label))
                self._repair(scope, shard)

    def note_state(self, shard: Shard) -> None:
        """Tell the listener whether the others can be reached."""
        is_up = self.is_up
        if is_up is not self._is_up and (is_up or self._is_up is not None):
            self._is_up = is_up
            self._tell(self.listener.health, is_up)

    def _scopes_at(self, shard: Shard) -> list[Scope]:
        return [scope for scope in self.entries if self.shard_of(scope.id) is shard]


def _matches(glob: bytes, topic: bytes) -> bool:
    """Return whether a topic matches the glob of a prefix."""
    return topic.startswith(_UNESCAPED.sub(rb"\1", glob[:-1]))


def _done(reply: asyncio.Future[None]) -> None:
    if not reply.done():
        reply.set_result(None)


def _now() -> float:
    return asyncio.get_running_loop().time()
