"""Draw pictures with numpy and show them to everybody in a channel, with a tone beside them.

Start a server with `metered-realtime serve`, open the room page that it prints in a browser, and run:

    pip install 'metered-realtime-mesh[webrtc,numpy]'
    python examples/push_video.py --url ws://localhost:7880 --api-key pk_live_... --channel lobby
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

import numpy

from metered_realtime import AudioSource, MediaStream, MeteredPeer, PeerJoined, Track, VideoSource, iter_frames

WIDTH, HEIGHT, FPS = 320, 240, 20
RATE = 16_000


def picture(number: int) -> numpy.ndarray[Any, Any]:
    """Return colours that drift, (height, width, 3) in rgb24."""
    rows, columns = numpy.mgrid[0:HEIGHT, 0:WIDTH]
    red, green = (columns + 4 * number) % 256, (rows + 2 * number) % 256
    return numpy.dstack([red, green, numpy.full_like(red, 128)]).astype(numpy.uint8)


def sound(second: int) -> bytes:
    """Return a second of a note as s16le; each second has another one."""
    times = numpy.arange(RATE) / RATE
    note = 220 * 2 ** (second % 12 / 12)
    return (4000 * numpy.sin(2 * numpy.pi * note * times)).astype("<i2").tobytes()


async def draw(video: VideoSource, seconds: float) -> None:
    for number in range(round(seconds * FPS)):
        video.push(picture(number))  # never waits: what is not sent in time is replaced by the next one
        await asyncio.sleep(1 / FPS)


async def play(audio: AudioSource) -> None:
    for second in range(1_000_000):
        await audio.push(sound(second))  # waits as soon as enough is queued


async def main(url: str, api_key: str, channel: str, seconds: float) -> None:
    video, audio = VideoSource(fps=FPS), AudioSource(input_rate=RATE, max_buffered_seconds=1.0)
    async with MeteredPeer(url=url, api_key=api_key) as peer:
        peer.add_stream(MediaStream([video, audio]), {"title": "numpy"})

        @peer.on(PeerJoined)
        def _(event: PeerJoined) -> None:
            remote = event.peer
            print(f"+ {remote.id}")

            @remote.on(Track)
            async def _(event: Track) -> None:
                async for frame in iter_frames(event.track):
                    what = f"{frame.width} x {frame.height}" if event.track.kind == "video" else f"{frame.rate} Hz"
                    print(f"  {remote.id} sends {event.track.kind} of {what}")
                    break

        await peer.join(channel)
        print(f"drawing in {channel} as {peer.peer_id}")
        playing = asyncio.ensure_future(play(audio))
        await draw(video, seconds)
        playing.cancel()
    video.stop()
    audio.stop()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="ws://localhost:7880", help="origin of the server")
    parser.add_argument("--api-key", required=True, help="publishable key, printed by the server")
    parser.add_argument("--channel", default="lobby")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to stay")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main(**vars(arguments())))
