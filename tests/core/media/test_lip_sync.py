"""The sender's clock according to its reports, and the places of pictures by it, even for false reports."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metered_realtime.core.media.lip_sync import LOOK, MAX_APART, STEP, TOLERANCE, SyncedTrack, SyncGroup
from metered_realtime.core.media.sender_clock import MAX_WAIT, WINDOW, SenderClock

ZERO = 3.9e9
"""The sender's clock at second 0."""

LATE = 0.2
"""Seconds that pictures take longer than sound."""

EXACT = pytest.approx


# --- reports


def test_reports_of_the_time_of_sending_are_too_late_at_most() -> None:
    dice, clock = random.Random(3), SenderClock()
    for second in range(30):
        clock.note_report(second, ZERO + second + 0.01 + dice.expovariate(1 / 0.05))
        assert clock.offset is not None
        assert second < 10 or ZERO + 0.01 <= clock.offset < ZERO + 0.05
    assert clock.count == 30


@pytest.mark.parametrize("change", [-5.0, -0.3, MAX_WAIT + 0.1, 60.0])
def test_a_time_that_has_changed_is_followed_at_once(change: float) -> None:
    clock = SenderClock()
    for second in range(5):
        clock.note_report(second, ZERO + second)
    clock.note_report(5, ZERO + 5 + change)
    assert clock.offset == EXACT(ZERO + change, abs=1e-6)


def test_a_clock_that_was_put_back_is_followed_at_once_and_what_may_be_noise_soon() -> None:
    clock = SenderClock()
    clock.note_report(100, ZERO)
    clock.note_report(101, ZERO - 7)
    assert clock.offset == EXACT(ZERO - 108, abs=1e-6)
    for second in range(102, 103 + round(WINDOW)):
        clock.note_report(second, ZERO - 108 + second + 0.3)
    assert clock.offset == EXACT(ZERO - 107.7, abs=1e-6)


def test_what_was_reported_of_another_source_is_forgotten() -> None:
    clock = SenderClock()
    clock.note_report(1, ZERO)
    clock.reset()
    assert clock.offset is None
    clock.note_report(1, ZERO + 0.5)
    assert (clock.offset, clock.count) == (ZERO - 0.5, 2)


SECONDS = st.floats(-(2**33), 2**33)


@given(st.lists(st.tuples(SECONDS, st.floats(0, 2**32)), max_size=80))
def test_whatever_is_reported_the_offset_is_one_of_those(reports: list[tuple[float, float]]) -> None:
    clock = SenderClock()
    for own, seconds in reports:
        clock.note_report(own, seconds)
        assert clock.offset is not None
        assert clock.offset <= seconds - own
        assert clock.offset in {clock - own for own, clock in reports}


# --- places


class Call:
    """Sound and pictures captured together; the pictures arrive `LATE`. Frames are named by their capture time."""

    def __init__(self, *kinds: str) -> None:
        self.group = SyncGroup()
        self.starts = {"audio": 1_000.0, "video": 50.0, "screen": 7.0}  # of the tracks' times, at second 0
        self.takes = {"audio": 0.02, "video": 0.02 + LATE, "screen": 0.02 + LATE / 2}
        self.every = {"audio": 0.02, "video": 0.04, "screen": 0.1}
        self.clocks = {kind: SenderClock() for kind in kinds}
        self.tracks: dict[str, SyncedTrack] = {}
        self.waiting: dict[str, list[float]] = {}
        self.placed: dict[str, dict[float, float]] = {}
        self.now = 0.0
        for kind in kinds:
            self.join(kind)

    def join(self, kind: str) -> None:
        clock = self.clocks.setdefault(kind, SenderClock())
        self.tracks[kind] = self.group.join("audio" if kind == "audio" else "video", clock)
        self.waiting[kind], self.placed[kind] = [], {}

    def leave(self, kind: str) -> None:
        self.tracks.pop(kind).leave()

    def report(self, *kinds: str, ahead: float = 0.0) -> None:
        for kind in kinds:
            self.clocks[kind].note_report(self.starts[kind] + self.now, ZERO + ahead + self.now)

    def play(self, seconds: float) -> None:
        """Let the frames captured from now until then arrive."""
        until = self.now + seconds
        coming = []
        for kind in self.tracks:
            step = self.every[kind]
            numbers = range(round(self.now / step), round(until / step))
            coming += [(number * step + self.takes[kind], kind, number * step) for number in numbers]
        for arrived, kind, taken in sorted(coming):
            self._take(kind, taken, arrived)
        self.now = until

    def _take(self, kind: str, taken: float, arrived: float) -> None:
        track = self.tracks[kind]
        track.note_frame(self.starts[kind] + taken, arrived)
        self.waiting[kind].append(taken)
        if track.is_settled:
            for each in self.waiting[kind]:
                self.placed[kind][each] = track.place_frame(self.starts[kind] + each)
            self.waiting[kind].clear()

    def off(self, kind: str = "video", since: float = 0.0) -> list[float]:
        """Return how much later frames are placed than sound captured at the same time."""
        return [at - taken - self.takes["audio"] for taken, at in self.placed[kind].items() if taken >= since - 1e-6]


def test_where_both_are_reported_pictures_begin_in_their_place() -> None:
    call = Call("audio", "video")
    call.report("audio", "video")
    call.play(3)
    assert call.off() == EXACT([0.0] * 75, abs=TOLERANCE)
    assert call.off("audio") == EXACT([0.0] * 150, abs=1e-3)


@pytest.mark.parametrize("kinds", [(), ("audio",), ("video",)])
def test_without_reports_of_both_they_are_placed_by_arrival(kinds: tuple[str, ...]) -> None:
    call = Call("audio", "video")
    call.report(*kinds)
    call.play(3)
    assert call.off() == EXACT([LATE] * 75, abs=1e-3)


def test_reports_that_come_later_move_the_pictures_and_never_the_sound() -> None:
    call = Call("audio", "video")
    call.play(2)
    call.report("audio", "video")
    call.play(3)
    assert call.off("audio") == EXACT([0.0] * 250, abs=1e-3)
    assert call.off(since=2 + LATE + LOOK) == EXACT([0.0] * len(call.off(since=2 + LATE + LOOK)), abs=TOLERANCE)
    places = list(call.placed["video"].values())
    assert len(places) == 125, "none is left out"
    assert all(later - sooner > STEP / 2 for sooner, later in pairwise(places)), "and they stay in order"


def test_pictures_that_are_ahead_of_the_sound_are_moved_back() -> None:
    call = Call("audio", "video", "screen")
    call.takes["audio"] = 0.4
    call.report("audio", "video", "screen")
    call.play(30)
    for kind in ("video", "screen"):
        assert call.off(kind, 1.0) == EXACT([0.0] * len(call.off(kind, 1.0)), abs=TOLERANCE)


def test_pictures_wait_for_the_place_of_sound_that_came_with_them() -> None:
    call = Call("audio", "video")
    call.takes["audio"] = 0.3
    call.report("audio", "video")
    call.play(3)
    assert call.off() == EXACT([0.0] * 75, abs=TOLERANCE)


def test_they_do_not_wait_for_sound_that_does_not_come() -> None:
    call = Call("audio", "video")
    call.leave("audio")
    call.play(1)
    assert len(call.placed["video"]) == 25


def test_every_track_of_pictures_follows_and_sound_that_took_the_place_of_other_leads() -> None:
    call = Call("audio", "video", "screen")
    call.report("audio", "video", "screen")
    call.play(3)
    call.leave("audio")
    call.takes["audio"] = 0.3
    call.play(1)
    assert call.off(since=3) == EXACT([-0.28] * 25, abs=TOLERANCE), "alone they stay where they were"
    call.join("audio")
    call.report("audio")
    call.play(3)
    for kind in ("video", "screen"):
        assert call.off(kind, 5.0) == EXACT([0.0] * len(call.off(kind, 5.0)), abs=TOLERANCE)


def test_reports_from_before_a_track_restarted_are_ignored() -> None:
    call = Call("audio", "video")
    call.report("audio", "video")
    call.play(3)
    call.starts["video"] += 0.6  # it cannot be ahead by this much
    call.play(2)
    assert call.off(since=3) == EXACT([0.0] * 50, abs=TOLERANCE), "it goes on by what was known"
    call.takes["video"] += 0.1
    call.report("video")
    call.play(2)
    assert call.off(since=5) == EXACT([0.0] * 50, abs=TOLERANCE)


def test_reports_on_different_clocks_move_nothing() -> None:
    call = Call("audio", "video")
    call.report("audio", ahead=-MAX_APART - 1)
    call.report("video")
    call.play(3)
    assert call.off() == EXACT([LATE] * 75, abs=1e-3)


def test_an_invisible_difference_moves_nothing() -> None:
    call = Call("audio", "video")
    for wrong in (0.0, 0.006, 0.0, 0.004, 0.008):
        call.report("audio")
        call.report("video", ahead=-wrong)
        call.play(1)
    off = call.off()
    assert max(off) - min(off) < 1e-6


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["audio", "video"]), st.floats(0, 1e6), st.floats(0, 3), st.none() | st.floats(0, 2**32)
        ),
        max_size=80,
    )
)
def test_no_times_and_no_reports_make_it_raise_and_pictures_stay_in_order(
    events: list[tuple[str, float, float, float | None]],
) -> None:
    group, now = SyncGroup(), 0.0
    clocks = {kind: SenderClock() for kind in ("audio", "video")}
    tracks = {kind: group.join(kind, clock) for kind, clock in clocks.items()}
    last = -1e9
    for kind, own, pause, clock in events:
        now += pause
        if clock is not None:
            clocks[kind].note_report(own, clock)
        tracks[kind].note_frame(own, now)
        at = tracks[kind].place_frame(own)
        assert abs(at) < 1e9
        if kind == "video":
            assert at > last
            last = at
