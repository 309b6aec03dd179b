"""Count aloud to everybody on a channel that survives its connections, and check what the others count.

Start a server with `metered-realtime serve`, then run this in two terminals. With `--break-every 2` the connections
break every two seconds: nothing is lost, twice or out of order.

    python examples/surviving_channel.py --url ws://localhost:7880 --api-key pk_live_... --break-every 2
"""

from __future__ import annotations

import argparse
import asyncio

from metered_realtime import ChannelResumed, MeteredPeer, PeerJoined, RemotePeer


async def count_aloud(peer: MeteredPeer, seconds: float) -> None:
    everybody = peer.open_channel("count")
    for number in range(int(seconds * 10)):
        await everybody.send(str(number))
        await asyncio.sleep(0.1)
    await everybody.drain()


async def listen(peer: MeteredPeer) -> None:
    expected: dict[RemotePeer, int] = {}
    async for event in peer.open_channel("count"):
        number = int(event.data)
        if number != expected.get(event.remote, number):
            print(f"{event.remote.id} said {number} instead of {expected[event.remote]}")
        elif number % 10 == 0:
            print(f"{event.remote.id} has counted to {number}")
        expected[event.remote] = number + 1


async def break_connections(peer: MeteredPeer, interval: float) -> None:
    while interval:
        await asyncio.sleep(interval)
        for remote in peer.remote_peers:
            if remote.state == "connected":
                await remote.pc.close()


async def main(url: str, api_key: str, channel: str, seconds: float, break_every: float) -> None:
    async with MeteredPeer(url=url, api_key=api_key) as peer:

        @peer.on(PeerJoined)
        def _(event: PeerJoined) -> None:
            remote = event.peer

            @remote.open_channel("count").on(ChannelResumed)
            def _(event: ChannelResumed) -> None:
                print(f"the connection to {remote.id} was replaced, {event.resent} messages are sent again")

        await peer.join(channel)
        print(f"counting in {channel} as {peer.peer_id}")
        others = [asyncio.ensure_future(listen(peer)), asyncio.ensure_future(break_connections(peer, break_every))]
        await count_aloud(peer, seconds)
        for task in others:
            task.cancel()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="ws://localhost:7880", help="origin of the server")
    parser.add_argument("--api-key", required=True, help="publishable key, printed by the server")
    parser.add_argument("--channel", default="lobby")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long to count")
    parser.add_argument(
        "--break-every", type=float, default=0.0, help="seconds between broken connections, 0 for never"
    )
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main(**vars(arguments())))
