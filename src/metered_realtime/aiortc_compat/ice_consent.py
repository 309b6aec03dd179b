"""Consent to send (RFC 7675) that detects a dead path soon and tolerates a slow or lossy one.

aioice sends a request every 5 s, waits half a second for the answer, never repeats a request, and gives up after six
misses: it takes half a minute to detect a dead path, and ends a working one with a longer round trip or much loss.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import aioice.ice
import aioice.stun

from .version import Guard, KnownPart

CONSENT_INTERVAL = 2.0
"""Seconds between requests, varied by a fifth (RFC 7675 section 5.1 allows 4 to 6, for paths of any length)."""

CONSENT_TIMEOUT = 6.0
"""Seconds without an answer after which the path is dead, unless other packets still arrive."""

SILENCE = 3.0
"""Seconds without any packet after which a path may be dead. Receivers of media send reports more often."""

MAX_CONSENT = 30.0
"""Seconds without an answer after which consent is lost, whatever else arrives (RFC 7675 section 5.1). A program that
is short of CPU time answers late, or reads answers late, while media goes on: its path is not dead. If only the outward
path is dead, the remote receives nothing and ends the connection.

It protects from media that nobody wants. An end that only receives sends feedback alone, and keeps the path while
packets arrive: FFmpeg's WHIP client never answers a request once it is connected."""

REPETITIONS = 2
"""Repetitions of a request, after 0.5 and 1.5 s: with a tenth of all packets lost in each direction, all requests of a
timeout fail once in months, and an answer may take up to 3.5 s."""


GUARD = Guard(
    "using aioice's own consent, which notices a dead path after half a minute",
    KnownPart(aioice.ice.Connection, "bcc20ebec476fe99", "query_consent", "connect", "close", "build_request"),
    KnownPart(aioice.ice.StunProtocol, "97991c38f65ea939", "request"),
)


def keep_consent(
    connection: aioice.ice.Connection,
    arrived: Callable[[], int] = lambda: 0,
    only_receives: Callable[[], bool] = lambda: False,
) -> None:
    """Let a new connection keep consent in this way.

    `arrived` returns how many packets the remote has sent, `only_receives` whether nothing but feedback goes to it.

    The connection closes when consent is lost, unless its `consent_lost` is replaced.
    """
    if not GUARD.holds():
        return
    kept: Any = connection
    kept.consent_lost = connection.close
    kept.query_consent = lambda: _query_consent(kept, arrived, only_receives)


async def _query_consent(connection: Any, arrived: Callable[[], int], only_receives: Callable[[], bool]) -> None:
    """Send requests until consent is lost, then call `consent_lost`."""
    loop = asyncio.get_running_loop()
    heard_at, came_at, count = loop.time(), -SILENCE, arrived()

    async def ask(pair: Any) -> None:
        nonlocal heard_at
        if await _answers(connection, pair):
            heard_at = loop.time()

    requests: set[asyncio.Task[None]] = set()
    try:
        while True:
            if arrived() != count:
                count, came_at = arrived(), loop.time()
            dead_at = max(heard_at + CONSENT_TIMEOUT, came_at + SILENCE)
            if not only_receives():
                dead_at = min(dead_at, heard_at + MAX_CONSENT)
            if (left := dead_at - loop.time()) <= 0:
                break
            await asyncio.sleep(min(left, CONSENT_INTERVAL * random.uniform(0.8, 1.2)))
            requests = {it for it in requests if not it.done()}
            requests |= {asyncio.ensure_future(ask(pair)) for pair in connection._nominated.values()}
    finally:
        for request in requests:
            request.cancel()
    connection._query_consent_task = None  # `close` would wait for it
    await connection.consent_lost()


async def _answers(connection: aioice.ice.Connection, pair: Any) -> bool:
    """Return whether the remote answers on a pair."""
    assert connection.remote_password is not None
    try:
        await pair.protocol.request(
            connection.build_request(pair, nominate=False),
            pair.remote_addr,
            integrity_key=connection.remote_password.encode(),
            retransmissions=REPETITIONS,
        )
    except (aioice.stun.TransactionError, ConnectionError):
        return False
    return True
