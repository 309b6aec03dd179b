"""Peers on a real server, and ways to wait for what happens instead of for time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from fractions import Fraction
from typing import Any, ClassVar, TypeVar

from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from av import VideoFrame

from metered_realtime import Event, MediaStream, MeteredPeer, PeerJoined, RemotePeer, StateChange, Track
from metered_realtime.emitter import AsyncEventEmitter
from metered_realtime.media.pacing import Pacer
from metered_realtime.options import DEFAULT_TUNING, Tuning
from metered_realtime.server import SignallingServer
from tests.support.patience import PATIENCE

E = TypeVar("E", bound=Event)
T = TypeVar("T")

FPS = 20


class EventLog:
    """The events of an emitter from now on, in order. Taken synchronously: nothing can happen in between."""

    def __init__(self, emitter: AsyncEventEmitter) -> None:
        self.events: list[Event] = []
        self._grew = asyncio.Event()
        emitter.on(Event, self._note)

    def of(self, event_type: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, event_type)]

    def kinds(self) -> list[str]:
        return [type(event).__name__ for event in self.events]

    async def until(self, event_type: type[E], count: int = 1, **fields: Any) -> E:
        """Return the event number `count` of a type whose fields have these values, past or to come."""
        async with asyncio.timeout(PATIENCE):
            while True:
                fitting = [it for it in self.of(event_type) if all(getattr(it, k) == v for k, v in fields.items())]
                if len(fitting) >= count:
                    return fitting[count - 1]
                self._grew.clear()
                await self._grew.wait()

    async def holds(self, condition: Callable[[], object]) -> None:
        """Return once the events fulfil a condition."""
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self._grew.clear()
                await self._grew.wait()

    def _note(self, event: Event) -> None:
        self.events.append(event)
        self._grew.set()


async def next_event(emitter: AsyncEventEmitter, event_type: type[E], **fields: Any) -> E:
    """Return the next event of a type whose fields have these values."""
    async with asyncio.timeout(PATIENCE), emitter.events(event_type) as stream:
        async for event in stream:
            if all(getattr(event, name) == value for name, value in fields.items()):
                return event
    raise AssertionError("the emitter ended")


async def state_of(emitter: Any, state: str) -> None:
    """Return once a peer or a remote is in a state."""
    if emitter.state != state:
        await next_event(emitter, StateChange, to=state)


async def eventually(holds: Callable[[], object], within: float = PATIENCE) -> None:
    """Return once something holds that no event tells."""
    async with asyncio.timeout(within):
        while not holds():  # noqa: ASYNC110 - there is nothing to wait on
            await asyncio.sleep(0.01)


class GreyTrack(MediaStreamTrack):
    """Pictures of one brightness, so that a receiver can tell who sends."""

    kind = "video"

    def __init__(self, level: int = 128, *, width: int = 160, height: int = 120) -> None:
        super().__init__()
        self.level = level
        self.frames_made = 0
        self._size = width, height
        self._pacer = Pacer(Fraction(1, FPS))

    async def recv(self) -> VideoFrame:
        if self.readyState != "live":
            raise MediaStreamError
        await self._pacer.wait()
        frame = VideoFrame(*self._size, "yuv420p")
        for plane, value in zip(frame.planes, (self.level, 128, 128), strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        frame.pts, frame.time_base = self.frames_made * 90_000 // FPS, Fraction(1, 90_000)
        self.frames_made += 1
        return frame


def level_of(frame: VideoFrame) -> int:
    """Return the brightness of a picture."""
    plane = frame.planes[0]
    return memoryview(plane)[plane.line_size * (frame.height // 2) + frame.width // 2]


async def shows(track: Any, level: int) -> None:
    """Read a track until its picture has about this brightness."""
    async with asyncio.timeout(PATIENCE):
        while abs(level_of(await track.recv()) - level) > 6:
            pass


async def frames(track: Any, count: int = 3) -> list[Any]:
    """Read frames of a track."""
    async with asyncio.timeout(PATIENCE):
        return [await track.recv() for _ in range(count)]


async def fresh_frames(track: Any, count: int = 3) -> list[Any]:
    """Read frames that arrive from now on, not those that wait."""
    waiting = track.queue_length
    return (await frames(track, waiting + count))[waiting:]


async def ended(track: Any) -> None:
    """Read a track until it ends."""
    async with asyncio.timeout(PATIENCE):
        try:
            while True:
                await track.recv()
        except MediaStreamError:
            return


class Room:
    """One channel of one server, and the peers that tests put in it, with the `tuning` that is given here."""

    tuning: ClassVar[Tuning] = DEFAULT_TUNING

    def __init__(self, server: SignallingServer) -> None:
        self.server = server
        self.peers: list[MeteredPeer] = []

    def peer(self, peer_id: str | None = None, *, url: str | None = None, **options: Any) -> MeteredPeer:
        """Make a peer, with this id or with one that the server chooses."""
        url = url if url is not None else self.server.url
        options.setdefault("tuning", self.tuning)
        if peer_id is None:
            peer = MeteredPeer(api_key=self.server.api_key, url=url, **options)
        else:
            peer = MeteredPeer(token_provider=lambda: self.server.mint_token(peer_id=peer_id), url=url, **options)
        self.peers.append(peer)
        return peer

    async def join(self, *peers: MeteredPeer, channel: str = "room") -> None:
        """Let peers join one after the other."""
        for peer in peers:
            await peer.join(channel)

    async def pair(self, first: str = "a", second: str = "b") -> Pair:
        """Return two joined peers, each with how it sees the other. By its id the first one is the polite one."""
        one, other = self.peer(first), self.peer(second)
        return await self.meet(one, other)

    async def meet(self, one: MeteredPeer, other: MeteredPeer) -> Pair:
        """Let two peers join, and return once each knows the other."""
        seen_by_one, seen_by_other = EventLog(one), EventLog(other)
        await self.join(one, other)
        to_other = (await seen_by_one.until(PeerJoined)).peer
        to_one = (await seen_by_other.until(PeerJoined)).peer
        return Pair(one, to_other, other, to_one)


class Pair:
    """Two peers: `a.remotes` has `b` as `to_b`, and the other way round. Logs hold the events of the remotes."""

    def __init__(self, a: MeteredPeer, to_b: RemotePeer, b: MeteredPeer, to_a: RemotePeer) -> None:
        self.a, self.to_b, self.b, self.to_a = a, to_b, b, to_a
        self.log_a, self.log_b = EventLog(to_b), EventLog(to_a)

    async def connected(self) -> None:
        """Return once both ends are connected."""
        await state_of(self.to_a, "connected")
        await state_of(self.to_b, "connected")

    async def media_to_b(self, level: int = 128) -> tuple[GreyTrack, Any]:
        """Send video from a to b. Return the track and what b receives, flowing."""
        return await _flow(self.a, self.log_b, level)

    async def media_to_a(self, level: int = 128) -> tuple[GreyTrack, Any]:
        """Send video from b to a. Return the track and what a receives, flowing."""
        return await _flow(self.b, self.log_a, level)


class Wire:
    """Carries the signalling connection of one peer, and can break it in the ways in which networks do."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._server: asyncio.Server | None = None
        self._pairs: list[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = []
        self._pumps: set[asyncio.Task[None]] = set()
        self._passable = asyncio.Event()
        self._passable.set()

    async def __aenter__(self) -> Wire:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)
        for writers in self._pairs:
            for writer in writers:
                writer.transport.abort()
        await asyncio.sleep(0)
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"ws://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def break_off(self, *, told: bool) -> None:
        """End the connection at the peer's side. The server is told at once, or believes that it goes on."""
        client, server = self._pairs[-1]
        client.transport.abort()
        if told:
            server.transport.abort()

    def say_goodbye(self, code: int) -> None:
        """End the connection with a close frame (RFC 6455 section 5.5.1), as if the server had."""
        client, server = self._pairs[-1]
        client.write(b"\x88\x02" + code.to_bytes(2, "big"))
        client.close()
        server.transport.abort()

    def block(self) -> None:
        """Let no new connection through."""
        self._passable.clear()

    def unblock(self) -> None:
        """Let connections through again."""
        self._passable.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._start(self._carry(reader, writer))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._pumps.add(task)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._passable.wait()
        upstream, up = await asyncio.open_connection("127.0.0.1", self._port)
        self._pairs.append((writer, up))
        self._start(self._pump(reader, up))
        self._start(self._pump(upstream, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()


async def _flow(sender: MeteredPeer, log: EventLog, level: int) -> tuple[GreyTrack, Any]:
    track = GreyTrack(level)
    count = len(log.of(Track))
    sender.add_track(track, MediaStream([track]))
    received = (await log.until(Track, count + 1)).track
    await shows(received, level)
    return track, received
