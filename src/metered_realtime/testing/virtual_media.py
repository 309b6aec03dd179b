"""The media path between virtual peers: the effects of ICE, DTLS and SCTP that the other end can observe."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from pyee.asyncio import AsyncIOEventEmitter

from .virtual_network import Process, VirtualNetwork

CONSENT_EXPIRY = (5.0, 6.5)
"""Seconds without an answer until consent is lost: three checks, one about every 2 s (RFC 7675)."""

HANDSHAKE = (0.02, 0.4)
"""Seconds from the exchange of descriptions to a connection: ICE checks, then DTLS."""

ICE_TIMEOUT = (8.0, 40.0)
"""Seconds until ICE fails where there is no path."""

CHECK_TIMEOUT = 1.5
"""Seconds until an unanswered STUN check fails."""


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
        self.pc.call_other_end(self.other._receive, data)

    def close(self) -> None:
        """Close both ends."""
        if self.readyState == "closed":
            return
        was_open = self.readyState == "open"
        self._end()
        if was_open and self.other is not None:
            self.pc.call_other_end(self.other._end)

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
    """One end of a media path.

    The path comes up once both ends have each other's ICE user fragment and can reach each other.
    """

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
        self.is_handshaking = False
        self._plane = plane
        self._state_changed = state_changed
        self._channel_opened = channel_opened
        self._waiting: list[tuple[Callable[..., object], tuple[Any, ...]]] = []

    @property
    def other(self) -> VirtualRTCPeerConnection | None:
        """The other end, None if it does not exist or is paired with another end."""
        other = self._plane.find(self.remote_ufrag)
        return other if other is not None and other.remote_ufrag == self.ufrag else None

    @property
    def is_answered(self) -> bool:
        """Whether packets to the other end are answered."""
        other = self.other
        return other is not None and other.connectionState != "closed" and self._plane.passes(self, other)

    async def check(self) -> bool:
        """Return whether the other end answers a STUN check."""
        answered = self.connectionState == "connected" and self.is_answered
        await asyncio.sleep(self._plane.network.delay() if answered else CHECK_TIMEOUT)
        return answered

    def connect(self, remote_ufrag: str) -> None:
        """Begin to connect to the other end."""
        if self.remote_ufrag is None:
            self.remote_ufrag = remote_ufrag
            self.enter_state("connecting")
            plane = self._plane
            plane.loop.call_later(plane.network.random.uniform(*ICE_TIMEOUT), self._give_up)
        self._plane.try_pair(self)

    def add_candidate(self, candidate: str) -> None:
        """Add a candidate of the other end."""
        self.known_candidates.add(candidate)
        self._plane.try_pair(self)

    def enter_state(self, state: str) -> None:
        """Change the state and report it. A closed connection stays closed."""
        if self.connectionState in (state, "closed"):
            return
        self.connectionState = state
        if state == "closed":
            self._end_channels()
        self._state_changed()
        if state == "connected":
            self.open_channels()

    def close(self) -> None:
        """Close, and close the other end by DTLS (close_notify) if it can be reached."""
        other = self.other
        if other is not None and self.connectionState == "connected" and self._plane.passes(self, other):
            self._plane.network.carry(("media", self.ufrag), other.enter_state, "closed")
        self.enter_state("closed")
        self._end_channels()
        self._plane.forget(self)

    # --- data

    def create_channel(self, label: str) -> VirtualChannel:
        """Create a data channel. It opens once the connection is up and closes with it at the latest."""
        channel = VirtualChannel(self, label)
        self.channels.append(channel)
        self.open_channels()
        return channel

    def open_channels(self) -> None:
        """Open the channels that wait, in-band."""
        other = self.other
        if self.connectionState != "connected" or not self.sctp_ready or other is None:
            return
        for channel in self.channels:
            if channel.readyState == "connecting" and channel.other is None:
                channel.other = VirtualChannel(other, channel.label)
                channel.other.other = channel
                self.call_other_end(other._accept, channel.other)

    def call_other_end(self, action: Callable[..., object], *values: Any) -> None:
        """Call `action` at the other end, in order. While that cannot be reached the call waits."""
        self._waiting.append((action, values))
        self.flush_calls()

    def flush_calls(self) -> None:
        """Send the waiting calls, if the other end can be reached."""
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
        self.call_other_end(channel.other._open)

    def _give_up(self) -> None:
        if self.connectionState == "connecting":
            self.enter_state("failed")


class MediaPlane:
    """All media paths of a virtual world. `shares_sections`: tracks share sections, as with a foreign remote."""

    def __init__(self, loop: asyncio.AbstractEventLoop, network: VirtualNetwork) -> None:
        self.shares_sections = False
        self.loop = loop
        self.network = network
        self._ends: dict[str, VirtualRTCPeerConnection] = {}
        self._serial = 0
        network.watch(self._review)

    def new_ufrag(self, process: Process) -> str:
        """Return an unused ICE user fragment."""
        self._serial += 1
        return f"{process.name}/{self._serial}"

    def add(self, pc: VirtualRTCPeerConnection) -> None:
        """Add an end."""
        self._ends[pc.ufrag] = pc

    def forget(self, pc: VirtualRTCPeerConnection) -> None:
        """Remove an end that was closed."""
        self._ends.pop(pc.ufrag, None)
        self._review()

    def find(self, ufrag: str | None) -> VirtualRTCPeerConnection | None:
        """Return the end with a user fragment, None if there is none."""
        return self._ends.get(ufrag) if ufrag is not None else None

    def passes(self, one: VirtualRTCPeerConnection, other: VirtualRTCPeerConnection) -> bool:
        """Return whether packets pass between two ends, in both directions."""
        return self.network.passes(one.process, other.process)

    def try_pair(self, pc: VirtualRTCPeerConnection) -> None:
        """Connect an end with the other one, if both are ready."""
        other = pc.other
        if other is None or pc.is_handshaking or not self._can_pair(pc, other):
            return
        pc.is_handshaking = other.is_handshaking = True
        self.loop.call_later(self.network.random.uniform(*HANDSHAKE), self._pair, pc, other)

    def _can_pair(self, pc: VirtualRTCPeerConnection, other: VirtualRTCPeerConnection) -> bool:
        fresh = pc.connectionState == other.connectionState == "connecting"
        behind_nat = self.network.conditions.nat
        found = not behind_nat or other.ufrag in pc.known_candidates or pc.ufrag in other.known_candidates
        return fresh and found and self.passes(pc, other)

    def _pair(self, pc: VirtualRTCPeerConnection, other: VirtualRTCPeerConnection) -> None:
        pc.is_handshaking = other.is_handshaking = False
        if pc.other is other and self._can_pair(pc, other):
            for end in (pc, other):
                self.loop.call_later(self.network.random.uniform(0, 0.05), self._report, end)

    def _report(self, pc: VirtualRTCPeerConnection) -> None:
        if pc.connectionState == "connecting":
            pc.enter_state("connected")
            self._review()

    def _review(self) -> None:
        """Update all ends after a change: connect them, and begin or end their loss of consent."""
        now = self.loop.time()
        for pc in list(self._ends.values()):
            if pc.connectionState == "connecting":
                self.try_pair(pc)
            if pc.connectionState != "connected":
                continue
            if pc.is_answered:
                pc.silent_since = None
                pc.flush_calls()
            elif pc.silent_since is None:
                pc.silent_since = now
                self.loop.call_later(self.network.random.uniform(*CONSENT_EXPIRY), self._expire, pc, now)

    def _expire(self, pc: VirtualRTCPeerConnection, since: float) -> None:
        if pc.silent_since == since and pc.connectionState == "connected":
            pc.enter_state("closed")
            self._review()
