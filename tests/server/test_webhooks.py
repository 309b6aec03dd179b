"""Webhooks at a real HTTP server, which fails in the ways that backends do."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from metered_realtime import StdlibLogger
from metered_realtime.server import SignallingServer, Webhooks, new_webhook_secret
from metered_realtime.server.webhooks import sender
from metered_realtime.server.webhooks.queue import BATCH, PresenceChange, WebhookQueue
from tests.support.peers import eventually
from tests.support.probe import welcomed

SECRET = new_webhook_secret()


class Backend:
    """Takes webhooks, after it has answered the first ones as it was told to."""

    def __init__(self) -> None:
        self.failures: list[int] = []
        self.hang_ups = 0
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.url = ""

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.requests]

    @property
    def told(self) -> list[tuple[str, str, str]]:
        """What was told, without what was told before."""
        events = {event["seq"]: event for body in self.bodies for event in body["events"]}
        assert list(events) == sorted(events)
        return [(it["type"], it["channel"], it["peerId"]) for it in events.values()]

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        if self.hang_ups:
            self.hang_ups -= 1
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        self.requests.append((dict(request.headers), body))
        if self.failures:
            status = self.failures.pop(0)
            return web.Response(status=status, headers={"Location": self.url, "Retry-After": "0"})
        return web.Response(status=204)


@pytest.fixture
async def backend(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Backend]:
    monkeypatch.setattr(sender, "FIRST_RETRY", 0.01)
    backend = Backend()
    app = web.Application()
    app.router.add_post("/hook", backend.take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    backend.url = f"http://127.0.0.1:{site.port}/hook?credential=hunter2"
    yield backend
    await runner.cleanup()


def server_for(backend: Backend) -> SignallingServer:
    return SignallingServer(webhooks=Webhooks(backend.url, SECRET), logger=StdlibLogger())


STORY = [
    ("opened", "c", "ann"),
    ("joined", "c", "ann"),
    ("joined", "c", "bob"),
    ("left", "c", "ann"),
    ("left", "c", "bob"),
    ("emptied", "c", "bob"),
]


async def live_through_it(server: SignallingServer) -> None:
    async with welcomed(server, "ann") as ann, welcomed(server, "bob") as bob:
        await ann.join("c")
        await ann.ask("subscribe", channel="c")  # again: nothing changes
        await bob.join("c")
        await ann.ask("unsubscribe", channel="c")


async def test_a_backend_is_told_who_comes_and_goes(backend: Backend) -> None:
    async with server_for(backend) as server:
        await live_through_it(server)
        await eventually(lambda: backend.told == STORY)
    assert {body["epoch"] for body in backend.bodies} == {backend.bodies[0]["epoch"]}
    assert [event["seq"] for body in backend.bodies for event in body["events"]] == list(range(1, 7))


async def test_requests_are_signed_as_standard_webhooks_has_it(backend: Backend) -> None:
    async with server_for(backend) as server:
        await live_through_it(server)
        await eventually(lambda: backend.told == STORY)
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    for headers, body in backend.requests:
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        assert headers["webhook-signature"] == f"v1,{expected}"


@pytest.mark.parametrize("status", [500, 429, 302, 410])
async def test_what_was_not_taken_is_sent_again_in_order(backend: Backend, status: int) -> None:
    backend.failures = [status] * 3
    async with server_for(backend) as server:
        await live_through_it(server)
        await eventually(lambda: backend.told == STORY and not backend.failures)
    ids = [headers["webhook-id"] for headers, _ in backend.requests]
    assert ids[0] == ids[1] == ids[2] == ids[3], "a repeated request keeps its id"


async def test_a_backend_that_is_away_hears_of_it_later(backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    """And neither the log nor anything else shows its URL."""
    backend.hang_ups = 3
    async with server_for(backend) as server:
        await live_through_it(server)
        await eventually(lambda: backend.told == STORY)
    assert not backend.hang_ups
    assert "hunter2" not in caplog.text + repr(Webhooks(backend.url, SECRET))
    assert SECRET not in repr(Webhooks(backend.url, SECRET))


async def test_a_server_that_stops_tells_of_no_departure(backend: Backend) -> None:
    async with server_for(backend) as server, welcomed(server, "ann") as ann:
        await ann.join("c")
        await eventually(lambda: len(backend.told) == 2)
        await server.stop()
        assert backend.told == STORY[:2]
        await server.start()
        async with welcomed(server, "bob") as bob:
            await bob.join("d")
            await eventually(lambda: len({body["epoch"] for body in backend.bodies}) == 2)


async def test_a_server_does_not_wait_long_for_a_backend_when_it_stops(backend: Backend) -> None:
    backend.failures = [500] * 1_000_000
    async with server_for(backend) as server:
        await live_through_it(server)
        async with asyncio.timeout(60):
            await server.stop()
    assert backend.requests


@pytest.mark.parametrize(
    ("url", "secret", "fault"),
    [
        ("ftp://x/y", SECRET, "http or https"),
        ("https://", SECRET, "http or https"),
        ("https://x", "whsec_c2hvcnQ=", "at least 24 bytes"),
        ("https://x", "whsec_***", "base64"),
    ],
    ids=["another scheme", "no host", "short secret", "no base64"],
)
def test_options_that_cannot_work_are_refused(url: str, secret: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        Webhooks(url, secret)


@given(st.lists(st.sampled_from(["push", "batch", "acknowledge"]), max_size=400), st.integers(1, 6))
def test_the_queue_tells_each_change_once_and_in_order_or_that_it_was_lost(steps: list[str], most: int) -> None:
    queue, pushed, taken = WebhookQueue(most), 0, 0
    for step in steps:
        if step == "push":
            queue.push(PresenceChange("joined", "a", "c", "p", 0))
            pushed += 1
        elif step == "batch":
            assert queue.batch() == queue.batch()
            assert len(queue.batch()) <= BATCH
        else:
            for event in queue.batch():
                count = event.get("count", 1)
                assert event["seq"] == taken + count
                taken += count
            queue.acknowledge()
        assert len(queue) <= most + 1 + BATCH
    while events := queue.batch():
        for event in events:
            taken += event.get("count", 1)
            assert event["seq"] == taken
        queue.acknowledge()
    assert taken == pushed


def test_what_the_documentation_says_verifies_a_signature() -> None:
    page = (Path(__file__).parents[2] / "docs" / "server.md").read_text()
    (example,) = re.findall(r"```python\n(import base64.*?)```", page, re.DOTALL)
    made: dict[str, Any] = {}
    exec(example, made)
    now = int(time.time())
    for at, body, genuine in ((now, b"{}", True), (now, b"{ }", False), (now - 3_600, b"{}", False)):
        signed = sender.signature(SECRET, "id", at, b"{}")
        headers = {"webhook-id": "id", "webhook-timestamp": str(at), "webhook-signature": signed}
        assert made["is_genuine"](SECRET, headers, body) is genuine
