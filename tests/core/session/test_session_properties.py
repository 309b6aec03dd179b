"""Invariants of the client session under any behaviour of the network and the program."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from metered_realtime.core.session.effects import Dial, Emit, EnterState, FetchToken, FinishConnect, TearDown
from metered_realtime.core.session.renewal import RETRIES
from metered_realtime.core.session.requests import MAX_PENDING
from metered_realtime.errors import SignallingError
from metered_realtime.events import Disconnected, TokenRefreshed
from metered_realtime.options import ReconnectOptions

from .driver import SessionDriver

QUEUE_LIMIT = 3
CHANNELS = st.sampled_from(["a", "b", "c"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner))
NAMES = ["peerId", "expiresAt", "serverTime", "maxMessageSize", "metadata", "requestId", "code", "message", "channel"]
FIELDS = [
    *NAMES,
    "from",
    "data",
    "fromMetadata",
    "joined",
    "left",
    "retryAfterMs",
    "resumeToken",
    "epoch",
    "offset",
    "count",
]
TYPES = ["welcome", "ack", "error", "message", "direct", "presence", "going_away", "pong", "resume", "lost", "tomorrow"]
FRAMES = st.builds(
    lambda kind, fields: fields | {"type": kind}, st.sampled_from(TYPES), st.dictionaries(st.sampled_from(FIELDS), JSON)
)
CODES = st.sampled_from([1000, 1001, 1006, 4001, 4002, 4010, 4020, 1011])
FLAGS = st.booleans()

STEPS = st.one_of(
    st.tuples(st.sampled_from(["connect", "abandon_connect", "opened", "welcome", "binary", "close", "tick"])),
    st.tuples(st.just("dial_failed"), FLAGS),
    st.tuples(st.just("ended"), CODES),
    st.tuples(st.just("advance"), st.floats(0, 40)),
    st.tuples(st.just("receive"), FRAMES | JSON | st.text(max_size=20)),
    st.tuples(st.just("subscribe"), CHANNELS, FLAGS),
    st.tuples(st.sampled_from(["unsubscribe", "publish"]), CHANNELS),
    st.tuples(st.just("send"), st.just("bob")),
    st.tuples(st.sampled_from(["ack", "refuse", "abandon"]), st.integers(1, 12)),
    st.tuples(st.just("welcome_until"), st.integers(-5, 120)),
    st.tuples(st.sampled_from(["token_fetched", "token_failed", "unknown_type"])),
    st.tuples(st.just("refreshed"), st.integers(1, 12), st.none() | st.integers(0, 300)),
)
OFTEN = st.sampled_from([("connect",), ("opened",), ("welcome",), ("subscribe", "a", False), ("publish", "a")])


class World:
    """Applies steps and tracks the accepted requests."""

    def __init__(self) -> None:
        reconnect = ReconnectOptions(max_attempts=4)
        self.driver = SessionDriver(
            reconnect=reconnect, inactivity_timeout=30, queue_limit=QUEUE_LIMIT, refresh_tokens=True, spread=0.5
        )
        self.accepted: set[str] = set()
        self.abandoned: set[str] = set()
        self.connects = 0
        self.finished_or_abandoned = 0

    def step(self, name: str, *arguments: Any) -> None:
        try:
            getattr(self, "_" + name, self._plain(name))(*arguments)
        except SignallingError:
            assert name in ("connect", "subscribe", "unsubscribe", "publish", "send")

    def _plain(self, name: str) -> Any:
        def call(*arguments: Any) -> None:
            result = getattr(self.driver, name)(*arguments)
            if name in ("subscribe", "unsubscribe", "publish", "send"):
                self.accepted.add(result)

        return call

    def _connect(self) -> None:
        self.driver.connect()
        self.connects += 1

    def _abandon_connect(self) -> None:
        if self.driver.session.state == "connecting":
            self.finished_or_abandoned += 1
        self.driver.effects += self.driver.session.abandon_connect()

    def _binary(self) -> None:
        self.driver.effects += self.driver.session.receive_binary()

    def _dial_failed(self, token: bool) -> None:
        self.driver.dial_failed(token_error=OSError("no token") if token else None)

    def _welcome_until(self, lifetime: int) -> None:
        self.driver.welcome(serverTime=1_000, expiresAt=1_000 + lifetime)

    def _refreshed(self, number: int, expires_at: int | None) -> None:
        self.driver.receive({"type": "ack", "requestId": str(number), "expiresAt": expires_at, "metadata": {}})

    def _unknown_type(self) -> None:
        self.driver.refuse(None, "unknown_type")

    def _ack(self, number: int) -> None:
        self.driver.ack(str(number))

    def _refuse(self, number: int) -> None:
        self.driver.refuse(str(number))

    def _abandon(self, number: int) -> None:
        if str(number) in self.accepted and str(number) not in self.driver.outcomes:
            self.abandoned.add(str(number))
        self.driver.session.abandon(str(number))


@settings(max_examples=150)
@given(st.lists(STEPS | OFTEN, max_size=60))
def test_nothing_raises_and_every_request_and_every_connect_ends_exactly_once(steps: list[tuple[Any, ...]]) -> None:
    world = World()
    for step in steps:
        world.step(*step)
        assert world.driver.session.pending_requests <= MAX_PENDING + QUEUE_LIMIT
    world.step("close")
    outcomes = world.driver.outcomes  # asserts that nothing settled twice
    assert set(outcomes) <= world.accepted
    assert world.accepted - world.abandoned <= set(outcomes)
    assert world.abandoned.isdisjoint(outcomes)
    assert world.driver.session.pending_requests == 0
    assert world.driver.session.subscriptions == ()
    assert len(world.driver.take(FinishConnect)) + world.finished_or_abandoned == world.connects


@settings(max_examples=150)
@given(st.lists(STEPS | OFTEN, max_size=60))
def test_states_follow_each_other_and_a_client_that_gives_up_says_so(steps: list[tuple[Any, ...]]) -> None:
    world = World()
    for step in steps:
        before = len(world.driver.effects)
        world.step(*step)
        check_batch(world.driver.effects[before:], by_program=step[0] in ("close", "abandon_connect"))
        check_deadline(world.driver)
    changes = world.driver.take(EnterState)
    assert all(earlier.to == later.from_ for earlier, later in pairwise(changes))
    assert all(change.from_ != change.to for change in changes)


@settings(max_examples=150)
@given(st.lists(STEPS | OFTEN | st.just(("welcome_until", 60)), max_size=60))
def test_tokens_are_fetched_for_live_connections_only_one_at_a_time_and_not_for_ever(
    steps: list[tuple[Any, ...]],
) -> None:
    world = World()
    for step in steps:
        before = len(world.driver.effects)
        world.step(*step)
        batch = world.driver.effects[before:]
        fetched = [it for it in batch if isinstance(it, FetchToken)]
        dialled = any(isinstance(it, Dial) for it in batch)
        assert not fetched or dialled or world.driver.session.state == "connected"
        refreshes = [frame for frame in world.driver.written if frame["type"] == "refresh"]
        assert len(refreshes) <= len(world.driver.fetches)
    welcomes = sum(effect.to == "connected" for effect in world.driver.take(EnterState))
    consents = sum(isinstance(event, TokenRefreshed) for event in world.driver.events)
    assert len(world.driver.fetches) <= (welcomes + consents) * (1 + RETRIES)


def check_batch(effects: list[Any], *, by_program: bool) -> None:
    for index, effect in enumerate(effects):
        if isinstance(effect, EnterState) and effect.to == "closed" and effect.from_ == "reconnecting":
            told = [it.event for it in effects[:index] if isinstance(it, Emit) and isinstance(it.event, Disconnected)]
            assert by_program or told[-1].will_reconnect is False
            assert by_program or any(isinstance(it, TearDown) for it in effects[index:])


def check_deadline(driver: SessionDriver) -> None:
    """A session that only waits for time must have a deadline."""
    session = driver.session
    if session.state == "reconnecting" and isinstance(driver.effects[-1], Emit):
        assert session.next_deadline < math.inf
    if session.state in ("idle", "closed"):
        assert session.next_deadline == math.inf
