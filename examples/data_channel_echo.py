"""Echo what arrives on data channels, and open one to everybody to see the echo come back.

Start a server with `metered-realtime serve`, then run this in two terminals:

    python examples/data_channel_echo.py --url ws://localhost:7880 --api-key pk_live_...
"""

from __future__ import annotations

import argparse
import asyncio
import time

from metered_realtime import DataChannel, DataChannelOpened, DCMessage, DCOpen, MeteredPeer, PeerJoined


async def main(url: str, api_key: str, channel: str, seconds: float) -> None:
    async with MeteredPeer(url=url, api_key=api_key) as peer:

        @peer.on(PeerJoined)
        def _(event: PeerJoined) -> None:
            remote = event.peer

            @remote.on(DataChannelOpened)
            def _(event: DataChannelOpened) -> None:
                inbound = DataChannel(event.channel)

                @inbound.on(DCMessage)
                async def _(message: DCMessage) -> None:
                    await inbound.send(message.data)

            outbound = DataChannel(remote.create_data_channel("echo"))
            sent = 0.0

            @outbound.on(DCOpen)
            async def _(_: DCOpen) -> None:
                nonlocal sent
                sent = time.perf_counter()
                await outbound.send("are you there?")

            @outbound.on(DCMessage)
            def _(message: DCMessage) -> None:
                print(f"{remote.id} echoed {message.data!r} after {(time.perf_counter() - sent) * 1000:.1f} ms")

        await peer.join(channel)
        print(f"echoing in {channel} as {peer.peer_id}")
        await asyncio.sleep(seconds)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="ws://localhost:7880", help="origin of the server")
    parser.add_argument("--api-key", required=True, help="publishable key, printed by the server")
    parser.add_argument("--channel", default="lobby")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long to stay")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main(**vars(arguments())))
