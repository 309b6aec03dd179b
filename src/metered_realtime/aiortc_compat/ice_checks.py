"""Connectivity checks (RFC 8445) that start without polling.

aioice's `connect` starts a check, sleeps 20 ms, and only then looks whether the last one has succeeded or candidates
have arrived: two thirds of the time of a local connection. Here `connect` finds that all checks have been started, so
that it waits for the outcome, which wakes it at once, while they are started beside it.
"""

from __future__ import annotations

import asyncio
from typing import Any

import aioice.ice

from .version import Guard, KnownPart

CHECK_INTERVAL = 0.02
"""Seconds between the checks that one connection starts (Ta, RFC 8445 section 14). It is aioice's own."""


GUARD = Guard(
    "using aioice's own, slower connectivity checks",
    KnownPart(
        aioice.ice.Connection,
        "abdee44b88bebc3b",
        "connect",
        "check_complete",
        "check_start",
        "check_start_task",
        "check_incoming",
        "sort_check_list",
        "_check_list_maybe_complete",
        "_check_list_maybe_fail",
        "_check_periodic",
        "_end_remote_candidates",
        "_pair_remote_candidate",
        "_unfreeze_initial",
    ),
)


def pace_checks(connection: aioice.ice.Connection) -> None:
    """Let a new connection start its first check at once, and the others `CHECK_INTERVAL` apart."""
    if not GUARD.holds():
        return
    _Checks(connection)
    _nominate_one_pair(connection)


def _nominate_one_pair(connection: aioice.ice.Connection) -> None:
    """Use regular nomination (RFC 8445 section 8.1.1): the controlling end nominates one pair that works.

    aioice nominates every pair that it checks, and each end uses the one whose check ends last: with two running checks
    the ends disagree, and one direction may use a relay without need. For ICE-lite remotes aioice does it properly.
    """
    connect = connection.connect

    async def connect_by_regular_nomination() -> None:
        connection.remote_is_lite = True
        await connect()

    patched: Any = connection
    patched.connect = connect_by_regular_nomination


class _Checks:
    """Starts the checks of one connection."""

    def __init__(self, connection: aioice.ice.Connection) -> None:
        self._connection = connection
        self._sort = connection.sort_check_list
        self._started = False
        self._next: asyncio.Handle | None = None
        patched: Any = connection
        patched.checks = self
        patched._check_list = _CheckList()
        patched._check_periodic = self._begin
        patched.sort_check_list = self._sort_and_resume

    def pause(self) -> None:
        """Start no checks until aioice's `connect` is called again."""
        self._started = False
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _begin(self) -> bool:
        """Begin to start checks: replaces the step that `connect` repeats while it returns True."""
        self._started = True
        self._check_next()
        if self._next is None:
            # Without any candidate no check ends, so that nothing else would notice the failure.
            self._connection._check_list_maybe_fail()
        return False

    def _sort_and_resume(self) -> None:
        """Sort, and resume checks: replaces what aioice calls after it has added a pair."""
        self._sort()
        if self._started and self._next is None:
            self._next = asyncio.get_running_loop().call_soon(self._check_next)

    def _check_next(self) -> None:
        self._next = None
        pair = None if self._connection._check_list_done else self._waiting_pair()
        if pair is not None:
            self._connection.check_start_task(pair)
            self._next = asyncio.get_running_loop().call_later(CHECK_INTERVAL, self._check_next)

    def _waiting_pair(self) -> aioice.ice.CandidatePair | None:
        """Return the unchecked pair of the highest priority, frozen ones last."""
        pairs = [pair for pair in self._connection._check_list if pair.task is None]
        states = (aioice.ice.CandidatePair.State.WAITING, aioice.ice.CandidatePair.State.FROZEN)
        return next((pair for state in states for pair in pairs if pair.state == state), None)


class _CheckList(list[aioice.ice.CandidatePair]):
    """A check list that is truthy even if it is empty: `connect` fails for a falsy one."""

    def __bool__(self) -> bool:
        return True
