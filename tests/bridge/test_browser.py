"""npm's whip-whep client in Chromium and Firefox."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Page

from metered_realtime import MediaStream
from metered_realtime.events.bridge import BridgeSessionClosed
from metered_realtime.media.sources.testsource import PatternTrack, ToneTrack
from tests.bridge.support import Endpoints, picture, tracks_of
from tests.bridge.whip_whep import client_page, client_site, is_installed
from tests.support.browsers import BROWSERS, Browser, Chromium, needs, until
from tests.support.peer_fixtures import no_open_socket, open_room
from tests.support.peers import eventually

pytestmark = [
    pytest.mark.skipif(
        not is_installed() and "CI" not in os.environ, reason="whip-whep is needed: npm ci in tests/foreign_ends"
    ),
    pytest.mark.asyncio(loop_scope="module"),
]


def _parameters(*kinds: type[Browser]) -> list[Any]:
    return [pytest.param(it, id=it.NAME, marks=[getattr(pytest.mark, it.NAME), needs(it)]) for it in kinds]


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def no_socket_left_behind() -> AsyncIterator[None]:
    async with no_open_socket():
        yield


@pytest_asyncio.fixture(loop_scope="module")
async def no_task_left_behind() -> AsyncIterator[None]:
    """Fail a test that leaves a task of its own running: the browser has some too."""
    before = asyncio.all_tasks()
    yield
    here = asyncio.current_task()
    try:
        await eventually(lambda: asyncio.all_tasks() <= before | {here})
    except TimeoutError:
        pytest.fail(f"tasks left behind: {asyncio.all_tasks() - before}")


@pytest_asyncio.fixture(loop_scope="module")
async def endpoints() -> AsyncIterator[Endpoints]:
    async with open_room() as room, Endpoints(room) as endpoints:
        yield endpoints


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=_parameters(*BROWSERS.values()))
async def browser(request: pytest.FixtureRequest) -> AsyncIterator[Browser]:
    async with request.param() as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser) -> AsyncIterator[Page]:
    async with client_site() as url:
        yield await client_page(browser, url)
        await browser.clean()


async def test_a_page_watches_a_participant_and_stops(endpoints: Endpoints, page: Page) -> None:
    ann = endpoints.room.peer("ann")
    ann.add_stream(MediaStream([PatternTrack(width=320, height=240), ToneTrack()]))
    await endpoints.room.join(ann)
    token = endpoints.room.server.mint_token("viewer")
    await page.evaluate("([url, token]) => play(url, token)", [f"{endpoints.bridge.whep_url}/ann", token])
    await until(page, "window.shown > 25")
    assert await page.evaluate("document.querySelector('video').videoWidth") == 320
    await page.evaluate("client.stop()")
    assert (await endpoints.log.until(BridgeSessionClosed)).reason in ("deleted", "lost")


@pytest.mark.parametrize("browser", _parameters(Chromium), indirect=True)  # Firefox downloads its H.264
async def test_a_page_watches_an_encoder_in_h264(endpoints: Endpoints, page: Page) -> None:
    from tests.bridge.test_publishing import prefer

    encoder = endpoints.client("cam")
    encoder.send([PatternTrack(width=320, height=240)])
    prefer(encoder.pc, "video/H264")
    assert (await encoder.open("/whip")).status == 201
    await encoder.connected()
    token = endpoints.room.server.mint_token("viewer")
    await page.evaluate("([url, token]) => play(url, token)", [f"{endpoints.bridge.whep_url}/cam", token])
    await until(page, "window.shown > 10")
    player = next(it for it in endpoints.bridge.stats().sessions if it.role == "player")
    assert [it.codec for it in player.connection.outbound if it.kind == "video"] == ["video/H264"]
    assert endpoints.bridge.stats().refused == {}
    await page.evaluate("client.stop()")


async def test_a_page_watches_the_room_mixed(endpoints: Endpoints, page: Page) -> None:
    for peer_id in ("ann", "bob"):
        peer = endpoints.room.peer(peer_id)
        peer.add_stream(MediaStream([PatternTrack(width=320, height=240), ToneTrack()]))
        await endpoints.room.join(peer)
    token = endpoints.room.server.mint_token("viewer")
    await page.evaluate("([url, token]) => play(url, token)", [endpoints.bridge.whep_url, token])
    await until(page, "window.shown > 10")
    assert await page.evaluate("document.querySelector('video').videoWidth") == 960
    await page.evaluate("client.stop()")


async def test_a_page_publishes_and_its_candidates_are_taken(endpoints: Endpoints, page: Page) -> None:
    viewer = endpoints.room.peer("viewer")
    await endpoints.room.join(viewer)
    token = endpoints.room.server.mint_token("page")
    await page.evaluate("([url, token]) => publish(url, token)", [endpoints.bridge.whip_url, token])
    track = (await tracks_of(await endpoints.participant(viewer, "page"), 1))["video"]
    assert (await picture(track)).width > 0
    assert endpoints.bridge.stats().refused == {}
    await page.evaluate("client.stop()")
    assert (await endpoints.log.until(BridgeSessionClosed)).reason in ("deleted", "lost")


async def test_a_page_that_goes_away_ends_its_session(endpoints: Endpoints, page: Page) -> None:
    token = endpoints.room.server.mint_token("page")
    await page.evaluate("([url, token]) => publish(url, token)", [endpoints.bridge.whip_url, token])
    await until(page, "pc.connectionState === 'connected'")
    await page.context.close()
    assert (await endpoints.log.until(BridgeSessionClosed)).reason == "lost"
