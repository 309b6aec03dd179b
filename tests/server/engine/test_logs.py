"""Bounded logs of messages, against a model that keeps everything."""

from __future__ import annotations

from collections import defaultdict
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from metered_realtime.server.engine import logs as module
from metered_realtime.server.engine.contract import EngineLimits, Envelope, MissedMessages, Position
from metered_realtime.server.engine.logs import OVERHEAD, MessageLog, MessageLogs

KEYS = ("a", "b", "c")

steps = st.lists(
    st.tuples(st.sampled_from(KEYS), st.integers(0, 12), st.sampled_from((0.0, 0.0, 0.3, 4.0))), min_size=1, max_size=80
)


def new_logs(**limits: float) -> MessageLogs:
    names = count()
    return MessageLogs(EngineLimits(**limits), lambda: f"e{next(names)}")  # type: ignore[arg-type]


def envelope(size: int, sender: str = "ann") -> Envelope:
    return Envelope(sender, Raw(b"1" * size))


def offsets(missed: MissedMessages) -> list[int]:
    return [stored.offset for stored in missed.messages]


class TestMissedMessages:
    def setup_method(self) -> None:
        self.logs = new_logs(messages_per_log=3)
        self.log = self.logs.open("c")
        for _ in range(5):
            self.logs.append(self.log, envelope(1), 0.0)

    def since(self, offset: int) -> tuple[list[int], int | None]:
        missed = self.log.since(Position(self.log.epoch, offset))
        return offsets(missed), missed.lost

    def test_messages_after_a_position_are_returned_oldest_first(self) -> None:
        assert self.since(3) == ([4, 5], 0)
        assert self.since(5) == ([], 0)

    def test_messages_that_are_dropped_are_counted_from_the_position(self) -> None:
        assert self.since(2) == ([3, 4, 5], 0)
        assert self.since(1) == ([3, 4, 5], 1)
        assert self.since(0) == ([3, 4, 5], 2)

    def test_of_another_count_nobody_knows_what_is_lost_and_all_messages_are_new(self) -> None:
        missed = self.log.since(Position("other", 4))
        assert (offsets(missed), missed.lost) == ([3, 4, 5], None)

    def test_beyond_the_end_nobody_knows_what_is_lost_and_no_message_is_new(self) -> None:
        assert self.since(6) == ([], None)


@given(steps, st.integers(1, 6), st.integers(5, 40), st.integers(1, 4))
def test_logs_keep_the_newest_messages_within_all_bounds(
    steps: list[tuple[str, int, float]], messages: int, size: int, in_all: int
) -> None:
    most = in_all * (OVERHEAD + 12)
    logs = new_logs(messages_per_log=messages, bytes_per_log=size, bytes_in_all=most, retention=5.0)
    opened = {key: logs.open(key) for key in KEYS}
    everything: list[tuple[float, str, int]] = []
    now = 0.0
    for key, length, wait in steps:
        now += wait
        logs.append(opened[key], envelope(length), now)
        everything.append((now, key, length))
    logs.expire(now)
    kept = model(everything, now, messages, size, most)
    for key, log in opened.items():
        assert [memoryview(stored.envelope.data).nbytes for stored in log.stored] == kept[key]
        total = sum(1 for _, whose, _ in everything if whose == key)
        assert log.position == Position(log.epoch, total)
        assert log.bytes == sum(kept[key])
        missed = log.since(Position(log.epoch, 0))
        assert missed.lost == total - len(kept[key])
        assert offsets(missed) == list(range(total - len(kept[key]) + 1, total + 1))
    assert logs.bytes == sum(sum(sizes) + OVERHEAD * len(sizes) for sizes in kept.values()) <= most
    assert len(logs) == sum(map(len, kept.values()))


def model(
    everything: list[tuple[float, str, int]], now: float, messages: int, size: int, most: int
) -> dict[str, list[int]]:
    """Return the sizes of the messages that are kept, by key, when each bound is applied after each message."""
    kept: list[tuple[float, str, int]] = []
    for at, key, length in everything:
        kept.append((at, key, length))
        mine = [entry for entry in kept if entry[1] == key]
        while len(mine) > messages or sum(entry[2] for entry in mine) > size:
            kept.remove(mine.pop(0))
        kept = [entry for entry in kept if entry[0] >= at - 5.0]
        while sum(entry[2] + OVERHEAD for entry in kept) > most:
            kept.pop(0)
    by_key: dict[str, list[int]] = defaultdict(list)
    for _, key, length in kept:
        by_key[key].append(length)
    return by_key


class TestLogs:
    def test_the_count_of_a_log_outlives_its_use(self) -> None:
        logs = new_logs()
        logs.append(logs.open("c"), envelope(1), 0.0)
        logs.leave("c")
        log = logs.open("c")
        assert (log.offset, len(log)) == (1, 1)

    def test_counts_of_logs_that_nobody_uses_are_bounded_and_the_oldest_is_forgotten(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "MAX_UNUSED_LOGS", 2)
        logs = new_logs()
        used = logs.open("used")
        for key in "abc":
            logs.append(logs.open(key), envelope(1), 0.0)
            logs.leave(key)
        logs.append(used, envelope(1), 0.0)
        assert [key for key in ("a", "b", "c", "used") if key in logs] == ["b", "c", "used"]
        assert len(logs) == 3
        assert logs.open("a").offset == 0
        logs.expire(100.0)
        assert (len(logs), logs.bytes, len(used)) == (0, 0, 0)

    def test_marks_of_dropped_messages_do_not_pile_up(self) -> None:
        logs = new_logs(messages_per_log=1)
        log, other = logs.open("c"), logs.open("d")
        logs.append(other, envelope(1), 0.0)
        for _ in range(5_000):
            logs.append(log, envelope(1), 0.0)
        assert len(logs._ages) < 3_000
        assert (len(logs), log.offset, len(other)) == (2, 5_000, 1)

    def test_counts_have_names_of_their_own(self) -> None:
        logs = new_logs()
        epochs = {logs.open(key).epoch for key in KEYS}
        assert len(epochs) == 3


def test_a_log_is_empty_at_first() -> None:
    log = MessageLog("e")
    assert log.since(Position("e", 0)) == MissedMessages((), 0)
    assert log.position == Position("e", 0)
