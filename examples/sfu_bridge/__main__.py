"""Carry a channel into a Janus VideoRoom and back, without transcoding. docs/sfu_bridge.md says when and how.

    metered-realtime serve
    janus --configs-folder=/etc/janus
    python -m examples.sfu_bridge --url ws://localhost:7880 --api-key pk_live_... --channel lobby \\
        --janus ws://localhost:8188 --room 1234 --create
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from contextlib import suppress
from typing import Any

from metered_realtime import MeteredPeer, MeteredRealtimeError

from .bridge import JanusRoom, SfuBridge
from .janus import JanusError, JanusLostError

INTERRUPTED = 130
"""The exit code that shells expect after Ctrl-C."""


def show(as_json: bool, event: str, **fields: Any) -> None:
    """Print what happened, as a line for people or as one of JSON."""
    if as_json:
        print(json.dumps({"event": event, "at": round(time.time(), 3), **fields}), flush=True)
    else:
        print(event, *(f"{name}={value}" for name, value in fields.items()), flush=True)


async def main(options: argparse.Namespace) -> int:
    loop, running = asyncio.get_running_loop(), asyncio.current_task()
    assert running is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError):  # Windows
            loop.add_signal_handler(number, running.cancel)
    peer = MeteredPeer(url=options.url, api_key=options.api_key)
    room = JanusRoom(
        options.janus, options.room, options.pin, options.janus_secret, options.janus_token, create=options.create
    )
    bridge = SfuBridge(
        peer, options.channel, room, lambda event, **it: show(options.json, event, **it), transcode=options.transcode
    )
    try:
        await bridge.run()
    except asyncio.CancelledError:
        return INTERRUPTED
    except (MeteredRealtimeError, JanusError, JanusLostError, TimeoutError, ValueError) as error:
        print(f"Error: {error or type(error).__name__}", file=sys.stderr)
    return 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "examples.sfu_bridge", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default="ws://localhost:7880", help="origin of the signalling server")
    parser.add_argument("--api-key", default=os.environ.get("METERED_API_KEY"), help="or METERED_API_KEY")
    parser.add_argument("--channel", default="lobby")
    parser.add_argument("--janus", default="ws://localhost:8188", help="URL of Janus' WebSocket API")
    parser.add_argument("--room", type=_room, default=1234, help="the VideoRoom: a number, or a name (string_ids)")
    parser.add_argument("--create", action="store_true", help="make the room if it does not exist")
    parser.add_argument("--pin", default=os.environ.get("JANUS_PIN"), help="PIN of the room, or JANUS_PIN")
    parser.add_argument("--janus-secret", default=os.environ.get("JANUS_SECRET"), help="api_secret, or JANUS_SECRET")
    parser.add_argument("--janus-token", default=os.environ.get("JANUS_TOKEN"), help="a token, or JANUS_TOKEN")
    parser.add_argument("--transcode", action="store_true", help="encode again what the room refuses")
    parser.add_argument("--json", action="store_true", help="print a line of JSON for each event")
    options = parser.parse_args()
    if options.api_key is None:
        parser.error("--api-key or METERED_API_KEY is needed")
    return options


def _room(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


if __name__ == "__main__":
    sys.exit(asyncio.run(main(arguments())))
