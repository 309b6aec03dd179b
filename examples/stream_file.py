"""Stream a media file to everybody in a channel, and count what everybody else sends.

Start a server with `metered-realtime serve`, open the room page that it prints in a browser, and run:

    python examples/stream_file.py --url ws://localhost:7880 --api-key pk_live_... --channel lobby clip.mp4
"""

from __future__ import annotations

import argparse
import asyncio

from metered_realtime import MediaStream, MeteredPeer, PeerJoined, PeerLeft, StateChange, Track, from_file, iter_frames


async def main(url: str, api_key: str, channel: str, file: str, loop: bool, seconds: float) -> None:
    player = from_file(file, loop=loop)
    stream = MediaStream([track for track in (player.audio, player.video) if track is not None])
    async with MeteredPeer(url=url, api_key=api_key) as peer:
        peer.add_stream(stream, {"title": file})

        @peer.on(PeerJoined)
        def _(event: PeerJoined) -> None:
            remote = event.peer
            print(f"+ {remote.id}")
            remote.on(StateChange, lambda change: print(f"  {remote.id} {change.from_} -> {change.to}"))

            @remote.on(Track)
            async def _(event: Track) -> None:
                frames = 0
                async for _ in iter_frames(event.track):
                    frames += 1
                    if frames == 1:
                        print(f"  {remote.id} sends {event.track.kind}")
                print(f"  {remote.id} sent {frames} {event.track.kind} frames")

        peer.on(PeerLeft, lambda event: print(f"- {event.peer.id}"))
        await peer.join(channel)
        print(f"streaming {file} to {channel} as {peer.peer_id}")
        await asyncio.sleep(seconds)
    await player.close()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="anything that FFmpeg reads")
    parser.add_argument("--url", default="ws://localhost:7880", help="origin of the server")
    parser.add_argument("--api-key", required=True, help="publishable key, printed by the server")
    parser.add_argument("--channel", default="lobby")
    parser.add_argument("--loop", action="store_true", help="start over at the end")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to stay")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main(**vars(arguments())))
