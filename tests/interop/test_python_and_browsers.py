"""Python and a real browser in one channel, in both orders of arrival and both politeness roles."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Page

from metered_realtime import (
    ConnectionReset,
    DataChannel,
    DataChannelOpened,
    DCMessage,
    DCOpen,
    Event,
    MediaStream,
    MeteredPeer,
    NegotiationError,
    PeerJoined,
    RemotePeer,
    StdlibLogger,
    StreamRemoved,
    Track,
    iter_frames,
)
from metered_realtime.media.sources.testsource import PatternTrack, ToneTrack
from metered_realtime.server import SignallingServer
from tests.support.browsers import Browser, until
from tests.support.patience import PATIENCE

pytestmark = [pytest.mark.browsers("chromium", "firefox"), pytest.mark.asyncio(loop_scope="package")]

IDS = {"polite": "!python", "impolite": "~python"}
"""Ids that sort before and after every id that the server gives a page: the smaller one is polite."""


@dataclass
class Bot:
    """A Python peer with a picture and a tone, and what it has seen of the page."""

    peer: MeteredPeer
    remote: asyncio.Future[RemotePeer]
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    tracks: list[Track] = field(default_factory=list)
    frames: dict[str, int] = field(default_factory=dict)
    events: list[str] = field(default_factory=list)
    channels: list[Any] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    reading: set[asyncio.Task[None]] = field(default_factory=set)

    @staticmethod
    def watching(peer: MeteredPeer) -> Bot:
        """Return a bot that sees everybody whom a peer meets."""
        bot = Bot(peer, asyncio.get_running_loop().create_future())
        peer.on(PeerJoined, lambda event: bot.watch(event.peer))
        return bot

    async def end(self) -> None:
        """Leave for good."""
        await self.peer.close()
        if self.reading:
            await asyncio.wait(self.reading, timeout=PATIENCE)

    def watch(self, remote: RemotePeer) -> None:
        remote.on(Event, lambda _: self.changed.set())
        remote.on(Track, self._on_track)
        remote.on(StreamRemoved, lambda event: self.removed.append(event.stream.id))
        remote.on(ConnectionReset, lambda _: self.events.append("reset"))
        remote.on(NegotiationError, lambda event: self.events.append(f"error {event.err}"))
        remote.on(DataChannelOpened, lambda event: self.channels.append(event.channel))
        if not self.remote.done():
            self.remote.set_result(remote)

    def _on_track(self, event: Track) -> None:
        self.tracks.append(event)
        self.frames[event.track.kind] = 0
        self.reading.add(asyncio.ensure_future(self._read(event.track)))

    async def _read(self, track: Any) -> None:
        async for _ in iter_frames(track):
            self.frames[track.kind] = self.frames.get(track.kind, 0) + 1
            self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until what the bot has seen fulfils a condition."""
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    async def flows(self, *kinds: str, more: int = 5) -> None:
        """Wait for more frames of each kind."""
        goal = {kind: self.frames.get(kind, 0) + more for kind in kinds}
        await self.until(lambda: all(self.frames.get(kind, 0) >= goal[kind] for kind in kinds))


@pytest_asyncio.fixture(loop_scope="package", params=["polite", "impolite"])
async def bot(request: pytest.FixtureRequest, server: SignallingServer) -> AsyncIterator[Bot]:
    """A bot that is not in the channel yet."""
    peer = MeteredPeer(
        token_provider=lambda: server.mint_token(peer_id=IDS[request.param]), url=server.url, logger=StdlibLogger()
    )
    bot = Bot.watching(peer)
    yield bot
    await bot.end()


def picture_and_tone() -> MediaStream:
    return MediaStream([PatternTrack(width=320, height=240, fps=15), ToneTrack()])


async def meet(bot: Bot, browser: Browser, server: SignallingServer, first: str, media: str = "camera") -> Page:
    """Bring both into the channel, in this order."""
    if first == "python":
        await bot.peer.join("room")
        page = await browser.room(server.http_url, channel="room", name="Ann", media=media)
    else:
        page = await browser.room(server.http_url, channel="room", name="Ann", media=media)
        await bot.peer.join("room")
    async with asyncio.timeout(PATIENCE):
        await asyncio.shield(bot.remote)
    return page


async def page_decodes(page: Page, bot: Bot, more: int = 5) -> None:
    """Wait until the page has decoded more pictures of the bot."""
    assert bot.peer.peer_id is not None
    decoded = "async (id) => (await room.stats(id).catch(() => null))?.framesDecoded ?? 0"
    before = await page.evaluate(decoded, bot.peer.peer_id)
    await until(page, f"async ([id, least]) => (await ({decoded})(id)) >= least", [bot.peer.peer_id, before + more])


@pytest.mark.parametrize("first", ["python", "page"])
async def test_media_flows_both_ways_with_metadata(
    bot: Bot, browser: Browser, server: SignallingServer, first: str
) -> None:
    stream = picture_and_tone()
    bot.peer.add_stream(stream, {"title": "pattern"})
    page = await meet(bot, browser, server, first)
    await asyncio.gather(bot.flows("audio", "video"), page_decodes(page, bot))
    assert {(event.track.kind, event.metadata["name"]) for event in bot.tracks if event.metadata} == {
        ("audio", "Ann"),
        ("video", "Ann"),
    }
    assert len(bot.remote.result().streams) == 1
    tracks = await page.evaluate("(id) => room.peers.get(id).tracks", bot.peer.peer_id)
    assert {(track["kind"], track["metadata"]["title"]) for track in tracks} == {
        ("audio", "pattern"),
        ("video", "pattern"),
    }
    assert {track["streamId"] for track in tracks} == {stream.id}
    assert "reset" not in bot.events, bot.events
    assert not [event for event in bot.events if event.startswith("error")], bot.events


@pytest.mark.parametrize("first", ["python", "page"])
async def test_data_channels_open_from_either_side(
    bot: Bot, browser: Browser, server: SignallingServer, first: str
) -> None:
    page = await meet(bot, browser, server, first, media="none")
    channel = DataChannel(bot.remote.result().create_data_channel("from python"))
    replies, opened = channel.events(DCMessage), channel.events(DCOpen)
    async with asyncio.timeout(PATIENCE):
        await anext(opened)
    await until(page, "(id) => room.channels(id).some((c) => c.label === 'from python')", bot.peer.peer_id)
    await page.evaluate(
        """(id) => room.channels(id).find((c) => c.label === 'from python').send('grüße')""", bot.peer.peer_id
    )
    async with asyncio.timeout(PATIENCE):
        assert (await anext(replies)).data == "grüße"

    await page.evaluate(
        """async (id) => {
          const channel = await room.openChannel(id, 'from page', { ordered: true }).opened();
          channel.send('first'); channel.send(new Uint8Array([1, 2, 3]));
        }""",
        bot.peer.peer_id,
    )
    await bot.until(lambda: any(it.label == "from page" for it in bot.channels))
    inbound = DataChannel(next(it for it in bot.channels if it.label == "from page"))
    messages = inbound.events(DCMessage)
    async with asyncio.timeout(PATIENCE):
        assert [(await anext(messages)).data, (await anext(messages)).data] == ["first", b"\x01\x02\x03"]


async def test_changes_in_mid_call_reach_the_other_side(bot: Bot, browser: Browser, server: SignallingServer) -> None:
    page = await meet(bot, browser, server, "page")
    await bot.flows("audio", "video")
    stream = picture_and_tone()
    bot.peer.add_stream(stream, {"title": "late"})
    await page_decodes(page, bot)
    await bot.flows("audio", "video")

    bot.peer.remove_stream(stream)
    await until(page, "(id) => room.peers.get(id).tracks.length === 0", bot.peer.peer_id)
    again = picture_and_tone()
    bot.peer.add_stream(again, {"title": "again"})
    await page_decodes(page, bot)
    await bot.flows("audio", "video")
    assert "reset" not in bot.events, bot.events


async def test_tracks_that_end_by_themselves_end_on_the_page(
    bot: Bot, browser: Browser, server: SignallingServer
) -> None:
    page = await meet(bot, browser, server, "page")
    await bot.flows("audio", "video")
    for title in ("first", "second"):
        stream = picture_and_tone()
        bot.peer.add_stream(stream, {"title": title})
        await page_decodes(page, bot)
        for track in stream.get_tracks():
            track.stop()
        await until(page, "(id) => room.peers.get(id).tracks.length === 0", bot.peer.peer_id)
        await until(page, "probe.connections.at(-1).getReceivers().every((it) => it.track.muted)")
    await bot.flows("audio", "video")
    assert "reset" not in bot.events, bot.events


async def test_both_change_at_the_same_moment_three_times(bot: Bot, browser: Browser, server: SignallingServer) -> None:
    page = await meet(bot, browser, server, "page")
    bot.peer.add_stream(picture_and_tone())
    await asyncio.gather(bot.flows("audio", "video"), page_decodes(page, bot))
    add_canvas = """() => {
      const canvas = Object.assign(document.createElement('canvas'), { width: 64, height: 48 });
      const context = canvas.getContext('2d');
      setInterval(() => context.fillRect(Math.random() * 64, 0, 9, 9), 50);
      (window.extra ??= []).push(canvas.captureStream(15));
      room.addStream(window.extra.at(-1), { extra: window.extra.length });
    }"""
    for count in range(1, 4):
        bot.peer.add_track(PatternTrack(width=160, height=120, fps=10), MediaStream(id=f"extra{count}"))
        await page.evaluate(add_canvas)
        await bot.until(lambda least=1 + count: len(bot.remote.result().streams) >= least)
        await until(page, f"(id) => room.peers.get(id).tracks.length === {2 + count}", bot.peer.peer_id)
        await asyncio.gather(bot.flows("audio", "video"), page_decodes(page, bot))
    assert "reset" not in bot.events, bot.events


async def test_a_stream_that_the_page_adds_while_it_applies_an_offer_arrives(
    bot: Bot, browser: Browser, server: SignallingServer
) -> None:
    page = await meet(bot, browser, server, "page")
    bot.peer.add_stream(picture_and_tone())
    await asyncio.gather(bot.flows("audio", "video"), page_decodes(page, bot))
    await page.evaluate(
        """() => {
          const canvas = Object.assign(document.createElement('canvas'), { width: 64, height: 48 });
          const context = canvas.getContext('2d');
          setInterval(() => context.fillRect(Math.random() * 64, 0, 9, 9), 50);
          const apply = RTCPeerConnection.prototype.setRemoteDescription;
          RTCPeerConnection.prototype.setRemoteDescription = async function (description) {
            await apply.call(this, description);
            if (description.type !== 'offer') return;
            RTCPeerConnection.prototype.setRemoteDescription = apply;
            room.addStream(canvas.captureStream(15), { label: 'extra' });
          };
        }"""
    )
    bot.peer.add_track(PatternTrack(width=160, height=120, fps=10), MediaStream(id="extra"))
    await bot.until(lambda: len(bot.remote.result().streams) == 2)
    assert [it.metadata["label"] for it in bot.tracks if it.metadata and "label" in it.metadata] == ["extra"]
    await until(page, "(id) => room.peers.get(id).tracks.length === 3", bot.peer.peer_id)
    await asyncio.gather(bot.flows("audio", "video"), page_decodes(page, bot))
    assert bot.events == []


async def test_a_stream_that_the_page_removes_is_reported_and_can_come_back(
    bot: Bot, browser: Browser, server: SignallingServer
) -> None:
    page = await meet(bot, browser, server, "python", media="none")
    add = """() => {
      const canvas = Object.assign(document.createElement('canvas'), { width: 64, height: 48 });
      const context = canvas.getContext('2d');
      window.timer = setInterval(() => context.fillRect(Math.random() * 64, 0, 9, 9), 50);
      window.extra = canvas.captureStream(15);
      room.addStream(window.extra, { label: 'extra' });
      return window.extra.id;
    }"""
    for _ in range(2):
        stream_id = await page.evaluate(add)
        await bot.flows("video")
        assert bot.tracks[-1].metadata is not None
        assert bot.tracks[-1].metadata["label"] == "extra"
        await page.evaluate("room.removeStream(window.extra)")
        await bot.until(lambda wanted=stream_id: wanted in bot.removed)
        assert bot.tracks[-1].track.readyState == "ended"


ADD_CANVAS = """() => {
  const canvas = Object.assign(document.createElement('canvas'), { width: 64, height: 48 });
  const context = canvas.getContext('2d');
  setInterval(() => context.fillRect(Math.random() * 64, 0, 9, 9), 50);
  const stream = canvas.captureStream(15);
  room.addStream(stream, { label: 'canvas' });
}"""
VP9_ONLY = """() => {
  const connection = probe.connections.at(-1);
  const addTrack = connection.addTrack.bind(connection);
  const codecs = RTCRtpReceiver.getCapabilities('video').codecs.filter((it) => it.mimeType === 'video/VP9');
  connection.addTrack = (...args) => {
    const sender = addTrack(...args);
    connection.getTransceivers().find((it) => it.sender === sender).setCodecPreferences(codecs);
    return sender;
  };
}"""
STOP = """(direction) => probe.connections.at(-1).getTransceivers()
  .find((it) => it.currentDirection.includes(direction) && it.receiver.track.kind === 'video').stop()"""


async def test_a_section_that_the_page_stops_ends_alone_and_its_place_is_used_again(
    bot: Bot, browser: Browser, server: SignallingServer
) -> None:
    page = await meet(bot, browser, server, "page")
    await bot.flows("audio", "video")
    await page.evaluate(STOP, "send")
    await bot.until(lambda: any(it.track.kind == "video" and it.track.readyState == "ended" for it in bot.tracks))
    await bot.flows("audio")

    await page.evaluate(ADD_CANVAS)
    await bot.flows("audio", "video")
    mids = "probe.connections.at(-1).getTransceivers().filter((it) => it.mid !== null).length"
    sections = await page.evaluate("probe.connections.at(-1).localDescription.sdp.match(/^m=/gm).length")
    assert sections == await page.evaluate(mids) + (1 if "application" in await local_sdp(page) else 0)

    bot.peer.add_stream(picture_and_tone(), {"title": "late"})
    await asyncio.gather(bot.flows("audio", "video"), page_decodes(page, bot))
    assert bot.events == []


async def test_what_the_page_will_not_receive_is_sent_no_more_and_does_not_stop_the_rest(
    bot: Bot, browser: Browser, server: SignallingServer
) -> None:
    stream = picture_and_tone()
    bot.peer.add_stream(stream, {"title": "pattern"})
    page = await meet(bot, browser, server, "python")
    await asyncio.gather(bot.flows("audio", "video"), page_decodes(page, bot))
    await page.evaluate(STOP, "recv")
    await until(page, "!probe.connections.at(-1).remoteDescription.sdp.split('m=video')[1].startsWith(' 9')")
    await bot.flows("audio")

    bot.peer.remove_stream(stream)
    bot.peer.add_stream(picture_and_tone(), {"title": "again"})
    await page_decodes(page, bot)
    assert bot.events == []


async def test_a_track_without_a_codec_in_common_is_declined_alone_and_said_so(
    bot: Bot, browser: Browser, server: SignallingServer
) -> None:
    page = await meet(bot, browser, server, "page")
    await bot.flows("audio", "video")
    await page.evaluate(VP9_ONLY)
    await page.evaluate(ADD_CANVAS)
    await bot.until(lambda: len(bot.events) > 0)
    await bot.flows("audio", "video")
    bot.peer.add_stream(picture_and_tone())
    await asyncio.gather(bot.flows("audio", "video"), page_decodes(page, bot))
    (error,) = bot.events
    assert "no codec in common: VP9 is unknown" in error


async def local_sdp(page: Page) -> str:
    sdp = await page.evaluate("probe.connections.at(-1).localDescription.sdp")
    assert isinstance(sdp, str)
    return sdp
