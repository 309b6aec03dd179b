"""A switch that harms what it carries: it loses, delays and cuts off, as it is told.

    python bridge.py SEED PORT...

Each PORT is an interface of this network namespace, one end of a veth pair; the other end is `PORT.in`, and is free to
go to another namespace as soon as this program says that it carries. The ports are one Ethernet segment. Commands come
as lines of JSON on standard input, and each is answered by a line as soon as it is in force:

    {"loss": 0.1, "delay": 0.08, "jitter": 0.0}    for every frame, a fraction and seconds
    {"cut": [["a", "b"], ["a", "server"]]}         nothing passes between these ports, in neither direction
    {"loses_fragments": true}                      fragments of packets are lost, as behind many a firewall

What a command does not name stays as it is. The end of standard input ends the program.

Why it is not tc/netem: that needs a module of the kernel, which minimal kernels (those of virtual machines and
containers in which tests run) do not have and cannot load. This needs root and nothing else, harms in the same way
everywhere, and is told at once and without a race. Frames that go the same way never overtake each other.
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import json
import os
import random
import selectors
import socket
import struct
import sys
import time
from array import array
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

ETH_P_ALL = 3
SOL_PACKET, PACKET_IGNORE_OUTGOING = 263, 23
SIOCETHTOOL, ETHTOOL_STXCSUM = 0x8946, 0x17
MAX_FRAME = 65_536
FRAMES_PER_TURN = 64
"""Frames taken from one port before the others get their turn."""


class Switch:
    """Carries frames between ports. The time is an argument, and chance is seeded: one source for each port."""

    def __init__(self, ports: Mapping[str, socket.socket], seed: str) -> None:
        self.loss = self.delay = self.jitter = 0.0
        self.cut: list[list[str]] = []
        self.loses_fragments = False
        self._ports = ports
        self._chance = {port: random.Random(f"{seed} {port}") for port in ports}
        self._homes: dict[bytes, str] = {}
        self._in_flight: list[tuple[float, int, str, bytes]] = []
        self._order = count()
        self._latest = dict.fromkeys(ports, 0.0)

    @property
    def next_due(self) -> float | None:
        """Return when the next frame arrives."""
        return self._in_flight[0][0] if self._in_flight else None

    def take(self, port: str, frame: bytes, now: float) -> None:
        """Take a frame that came in at a port."""
        self._homes[frame[6:12]] = port
        if self.loses_fragments and _is_fragment(frame):
            return
        chance = self._chance[port]
        if chance.random() >= self.loss:
            due = max(now + self.delay + self.jitter * chance.random(), self._latest[port])
            self._latest[port] = due
            heapq.heappush(self._in_flight, (due, next(self._order), port, frame))

    def deliver(self, now: float) -> None:
        """Hand out the frames that have arrived."""
        while self._in_flight and self._in_flight[0][0] <= now:
            _, _, source, frame = heapq.heappop(self._in_flight)
            for target in self._targets(source, frame[:6]):
                if not any({source, target} == set(pair) for pair in self.cut):
                    _send(self._ports[target], frame)

    def _targets(self, source: str, address: bytes) -> Iterator[str]:
        home = self._homes.get(address)
        return (port for port in self._ports if port != source and home in (None, port))


def _is_fragment(frame: bytes) -> bool:
    """Return whether a frame carries a part of a packet (RFC 791 section 3.1, RFC 8200 section 4.5)."""
    kind = frame[12:14]
    return (kind == b"\x08\x00" and int.from_bytes(frame[20:22]) & 0x3FFF != 0) or (
        kind == b"\x86\xdd" and frame[20:21] == b"\x2c"
    )


def _send(port: socket.socket, frame: bytes) -> None:
    with contextlib.suppress(OSError):  # a full queue, or an interface that is gone, loses frames as on any wire
        port.send(frame)


def _compute_checksums(interface: str) -> None:
    """Turn offload off. With it frames carry half-made checksums, for a card that completes them, and are too long."""
    value = array("I", (ETHTOOL_STXCSUM, 0))
    request = struct.pack("16sP16x", interface.encode(), value.buffer_info()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCETHTOOL, request)


def _open(interface: str) -> socket.socket:
    port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    port.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    port.setblocking(False)
    port.bind((interface, ETH_P_ALL))
    return port


def _receive(port: socket.socket) -> Iterator[bytes]:
    for _ in range(FRAMES_PER_TURN):
        try:
            yield port.recv(MAX_FRAME)
        except OSError:
            return


def _obey(switch: Switch, lines: bytes) -> None:
    for line in lines.splitlines():
        command: dict[str, Any] = json.loads(line)
        for name, value in command.items():
            setattr(switch, name, value)
        print(json.dumps({"event": "obeyed"}), flush=True)


def main(seed: str, *interfaces: str) -> None:
    """Carry frames until standard input ends."""
    for interface in interfaces:
        _compute_checksums(f"{interface}.in")
    ports = {interface: _open(interface) for interface in interfaces}
    switch = Switch(ports, seed)
    selector = selectors.DefaultSelector()
    for interface, port in ports.items():
        selector.register(port, selectors.EVENT_READ, interface)
    selector.register(sys.stdin, selectors.EVENT_READ)
    print(json.dumps({"event": "carrying"}), flush=True)
    while True:
        due = switch.next_due
        for key, _ in selector.select(None if due is None else max(0.0, due - time.monotonic())):
            if key.data is None:
                lines = os.read(0, MAX_FRAME)
                if not lines:
                    return
                _obey(switch, lines)
            else:
                for frame in _receive(ports[key.data]):
                    switch.take(key.data, frame, time.monotonic())
        switch.deliver(time.monotonic())


if __name__ == "__main__":
    main(*sys.argv[1:])
