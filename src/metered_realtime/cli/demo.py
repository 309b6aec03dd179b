"""The demo: one bot streams a media file, another receives it, and data goes both ways.

It uses an embedded server and two peers, connected by UDP. The receiver records what arrives, and the demo succeeds
only if the recording can be decoded and the data came back unchanged.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import math
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
from aiortc.contrib.media import MediaRelay
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.table import Column, Table

from ..channels.data_channel import DataChannel
from ..errors import MeteredRealtimeError
from ..events import DataChannelOpened, DCClose, DCMessage, DCOpen, PeerJoined, PeerLeft, StreamRemoved, Track
from ..media.receiving.inbound import iter_frames
from ..media.sources.factories import from_file
from ..media.sources.testsource import write_test_clip
from ..media.stream import MediaStream
from ..mesh.peer import MeteredPeer
from ..mesh.remote_peer import RemotePeer
from ..recording.contact_sheet import ContactSheet
from ..recording.recorder import Recorder
from ..server import SignallingServer

CHANNEL = "demo"
BLOB_SIZE = 1_000_000
CHUNK = 16_384
PING_INTERVAL = 0.25
REFRESH_INTERVAL = 0.5
JOIN_TIMEOUT = 15.0
DRAIN_TIMEOUT = 10.0
LEAST_SHARE = 0.8
"""Share of the frames that has to arrive. A machine that is too busy to encode in time drops some."""


@dataclass
class View:
    """The statistics of one peer about the other, for the table."""

    name: str
    other: str
    remote: RemotePeer
    frames: int = 0
    audio_frames: int = 0
    rtt: float | None = None
    fps: float = 0.0
    kbps: float = 0.0
    _last: tuple[float, int, int] | None = None

    async def measure(self) -> None:
        """Update the rates since the last call."""
        received = await _bytes_received(self.remote)
        now = time.perf_counter()
        if self._last is not None:
            then, frames, octets = self._last
            self.fps = (self.frames - frames) / (now - then)
            self.kbps = (received - octets) * 8 / 1000 / (now - then)
        self._last = (now, self.frames, received)


@dataclass
class DemoOutcome:
    """The results of the demo, and whether each is as expected."""

    checks: list[tuple[str, bool]] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether everything arrived."""
        return bool(self.checks) and all(passed for _, passed in self.checks)

    def check(self, what: str, passed: bool) -> None:
        """Add a result, and whether it is as expected."""
        self.checks.append((what, passed))


async def run_demo(
    media: Path | None, output: Path, *, port: int = 0, stay: float = 0.0, console: Console | None = None
) -> bool:
    """Run the demo. Return whether frames and data arrived.

    Without `media` a clip is generated. Files are written to the directory `output`. The channel stays open for `stay`
    more seconds, with a bot that plays the media in it; `inf` means until Ctrl-C.
    """
    console = console or Console()
    await asyncio.to_thread(output.mkdir, parents=True, exist_ok=True)
    if media is None:
        media = _generate_clip(output / "generated.mp4", console)
    facts = await asyncio.to_thread(probe, media)
    console.print(f"[bold]Media[/]   {media.name}: {facts.describe()}")
    async with SignallingServer(port=port) as server:
        console.print(f"[bold]Server[/]  {server.url}")
        console.print(f"[bold]Room[/]    {_room_url(server)}  - open it in a browser to join", soft_wrap=True)
        outcome = await _Demo(server, media, facts, output, console).run()
        _report(outcome, console)
        if stay > 0:
            await _stay(server, media, stay, console)
        else:
            console.print("The room is closed. `make demo STAY=1`, or `--stay inf`, keeps it open for your browser.")
    return outcome.ok


async def _stay(server: SignallingServer, media: Path, seconds: float, console: Console) -> None:
    """Keep the room open, with a bot in it that plays the media again and again, until the time is over or Ctrl-C."""
    until = "until you press Ctrl-C" if math.isinf(seconds) else f"for {seconds:g} s"
    player = await asyncio.to_thread(from_file, str(media), loop=True)
    async with MeteredPeer(token=server.mint_token(peer_id="host"), url=server.url, name="Demo bot") as host:
        host.add_stream(MediaStream([track for track in (player.audio, player.video) if track is not None]))
        await host.join(CHANNEL)
        console.print(f"The room stays open {until}, and a bot plays in it: {_room_url(server)}", soft_wrap=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if math.isinf(seconds) else seconds):
                await _interrupted()
    await player.close()


async def _interrupted() -> None:
    """Return when the user presses Ctrl-C, which is no failure here."""
    loop = asyncio.get_running_loop()
    pressed = asyncio.Event()
    try:
        loop.add_signal_handler(signal.SIGINT, pressed.set)
    except (NotImplementedError, RuntimeError):  # Windows, or not the main thread: asyncio.run ends the wait
        await asyncio.Event().wait()
    try:
        await pressed.wait()
    finally:
        loop.remove_signal_handler(signal.SIGINT)


def _room_url(server: SignallingServer) -> str:
    return f"{server.http_url}/?channel={CHANNEL}"


class _Demo:
    """Two bots in one channel: `sender` and `receiver`."""

    def __init__(self, server: SignallingServer, media: Path, facts: Facts, output: Path, console: Console) -> None:
        self._server = server
        self._media = media
        self._facts = facts
        self._output = output
        self._console = console
        self._views: list[View] = []
        self._outcome = DemoOutcome()
        self._sheet = ContactSheet()
        self._recorder = Recorder(output / "received.mp4")
        self._relay = MediaRelay()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._removed = asyncio.Event()
        self._blob = os.urandom(BLOB_SIZE)
        self._echoed: asyncio.Future[tuple[str, float]] = asyncio.get_running_loop().create_future()

    async def run(self) -> DemoOutcome:
        sender, receiver = self._peer("sender"), self._peer("receiver")
        self._listen(sender, receiver)
        player = from_file(str(self._media))
        stream = MediaStream([track for track in (player.audio, player.video) if track is not None])
        ended = [_ended(track) for track in stream.get_tracks()]
        async with self._recorder, sender, receiver:
            await sender.join(CHANNEL)
            await receiver.join(CHANNEL)
            await self._watch(asyncio.ensure_future(self._play(sender, stream, ended)))
            for task in tuple(self._tasks):
                task.cancel()
        await player.close()
        await self._judge()
        return self._outcome

    def _peer(self, name: str) -> MeteredPeer:
        return MeteredPeer(
            token_provider=lambda: self._server.mint_token(peer_id=name, peer_metadata={"name": name}),
            url=self._server.url,
        )

    # --- the bots

    def _listen(self, sender: MeteredPeer, receiver: MeteredPeer) -> None:
        @sender.on(PeerJoined)
        def _(event: PeerJoined) -> None:
            view = self._view("sender", event.peer)
            if event.peer.id == "receiver":
                channel = DataChannel(event.peer.create_data_channel("demo"), max_queued_sends=1024)
                self._ping_over(channel, view)
                channel.on(DCOpen, lambda _: self._spawn(self._send_blob(channel)))
                channel.on(DCMessage, self._take_echo)

        @receiver.on(PeerJoined)
        def _(event: PeerJoined) -> None:
            view = self._view("receiver", event.peer)
            if event.peer.id != "sender":
                return

            @event.peer.on(Track)
            def _(event: Track) -> None:
                self._receive(event.track, view)

            event.peer.on(StreamRemoved, lambda _: self._removed.set())

            @event.peer.on(DataChannelOpened)
            def _(event: DataChannelOpened) -> None:
                channel = DataChannel(event.channel)
                self._ping_over(channel, view)
                self._echo_digest_over(channel)

        for peer in (sender, receiver):
            peer.on(PeerLeft, self._forget)

    def _view(self, name: str, remote: RemotePeer) -> View:
        other = (remote.metadata or {}).get("name", remote.id[:8])
        view = View(name, str(other), remote)
        self._views.append(view)
        return view

    def _forget(self, event: PeerLeft) -> None:
        if event.peer.id not in ("sender", "receiver"):
            self._views = [view for view in self._views if view.remote is not event.peer]

    def _receive(self, track: Any, view: View) -> None:
        self._recorder.add_track(self._relay.subscribe(track))
        self._spawn(self._count(self._relay.subscribe(track), view))

    async def _count(self, track: Any, view: View) -> None:
        async for frame in iter_frames(track):
            if isinstance(frame, av.VideoFrame):
                view.frames += 1
                self._sheet.add(frame)
            else:
                view.audio_frames += 1

    async def _play(self, sender: MeteredPeer, stream: MediaStream, ended: list[asyncio.Event]) -> None:
        """Exchange data, play the file to its end, stop sending, and wait until the receiver has noticed."""
        async with asyncio.timeout(JOIN_TIMEOUT):
            await asyncio.wait([self._echoed])
        sender.add_stream(stream, {"title": self._media.name})
        async with asyncio.timeout(JOIN_TIMEOUT + self._facts.seconds * 2):
            for event in ended:
                await event.wait()
        await asyncio.sleep(REFRESH_INTERVAL)  # for frames in encoders, on the wire and in jitter buffers
        sender.remove_stream(stream)
        async with asyncio.timeout(DRAIN_TIMEOUT):
            await self._removed.wait()

    # --- data

    def _ping_over(self, channel: DataChannel, view: View) -> None:
        async def ping() -> None:
            while True:
                await asyncio.sleep(PING_INTERVAL)
                if channel.ready_state == "open":
                    await channel.send(json.dumps({"ping": time.perf_counter()}))

        @channel.on(DCMessage)
        async def _(event: DCMessage) -> None:
            message = json.loads(event.data) if isinstance(event.data, str) else {}
            if "ping" in message:
                await channel.send(json.dumps({"pong": message["ping"]}))
            elif "pong" in message:
                view.rtt = time.perf_counter() - message["pong"]

        pinging = self._spawn(ping())
        channel.on(DCClose, lambda _: pinging.cancel())

    async def _send_blob(self, channel: DataChannel) -> None:
        started = time.perf_counter()
        for start in range(0, BLOB_SIZE, CHUNK):
            await channel.send(self._blob[start : start + CHUNK])
        await channel.send(json.dumps({"blob_started": started}))

    def _echo_digest_over(self, channel: DataChannel) -> None:
        digest = hashlib.blake2b()

        @channel.on(DCMessage)
        async def _(event: DCMessage) -> None:
            if isinstance(event.data, bytes):
                digest.update(event.data)
            elif "blob_started" in (message := json.loads(event.data)):
                await channel.send(json.dumps({"digest": digest.hexdigest(), "started": message["blob_started"]}))

    def _take_echo(self, event: DCMessage) -> None:
        message = json.loads(event.data) if isinstance(event.data, str) else {}
        if "digest" in message and not self._echoed.done():
            self._echoed.set_result((message["digest"], time.perf_counter() - message["started"]))

    # --- display and results

    async def _watch(self, playing: asyncio.Task[None]) -> None:
        """Show the statistics of each peer during playback: in place on a terminal, as lines elsewhere."""
        with Live(console=self._console, auto_refresh=False, transient=False) as live:
            while not playing.done():
                await asyncio.wait([playing], timeout=REFRESH_INTERVAL)
                for view in self._views:
                    await view.measure()
                if self._console.is_terminal:
                    live.update(self._table(), refresh=True)
                else:
                    self._print_lines()
        try:
            playing.result()
        except TimeoutError:
            self._outcome.check("data, media and their end arrived in time", False)

    def _table(self) -> Table:
        headings = ("peer", "sees", "state", "fps", "kbit/s in", "round trip", "video/audio")
        columns = (Column(heading, no_wrap=True) for heading in headings)
        table = Table(*columns, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
        for view in self._views:
            table.add_row(view.name, view.other, view.remote.state, *_figures(view))
        return table

    def _print_lines(self) -> None:
        for view in self._views:
            fps, kbps, rtt, frames = _figures(view)
            self._console.print(
                f"  {view.name:8} sees {view.other:8} {view.remote.state:12} "
                f"{fps:>5} fps {kbps:>7} kbit/s  rtt {rtt:>8}  frames {frames}",
                highlight=False,
                soft_wrap=True,
            )

    async def _judge(self) -> None:
        receiving = next((view for view in self._views if view.name == "receiver"), None)
        video = receiving.frames if receiving else 0
        audio = receiving.audio_frames if receiving else 0
        if self._facts.video_frames:
            share = video / self._facts.video_frames
            self._outcome.check(f"{video} of {self._facts.video_frames} video frames arrived", share >= LEAST_SHARE)
        if self._facts.has_audio:
            expected = round(self._facts.seconds * 50)
            self._outcome.check(f"{audio} of about {expected} audio frames arrived", audio >= LEAST_SHARE * expected)
        self._judge_data()
        await self._judge_files()

    def _judge_data(self) -> None:
        if not self._echoed.done():
            self._outcome.check("the data channel carried a blob and its digest back", False)
            return
        digest, seconds = self._echoed.result()
        rate = BLOB_SIZE / seconds / 1e6
        self._outcome.check(
            f"{BLOB_SIZE / 1e6:g} MB over the data channel, digest equal ({rate:.1f} MB/s)",
            digest == hashlib.blake2b(self._blob).hexdigest(),
        )

    async def _judge_files(self) -> None:
        received = self._output / "received.mp4"
        try:
            facts = await asyncio.to_thread(probe, received)
        except (OSError, MeteredRealtimeError) as error:
            self._outcome.check(f"{received} can be played: {error}", False)
            return
        self._outcome.check(f"{received} can be played: {facts.describe()}", facts.seconds > 0)
        self._outcome.files.append(received)
        if self._facts.video_frames and self._sheet.frames_kept:
            sheet = await asyncio.to_thread(self._sheet.write_png, self._output / "contact-sheet.png")
            self._outcome.files.append(sheet)

    def _spawn(self, work: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


@dataclass(frozen=True, slots=True)
class Facts:
    """The contents of a media file, counted by decoding it."""

    seconds: float
    video_frames: int
    picture: str
    has_audio: bool
    codecs: tuple[str, ...]

    def describe(self) -> str:
        """Return a readable summary."""
        parts = [f"{self.seconds:.1f} s", " + ".join(self.codecs)]
        if self.video_frames:
            parts.append(f"{self.picture}, {self.video_frames} frames")
        return ", ".join(parts)


def probe(path: Path) -> Facts:
    """Decode the video of a file and return its properties.

    Raises:
        OSError: the file does not exist or is not readable as media.
    """
    try:
        with av.open(str(path)) as container:
            codecs = tuple(
                stream.codec_context.name for stream in container.streams if stream.type in ("audio", "video")
            )
            video = container.streams.video[0] if container.streams.video else None
            frames = sum(1 for _ in container.decode(video=0)) if video is not None else 0
            picture = f"{video.width}x{video.height}" if video is not None else ""
            seconds = (container.duration or 0) / 1_000_000
            return Facts(seconds, frames, picture, bool(container.streams.audio), codecs)
    except av.FFmpegError as error:
        raise OSError(f"{path} cannot be read as media: {error}") from error


def _generate_clip(path: Path, console: Console) -> Path:
    if not path.exists():
        with console.status("generating a clip with picture and tone"):
            write_test_clip(path, seconds=5.0)
    return path


def _ended(track: Any) -> asyncio.Event:
    event = asyncio.Event()
    track.on("ended", event.set)
    return event


async def _bytes_received(remote: RemotePeer) -> int:
    if remote.state in ("idle", "closed"):
        return 0
    stats = await remote.pc.getStats()
    return max((report.bytesReceived for report in stats.values() if report.type == "transport"), default=0)


def _figures(view: View) -> tuple[str, str, str, str]:
    rtt = f"{view.rtt * 1000:.1f} ms" if view.rtt is not None else "-"
    return f"{view.fps:.1f}", f"{view.kbps:.0f}", rtt, f"{view.frames}/{view.audio_frames}"


def _report(outcome: DemoOutcome, console: Console) -> None:
    for what, passed in outcome.checks:
        console.print(f"{'[green]ok[/]    ' if passed else '[red]FAILED[/]'} {what}", highlight=False, soft_wrap=True)
    for path in outcome.files:
        console.print(f"       {path}", highlight=False, soft_wrap=True)
