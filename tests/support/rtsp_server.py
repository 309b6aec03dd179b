"""A small camera: an RTSP server (RFC 2326) that sends numbered H.264 pictures and sound in its TCP connection.

FFmpeg's own RTSP client is at the other end, so that the real client is tested. Unlike a packaged server this one can
fail on purpose.
"""

from __future__ import annotations

import asyncio
import base64
import struct
from fractions import Fraction

from aiortc.codecs.h264 import H264Encoder

from metered_realtime.media.sources.pattern import Pattern

FPS = 25
WIDTH, HEIGHT = 128, 96
SILENCE_PCMU = b"\xff" * 160  # 20 ms at 8 kHz

SDP = f"""v=0
o=- 0 0 IN IP4 127.0.0.1
s=camera
c=IN IP4 0.0.0.0
t=0 0
a=control:*
m=video 0 RTP/AVP 96
a=rtpmap:96 H264/90000
a=fmtp:96 packetization-mode=1
a=framerate:{FPS}
a=control:video
m=audio 0 RTP/AVP 0
a=rtpmap:0 PCMU/8000
a=control:audio
""".replace("\n", "\r\n")


class Camera:
    """Serves on a port of its own. `number` counts pictures over all sessions, `sessions` those that began to play."""

    def __init__(self, *, login: str | None = None) -> None:
        self.sessions = 0
        self.refused = 0
        self.number = 0
        self.refuses = False
        self.silent = False
        self.silent_ticks = 0
        self._login = login
        self._server: asyncio.Server | None = None
        self._port = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Camera:
        await self.switch_on()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.switch_off()

    @property
    def url(self) -> str:
        """The URL, with the login if there is one."""
        at = f"{self._login}@" if self._login else ""
        return f"rtsp://{at}127.0.0.1:{self._port}/live"

    async def switch_on(self) -> None:
        """Listen, on the same port as before."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def switch_off(self) -> None:
        """Stop listening, and end every connection at once."""
        assert self._server is not None
        self._server.close()
        self.hang_up()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def hang_up(self) -> None:
        """End every connection, and continue listening."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuses:
            self.refused += 1
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            await self._converse(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._writers.discard(writer)
            self._tasks.discard(task)
            writer.transport.abort()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        playing: asyncio.Task[None] | None = None
        try:
            while request := await self._request(reader):
                method, headers = request
                writer.write(self._answer(method, headers))
                if method == "PLAY" and playing is None:
                    self.sessions += 1
                    playing = asyncio.ensure_future(self._play(writer))
        finally:
            if playing is not None:
                playing.cancel()
                await asyncio.gather(playing, return_exceptions=True)

    async def _request(self, reader: asyncio.StreamReader) -> tuple[str, dict[str, str]] | None:
        first = await reader.readexactly(1)
        while first == b"$":  # the client's RTCP
            _, length = struct.unpack("!BH", await reader.readexactly(3))
            await reader.readexactly(length)
            first = await reader.readexactly(1)
        text = (first + await reader.readuntil(b"\r\n\r\n")).decode()
        method, *lines = text.split("\r\n")
        return method.split()[0], dict(line.split(": ", 1) for line in lines if ": " in line)

    def _answer(self, method: str, headers: dict[str, str]) -> bytes:
        extra, body = "Session: 1;timeout=60\r\n", ""
        if self._login and headers.get("Authorization", "").split()[-1:] != [
            base64.b64encode(self._login.encode()).decode()
        ]:
            return f'RTSP/1.0 401 No\r\nCSeq: {headers["CSeq"]}\r\nWWW-Authenticate: Basic realm="c"\r\n\r\n'.encode()
        if method == "OPTIONS":
            extra = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
        elif method == "DESCRIBE":
            extra, body = "Content-Type: application/sdp\r\n", SDP
        elif method == "SETUP":
            extra += f"Transport: {headers['Transport']}\r\n"
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        return f"RTSP/1.0 200 OK\r\nCSeq: {headers['CSeq']}\r\n{extra}{length}\r\n{body}".encode()

    async def _play(self, writer: asyncio.StreamWriter) -> None:
        encoder, pattern = H264Encoder(), Pattern(WIDTH, HEIGHT)
        sequence = {0: 0, 2: 0}
        clock = asyncio.get_running_loop().time
        began = clock()
        for tick in range(1_000_000):
            if not self.silent:
                self._send_picture(writer, encoder, pattern, tick, sequence)
                for half in (0, 1):
                    self._send(writer, 2, 0, sequence, (2 * tick + half) * 160, [SILENCE_PCMU])
                await writer.drain()
            self.silent_ticks += self.silent
            await asyncio.sleep(max(0.0, began + (tick + 1) / FPS - clock()))

    def _send_picture(
        self,
        writer: asyncio.StreamWriter,
        encoder: H264Encoder,
        pattern: Pattern,
        tick: int,
        sequence: dict[int, int],
    ) -> None:
        frame = pattern.frame(self.number)
        frame.pts, frame.time_base = tick, Fraction(1, FPS)
        payloads, _ = encoder.encode(frame, force_keyframe=tick % FPS == 0)
        self._send(writer, 0, 96, sequence, tick * 90_000 // FPS, payloads)
        self.number += 1

    def _send(
        self,
        writer: asyncio.StreamWriter,
        channel: int,
        kind: int,
        sequence: dict[int, int],
        at: int,
        what: list[bytes],
    ) -> None:
        for n, payload in enumerate(what):
            marker = 0x80 if n == len(what) - 1 else 0
            header = struct.pack(
                "!BBHII", 0x80, marker | kind, sequence[channel] & 0xFFFF, at & 0xFFFFFFFF, channel + 1
            )
            sequence[channel] += 1
            writer.write(struct.pack("!cBH", b"$", channel, len(header + payload)) + header + payload)
