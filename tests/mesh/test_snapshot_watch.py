"""How often the list of everybody is asked for, in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from metered_realtime.errors import ServerRequestError
from metered_realtime.log import NoopLogger
from metered_realtime.mesh.snapshot_watch import RECONCILE_RETRIES, RECONCILE_TIMEOUT, SnapshotWatch
from tests.support.virtual_time import now, virtual_time


@virtual_time
@pytest.mark.parametrize("code", ["backend_error", "internal_error", "rate_limited"])
async def test_a_server_that_cannot_serve_the_channel_yet_is_asked_on(code: str) -> None:
    outage = 10
    asked: list[float] = []
    gave_up = asyncio.Event()

    async def subscribe() -> None:
        asked.append(now())
        if len(asked) <= outage:
            raise ServerRequestError(code)

    watch = SnapshotWatch(subscribe, gave_up.set, NoopLogger())
    watch.start()
    await gave_up.wait()
    uncounted = 0 if code == "rate_limited" else outage
    assert len(asked) == uncounted + RECONCILE_RETRIES
    assert now() - asked[-1] == RECONCILE_TIMEOUT
    watch.stop()
