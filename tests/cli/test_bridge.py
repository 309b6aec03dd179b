"""Endpoints from the command line."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription

from metered_realtime.media.sources.testsource import PatternTrack
from metered_realtime.server import SignallingServer
from tests.cli.test_files import Commands
from tests.support.patience import PATIENCE
from tests.support.peers import eventually


@pytest.fixture
async def commands() -> AsyncIterator[Commands]:
    async with SignallingServer(port=0) as server:
        commands = Commands(server)
        yield commands
        await commands.stop()


async def test_it_prints_its_urls_and_what_happens_and_ends_its_sessions_on_ctrl_c(commands: Commands) -> None:
    process = await commands.start("bridge", "--channel", "room", "--port", "0", "--json")
    assert process.stdout is not None
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    async with asyncio.timeout(PATIENCE):
        urls = json.loads(await process.stdout.readline())
        assert set(urls) == {"whip", "whep"}
        pc.addTransceiver(PatternTrack(width=64, height=64), direction="sendonly")
        await pc.setLocalDescription(await pc.createOffer())
        headers = {
            "Authorization": f"Bearer {commands.server.mint_token('ann')}",
            "Content-Type": "application/sdp",
        }
        async with (
            aiohttp.ClientSession() as http,
            http.post(urls["whip"], data=pc.localDescription.sdp, headers=headers) as response,
        ):
            assert response.status == 201
            await pc.setRemoteDescription(RTCSessionDescription(await response.text(), "answer"))
        await eventually(lambda: pc.connectionState == "connected")
        opened, connected = [json.loads(await process.stdout.readline()) for _ in range(2)]
        assert (opened["event"], opened["role"], opened["peer_id"]) == ("opened", "publisher", "ann")
        assert (connected["event"], connected["number"]) == ("connected", opened["number"])
        process.send_signal(signal.SIGINT)
        rest, _ = await process.communicate()
    closed = json.loads(rest)
    assert (closed["event"], closed["reason"]) == ("closed", "closing")
    assert process.returncode == 130
    await pc.close()


async def test_it_says_in_words_where_to_publish(commands: Commands) -> None:
    process = await commands.start("bridge", "--channel", "room", "--port", "0")
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        assert (await process.stdout.readline()).startswith(b"publish to http://127.0.0.1:")
        assert b"/whep" in await process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        await process.communicate()
    assert process.returncode == 130


async def test_a_key_that_the_server_refuses_ends_it(commands: Commands) -> None:
    code, _, err = await commands.run("bridge", "--channel", "room", "--port", "0", "--api-key", "pk_live_nothing")
    assert code == 1
    assert "4001" in err
