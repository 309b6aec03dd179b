"""Helpers around a client: recording events, waiting for them, short timeouts."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

from metered_realtime.core.session.session import Timings
from metered_realtime.events import Event
from metered_realtime.options import ReconnectOptions
from metered_realtime.signalling import SignallingClient

from .scripted_server import ScriptedServer

E = TypeVar("E", bound=Event)

SOON = ReconnectOptions(initial_delay=0.001, max_delay=0.001, max_attempts=5)
HASTY = Timings(open_timeout=5, welcome_timeout=0.05, ack_timeout=0.05, replay_delay=0.001)


def make_client(server: ScriptedServer | str, **options: Any) -> SignallingClient:
    """Create a client that reconnects at once."""
    if "token_provider" not in options:
        options.setdefault("api_key", "pk_live_secret")
    options.setdefault("reconnect", SOON)
    return SignallingClient(url=server if isinstance(server, str) else server.url, **options)


class Diary:
    """Records all events of a client, each with the state of the client at that time."""

    def __init__(self, client: SignallingClient) -> None:
        self._client = client
        self._changed = asyncio.Event()
        self.events: list[Event] = []
        self.states: list[str] = []
        client.on(Event, self._record)

    def _record(self, event: Event) -> None:
        self.events.append(event)
        self.states.append(self._client.state)
        self._changed.set()

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    async def wait_for(self, kind: type[E], count: int = 1) -> E:
        """Wait for event number `count` of a type, and return it."""
        while len(self.of(kind)) < count:
            self._changed.clear()
            await self._changed.wait()
        return self.of(kind)[count - 1]

    async def wait_for_state(self, state: str) -> None:
        while self._client.state != state:
            self._changed.clear()
            await self._changed.wait()
