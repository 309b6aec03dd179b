"""Publish and receive messages, without WebRTC.

Start a server with `metered-realtime serve`, then run this in two terminals:

    python examples/pubsub.py --url ws://localhost:7880 --api-key pk_live_... --say hello
"""

from __future__ import annotations

import argparse
import asyncio

from metered_realtime import Message, Presence, SignallingClient


async def main(url: str, api_key: str, channel: str, say: str, seconds: float) -> None:
    async with SignallingClient(url=url, api_key=api_key) as client:

        @client.on(Presence)
        def _(event: Presence) -> None:
            for peer in event.joined:
                print(f"+ {peer.peer_id}")
            for peer in event.left:
                print(f"- {peer.peer_id}")

        async with client.events(Message) as messages:
            await client.subscribe(channel)
            await client.publish(channel, {"text": say})
            print(f"published to {channel} as {client.peer_id}")
            try:
                async with asyncio.timeout(seconds):
                    async for message in messages:
                        print(f"{message.sender_peer_id}: {message.data}")
            except TimeoutError:
                pass


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="ws://localhost:7880", help="origin of the server")
    parser.add_argument("--api-key", required=True, help="publishable key, printed by the server")
    parser.add_argument("--channel", default="lobby")
    parser.add_argument("--say", default="hello", help="what to publish")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long to listen")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main(**vars(arguments())))
