"""One Redis of an engine: two connections, the requests on their way, and what keeps them healthy.

States:
- `down`: Redis does not answer. Requests fail at once.
- `recovering`: it is being reached, or read again. Requests wait, as long as they may.
- `up`: requests are sent.

    state       event                                      next
    down        everything has been read again             up
    recovering  everything has been read again             up: waiting requests are sent
    recovering  it takes too long, for a request or at all down: all fail
    up          a connection ends, this node was swept     recovering: repeatable requests wait, others fail
    up          a request is not answered in time          down: all fail

A node has another name at a shard each time that it reaches it. What is left under the former name (entries of requests
that failed, and of a node that slept) ends when the former name is swept, and nothing that is late can be confused with
what is new. Nothing is read again but by one way, whatever has happened.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import deque
from collections.abc import Awaitable, Iterable
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ResponseError

from ....log import Logger, log_exception
from .commands import Command, CommandClient, RedisLost, script_command
from .connections import open_connection
from .keys import Keys
from .requests import ShardRequest, unavailable, unknown
from .scripts import script
from .stats import EngineStats, RequestOutcome
from .subscriber import TopicReader
from .timings import RedisTimings
from .urls import RedisUrl

ShardState: TypeAlias = Literal["down", "recovering", "up"]

MAX_REQUESTS = 50_000
"""Maximum number of requests of a shard that have no outcome: what Redis does in about a second. More fail at once."""

MAX_FORMER_NODES = 16
"""Maximum number of former names that are swept by their own node. Others are swept as those of any node."""

MAX_ON_THE_WAY = 250
"""Maximum number of requests that have been sent and have no outcome: a few hundredths of a second. More wait here for
half of their time, where they can still be refused: nobody has to do what nobody waits for."""

SLICES = 4
"""Parts of a time limit. A program that stood still uses up one of them, not all: it has had no time to read."""

T = TypeVar("T")


class ShardOwner(Protocol):
    """The engine, as its shards see it."""

    def begin(self, shard: Shard) -> None:
        """Handle that the node has another name at a shard, and may have missed something."""

    async def read_again(self, shard: Shard) -> None:
        """Register everything at a shard, and catch up."""

    async def keep(self, shard: Shard) -> None:
        """Keep what is registered alive, and look for nodes that are gone, until cancelled."""

    def hear(self, shard: Shard, topic: bytes, data: bytes) -> None:
        """Handle a message of Redis."""

    def hear_pattern(self, shard: Shard, pattern: bytes, topic: bytes, data: bytes) -> None:
        """Handle a message of a topic that matches a pattern."""

    def note_state(self, shard: Shard) -> None:
        """Handle that a shard has another state."""


class Shard:
    """See the module. `index` is its place among the shards, `run` the part of the name that is the same at all."""

    def __init__(
        self,
        index: int,
        url: RedisUrl,
        run: str,
        owner: ShardOwner,
        keys: Keys,
        timings: RedisTimings,
        stats: EngineStats,
        logger: Logger,
    ) -> None:
        self.index = index
        self.url = url
        self.state: ShardState = "recovering"
        self.node = ""
        self.topics: tuple[str, ...] = ()
        self.globs: dict[str, int] = {}
        self.subscriber: TopicReader | None = None
        self._run_name = run
        self._owner = owner
        self._keys = keys
        self._timings = timings
        self._stats = stats
        self._logger = logger
        self._client: CommandClient | None = None
        self._requests: dict[int, ShardRequest] = {}
        self._waiting: deque[ShardRequest] = deque()
        self._on_the_way = 0
        self._timer: asyncio.TimerHandle | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._failure: asyncio.Future[None] | None = None
        self._heard = asyncio.Event()
        self._up = asyncio.Event()
        self._up_since = 0.0
        self._former: list[str] = []
        self._task: asyncio.Task[None] | None = None

    # --- requests

    def submit(self, request: ShardRequest) -> None:
        """Send a request, now or when the shard is up."""
        if self.state == "down" or len(self._requests) >= MAX_REQUESTS:
            self._fail_request(request, "unavailable")
            return
        loop = asyncio.get_running_loop()
        request.deadline = loop.time() + self._timings.request / 2
        self._requests[request.id] = request
        if self._timer is None:
            self._timer = loop.call_at(request.deadline, self._check_deadlines, request.deadline)
        if self.state == "up" and not self._waiting and self._on_the_way < MAX_ON_THE_WAY:
            self._send_request(request)
        else:
            self._waiting.append(request)

    def finish(self, request: ShardRequest, outcome: RequestOutcome = "ok") -> bool:
        """Count the outcome of a request. False if it has one already."""
        if self._requests.pop(request.id, None) is None:
            return False
        self._stats.requests[request.kind, outcome] += 1
        self._on_the_way -= request.is_sent
        self._send_waiting()
        return True

    def find(self, request_id: int) -> ShardRequest | None:
        """Return a request that has no outcome yet."""
        return self._requests.get(request_id)

    def send(self, *commands: Command) -> None:
        """Send commands, if Redis is reached: what is lost is told again by `read_again`."""
        if self._client is not None:
            for command in commands:
                self._client.send(command)

    def call(self, name: str, keys: Iterable[str], *arguments: str | bytes | int) -> asyncio.Future[Any]:
        """Run a script. The result never comes if the connection ends: only what ends with it may wait for it."""
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.send(script_command(script(name), keys, arguments, lambda value: _resolve(reply, value)))
        return reply

    def fetch(self, *arguments: str | bytes | int) -> asyncio.Future[Any]:
        """Run a plain command, as `call` does."""
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.send(Command(arguments, lambda value: _resolve(reply, value)))
        return reply

    def _send_waiting(self) -> None:
        while self.state == "up" and self._waiting and self._on_the_way < MAX_ON_THE_WAY:
            request = self._waiting.popleft()
            if request.id in self._requests:
                self._send_request(request)

    def _send_request(self, request: ShardRequest) -> None:
        request.is_sent = True
        request.deadline += self._timings.request / 2
        self._on_the_way += 1
        self.send(*request.prepare(request))

    def _fail_request(self, request: ShardRequest, outcome: RequestOutcome) -> None:
        if self._requests.pop(request.id, None) is not None:
            self._on_the_way -= request.is_sent
        self._stats.requests[request.kind, outcome] += 1
        request.fail(unavailable() if outcome == "unavailable" else unknown())

    def _check_deadlines(self, when: float) -> None:
        loop = asyncio.get_running_loop()
        self._timer, now = None, loop.time()
        late = now - when
        if late > self._timings.request / SLICES:  # this program stood still: answers may be waiting to be read
            for request in self._requests.values():
                request.deadline += late
        overdue = [request for request in self._requests.values() if request.deadline <= now]
        if self.state == "up" and not any(request.is_sent for request in overdue):
            for request in overdue:  # there is too much to do
                self._fail_request(request, "unavailable")
        elif overdue:
            if self.state == "up":
                self.fail("timeout")
            self._go_down()
        if self._requests and self._timer is None:
            earliest = min(request.deadline for request in self._requests.values())
            self._timer = loop.call_at(earliest, self._check_deadlines, earliest)

    # --- health

    async def start(self) -> None:
        """Begin to reach Redis."""
        self._task = asyncio.ensure_future(self._run())

    async def wait_until_up(self) -> None:
        """Wait until the shard is up for the first time."""
        await self._up.wait()

    async def stop(self) -> None:
        """End everything. Requests fail."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._patience is not None:
            self._patience.cancel()
        self.state = "down"
        self._fail_all()

    def fail(self, cause: str) -> None:
        """Give up the connections and reach Redis again."""
        if self._failure is not None and not self._failure.done():
            self._failure.set_exception(RedisLost(cause))

    def _go_down(self) -> None:
        """Fail all requests, and those to come, until everything has been read again."""
        self._set_state("down")
        self._fail_all()

    def _fail_all(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for request in list(self._requests.values()):
            is_unknown = request.is_sent and not request.is_repeatable
            self._fail_request(request, "unknown" if is_unknown else "unavailable")

    def _set_state(self, state: ShardState) -> None:
        if state != self.state:
            self.state = state
            self._owner.note_state(self)

    async def _run(self) -> None:
        attempt = 0  # in a row; the first one after a time of health is immediate
        while True:
            try:
                await self._attempt()
            except RedisLost as error:
                cause = error.cause
            except Exception as error:
                cause = "bug"
                log_exception(self._logger, "A shard of the engine failed", error, {"shard": self.url.name})
            attempt = self._lose(cause, attempt)
            if attempt > 1:
                most = min(self._timings.max_backoff, self._timings.backoff * 2 ** min(attempt - 2, 16))
                await asyncio.sleep(random.uniform(most / 2, most))

    def _recover(self) -> None:
        """Let requests wait, but not for long."""
        if self.state == "up":
            self._set_state("recovering")
            self._patience = asyncio.get_running_loop().call_later(self._timings.request, self._give_up)

    def _give_up(self) -> None:
        if self.state == "recovering":
            self._go_down()

    def _lose(self, cause: str, attempt: int) -> int:
        """Handle that the connections are over. Return the number of the next attempt in a row."""
        was_up = self._up.is_set()
        was_healthy = was_up and asyncio.get_running_loop().time() - self._up_since > self._timings.max_backoff
        self._up.clear()
        self._client = self.subscriber = None
        if attempt == 0 or was_up:
            self._stats.losses[cause] += 1
            self._logger.warning("Redis is lost", {"shard": self.url.name, "cause": cause})
        self._recover()
        for request in list(self._requests.values()):
            if request.is_sent and not request.is_repeatable:
                self._fail_request(request, "unknown")
            elif request.is_sent:
                request.is_sent = False
                request.deadline -= self._timings.request / 2
        self._on_the_way = 0
        self._waiting = deque(self._requests.values())
        return 1 if was_healthy else attempt + 1

    async def _attempt(self) -> None:
        """Reach Redis and serve, until that ends.

        Raises:
            RedisLost: always.
        """
        timeout = self._timings.request
        opened: list[AbstractConnection] = []
        tasks: list[asyncio.Future[Any]] = []
        self._failure = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(2 * timeout):
                for _ in range(2):
                    opened.append(await open_connection(self.url, timeout))
            self._client = CommandClient(opened[0], self._stats.note_round_trip)
            self.subscriber = TopicReader(opened[1], self._hear, self._hear_pattern)
            tasks = [asyncio.ensure_future(each.run()) for each in (self._client, self.subscriber)]
            tasks += [asyncio.ensure_future(self._serve()), self._failure]
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if self.state == "up" and tasks[0] not in done:
                await self._drain(self._client, tasks[0])
            for task in done:
                await task
        except TimeoutError:
            raise RedisLost("unreachable") from None
        finally:
            self._client = self.subscriber = None
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)
                for task in tasks:
                    if not task.cancelled():
                        task.exception()  # seen
            for connection in opened:
                await connection.disconnect(nowait=True)

    async def _drain(self, client: CommandClient, reading: asyncio.Future[Any]) -> None:
        """Wait for what Redis answers, although nothing is heard any more: nobody else knows whether it was done."""
        self._recover()
        draining = asyncio.ensure_future(client.drain())
        await asyncio.wait((draining, reading), timeout=self._timings.request, return_when=asyncio.FIRST_COMPLETED)
        draining.cancel()
        await asyncio.wait((draining,))

    async def _serve(self) -> None:
        assert self.subscriber is not None
        if self.node:
            self._former = [*self._former, self.node][-MAX_FORMER_NODES:]
        self.node = f"{self._run_name}~{secrets.token_hex(4)}"
        self._owner.begin(self)
        topics = (self._keys.inbox_prefix + self.node, *self.topics)
        await self._within(self.subscriber.subscribe(topics))
        for glob in self.globs:
            self.subscriber.add_pattern(glob)
        await self._beat(is_new=True)
        keeping = asyncio.ensure_future(self._become_up())
        beating = asyncio.ensure_future(self._beat_forever())
        try:
            done, _ = await asyncio.wait((keeping, beating), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                await task
        finally:
            for task in (keeping, beating):
                task.cancel()
            await asyncio.wait((keeping, beating))

    async def _become_up(self) -> None:
        await self._owner.read_again(self)
        self._stats.connects += 1
        if self._patience is not None:
            self._patience.cancel()
        self._up.set()
        self._up_since = asyncio.get_running_loop().time()
        self._set_state("up")
        self._send_waiting()
        await self._owner.keep(self)

    async def _beat_forever(self) -> None:
        while True:
            await asyncio.sleep(self._timings.beat)
            await self._beat(is_new=False)

    async def _beat(self, *, is_new: bool) -> None:
        """Send a heartbeat to oneself. Only its arrival keeps the node alive.

        Raises:
            RedisLost: it does not arrive, or others have given the node up.
        """
        self._heard.clear()
        self.send(Command(("PUBLISH", self._keys.inbox_prefix + self.node, b"h"), None))
        await self._within(self._heard.wait())
        times = self._timings
        alive = self.call(
            "beat", (self._keys.alive,), self.node, int(times.node * 1000), int(is_new), int(times.expiry * 1000)
        )
        if not await self._within(alive):
            raise RedisLost("swept")

    async def _within(self, awaitable: Awaitable[T]) -> T:
        task = asyncio.ensure_future(awaitable)
        try:
            for _ in range(SLICES):
                done, _ = await asyncio.wait((task,), timeout=self._timings.request / SLICES)
                if done:
                    return await task
        finally:
            task.cancel()
        self._go_down()
        raise RedisLost("silent")

    def take_former(self) -> list[str]:
        """Return the former names of the node, once."""
        former, self._former = self._former, []
        return former

    # --- what is heard

    def _hear(self, topic: bytes, data: bytes) -> None:
        if data == b"h":
            self._heard.set()
        else:
            self._owner.hear(self, topic, data)

    def _hear_pattern(self, pattern: bytes, topic: bytes, data: bytes) -> None:
        self._owner.hear_pattern(self, pattern, topic, data)


def _resolve(reply: asyncio.Future[Any], value: Any) -> None:
    if reply.done():
        return
    if isinstance(value, ResponseError):
        reply.set_exception(RedisLost("refused"))
    else:
        reply.set_result(value)
