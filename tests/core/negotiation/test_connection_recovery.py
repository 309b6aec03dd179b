"""Decisions on a connection that comes up, is lost and is repaired."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metered_realtime.core.negotiation.connection_recovery import (
    CONNECT_TIMEOUT,
    ConnectionLost,
    ConnectionRecovery,
    Effect,
    Exhausted,
    RecoveryPhase,
    Repair,
    ReplaceConnection,
    RestartIce,
)
from metered_realtime.core.negotiation.ladder import LADDER, STABLE_AFTER


def up(now: float = 0.0) -> ConnectionRecovery:
    """Return the recovery of a connection that came up."""
    recovery = ConnectionRecovery()
    recovery.negotiating()
    recovery.negotiated(now)
    assert recovery.connected(now)
    return recovery


def due(recovery: ConnectionRecovery, now: float = 1.0) -> ConnectionRecovery:
    """Let a connection fail, and wait for its next attempt."""
    recovery.failed(now, "lost")
    assert recovery.deadline is not None
    assert recovery.timer(recovery.deadline) == [Repair()]
    return recovery


def exhausted() -> ConnectionRecovery:
    """Return the recovery of a connection that every attempt failed to repair."""
    recovery, now = up(), 1.0
    while recovery.phase is not RecoveryPhase.EXHAUSTED:
        recovery.failed(now, "lost")
        if recovery.deadline is not None:
            now = recovery.deadline
            recovery.timer(now)
            recovery.begin(can_restart_ice=False)
    return recovery


def test_a_connection_that_comes_up_in_time_is_connected_and_has_no_deadline() -> None:
    recovery = ConnectionRecovery()
    assert recovery.state == "idle"
    recovery.negotiating()
    assert (recovery.state, recovery.deadline) == ("connecting", None)
    recovery.negotiated(5.0)
    recovery.negotiated(9.0)
    assert recovery.deadline == 5.0 + CONNECT_TIMEOUT
    assert recovery.connected(6.0)
    assert (recovery.state, recovery.deadline) == ("connected", None)


def test_a_connection_that_does_not_come_up_in_time_has_failed() -> None:
    recovery = ConnectionRecovery()
    recovery.negotiating()
    recovery.negotiated(0.0)
    assert recovery.timer(CONNECT_TIMEOUT - 0.1) == []
    assert recovery.timer(CONNECT_TIMEOUT) == [ConnectionLost("not connected within 15 s", LADDER[0])]
    assert (recovery.phase, recovery.state) == (RecoveryPhase.WAITING, "connecting")


def test_a_connection_that_was_up_reads_reconnecting_until_it_is_up_again() -> None:
    recovery = up()
    recovery.failed(1.0, "lost")
    states = [recovery.state]
    recovery.timer(recovery.deadline or 0.0)
    states.append(recovery.state)
    recovery.begin(can_restart_ice=False)
    states.append(recovery.state)
    recovery.replaced()
    states.append(recovery.state)
    assert states == ["reconnecting"] * 4
    assert recovery.connected(2.0)
    assert recovery.state == "connected"


def test_a_repair_restarts_ice_where_that_is_possible() -> None:
    assert due(up()).begin(can_restart_ice=True) == RestartIce("lost")
    assert due(up()).begin(can_restart_ice=False) == ReplaceConnection("lost")


def test_only_a_new_connection_repairs_one_that_must_be_rebuilt() -> None:
    recovery = up()
    recovery.must_rebuild = True
    assert due(recovery).begin(can_restart_ice=True) == ReplaceConnection("lost")
    recovery.replaced()
    recovery.connected(2.0)
    assert due(recovery, 3.0).begin(can_restart_ice=True) == RestartIce("lost")


def test_a_failure_while_waiting_for_the_next_attempt_changes_nothing() -> None:
    recovery = up()
    recovery.failed(1.0, "lost", least_delay=1.0)
    assert recovery.deadline == 2.0
    assert recovery.failed(1.5, "closed") == []
    assert recovery.deadline == 2.0
    assert due(recovery).failed(2.0, "closed") == []


def test_a_path_that_comes_back_ends_the_repair_unless_it_has_to_be_rebuilt() -> None:
    recovery = up()
    recovery.failed(1.0, "lost")
    assert recovery.connected(1.5)
    assert (recovery.state, recovery.deadline) == ("connected", None)
    recovery = due(up())
    assert recovery.connected(1.5)
    assert recovery.begin(can_restart_ice=True) is None
    recovery = due(up())
    recovery.must_rebuild = True
    assert not recovery.connected(1.5)
    assert recovery.begin(can_restart_ice=True) == ReplaceConnection("lost")


def test_exhaustion_is_reported_once_with_attempts_and_seconds() -> None:
    recovery = up()
    effects: list[Effect] = []
    now = 1.0
    for _ in LADDER:
        effects += recovery.failed(now, "lost")
        now = recovery.deadline or now
        recovery.timer(now)
        recovery.begin(can_restart_ice=False)
    assert [it.retry_in for it in effects if isinstance(it, ConnectionLost)] == list(LADDER)
    effects = recovery.failed(now, "lost")
    assert effects == [ConnectionLost("lost", None), Exhausted(len(LADDER), now - 1.0)]
    assert recovery.failed(now + 1, "lost") == []
    assert (recovery.phase, recovery.state, recovery.deadline) == (RecoveryPhase.EXHAUSTED, "reconnecting", None)


def test_a_late_answer_after_exhaustion_is_given_no_time_and_reported_no_more() -> None:
    recovery = exhausted()
    recovery.negotiated(500.0)
    assert recovery.deadline is None
    assert recovery.timer(1_000.0) == []


def test_an_offer_of_the_remote_starts_the_ladder_again_after_exhaustion() -> None:
    recovery = exhausted()
    recovery.offered()
    assert (recovery.phase, recovery.attempts) == (RecoveryPhase.CONNECTING, 0)
    assert recovery.failed(500.0, "lost") == [ConnectionLost("lost", LADDER[0])]


def test_a_connection_that_comes_up_after_exhaustion_is_connected() -> None:
    recovery = exhausted()
    assert recovery.connected(500.0)
    assert recovery.failed(500.0 + STABLE_AFTER, "lost") == [ConnectionLost("lost", LADDER[0])]


def test_starting_over_replaces_the_connection_at_once_in_every_phase() -> None:
    for recovery in (up(), due(up()), exhausted()):
        assert recovery.start_over("the own id changed") == [Repair()]
        assert recovery.begin(can_restart_ice=True) == ReplaceConnection("the own id changed")
    idle = ConnectionRecovery()
    assert idle.start_over("the own id changed") == []
    assert idle.state == "idle"


def test_an_answer_that_cannot_be_delivered_stops_the_connect_timer() -> None:
    recovery = ConnectionRecovery()
    recovery.negotiating()
    recovery.negotiated(0.0)
    recovery.not_negotiated()
    assert recovery.deadline is None


def test_after_closing_no_input_has_an_effect() -> None:
    for recovery in (ConnectionRecovery(), up(), due(up()), exhausted()):
        recovery.close()
        recovery.negotiating()
        recovery.negotiated(1.0)
        recovery.replaced()
        recovery.offered()
        assert not recovery.connected(1.0)
        assert recovery.failed(1.0, "lost") == []
        assert recovery.start_over("again") == []
        assert recovery.timer(1e9) == []
        assert recovery.begin(can_restart_ice=True) is None
        assert (recovery.state, recovery.deadline) == ("closed", None)


Input = Callable[[ConnectionRecovery, float], list[Effect]]


def _quiet(act: Callable[[ConnectionRecovery, float], object]) -> Input:
    def run(recovery: ConnectionRecovery, now: float) -> list[Effect]:
        act(recovery, now)
        return []

    return run


def _rebuild(recovery: ConnectionRecovery, now: float) -> list[Effect]:
    recovery.must_rebuild = True
    return recovery.failed(now, "gone")


INPUTS: dict[str, Input] = {
    "negotiating": _quiet(lambda it, _: it.negotiating()),
    "negotiated": _quiet(lambda it, now: it.negotiated(now)),
    "not_negotiated": _quiet(lambda it, _: it.not_negotiated()),
    "connected": _quiet(lambda it, now: it.connected(now)),
    "failed": lambda it, now: it.failed(now, "lost"),
    "closed": lambda it, now: it.failed(now, "closed", least_delay=1.0),
    "rebuild": _rebuild,
    "timer": lambda it, now: it.timer(now),
    "begin": _quiet(lambda it, _: it.begin(can_restart_ice=True)),
    "replaced": _quiet(lambda it, _: it.replaced()),
    "start_over": lambda it, _: it.start_over("again"),
    "offered": _quiet(lambda it, _: it.offered()),
    "close": _quiet(lambda it, _: it.close()),
}


@given(st.lists(st.tuples(st.sampled_from(sorted(INPUTS)), st.sampled_from([0.0, 0.5, 2.0, 20.0])), max_size=60))
def test_the_invariants_of_recovery_hold_for_any_inputs(story: list[tuple[str, float]]) -> None:
    recovery, now, was_connected, may_report = ConnectionRecovery(), 0.0, False, True
    for name, passed in story:
        now += passed
        before = recovery.phase
        effects = INPUTS[name](recovery, now)
        phase = recovery.phase
        was_connected = was_connected or phase is RecoveryPhase.UP
        # The public state follows from the phase.
        if phase in (RecoveryPhase.CONNECTING, RecoveryPhase.WAITING, RecoveryPhase.DUE, RecoveryPhase.EXHAUSTED):
            assert recovery.state == ("reconnecting" if was_connected else "connecting")
        # A repair is requested exactly when it becomes due, and a timer runs while waiting for the next attempt.
        assert (Repair() in effects) == (
            phase is RecoveryPhase.DUE and (before is not RecoveryPhase.DUE or name == "start_over")
        )
        assert (phase is RecoveryPhase.WAITING) <= (recovery.deadline is not None)
        assert (recovery.deadline is None) or phase not in (RecoveryPhase.IDLE, RecoveryPhase.DUE, RecoveryPhase.CLOSED)
        assert recovery.attempts <= len(LADDER)
        # Exhaustion is reported once.
        for effect in effects:
            if isinstance(effect, Exhausted):
                assert may_report
                may_report = False
        if phase is not RecoveryPhase.EXHAUSTED:
            may_report = True
        # A closed connection stays closed.
        assert before is not RecoveryPhase.CLOSED or phase is RecoveryPhase.CLOSED


@given(st.lists(st.sampled_from(["failed", "connected", "timer", "begin", "replaced", "negotiated"]), max_size=40))
def test_a_connection_that_may_fail_is_repaired_or_reported(story: list[str]) -> None:
    """A connection that is not up has a timer or a repair that is due or begun, or was reported as exhausted."""
    recovery, now, given_up = up(), 0.0, False
    for name in story:
        now += 1.0
        effects = INPUTS[name](recovery, now)
        given_up = given_up or any(isinstance(it, Exhausted) for it in effects)
        if recovery.phase is RecoveryPhase.EXHAUSTED:
            assert given_up
        else:
            given_up = False
            assert recovery.phase in (
                RecoveryPhase.UP,
                RecoveryPhase.WAITING,
                RecoveryPhase.DUE,
                RecoveryPhase.CONNECTING,
            )


@pytest.mark.parametrize("delay", [0.0, 1.0])
def test_the_least_delay_holds_for_the_first_attempts(delay: float) -> None:
    recovery = up()
    recovery.failed(10.0, "closed", least_delay=delay)
    assert recovery.deadline == 10.0 + delay
