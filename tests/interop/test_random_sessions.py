"""Python and a browser that add and remove media and open channels at random moments: in the end everything flows."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from playwright.async_api import Page

from metered_realtime import ConnectionReset, Event, MediaStream, MeteredPeer, NegotiationError, PeerJoined, RemotePeer
from metered_realtime.server import SignallingServer
from tests.support.browsers import Browser, until
from tests.support.peers import GreyTrack, eventually

pytestmark = [pytest.mark.browsers("chromium", thorough=["firefox"]), pytest.mark.asyncio(loop_scope="package")]

SEEDS = 4
OPERATIONS = 10
LONGEST_PAUSE = 0.2
IDS = {"polite": "!python", "impolite": "~python"}
"""Ids that sort before and after every id that the server gives a page: the smaller one is polite."""

ACTOR = """() => {
  window.live = new Map();
  let count = 0;
  window.actor = {
    add() {
      if (live.size >= 3) return;
      const canvas = Object.assign(document.createElement("canvas"), { width: 64, height: 48 });
      const context = canvas.getContext("2d");
      setInterval(() => context.fillRect(Math.random() * 64, 0, 9, 9), 50);
      const stream = canvas.captureStream(15);
      live.set(stream.id, stream);
      room.addStream(stream, { count: ++count });
    },
    remove(share) {
      const ids = [...live.keys()];
      const id = ids[Math.floor(share * ids.length)];
      if (id) room.removeStream(live.get(id));
      live.delete(id);
    },
    open() {
      room.openChannel([...room.peers.keys()][0], `channel ${++count}`);
    },
  };
}"""
STREAMS = "(id) => [...new Set((room.peers.get(id)?.tracks ?? []).map((track) => track.streamId))].sort().join()"
DECODED = """async () => {
  const frames = {};
  for (const pc of probe.connections.filter((pc) => pc.connectionState === "connected"))
    for (const report of (await pc.getStats()).values())
      if (report.type === "inbound-rtp" && report.kind === "video") frames[report.mid] = report.framesDecoded;
  return frames;
}"""


class Bot:
    """A Python peer that does random things, and knows what it should be sending."""

    def __init__(self, peer: MeteredPeer, chance: random.Random) -> None:
        self.peer = peer
        self.remote: RemotePeer | None = None
        self.events: list[Event] = []
        self.streams: list[MediaStream] = []
        self._chance = chance
        peer.on(PeerJoined, self._meet)

    def _meet(self, event: PeerJoined) -> None:
        self.remote = event.peer
        event.peer.on(Event, self.events.append)

    async def act(self) -> None:
        assert self.remote is not None
        for _ in range(OPERATIONS):
            await asyncio.sleep(self._chance.uniform(0, LONGEST_PAUSE))
            match self._chance.choice(["add", "add", "remove", "replace", "open"]):
                case "add" if len(self.streams) < 3:
                    self.streams.append(MediaStream([GreyTrack()]))
                    self.peer.add_stream(self.streams[-1])
                case "remove" if self.streams:
                    self.peer.remove_stream(self.streams.pop(self._chance.randrange(len(self.streams))))
                case "replace" if self.streams:
                    await self._replace(self._chance.choice(self.streams))
                case "open":
                    self.remote.create_data_channel("from python")

    async def _replace(self, stream: MediaStream) -> None:
        old, new = stream.get_tracks()[0], GreyTrack()
        await self.peer.replace_track(old, new)
        stream.remove_track(old)
        stream.add_track(new)

    def received(self) -> list[Any]:
        assert self.remote is not None
        return [track for stream in self.remote.streams for track in stream.get_tracks()]


async def act(page: Page, chance: random.Random) -> None:
    await page.evaluate(ACTOR)
    for _ in range(OPERATIONS):
        await asyncio.sleep(chance.uniform(0, LONGEST_PAUSE))
        await page.evaluate(f"actor.{chance.choice(['add', 'add', 'remove', 'open'])}({chance.random()})")


async def page_decodes(page: Page, sections: int) -> None:
    """Wait until so many sections have decoded more pictures."""
    before = await page.evaluate(DECODED)
    grown = (
        f"async (before) => Object.entries(await ({DECODED})()).filter(([mid, n]) => n > (before[mid] ?? 0) + 2).length"
    )
    await until(page, f"async (before) => (await ({grown})(before)) >= {sections}", before)


@pytest.mark.parametrize("role", sorted(IDS))
@pytest.mark.parametrize("seed", range(SEEDS))
async def test_a_random_session_ends_with_everything_flowing_and_nothing_reset(
    browser: Browser, seed: int, role: str
) -> None:
    chance = random.Random(f"{seed} {role}")
    async with SignallingServer(port=0) as server:
        peer = MeteredPeer(token_provider=lambda: server.mint_token(peer_id=IDS[role]), url=server.url)
        bot = Bot(peer, chance)
        async with peer:
            if seed % 2:
                await peer.join("room")
            page = await browser.room(server.http_url, channel="room", name="Ann", media="none")
            if not seed % 2:
                await peer.join("room")
            await eventually(lambda: bot.remote is not None)
            await asyncio.gather(bot.act(), act(page, chance))

            sent = set(await page.evaluate("[...live.keys()]"))
            await eventually(lambda: bot.remote is not None and {it.id for it in bot.remote.streams} == sent)
            wanted = ",".join(sorted(stream.id for stream in bot.streams))
            await until(page, f"([id, wanted]) => ({STREAMS})(id) === wanted", [peer.peer_id, wanted])
            before = [track.frames_received for track in bot.received()]
            await eventually(
                lambda: all(it.frames_received > n + 2 for it, n in zip(bot.received(), before, strict=True))
            )
            await page_decodes(page, len(bot.streams))
            assert not [event for event in bot.events if isinstance(event, ConnectionReset | NegotiationError)]
            await page.evaluate("room.leave()")
