"""The bridge itself, without a network: what it takes, what it hands out, and when."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.network.bridge import Switch

NAMES = "abc"
BROADCAST = b"\xff" * 6


class Ports:
    """A switch with three ports, and what comes out of each."""

    def __init__(self, stack: ExitStack) -> None:
        pairs = {name: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for name in NAMES}
        self._outer = {name: stack.enter_context(pair[1]) for name, pair in pairs.items()}
        for inner, outer in pairs.values():
            inner.setblocking(False)
            outer.setblocking(False)
        self.switch = Switch({name: stack.enter_context(pair[0]) for name, pair in pairs.items()}, "seed")

    def put(self, port: str, text: str, now: float, *, to: str | None = None) -> None:
        """Let a frame come in, for one port's owner or for everybody."""
        self.switch.take(port, (BROADCAST if to is None else _address(to)) + _address(port) + text.encode(), now)

    def got(self, port: str, now: float) -> list[str]:
        """Return what came out of a port until a time, since the last call."""
        self.switch.deliver(now)
        frames = []
        while True:
            try:
                frames.append(self._outer[port].recv(100)[12:].decode())
            except BlockingIOError:
                return frames


def _address(port: str) -> bytes:
    return b"\x02\x00\x00\x00\x00" + port.encode()


@pytest.fixture
def ports() -> Iterator[Ports]:
    with ExitStack() as stack:
        yield Ports(stack)


def test_a_frame_goes_to_everybody_until_its_receiver_is_known(ports: Ports) -> None:
    ports.put("a", "first", 0.0, to="b")
    assert (ports.got("b", 0.0), ports.got("c", 0.0), ports.got("a", 0.0)) == (["first"], ["first"], [])
    ports.put("b", "answer", 0.0, to="a")
    ports.put("a", "second", 0.0, to="b")
    ports.put("a", "all", 0.0)
    assert (ports.got("a", 0.0), ports.got("b", 0.0), ports.got("c", 0.0)) == (["answer"], ["second", "all"], ["all"])


def test_delay_holds_and_jitter_does_not_change_the_order(ports: Ports) -> None:
    ports.switch.delay, ports.switch.jitter = 0.08, 0.05
    sent = [str(number) for number in range(50)]
    for number in sent:
        ports.put("a", number, int(number) / 1000)
    assert ports.got("b", 0.079) == []
    assert ports.switch.next_due is not None
    assert ports.got("b", 0.2) == sent
    assert ports.switch.next_due is None


def test_loss_takes_its_share(ports: Ports) -> None:
    ports.switch.loss = 0.1
    arrived = 0
    for _ in range(2_000):
        ports.put("a", "x", 0.0)
        arrived += len(ports.got("b", 0.0))
    assert 1_750 < arrived < 1_850


def test_a_cut_holds_in_both_directions_until_it_is_mended_and_for_frames_on_their_way(ports: Ports) -> None:
    ports.switch.delay = 0.1
    ports.put("a", "on its way", 0.0)
    ports.switch.cut = [["a", "b"]]
    ports.put("b", "back", 0.0)
    assert (ports.got("b", 1.0), ports.got("a", 1.0)) == ([], [])
    assert ports.got("c", 1.0) == ["on its way", "back"]
    ports.switch.cut = []
    ports.put("a", "again", 1.0)
    assert ports.got("b", 2.0) == ["again"]
