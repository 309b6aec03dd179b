"""A program that loses time keeps sound and picture together in a browser."""

from __future__ import annotations

import asyncio
import time

import pytest
from playwright.async_api import Page

from metered_realtime import MediaStream, MeteredPeer
from metered_realtime.media.sources.testsource import PatternTrack, ToneTrack
from metered_realtime.server import SignallingServer
from tests.support.browsers import Chromium
from tests.support.patience import PATIENCE

pytestmark = [
    pytest.mark.alone,
    pytest.mark.xdist_group("busy"),
    pytest.mark.asyncio(loop_scope="package"),
]

APART = 0.15
"""Seconds between sound and picture that people do not notice."""

SECOND = 25
"""Pictures of a second."""

SETTLES_WITHIN = 4
"""Seconds in which Chromium forgets a picture that was on its way when the program was held up, and came late."""

PLAYOUT = """async () => {
  const playing = {};
  for (const pc of probe.connections)
    for (const it of (await pc.getStats()).values())
      if (it.type === 'inbound-rtp' && it.estimatedPlayoutTimestamp) playing[it.kind] = it;
  const { audio, video } = playing;
  if (!audio || !video) return null;
  const age = (it) => it.timestamp - it.estimatedPlayoutTimestamp;
  return { apart: (age(audio) - age(video)) / 1000, decoded: video.framesDecoded };
}"""
"""By how much sound is behind the picture, in seconds (W3C webrtc-stats, estimatedPlayoutTimestamp), and how many
pictures were decoded."""


async def decoded_since(page: Page, before: int, pictures: int) -> tuple[float, int]:
    """Wait for so many more pictures. Return how far sound and picture are apart, and the pictures so far."""
    async with asyncio.timeout(PATIENCE):
        while True:
            playing = await page.evaluate(PLAYOUT)
            if playing is not None and playing["decoded"] >= before + pictures:
                return playing["apart"], playing["decoded"]
            await asyncio.sleep(0.1)


async def test_lost_time_does_not_stay_between_sound_and_picture(chromium: Chromium, server: SignallingServer) -> None:
    async with MeteredPeer(api_key=server.api_key, url=server.url) as bot:
        bot.add_stream(MediaStream([PatternTrack(width=320, height=240, fps=SECOND), ToneTrack()]))
        await bot.join("room")
        page = await chromium.room(server.http_url, channel="room", name="Ann", media="none")
        _, count = await decoded_since(page, 0, 3 * SECOND)
        for lost in (0.2, 5.0):
            time.sleep(lost)  # noqa: ASYNC251 - holds up the program, which is what this is about
            _, count = await decoded_since(page, count, SETTLES_WITHIN * SECOND)
            for _ in range(2):
                apart, count = await decoded_since(page, count, SECOND)
                assert abs(apart) < APART, f"after {lost:g} s"
