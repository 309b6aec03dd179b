"""Tracks of a bot and of a browser page in the same sections: pages that negotiate once, and pages that always do.

The pages find metadata by the id of the browser's track alone, as the hosted service's SDK does.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from playwright.async_api import Page

from metered_realtime import ConnectionReset, Event, MediaStream, MeteredPeer, NegotiationError, PeerJoined, RemotePeer
from metered_realtime.core.negotiation.sdp import sections
from metered_realtime.mesh import peer as peer_module
from metered_realtime.server import SignallingServer
from tests.interop.test_perfect_negotiation import FOREIGN, REMOTE
from tests.interop.test_python_and_browsers import IDS, Bot, bot, picture_and_tone
from tests.support.browsers import Chromium, until
from tests.support.patience import PATIENCE
from tests.support.peers import GreyTrack, eventually

pytestmark = pytest.mark.asyncio(loop_scope="package")

__all__ = ["bot"]

METADATA = {"title": "pattern"}
DIRECTIONS = f"{REMOTE}.pc.getTransceivers().map((it) => it.currentDirection)"
STREAMS_DECODED = f"""async () => {{
  const frames = {{}};
  for (const it of (await {REMOTE}.pc.getStats()).values())
    if (it.type === "inbound-rtp" && it.kind === "video") frames[it.mid] = it.framesDecoded;
  return frames;
}}"""

ONE_SHOT = """async ([url, bot, transceivers]) => {
  const pc = new RTCPeerConnection();
  window.once = { pc, offers: 0, tracks: [] };
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true, video: true });
  for (const [kind, direction] of transceivers) {
    const track = stream.getTracks().find((it) => it.kind === kind);
    pc.addTransceiver(direction === "recvonly" ? kind : track, { direction, streams: [stream] });
  }
  pc.ontrack = ({ track, streams }) => once.tracks.push({ kind: track.kind, streamId: streams[0]?.id });
  const gathered = new Promise((done) => (pc.onicecandidate = ({ candidate }) => candidate || done()));
  await pc.setLocalDescription();
  await gathered;
  const offer = { type: "rtc-description", description: pc.localDescription };
  const socket = (once.socket = new WebSocket(url));
  socket.onmessage = ({ data }) => {
    const { type, joined, data: signal } = JSON.parse(data);
    if (type === "welcome") socket.send(JSON.stringify({ type: "subscribe", channel: "room", requestId: "s" }));
    if (type === "presence" && joined.some((it) => it.peerId === bot))
      socket.send(JSON.stringify({ type: "send", to: bot, data: offer }));
    if (signal?.type !== "rtc-description") return;
    if (signal.description.type === "answer") pc.setRemoteDescription(signal.description);
    else once.offers++;
  };
}"""
ONCE_DECODED = """async () => [...(await once.pc.getStats()).values()]
  .filter((it) => it.type === "inbound-rtp").reduce((sum, it) => sum + (it.framesDecoded ?? 0), 0)"""


async def meet(peer: MeteredPeer, chromium: Chromium, server: SignallingServer, *, camera: bool) -> Page:
    """Bring a peer and a page that always negotiates into the channel."""
    await peer.join("room")
    page = await chromium.page(server.http_url, name="foreign")
    await page.evaluate(f"{FOREIGN}\nnull")
    url = f"{server.url}/v1?token={server.mint_token(peer_id='m')}"
    await page.evaluate(
        """async ([url, camera]) => {
          const stream = camera ? await navigator.mediaDevices.getUserMedia({ audio: true, video: true }) : null;
          window.me = foreign(url, "room", stream);
        }""",
        [url, camera],
    )
    return page


async def arrivals(page: Page, count: int) -> list[dict[str, Any]]:
    """Return the tracks that arrive at a page, when there are so many."""
    await until(page, f"me.remotes.size === 1 && {REMOTE}.arrivals.length >= {count}")
    found: list[dict[str, Any]] = await page.evaluate(f"{REMOTE}.arrivals")
    return found


async def page_decodes(page: Page) -> None:
    goal = await page.evaluate(f"{REMOTE}.decoded()") + 5
    await until(page, f"async () => (await {REMOTE}.decoded()) >= {goal}")


async def test_a_page_with_a_camera_and_a_bot_use_the_same_sections(
    bot: Bot, chromium: Chromium, server: SignallingServer
) -> None:
    stream = picture_and_tone()
    bot.peer.add_stream(stream)
    page = await meet(bot.peer, chromium, server, camera=True)
    found = await arrivals(page, 2)
    assert [(it["kind"], it["streamId"]) for it in sorted(found, key=lambda it: it["kind"])] == [
        ("audio", stream.id),
        ("video", stream.id),
    ]
    await asyncio.gather(bot.flows("audio", "video"), page_decodes(page))
    assert await page.evaluate(DIRECTIONS) == ["sendrecv", "sendrecv"]
    assert bot.events == []
    assert await page.evaluate("me.errors") == []


async def test_a_page_with_a_camera_finds_metadata_by_the_track_id(
    bot: Bot, chromium: Chromium, server: SignallingServer
) -> None:
    stream = picture_and_tone()
    bot.peer.add_stream(stream, METADATA)
    page = await meet(bot.peer, chromium, server, camera=True)
    found = await arrivals(page, 2)
    assert {it["id"] for it in found} == {track.id for track in stream.get_tracks()}
    assert [it["metadata"] for it in found] == [METADATA] * 2
    assert {it["streamId"] for it in found} == {stream.id}
    await asyncio.gather(bot.flows("audio", "video"), page_decodes(page))
    assert bot.events == []
    assert await page.evaluate("me.errors") == []


async def test_a_page_that_removes_its_camera_keeps_what_shares_its_section(
    bot: Bot, chromium: Chromium, server: SignallingServer
) -> None:
    bot.peer.add_stream(picture_and_tone())
    page = await meet(bot.peer, chromium, server, camera=True)
    await arrivals(page, 2)
    await bot.flows("audio", "video")
    await page.evaluate(f"{REMOTE}.unshare(me.stream)")
    await bot.until(lambda: len(bot.removed) == 1)
    await until(page, f"{DIRECTIONS}.join() === 'recvonly,recvonly'")
    await page_decodes(page)
    await page.evaluate(f"{REMOTE}.pc.getTransceivers().find((it) => it.receiver.track.kind === 'video').stop()")
    await arrivals(page, 3)
    await page_decodes(page)
    assert bot.events == []


@pytest.mark.parametrize("direction", ["recvonly", "sendrecv"])
async def test_a_page_that_negotiates_once_receives_what_waits(
    bot: Bot, chromium: Chromium, server: SignallingServer, monkeypatch: pytest.MonkeyPatch, direction: str
) -> None:
    monkeypatch.setattr(peer_module, "MEETING_TIME", PATIENCE)  # the page offers first
    stream = picture_and_tone()
    bot.peer.add_stream(stream, METADATA)
    page = await chromium.page(server.http_url, name="once")
    await bot.peer.join("room")
    url = f"{server.url}/v1?token={server.mint_token(peer_id='m')}"
    await page.evaluate(ONE_SHOT, [url, bot.peer.peer_id, [["audio", direction], ["video", direction]]])
    await until(page, f"async () => (await ({ONCE_DECODED})()) >= 5")
    tracks = await page.evaluate("once.tracks")
    assert sorted((it["kind"], it["streamId"]) for it in tracks) == [("audio", stream.id), ("video", stream.id)]
    if direction == "sendrecv":
        await bot.flows("audio", "video")
    assert bot.events == []
    await page.evaluate("{ once.socket.close(); once.pc.close(); }")


class Actor:
    """A bot that adds, removes and replaces pictures at random moments."""

    def __init__(self, peer: MeteredPeer, chance: random.Random) -> None:
        self.peer = peer
        self.remote: RemotePeer | None = None
        self.events: list[Event] = []
        self.streams: list[MediaStream] = []
        self.titles: dict[str, str] = {}
        self.replaced: set[str] = set()
        self._chance = chance
        peer.on(PeerJoined, self._meet)

    def _meet(self, event: PeerJoined) -> None:
        self.remote = event.peer
        event.peer.on(Event, self.events.append)

    async def act(self, operations: int) -> None:
        for count in range(operations):
            await asyncio.sleep(self._chance.uniform(0, 0.2))
            match self._chance.choice(["add", "add", "remove", "replace"]):
                case "add" if len(self.streams) < 3:
                    self._add(f"number {count}")
                case "remove" if self.streams:
                    self.peer.remove_stream(self.streams.pop(self._chance.randrange(len(self.streams))))
                case "replace" if self.streams:
                    await self._replace(self._chance.choice(self.streams))

    def _add(self, title: str) -> None:
        stream = MediaStream([GreyTrack()])
        if self._chance.random() < 0.5:
            self.titles[stream.id] = title
        self.streams.append(stream)
        self.peer.add_stream(stream, {"title": title} if stream.id in self.titles else None)

    async def _replace(self, stream: MediaStream) -> None:
        self.replaced.add(stream.id)
        old, new = stream.get_tracks()[0], GreyTrack()
        await self.peer.replace_track(old, new)
        stream.remove_track(old)
        stream.add_track(new)

    def received(self) -> list[Any]:
        assert self.remote is not None
        return [track for stream in self.remote.streams for track in stream.get_tracks()]


async def receives_everything(page: Page, actor: Actor) -> None:
    """Wait until a bot has the streams that the page describes. Chromium keeps the msid of a section in which the page
    sends another stream before it has described the end of the former one."""
    count = await page.evaluate("sent.length")
    async with asyncio.timeout(PATIENCE):
        while True:
            described = sections(await page.evaluate(f"{REMOTE}.pc.localDescription.sdp"))
            sent = {it.stream_ids for it in described if it.sends}
            assert actor.remote is not None
            if len(sent) == count and {(it.id,) for it in actor.remote.streams} == sent:
                return
            await asyncio.sleep(0.05)


PAGE_ACTS = f"""async (pauses) => {{
  window.sent = [];
  for (const [pause, share] of pauses) {{
    await new Promise((done) => setTimeout(done, pause));
    if (share < 0.6 && sent.length < 3) {{
      const canvas = Object.assign(document.createElement("canvas"), {{ width: 64, height: 48 }});
      const context = canvas.getContext("2d");
      setInterval(() => context.fillRect(Math.random() * 64, 0, 9, 9), 50);
      sent.push(canvas.captureStream(15));
      {REMOTE}.share(sent.at(-1), {{ title: "page" }});
    }} else if (sent.length) {{
      {REMOTE}.unshare(sent.splice(Math.floor(share * sent.length), 1)[0]);
    }}
  }}
}}"""


@pytest.mark.parametrize("role", sorted(IDS))
@pytest.mark.parametrize("seed", range(4))
async def test_a_random_session_with_a_foreign_page_ends_with_everything_flowing(
    chromium: Chromium, server: SignallingServer, seed: int, role: str
) -> None:
    chance = random.Random(f"{seed} {role}")
    async with MeteredPeer(token_provider=lambda: server.mint_token(peer_id=IDS[role]), url=server.url) as peer:
        actor = Actor(peer, chance)
        page = await meet(peer, chromium, server, camera=False)
        await until(page, "me.remotes.size === 1")
        await eventually(lambda: actor.remote is not None)
        await page.evaluate(f"{{ {REMOTE}.pc.createDataChannel('x'); }}")
        await until(page, f"{REMOTE}.pc.connectionState === 'connected'")
        pauses = [[chance.uniform(0, 200), chance.random()] for _ in range(10)]
        await asyncio.gather(actor.act(10), page.evaluate(PAGE_ACTS, pauses))

        await until(page, f"{REMOTE}.pc.signalingState === 'stable' && !{REMOTE}.makingOffer")
        await receives_everything(page, actor)
        wanted = ",".join(sorted(stream.id for stream in actor.streams))
        await until(page, f"(wanted) => {REMOTE}.live.join() === wanted", wanted)
        for it in await page.evaluate(f"{REMOTE}.arrivals"):
            title = actor.titles.get(it["streamId"])
            if it["streamId"] not in actor.replaced:  # metadata follows the new track, and the section keeps its id
                # A browser keeps its own track id in a section of its own that meets an offer: it finds nothing then.
                assert it["metadata"] in (None, {"title": title})
        titles = [actor.titles[stream.id] for stream in actor.streams if stream.id in actor.titles]
        known = f"[...{REMOTE}.metadata.values()].map((it) => it?.title)"
        await until(page, f"(titles) => titles.every((it) => {known}.includes(it))", titles)
        before = [track.frames_received for track in actor.received()]
        await eventually(
            lambda: all(it.frames_received > n + 2 for it, n in zip(actor.received(), before, strict=True))
        )
        decoded = await page.evaluate(STREAMS_DECODED)
        grown = f"""async (before) => Object.entries(await ({STREAMS_DECODED})())
          .filter(([mid, n]) => n > (before[mid] ?? 0) + 2).length >= {len(actor.streams)}"""
        await until(page, grown, decoded)
        assert not [it for it in actor.events if isinstance(it, ConnectionReset | NegotiationError)]
        assert await page.evaluate("me.errors") == []
