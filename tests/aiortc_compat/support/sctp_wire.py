"""Two SCTP associations over a network that loses, repeats and reorders packets, in virtual time and by a seed."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from aiortc import RTCDataChannel, RTCDataChannelParameters
from aiortc.rtcsctptransport import RTCSctpCapabilities, RTCSctpTransport

from metered_realtime.aiortc_compat.sctp import FastSctpTransport
from metered_realtime.testing import VirtualLoop

DELAY = 0.005
"""Seconds that a packet takes."""

WAKE_UP = 0.0001
"""Seconds until what has come is looked at: what comes meanwhile is read at once."""


@dataclass(frozen=True)
class Network:
    """What may happen to a packet, as probabilities."""

    loss: float = 0.0
    reordering: float = 0.0
    duplication: float = 0.0


class Transport:
    """Stands in for a DTLS transport, and hands over what has come in batches, as that does."""

    state = "connected"

    def __init__(self, role: str, network: Network, chance: random.Random) -> None:
        self._role = role
        self._network = network
        self._chance = chance
        self.other: Transport = self
        self.receiver: Any = None
        self.arrived: deque[bytes] = deque()
        self.sent: list[bytes] = []
        self.clear_at = 0.0
        self.passes: Callable[[bytes], bool] = lambda packet: True

    def _register_data_receiver(self, receiver: Any) -> None:
        self.receiver = receiver

    def _unregister_data_receiver(self, receiver: Any) -> None:
        self.receiver = None

    async def _send_data(self, data: bytes) -> None:
        self.send_now(data)

    def send_now(self, data: bytes) -> None:
        self.sent.append(data)
        loop, chance, network = asyncio.get_running_loop(), self._chance, self._network
        # Timers of the same moment fire in any order: each is a little later than the one before.
        self.clear_at = max(self.clear_at + 1e-7, loop.time() + DELAY)
        if not self.passes(data) or chance.random() < network.loss:
            return
        for _ in range(1 + (chance.random() < network.duplication)):
            late = chance.uniform(0, 4 * DELAY) if chance.random() < network.reordering else 0.0
            loop.call_at(self.clear_at + late, self.other.arrive, data)

    def arrive(self, data: bytes) -> None:
        self.arrived.append(data)
        if len(self.arrived) == 1:
            asyncio.get_running_loop().call_later(WAKE_UP, self.hand_over)

    def hand_over(self) -> None:
        batch, self.arrived = self.arrived, deque()
        if self.receiver is None:
            return
        if isinstance(self.receiver, FastSctpTransport):
            self.receiver.begin_batch()
            for data in batch:
                self.receiver.receive_packet(data)
            self.receiver.end_batch()
        else:
            for data in batch:
                finish(self.receiver._handle_data(data))


def finish(work: Coroutine[Any, Any, None]) -> None:
    """Run what does not suspend on this network."""
    try:
        work.send(None)
    except StopIteration:
        return
    raise AssertionError("suspended")


class Ends:
    """Two associations, `a` and `b`: each the fast one or aiortc's."""

    def __init__(self, fast_a: bool = True, fast_b: bool = True, network: Network | None = None, seed: int = 0) -> None:
        chance = random.Random(seed)
        network = network if network is not None else Network()
        self.to_b, self.to_a = Transport("client", network, chance), Transport("server", network, chance)
        self.to_b.other, self.to_a.other = self.to_a, self.to_b
        self.a: Any = association(self.to_b, fast_a)
        self.b: Any = association(self.to_a, fast_b)
        self.opened: list[RTCDataChannel] = []
        self.b.on("datachannel", self.opened.append)

    async def establish(self) -> None:
        """Start both, and return when both are through."""
        for end in (self.a, self.b):
            await end.start(RTCSctpCapabilities(maxMessageSize=0), 5000)
        await until(lambda: self.a.state == self.b.state == "connected")

    async def channel(self, **options: Any) -> tuple[RTCDataChannel, RTCDataChannel, list[Any]]:
        """Open a channel from a to b. Return both ends and what b hears."""
        count = len(self.opened)
        mine = RTCDataChannel(self.a, RTCDataChannelParameters(**options))
        await until(lambda: mine.readyState == "open" and len(self.opened) > count)
        heard: list[Any] = []
        self.opened[count].on("message", heard.append)
        return mine, self.opened[count], heard


def association(transport: Transport, fast: bool) -> RTCSctpTransport:
    """Make one."""
    made: Any = RTCSctpTransport(transport)  # type: ignore[arg-type]
    if fast:
        made.__class__ = FastSctpTransport
        made.quicken()
    return made  # type: ignore[no-any-return]


async def until(holds: Callable[[], object], within: float = 600.0) -> None:
    """Return once something holds, in virtual time."""
    async with asyncio.timeout(within):
        while not holds():  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.01)


def in_virtual_time(program: Coroutine[Any, Any, None]) -> None:
    """Run a program, and fail for what nobody took."""
    loop = VirtualLoop()
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(asyncio.wait_for(program, 3600))
        assert loop.failures == []
    finally:
        asyncio.set_event_loop(None)
        loop.close()
