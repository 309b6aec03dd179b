"""A channel that survives its connection: what was accepted is numbered, kept, and sent again until it has arrived.

An end has a session id, a window of messages that the other end has not acknowledged, and a place in the messages of
the other end. On each new connection both ends say hello, which tells what they have: sending goes on from there, in
the middle of a large message if need be. An end that shows another session is another program: it knows nothing, and
gets everything that the first one has not acknowledged. Where messages make sense to the first one only, that is
dropped instead, and the successor gets what is sent from then on.

Invariants: messages are handed out in the order of their numbers; a reliable receiver takes numbers in order and each
once, whatever is repeated; what waits never exceeds the window, unless it is one single message. Nothing is sent on a
connection before the other end's hello, except this end's own.

A lossy channel forgets a message when it is handed out, and gives up what waits when the connection is lost.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from .frames import (
    TEXT,
    Ack,
    Close,
    FrameError,
    Hello,
    Part,
    Skip,
    decode,
    encode_ack,
    encode_close,
    encode_hello,
    encode_skip,
)
from .reassembly import AtMostOnce, InOrder
from .send_window import MAX_WINDOW_BYTES, MAX_WINDOW_MESSAGES, Window

MAX_MESSAGE = 64 * 1024 * 1024
"""Bytes of one message, as sent and as taken. Larger things are files, which have a transfer of their own."""

ACK_MESSAGES = 64
ACK_BYTES = 512 * 1024
"""What may arrive before it is acknowledged at once: a fraction of a window, so that senders do not run dry."""

ACK_DELAY = 0.05
"""Seconds within which anything is acknowledged. An answer of the other end is not worth a packet of its own sooner."""

MAX_RESYNCS = 16
"""Times that one end may ask on one connection to have things sent again. An ordered connection needs none."""


@dataclass(frozen=True, slots=True)
class Deliver:
    """A message arrived."""

    data: str | bytes


@dataclass(frozen=True, slots=True)
class Resumed:
    """The other end said hello on a connection.

    `resent` messages are sent again, `dropped` ones were given up; `missed` ones of the other end will never come.
    `restarted`: it is another program than before.
    """

    resent: int
    dropped: int
    missed: int
    restarted: bool


@dataclass(frozen=True, slots=True)
class Missed:
    """The other end gave up that many messages which this end has not had."""

    count: int


@dataclass(frozen=True, slots=True)
class Closed:
    """The other end closed the channel. `reason` as in its frame."""

    reason: int


Effect = Deliver | Resumed | Missed | Closed


class ReplayEndpoint:
    """One end of a channel over all its connections.

    Frames go in with `receive` and come out of `next_frame`; `connected` and `disconnected` tell of connections. While
    `ack_owed` is true, `acknowledge` is to be called within `ACK_DELAY`. `holds_acks` is for the reader: while it is
    set, the other end's window fills, and it stops in time. With `serves_successors` another program in the place of
    the other end gets what the first one has not acknowledged.
    """

    def __init__(
        self,
        session: int,
        *,
        reliable: bool = True,
        max_messages: int = MAX_WINDOW_MESSAGES,
        max_bytes: int = MAX_WINDOW_BYTES,
        max_message: int = MAX_MESSAGE,
        serves_successors: bool = True,
    ) -> None:
        self.session = session
        self.reliable = reliable
        self.window = Window(reliable=reliable, max_messages=max_messages, max_bytes=max_bytes)
        self.remote_session = 0
        self.remote_knows = 0
        self.max_message = max_message
        self.remote_max_message: int | None = None
        self.greeted = False
        self.holds_acks = False
        self._serves_successors = serves_successors
        self._incoming: InOrder | AtMostOnce = InOrder(max_message) if reliable else AtMostOnce(max_message)
        self._control: deque[bytes] = deque()
        self._is_connected = False
        self._asked_again = False
        self._resyncs = 0
        self._unacked_messages = 0
        self._unacked_bytes = 0

    @property
    def duplicates(self) -> int:
        """Messages that arrived more than once, and were delivered once."""
        return self._incoming.duplicates

    @property
    def ack_owed(self) -> bool:
        """Tell whether something has arrived that the other end has not been told of."""
        return self.reliable and self._unacked_messages > 0

    @property
    def has_answers(self) -> bool:
        """Tell whether there is something to send that is no message."""
        return bool(self._control)

    def connected(self) -> None:
        """Say hello on a new connection."""
        self._is_connected = True
        self._resyncs = 0
        self._asked_again = False
        self._control.clear()
        self._say_hello()

    def remind(self) -> None:
        """Say hello again if there is no answer: on a lossy connection it may have been lost."""
        if self._is_connected and not self.greeted and not self.reliable:
            self._say_hello()

    def disconnected(self) -> None:
        """Take note that the connection is gone, and with it what is under way."""
        self._is_connected = self.greeted = False
        self._control.clear()
        self.window.connection_lost()
        if isinstance(self._incoming, AtMostOnce):
            self._incoming.connection_lost()

    def accept(self, payload: bytes, *, is_text: bool) -> None:
        """Take a message, for which there must be room, into the window."""
        self.window.put(payload, TEXT if is_text else 0)

    def give_up(self) -> int:
        """Drop everything that waits, and tell the other end. Return how many messages that is."""
        count = self.window.drop_all()
        if self._is_connected and self.reliable and count:
            self._control.append(encode_skip(self.window.base))
        return count

    def close(self, reason: int = 0) -> None:
        """Tell the other end that the channel is closed."""
        self._control.append(encode_close(reason))

    def next_frame(self, max_frame: int) -> bytes | None:
        """Return the next frame to send, None if there is none for now."""
        if self._control:
            return self._control.popleft()
        if self.greeted and self.window.has_more:
            return self.window.next_frame(max_frame)
        return None

    def next_farewell(self) -> bytes | None:
        """Return the next frame of those that are no messages, for an end that sends none any more."""
        return self._control.popleft() if self._control else None

    def acknowledge(self) -> None:
        """Tell the other end what has arrived, unless acknowledgements are held."""
        if self.ack_owed and self._is_connected and not self.holds_acks:
            self._unacked_messages = self._unacked_bytes = 0
            self._control.append(encode_ack(self._incoming.next))

    def receive(self, frame: bytes) -> Effect | None:
        """Take a frame. Return what it comes to.

        Raises:
            FrameError: the other end broke the rules; nothing it sends makes sense any more.
        """
        arrived = decode(frame)
        if type(arrived) is Part:  # nearly always, and a match costs more
            return self._take_part(arrived)
        match arrived:
            case Ack(next_number):
                self.window.acknowledge(next_number)
            case Hello() as hello:
                return self._take_hello(hello)
            case Skip(base):
                missed = self._incoming.skip(base)
                return Missed(missed) if missed else None
            case Close(reason):
                return Closed(reason)
        return None

    def _take_part(self, part: Part) -> Deliver | None:
        if not self.remote_session:
            if not self.reliable:  # it may overtake the hello, or that was lost
                return None
            raise FrameError("a message before the hello")
        payload = self._incoming.take(part)
        if self._incoming.gap:
            self._ask_again()
        if payload is None:
            if part.is_urgent or part.number < self._incoming.next:
                self._note_arrival(0, is_urgent=part.is_urgent)
            return None
        self._asked_again = False
        self._note_arrival(len(payload), is_urgent=part.is_urgent)
        if not part.is_text:
            return Deliver(payload)
        try:
            return Deliver(payload.decode())
        except UnicodeDecodeError:
            raise FrameError("text that is not UTF-8") from None

    def _note_arrival(self, size: int, *, is_urgent: bool) -> None:
        self._unacked_messages += 1
        self._unacked_bytes += size
        if is_urgent or self._unacked_messages >= ACK_MESSAGES or self._unacked_bytes >= ACK_BYTES:
            self.acknowledge()

    def _ask_again(self) -> None:
        """Say hello once more, once for each gap."""
        if not self._asked_again:
            self._asked_again = True
            self._count_resync()
            self._say_hello()

    def _take_hello(self, hello: Hello) -> Resumed:
        was_greeted, known = self.greeted, hello.known == self.session
        if was_greeted and self.reliable:
            self._count_resync()
        restarted = self.remote_session not in (0, hello.session)
        if hello.session != self.remote_session:
            missed, dropped = 0, self._meet(hello)
        else:
            missed, dropped = self._incoming.skip(hello.base), 0
        resent, lost = self.window.resume(hello, known=known)
        self.remote_knows = hello.known
        self.greeted = True
        if was_greeted and not known and not self.reliable:
            self._say_hello()  # it repeats itself: ours was lost
        return Resumed(resent, dropped + lost, missed, restarted)

    def _meet(self, hello: Hello) -> int:
        """Begin with a session of the other end that is new here. Return how many messages are too large for it."""
        is_successor, self.remote_session = self.remote_session != 0, hello.session
        self.remote_max_message = hello.max_message
        self._incoming.start(hello.base)
        self._unacked_messages = self._unacked_bytes = 0
        if is_successor and not self._serves_successors:
            return self.window.begin_anew()
        return self.window.drop_larger(hello.max_message)

    def _count_resync(self) -> None:
        self._resyncs += 1
        if self._resyncs > MAX_RESYNCS:
            raise FrameError(f"more than {MAX_RESYNCS} repetitions asked for on one connection")

    def _say_hello(self) -> None:
        self._unacked_messages = self._unacked_bytes = 0
        incoming = self._incoming
        known = self.remote_session
        self._control.append(
            encode_hello(Hello(self.session, self.window.base, known, incoming.next, incoming.offset, self.max_message))
        )
