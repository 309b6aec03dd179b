"""The life of a connection that its program negotiates, phase by phase."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from metered_realtime.core.negotiation.connection_recovery import CONNECT_TIMEOUT
from metered_realtime.core.negotiation.one_shot_lifecycle import OneShotLifecycle

WINDOW = 30.0


def at(state: str, window: float = WINDOW) -> OneShotLifecycle:
    """Return a life in a state, at second 100."""
    life = OneShotLifecycle(window)
    if state in ("connecting", "connected", "reconnecting"):
        life.negotiated(100.0)
    if state in ("connected", "reconnecting"):
        life.connected()
    if state == "reconnecting":
        life.path_lost(100.0, can_restart=True)
    if state == "closed":
        life.close()
    assert life.state == state
    return life


Input = Callable[[OneShotLifecycle], None]
INPUTS: dict[str, Input] = {
    "negotiating": OneShotLifecycle.negotiating,
    "negotiated": lambda life: life.negotiated(100.0),
    "connected": OneShotLifecycle.connected,
    "path_lost": lambda life: life.path_lost(100.0, can_restart=True),
    "path_lost for good": lambda life: life.path_lost(100.0, can_restart=False),
    "gone": OneShotLifecycle.gone,
    "timer": lambda life: life.timer(1000.0),
    "failed": OneShotLifecycle.failed,
    "close": OneShotLifecycle.close,
}
STATES = ("idle", "connecting", "connected", "reconnecting", "closed")
TABLE = {
    "negotiating": ("connecting", "connecting", "connected", "reconnecting", "closed"),
    "negotiated": ("connecting", "connecting", "connected", "reconnecting", "closed"),
    "connected": ("connected", "connected", "connected", "connected", "closed"),
    "path_lost": ("idle", "not_connected", "reconnecting", "reconnecting", "closed"),
    "path_lost for good": ("idle", "not_connected", "path_lost", "reconnecting", "closed"),
    "gone": ("idle", "not_connected", "closed_by_remote", "closed_by_remote", "closed"),
    "timer": ("idle", "not_connected", "connected", "path_lost", "closed"),
    "failed": ("negotiation_failed",) * 4 + ("closed",),
    "close": ("closed",) * 5,
}


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [(name, *pair) for name, row in TABLE.items() for pair in zip(STATES, row, strict=True)],
)
def test_every_input_in_every_state(name: str, before: str, after: str) -> None:
    life = at(before)
    INPUTS[name](life)
    assert (life.loss or life.state) == after
    assert life.loss is None or life.state == "closed"


def test_there_is_one_deadline_at_a_time() -> None:
    life = at("idle")
    assert life.deadline is None
    life.negotiating()
    assert life.deadline is None
    life.negotiated(5.0)
    assert life.deadline == 5.0 + CONNECT_TIMEOUT
    life.timer(5.0)
    assert life.state == "connecting"
    life.connected()
    assert life.deadline is None
    life.path_lost(50.0, can_restart=True)
    assert life.deadline == 50.0 + WINDOW
    life.path_lost(60.0, can_restart=True)
    assert life.deadline == 50.0 + WINDOW
    life.close()
    assert life.deadline is None


def test_without_a_window_a_lost_path_is_the_end() -> None:
    life = at("connected", window=0.0)
    life.path_lost(1.0, can_restart=True)
    assert life.loss == "path_lost"
