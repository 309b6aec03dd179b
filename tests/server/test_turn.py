"""Expiring TURN credentials: their form in a welcome, and their use with a real TURN server."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import time
from pathlib import Path
from typing import Any

import pytest
from aiortc import (
    RTCConfiguration,
    RTCDataChannel,
    RTCIceServer,
    RTCPeerConnection,
)
from aiortc.mediastreams import AudioStreamTrack
from aiortc.rtcconfiguration import RTCIceTransportPolicy

from metered_realtime.core.wire.ice_servers import parse_ice_servers
from metered_realtime.server import App, PublishableKey, SignallingServer, TurnServer
from tests.support.patience import PATIENCE

from ..support.coturn import coturn, needs_coturn
from ..support.probe import dialled

NOW = 1_800_000_000.0


class TestTurnServer:
    def test_a_turn_server_makes_credentials_for_a_peer_and_a_time(self) -> None:
        entry = TurnServer(urls=("turn:t.example",), shared_secret="hush", lifetime=60).ice_server("ann", NOW + 0.9)
        digest = hmac.new(b"hush", b"1800000060:ann", hashlib.sha1).digest()
        assert entry == {
            "urls": ["turn:t.example"],
            "username": "1800000060:ann",
            "credential": base64.b64encode(digest).decode(),
        }

    def test_a_turn_server_hides_the_secret(self) -> None:
        assert "hush" not in repr(TurnServer(urls=("turn:t.example",), shared_secret="hush"))

    @pytest.mark.parametrize(
        ("options", "named"),
        [
            ({"urls": ()}, "urls"),
            ({"urls": ("stun:t.example",)}, "'stun:t.example'"),
            ({"urls": "http:t.example"}, "'http:t.example'"),
            ({"shared_secret": ""}, "shared_secret"),
            ({"lifetime": 0}, "lifetime"),
            ({"lifetime": True}, "True"),
        ],
    )
    def test_a_turn_server_names_what_is_wrong(self, options: dict[str, Any], named: str) -> None:
        with pytest.raises(ValueError, match=named):
            TurnServer(**{"urls": ("turn:t.example",), "shared_secret": "hush", **options})


class TestWelcome:
    async def test_the_welcome_holds_static_servers_and_credentials_that_clients_take(self) -> None:
        turn = TurnServer(urls="turn:t.example", shared_secret="hush")
        async with SignallingServer(ice_servers=["stun:s.example"], turn=turn) as server:
            metadata, peer_id = await welcome(server)
        servers = parse_ice_servers(metadata)
        assert servers is not None
        assert [entry.urls for entry in servers] == ["stun:s.example", ["turn:t.example"]]
        expiry, _, name = str(servers[1].username).partition(":")
        assert name == peer_id
        assert abs(int(expiry) - time.time() - 86_400) < 5

    async def test_the_welcome_of_a_key_without_injection_has_none(self) -> None:
        turn = TurnServer(urls="turn:t.example", shared_secret="hush")
        app = App("app", (PublishableKey(key="pk_live_bare", inject_ice_servers=False),))
        async with SignallingServer(turn=turn, apps=[app]) as server:
            assert (await welcome(server, "key=pk_live_bare"))[0] is None

    async def test_the_welcome_leaves_servers_of_the_token_alone(self) -> None:
        turn = TurnServer(urls="turn:t.example", shared_secret="hush")
        async with SignallingServer(turn=turn) as server:
            token = server.mint_token("ann", metadata={"iceServers": []})
            assert (await welcome(server, f"token={token}"))[0] == {"iceServers": []}


async def welcome(server: SignallingServer, query: str | None = None) -> tuple[Any, str]:
    async with dialled(server, query) as probe:
        frame = await probe.get()
        return frame.get("metadata"), frame["peerId"]


async def relayed_peer(server: SignallingServer) -> RTCPeerConnection:
    """A connection with the ICE servers of its own welcome, which uses relays only."""
    servers = parse_ice_servers((await welcome(server))[0])
    assert servers is not None
    return RTCPeerConnection(
        RTCConfiguration(
            iceServers=[RTCIceServer(entry.urls, entry.username, entry.credential) for entry in servers],
            iceTransportPolicy=RTCIceTransportPolicy.RELAY,
        )
    )


def candidates(peer: RTCPeerConnection) -> list[str]:
    lines = peer.localDescription.sdp.splitlines()
    return [line.split(" typ ")[1].split()[0] for line in lines if line.startswith("a=candidate")]


async def connect(caller: RTCPeerConnection, callee: RTCPeerConnection) -> None:
    await caller.setLocalDescription(await caller.createOffer())
    await callee.setRemoteDescription(caller.localDescription)
    await callee.setLocalDescription(await callee.createAnswer())
    await caller.setRemoteDescription(callee.localDescription)


@needs_coturn
async def test_a_real_turn_server_relays_media_and_data(tmp_path: Path) -> None:
    async with coturn("hush", tmp_path) as url:
        async with SignallingServer(turn=TurnServer(urls=url, shared_secret="hush")) as server:
            caller, callee = await relayed_peer(server), await relayed_peer(server)
        heard: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        caller.addTrack(AudioStreamTrack())
        channel = caller.createDataChannel("c")
        channel.on("open", lambda: channel.send("hello"))
        tracks: list[Any] = []
        callee.on("track", tracks.append)

        @callee.on("datachannel")
        def _opened(remote: RTCDataChannel) -> None:
            remote.on("message", heard.set_result)

        try:
            async with asyncio.timeout(PATIENCE):
                await connect(caller, callee)
                assert set(candidates(caller) + candidates(callee)) == {"relay"}
                assert await heard == "hello"
                frame = await tracks[0].recv()
                assert frame.samples > 0
        finally:
            await asyncio.gather(caller.close(), callee.close())


@needs_coturn
@pytest.mark.parametrize(
    ("secret", "age"), [("another", 0), ("hush", -3_600)], ids=["made with another secret", "expired"]
)
async def test_a_real_turn_server_refuses_credentials(tmp_path: Path, secret: str, age: int) -> None:
    async with coturn("hush", tmp_path) as url:
        made = TurnServer(urls=url, shared_secret=secret, lifetime=60).ice_server("ann", time.time() + age)
        peer = RTCPeerConnection(
            RTCConfiguration(
                iceServers=[RTCIceServer(made["urls"], made["username"], made["credential"])],
                iceTransportPolicy=RTCIceTransportPolicy.RELAY,
            )
        )
        peer.createDataChannel("c")
        try:
            await peer.setLocalDescription(await peer.createOffer())
            assert candidates(peer) == []
        finally:
            await peer.close()
