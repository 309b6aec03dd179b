"""Sends webhooks: one request at a time, signed, repeated until the backend has taken it."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import json
import math
import random
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from ...log import Logger
from ..telemetry.hooks import Tracing
from .queue import ChangeType, PresenceChange, WebhookQueue

SECRET_PREFIX = "whsec_"

MIN_SECRET = 24
"""Minimum size of a secret in bytes, as Standard Webhooks requires."""

REQUEST_TIMEOUT = 10.0
"""Seconds for a request, from the connection to the status. A backend should acknowledge first and work later."""

FIRST_RETRY, LONGEST_RETRY = 1.0, 60.0
"""Seconds before a request is repeated: doubled each time, times a random factor from a half to one."""

FLUSH_TIMEOUT = 1.0
"""Seconds that a server that stops leaves for events on their way."""


@dataclass(frozen=True, slots=True)
class Webhooks:
    """Where presence is told, and the secret that signs it.

    `secret` is `whsec_` and at least 24 bytes in base64, as `new_webhook_secret` makes it.

    Raises:
        ValueError: the URL is not an http or https URL, or the secret is malformed or too short.
    """

    url: str = field(repr=False)  # it may contain credentials
    secret: str = field(repr=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("the webhook URL must be an http or https URL")
        if len(_key(self.secret)) < MIN_SECRET:
            raise ValueError(f"the webhook secret must have at least {MIN_SECRET} bytes")


def new_webhook_secret() -> str:
    """Return a new secret for webhooks."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """Return the header `webhook-signature` of a request (Standard Webhooks, symmetric signatures)."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(_key(secret), signed, hashlib.sha256)).decode()


class WebhookSender:
    """Tells a backend what changes in the channels of a server.

    Events are sent in order, at least once. The epoch is that of this run of the server: a backend that sees another
    one starts with empty channels, and drops events whose number it has seen in the same epoch.

    Attributes:
        queue: The events that the backend does not have.
        failures: Number of requests that failed and were or will be repeated.
    """

    def __init__(
        self,
        options: Webhooks,
        logger: Logger,
        clock: Callable[[], float] = time.time,
        tracing: Tracing | None = None,
    ) -> None:
        self._tracing = Tracing() if tracing is None else tracing
        self.queue = WebhookQueue()
        self.epoch = secrets.token_hex(8)
        self.failures = 0
        self._options = options
        self._logger = logger
        self._clock = clock
        self._arrived = asyncio.Event()
        self._sending: asyncio.Task[None] | None = None

    def note(self, kind: ChangeType, app: str, channel: str, peer_id: str) -> None:
        """Queue an event. It is on its way as soon as those before it have arrived."""
        self.queue.push(PresenceChange(kind, app, channel, peer_id, round(self._clock() * 1000)))
        self._arrived.set()
        if self._sending is None:
            self._sending = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop sending. Events on their way have a second to arrive; the others are lost with this run."""
        if self._sending is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_TIMEOUT):
                    while len(self.queue) and not self._sending.done():  # noqa: ASYNC110 - what empties it is a request
                        await asyncio.sleep(0.01)
            self._sending.cancel()
            await asyncio.wait([self._sending])

    async def _run(self) -> None:
        # Redirects are not followed: they would move the events to a place that the operator did not name.
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT)
        async with aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session:
            while True:
                await self._arrived.wait()
                self._arrived.clear()
                while events := self.queue.batch():
                    await self._deliver(session, events)
                    self.queue.acknowledge()

    async def _deliver(self, session: aiohttp.ClientSession, events: list[dict[str, Any]]) -> None:
        """Send a batch until the backend has taken it."""
        body = json.dumps({"epoch": self.epoch, "events": events}, ensure_ascii=False).encode()
        message_id = f"{self.epoch}_{events[-1]['seq']}"
        wait, told = FIRST_RETRY, False
        while (refusal := await self._post(session, message_id, body, len(events))) is not None:
            self.failures += 1
            if not told:
                told = True
                self._logger.warning("webhook failed", {"why": refusal.why, "queued": len(self.queue)})
            await asyncio.sleep(max(refusal.retry_after, wait * random.uniform(0.5, 1.0)))
            wait = min(2 * wait, LONGEST_RETRY)
        if told:
            self._logger.info("webhook delivered again", {"queued": len(self.queue)})

    async def _post(self, session: aiohttp.ClientSession, message_id: str, body: bytes, count: int) -> _Refusal | None:
        timestamp = int(self._clock())
        headers = {
            "Content-Type": "application/json",
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(self._options.secret, message_id, timestamp, body),
        }
        with self._tracing.webhook(self._options.url, count, headers) as trace:
            try:
                async with session.post(self._options.url, data=body, headers=headers, allow_redirects=False) as answer:
                    trace.answered(answer.status)
                    if 200 <= answer.status < 300:
                        return None
                    return _Refusal(f"HTTP {answer.status}", _seconds(answer.headers.get("Retry-After")))
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                trace.failed(type(error).__name__)
                return _Refusal(type(error).__name__)  # its text may hold the URL


@dataclass(frozen=True, slots=True)
class _Refusal:
    why: str
    retry_after: float = 0.0


def _seconds(retry_after: str | None) -> float:
    """Return the seconds of a Retry-After header. Dates and what cannot be read count as none."""
    try:
        seconds = float(retry_after or 0)
    except ValueError:
        return 0.0
    return min(max(seconds, 0.0), LONGEST_RETRY) if math.isfinite(seconds) else 0.0


def _key(secret: str) -> bytes:
    try:
        return base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"the webhook secret must be base64, after {SECRET_PREFIX!r}") from None
