"""Clients of the endpoints: aiortc as it is, and HTTP requests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamTrack
from multidict import CIMultiDictProxy

from metered_realtime import MeteredPeer, RemotePeer, Track
from metered_realtime.bridge.bridge import Bridge
from metered_realtime.media.sources.testsource import PatternTrack, ToneTrack
from tests.support.patience import PATIENCE
from tests.support.peers import EventLog, Room, eventually

SDP = "application/sdp"
FRAGMENT = "application/trickle-ice-sdpfrag"
CHANNEL = "room"


@dataclass(frozen=True)
class Reply:
    status: int
    headers: CIMultiDictProxy[str]
    text: str

    @property
    def code(self) -> str | None:
        """The code of a problem document."""
        import json

        return json.loads(self.text)["code"] if self.text.startswith("{") else None


class Client:
    """One foreign end: an RTCPeerConnection of aiortc, and the requests of its session."""

    def __init__(self, endpoints: Endpoints, token: str) -> None:
        self.endpoints = endpoints
        self.token = token
        self.pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.tracks: dict[str, Any] = {}
        self.location = self.etag = ""
        self.pc.on("track", lambda track: self.tracks.update({track.kind: track}))

    def send(self, tracks: Iterable[MediaStreamTrack]) -> None:
        for track in tracks:
            self.pc.addTransceiver(track, direction="sendonly")

    def receive(self, *kinds: str) -> None:
        for kind in kinds:
            self.pc.addTransceiver(kind, direction="recvonly")

    async def open(self, path: str) -> Reply:
        """Post an offer, and apply the answer."""
        await self.pc.setLocalDescription(await self.pc.createOffer())
        reply = await self.endpoints.request("POST", path, self.token, self.pc.localDescription.sdp, SDP)
        if reply.status == 201:
            self.location, self.etag = reply.headers["Location"], reply.headers["ETag"]
            await self.pc.setRemoteDescription(RTCSessionDescription(reply.text, "answer"))
        return reply

    async def connected(self) -> None:
        await eventually(lambda: self.pc.connectionState == "connected")

    async def patch(self, fragment: str, if_match: str | None) -> Reply:
        headers = {"If-Match": if_match} if if_match is not None else {}
        return await self.endpoints.request("PATCH", self.location, self.token, fragment, FRAGMENT, headers)

    async def delete(self) -> Reply:
        return await self.endpoints.request("DELETE", self.location, self.token)


class Endpoints:
    """A bridge in the room of a test, and its clients."""

    def __init__(self, room: Room, **options: Any) -> None:
        self.room = room
        self.bridge = Bridge(CHANNEL, url=room.server.url, api_key=room.server.api_key, **options)
        self.log = EventLog(self.bridge)
        self.clients: list[Client] = []
        self.http = aiohttp.ClientSession()

    async def __aenter__(self) -> Self:
        await self.bridge.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.http.close()
        for client in self.clients:
            if client.pc.connectionState == "connecting" and error is None:
                await client.connected()  # aiortc leaves a task behind when it is closed meanwhile
        await asyncio.gather(*(client.pc.close() for client in self.clients))
        await self.bridge.close()

    def client(self, peer_id: str = "ann", **claims: Any) -> Client:
        """Return a client with a token."""
        client = Client(self, self.room.server.mint_token(peer_id, **claims))
        self.clients.append(client)
        return client

    async def request(
        self,
        method: str,
        path: str,
        token: str | None = None,
        body: str | bytes | None = None,
        content_type: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> Reply:
        sent = dict(headers or {})
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        if content_type is not None:
            sent["Content-Type"] = content_type
        async with self.http.request(method, self.bridge.url + path, data=body, headers=sent) as response:
            return Reply(response.status, response.headers, await response.text())

    async def publish(self, peer_id: str = "ann", *tracks: MediaStreamTrack, path: str = "/whip") -> Client:
        """Publish tracks, by default a numbered picture and a tone, and return once the connection is up."""
        client = self.client(peer_id)
        client.send(tracks or (PatternTrack(width=320, height=240), ToneTrack()))
        reply = await client.open(path)
        assert reply.status == 201, reply.text
        await client.connected()
        return client

    async def watch(self, path: str = "/whep", *kinds: str, peer_id: str = "viewer") -> Client:
        """Watch the room or a participant, and return once the connection is up."""
        client = self.client(peer_id)
        client.receive(*(kinds or ("video", "audio")))
        reply = await client.open(path)
        assert reply.status == 201, reply.text
        await client.connected()
        return client

    async def participant(self, viewer: MeteredPeer, peer_id: str) -> RemotePeer:
        """Return a participant once a peer knows it."""
        await eventually(lambda: any(it.id == peer_id for it in viewer.remote_peers))
        return next(it for it in viewer.remote_peers if it.id == peer_id)


async def tracks_of(remote: RemotePeer, count: int = 2) -> dict[str, Any]:
    """Return the tracks that a remote sends, by kind, once there are as many."""
    await eventually(lambda: len(remote.incoming_tracks) >= count)
    return {track.kind: track for track in remote.incoming_tracks}


async def picture(track: Any) -> Any:
    """Return the next frame."""
    async with asyncio.timeout(PATIENCE):
        return await track.recv()


__all__ = ["CHANNEL", "FRAGMENT", "SDP", "Client", "Endpoints", "Reply", "Track", "picture", "tracks_of"]
