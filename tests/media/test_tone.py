"""A pushed tone arrives complete at another peer, over real UDP."""

from __future__ import annotations

import pytest
from benchmarks.tone import measure

pytestmark = pytest.mark.alone

SECONDS = 4.0

AHEAD = 0.4
"""Seconds of lead: a machine that is busy with other tests must not cause gaps."""

MAX_DELAY, MAX_GROWTH = 1.0, 0.25
"""Seconds. The delay is about 0.09 s plus the lead; a machine that stalls may add to it, but not steadily."""


@pytest.mark.usefixtures("no_task_left")
async def test_a_tone_arrives_without_gap_click_or_growing_delay() -> None:
    report = await measure(SECONDS, AHEAD)
    if report.jumps:
        pytest.fail(f"{report.jumps} frames of sound are missing")
    assert abs(report.missing_ms) < 5  # Opus fades in over 2.5 ms
    assert report.underruns == 0
    assert report.quietest_db > -1
    assert report.loudest_db < 1
    assert report.beside_db < -35
    assert report.phase_jump < 3
    assert report.delay(0.5) < MAX_DELAY * 1000
    quarter = len(report.delays) // 4
    early, late = sorted(report.delays[:quarter]), sorted(report.delays[-quarter:])
    assert late[quarter // 2] - early[quarter // 2] < MAX_GROWTH
