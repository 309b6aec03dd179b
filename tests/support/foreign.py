"""A peer of another make: bare aiortc and bare websockets. It knows the wire and nothing of this package."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any

from aiortc import RTCBundlePolicy, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.rtcdtlstransport import RTCCertificate, SRTPProtectionProfile, generate_certificate
from cryptography.hazmat.primitives.asymmetric import rsa
from OpenSSL import SSL
from websockets.asyncio.client import ClientConnection, connect

from metered_realtime.server import SignallingServer
from tests.support.patience import PATIENCE


class RsaCertificate(RTCCertificate):
    """What GStreamer and many cameras have. Its suites are those that other implementations offer for it."""

    @classmethod
    def generateCertificate(cls) -> RsaCertificate:
        """Return a new one. It signs with SHA-256."""
        key: Any = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
        return cls(key, generate_certificate(key))

    def _create_ssl_context(self, srtp_profiles: list[SRTPProtectionProfile]) -> SSL.Context:
        context = super()._create_ssl_context(srtp_profiles)
        context.set_cipher_list(b"ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES128-GCM-SHA256")
        return context


def set_certificate(pc: RTCPeerConnection, certificate: RTCCertificate) -> None:
    """Give a connection of aiortc, which has no transport yet, a certificate."""
    inside: Any = pc
    inside._RTCPeerConnection__certificates = [certificate]


def bare_connection() -> RTCPeerConnection:
    """Return a connection that asks no servers."""
    return RTCPeerConnection(RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE))


class ForeignPeer:
    """Offers when it is told to. Answers offers unless one of its own is pending: aiortc cannot take that back. One
    that `answers` no offers negotiates when it is told to, and never again. `setup` is the DTLS role that it takes in
    its first answer, `active` or `passive`."""

    def __init__(
        self, socket: ClientConnection, certificate: RTCCertificate | None = None, *, answers: bool = True
    ) -> None:
        self.answers = answers
        self._certificate = certificate
        self.tracks: list[Any] = []
        self.channels: list[Any] = []
        self.descriptions: list[str] = []
        self.texts: list[str] = []
        self.offers_received: list[str] = []
        self.answers_received: list[str] = []
        self.data: list[Any] = []
        self.metadata: list[Any] = []
        self.directs = 0
        self.setup = "active"
        self.pc = self._connection()
        self._socket = socket
        self._request_ids = map(str, itertools.count())
        self._answers: dict[str, asyncio.Future[Any]] = {}
        self._reader = asyncio.ensure_future(self._read())
        self._replies: set[asyncio.Task[None]] = set()

    @classmethod
    async def join(
        cls,
        server: SignallingServer,
        peer_id: str,
        channel: str = "room",
        *,
        certificate: RTCCertificate | None = None,
        answers: bool = True,
    ) -> ForeignPeer:
        """Come into a channel."""
        socket = await connect(f"{server.url}/v1?token={server.mint_token(peer_id=peer_id)}")
        assert json.loads(await socket.recv())["type"] == "welcome"
        peer = cls(socket, certificate, answers=answers)
        await peer.request(type="subscribe", channel=channel)
        return peer

    async def start_over(self) -> None:
        """Continue with another connection, as a program does that was started again."""
        await self.pc.close()
        self.pc = self._connection()

    async def request(self, **fields: Any) -> Any:
        """Send a frame and return its ack or error."""
        request_id = next(self._request_ids)
        answer = self._answers[request_id] = asyncio.get_running_loop().create_future()
        await self._socket.send(json.dumps({**fields, "requestId": request_id}))
        async with asyncio.timeout(PATIENCE):
            return await answer

    async def offer(self, to: str, change: Any = str) -> None:
        """Offer what has been added, in words that `change` may change."""
        await self.pc.setLocalDescription(await self.pc.createOffer())
        await self._describe(to, change)

    async def close(self) -> None:
        """Leave."""
        for task in (self._reader, *self._replies):
            task.cancel()
        await asyncio.gather(self._reader, *self._replies, return_exceptions=True)
        await self._socket.close()
        await self.pc.close()

    def _connection(self) -> RTCPeerConnection:
        pc = bare_connection()
        if self._certificate is not None:
            set_certificate(pc, self._certificate)
        pc.on("track", self.tracks.append)
        pc.on("datachannel", self.channels.append)
        return pc

    async def _describe(self, to: str, change: Any = str) -> None:
        description = {"type": self.pc.localDescription.type, "sdp": change(self.pc.localDescription.sdp)}
        await self.request(type="send", to=to, data={"type": "rtc-description", "description": description})

    async def _read(self) -> None:
        async for text in self._socket:
            frame = json.loads(text)
            if frame.get("requestId") in self._answers:
                self._answers.pop(frame["requestId"]).set_result(frame)
            elif frame["type"] == "direct":
                self._take(frame["from"], frame["data"])

    def _take(self, sender: str, data: Any) -> None:
        self.directs += 1
        match data:
            case {"type": "rtc-description", "description": {"type": kind, "sdp": sdp}}:
                self.descriptions.append(kind)
                self.texts.append(sdp)
                (self.offers_received if kind == "offer" else self.answers_received).append(sdp)
                reply = asyncio.ensure_future(self._apply(sender, kind, sdp))
                self._replies.add(reply)
                reply.add_done_callback(self._replies.discard)
            case {"__meteredTrackMeta": metadata}:
                self.metadata.append(metadata)
            case {"type": "rtc-ice"}:
                pass  # host candidates are in the descriptions
            case _:
                self.data.append(data)

    async def _apply(self, sender: str, kind: str, sdp: str) -> None:
        if (kind == "offer") is not (self.pc.signalingState == "stable") or not (self.answers or kind == "answer"):
            return
        await self.pc.setRemoteDescription(RTCSessionDescription(sdp, kind))
        if kind == "offer":
            answer = await self.pc.createAnswer()
            answer.sdp = answer.sdp.replace("a=setup:active", f"a=setup:{self.setup}")
            await self.pc.setLocalDescription(answer)
            await self._describe(sender)
