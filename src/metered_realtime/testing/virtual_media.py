"""The media path between virtual peers: what ICE, DTLS and SCTP do, as far as the other end can tell."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from pyee.asyncio import AsyncIOEventEmitter

from .virtual_network import Process, VirtualNetwork

CONSENT_EXPIRY = (5.0, 6.5)
"""Seconds until an end that hears nothing gives up: three checks, one every 2 s or so (RFC 7675)."""

HANDSHAKE = (0.02, 0.4)
"""Seconds from the exchange of descriptions to a connection: ICE checks, then DTLS."""

ICE_PATIENCE = (8.0, 40.0)
"""Seconds until ICE gives up where there is no path."""

CHECK_TIMEOUT = 1.5
"""Seconds until a STUN check without an answer fails."""


class VirtualChannel(AsyncIOEventEmitter):
    """A data channel: reliable and in order, like aiortc's by default."""

    protocol = ""
    bufferedAmount = 0
    bufferedAmountLowThreshold = 0

    def __init__(self, pc: VirtualRTCPeerConnection, label: str) -> None:
        super().__init__()
        self.label = label
        self.readyState = "connecting"
        self.pc = self.transport = pc
        self.other: VirtualChannel | None = None

    def send(self, data: str | bytes) -> None:
        """Send a message to the other end."""
        assert self.readyState == "open"
        assert self.other is not None
        self.pc.tell(self.other._receive, data)

    def close(self) -> None:
        """Close both ends."""
        if self.readyState == "closed":
            return
        was_open = self.readyState == "open"
        self._end()
        if was_open and self.other is not None:
            self.pc.tell(self.other._end)

    def _open(self) -> None:
        if self.readyState == "connecting":
            self.readyState = "open"
            self.emit("open")

    def _receive(self, data: str | bytes) -> None:
        if self.readyState == "open":
            self.emit("message", data)

    def _end(self) -> None:
        if self.readyState != "closed":
            self.readyState = "closed"
            self.emit("close")
            self.remove_all_listeners()


class VirtualRTCPeerConnection:
    """One end of a media path. Comes up once both ends hold each other's ICE user fragment and can reach each other."""

    def __init__(
        self,
        plane: MediaPlane,
        process: Process,
        *,
        state_changed: Callable[[], None],
        channel_opened: Callable[[Any], None],
    ) -> None:
        self.process = process
        self.ufrag = plane.new_ufrag(process)
        self.remote_ufrag: str | None = None
        self.connectionState = "new"
        self.known_candidates: set[str] = set()
        self.channels: list[VirtualChannel] = []
        self.sctp_ready = False
        self.silent_since: float | None = None
        self.shaking_hands = False
        self._plane = plane
        self._state_changed = state_changed
        self._channel_opened = channel_opened
        self._waiting: list[tuple[Callable[..., object], tuple[Any, ...]]] = []

    @property
    def other(self) -> VirtualRTCPeerConnection | None:
        """Return the other end, None if it is not there or has another idea of whom it talks to."""
        other = self._plane.find(self.remote_ufrag)
        return other if other is not None and other.remote_ufrag == self.ufrag else None

    @property
    def is_answered(self) -> bool:
        """Tell whether packets to the other end come back."""
        other = self.other
        return other is not None and other.connectionState != "closed" and self._plane.passes(self, other)

    async def check(self) -> bool:
        """Return whether the other end answers a STUN check."""
        answered = self.connectionState == "connected" and self.is_answered
        await asyncio.sleep(self._plane.network.delay() if answered else CHECK_TIMEOUT)
        return answered

    def connect(self, remote_ufrag: str) -> None:
        """Begin to look for the other end."""
        if self.remote_ufrag is None:
            self.remote_ufrag = remote_ufrag
            self.enter("connecting")
            plane = self._plane
            plane.loop.call_later(plane.network.random.uniform(*ICE_PATIENCE), self._lose_patience)
        self._plane.try_pair(self)

    def know(self, candidate: str) -> None:
        """Take a candidate of the other end."""
        self.known_candidates.add(candidate)
        self._plane.try_pair(self)

    def enter(self, state: str) -> None:
        """Change the state, and tell."""
        if self.connectionState in (state, "closed"):
            return
        self.connectionState = state
        if state == "closed":
            self._end_channels()
        self._state_changed()
        if state == "connected":
            self.open_channels()

    def close(self) -> None:
        """Close, and tell the other end by DTLS if it can be reached."""
        other = self.other
        if other is not None and self.connectionState == "connected" and self._plane.passes(self, other):
            self._plane.network.carry(("media", self.ufrag), other.enter, "closed")
        self.enter("closed")
        self._end_channels()
        self._plane.forget(self)

    # --- data

    def create_channel(self, label: str) -> VirtualChannel:
        """Create a data channel that opens when it can, and ends with the connection at the latest."""
        channel = VirtualChannel(self, label)
        self.channels.append(channel)
        self.open_channels()
        return channel

    def open_channels(self) -> None:
        """Open in-band what waits for it."""
        other = self.other
        if self.connectionState != "connected" or not self.sctp_ready or other is None:
            return
        for channel in self.channels:
            if channel.readyState == "connecting" and channel.other is None:
                channel.other = VirtualChannel(other, channel.label)
                channel.other.other = channel
                self.tell(other._accept, channel.other)

    def tell(self, action: Callable[..., object], *values: Any) -> None:
        """Have something done at the other end, in order; while it cannot be reached it waits."""
        self._waiting.append((action, values))
        self.flush()

    def flush(self) -> None:
        """Send what waits, if it gets through."""
        if self.connectionState != "connected" or not self.is_answered:
            return
        waiting, self._waiting = self._waiting, []
        for action, values in waiting:
            self._plane.network.carry(("media", self.ufrag), self._arrive, action, values)

    def _end_channels(self) -> None:
        self._waiting.clear()
        for channel in self.channels:
            channel._end()

    def _arrive(self, action: Callable[..., object], values: tuple[Any, ...]) -> None:
        other = self.other
        if other is not None and other.connectionState == "connected":
            action(*values)
        elif other is not None and other.connectionState == "connecting":
            self._plane.loop.call_later(0.05, self._arrive, action, values)

    def _accept(self, channel: VirtualChannel) -> None:
        self.channels.append(channel)
        channel.readyState = "open"
        self._channel_opened(channel)
        assert channel.other is not None
        self.tell(channel.other._open)

    def _lose_patience(self) -> None:
        if self.connectionState == "connecting":
            self.enter("failed")


class MediaPlane:
    """All media paths of a virtual world."""

    def __init__(self, loop: asyncio.AbstractEventLoop, network: VirtualNetwork) -> None:
        self.loop = loop
        self.network = network
        self._ends: dict[str, VirtualRTCPeerConnection] = {}
        self._serial = 0
        network.watch(self._review)

    def new_ufrag(self, process: Process) -> str:
        """Return an ICE user fragment that was never used."""
        self._serial += 1
        return f"{process.name}/{self._serial}"

    def add(self, pc: VirtualRTCPeerConnection) -> None:
        """Take an end in."""
        self._ends[pc.ufrag] = pc

    def forget(self, pc: VirtualRTCPeerConnection) -> None:
        """Drop an end that was closed."""
        self._ends.pop(pc.ufrag, None)
        self._review()

    def find(self, ufrag: str | None) -> VirtualRTCPeerConnection | None:
        """Return an end by its user fragment."""
        return self._ends.get(ufrag) if ufrag is not None else None

    def passes(self, one: VirtualRTCPeerConnection, other: VirtualRTCPeerConnection) -> bool:
        """Tell whether packets get from one end to the other and back."""
        return self.network.passes(one.process, other.process)

    def try_pair(self, pc: VirtualRTCPeerConnection) -> None:
        """Connect two ends, if everything that this takes is there."""
        other = pc.other
        if other is None or pc.shaking_hands or not self._can_pair(pc, other):
            return
        pc.shaking_hands = other.shaking_hands = True
        self.loop.call_later(self.network.random.uniform(*HANDSHAKE), self._pair, pc, other)

    def _can_pair(self, pc: VirtualRTCPeerConnection, other: VirtualRTCPeerConnection) -> bool:
        fresh = pc.connectionState == other.connectionState == "connecting"
        behind_nat = self.network.conditions.nat
        found = not behind_nat or other.ufrag in pc.known_candidates or pc.ufrag in other.known_candidates
        return fresh and found and self.passes(pc, other)

    def _pair(self, pc: VirtualRTCPeerConnection, other: VirtualRTCPeerConnection) -> None:
        pc.shaking_hands = other.shaking_hands = False
        if pc.other is other and self._can_pair(pc, other):
            for end in (pc, other):
                self.loop.call_later(self.network.random.uniform(0, 0.05), self._report, end)

    def _report(self, pc: VirtualRTCPeerConnection) -> None:
        if pc.connectionState == "connecting":
            pc.enter("connected")
            self._review()

    def _review(self) -> None:
        """Find out who has lost his other end, or found it again."""
        now = self.loop.time()
        for pc in list(self._ends.values()):
            if pc.connectionState == "connecting":
                self.try_pair(pc)
            if pc.connectionState != "connected":
                continue
            if pc.is_answered:
                pc.silent_since = None
                pc.flush()
            elif pc.silent_since is None:
                pc.silent_since = now
                self.loop.call_later(self.network.random.uniform(*CONSENT_EXPIRY), self._expire, pc, now)

    def _expire(self, pc: VirtualRTCPeerConnection, since: float) -> None:
        if pc.silent_since == since and pc.connectionState == "connected":
            pc.enter("closed")
            self._review()
