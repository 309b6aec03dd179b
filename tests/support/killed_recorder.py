"""Records a peer until it is killed. Run by a test, to which it prints the recorded seconds."""

from __future__ import annotations

import asyncio
import sys

from metered_realtime import MediaStream, MeteredPeer, Recorder
from metered_realtime.media.sources.testsource import PatternTrack, ToneTrack
from metered_realtime.recording import mixed_recording
from metered_realtime.server import SignallingServer

SECONDS = 2.5


async def main(path: str) -> None:
    """Record, print the recorded seconds, and wait to be killed."""
    mixed_recording.WIDTH, mixed_recording.HEIGHT = 320, 240  # which is drawn and encoded in time on any machine
    async with SignallingServer(port=0) as server:
        bot, ann = (MeteredPeer(api_key=server.api_key, url=server.url) for _ in range(2))
        ann.add_stream(MediaStream([PatternTrack(width=320, height=240, fps=25), ToneTrack()]))
        recorder = Recorder(path)
        recorder.follow(bot)
        await bot.join("room")
        await recorder.start()
        await ann.join("room")
        while not (participants := recorder.stats().participants) or participants[0].duration < SECONDS:  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.02)
        print(recorder.stats().participants[0].duration, flush=True)
        await asyncio.sleep(60)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
