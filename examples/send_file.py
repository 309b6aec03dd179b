"""Send files to everybody in a channel and receive theirs. Interrupt it, run it again, and it goes on where it was.

Start a server with `metered-realtime serve`, then run this in two terminals:

    python examples/send_file.py --url ws://localhost:7880 --api-key pk_live_... --directory inbox
    python examples/send_file.py --url ws://localhost:7880 --api-key pk_live_... --send holiday.jpeg
"""

from __future__ import annotations

import argparse
import asyncio

from metered_realtime import FileFailed, FileReceived, FileTransferError, MeteredPeer, PeerJoined


async def main(url: str, api_key: str, channel: str, directory: str, send: str | None, seconds: float) -> None:
    async with MeteredPeer(url=url, api_key=api_key) as peer:

        @peer.on(PeerJoined)
        async def _(event: PeerJoined) -> None:
            if send is None:
                return
            try:
                result = await event.peer.send_file(send)
                print(f"sent {result.name} to {event.peer.id}: {result.size} bytes in {result.seconds:.1f} s")
            except FileTransferError as error:
                print(f"{event.peer.id} did not get it: {error}")

        peer.on(FileReceived, lambda event: print(f"received {event.path} from {event.peer.id}, {event.size} bytes"))
        peer.on(FileFailed, lambda event: print(f"{event.name} from {event.peer.id} is not complete: {event.err}"))
        async with peer.receive_files(directory, accept=lambda offered: offered.size < 1_000_000_000):
            await peer.join(channel)
            print(f"receiving into {directory} in {channel} as {peer.peer_id}")
            await asyncio.sleep(seconds)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="ws://localhost:7880", help="origin of the server")
    parser.add_argument("--api-key", required=True, help="publishable key, printed by the server")
    parser.add_argument("--channel", default="lobby")
    parser.add_argument("--directory", default="inbox", help="where received files go")
    parser.add_argument("--send", metavar="FILE", help="what everybody who joins gets")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to stay")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main(**vars(arguments())))
