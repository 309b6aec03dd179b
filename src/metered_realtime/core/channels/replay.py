"""One end of a managed channel: messages are numbered, kept, and sent again until they have arrived.

An end has an instance id, a window of messages that the other end has not acknowledged, and a position in the messages
of the other end. On each new connection both ends send a hello with their position: sending resumes there, within a
large message if necessary. An end with another instance id is another program: it has received nothing, and is sent
every message that its predecessor has not acknowledged. If messages are of use to the predecessor only, they are
dropped instead, and the successor is sent those accepted from then on.

Invariants: messages are sent in the order of their numbers; a reliable receiver delivers numbers in order and each
once, whatever is repeated; the messages kept never exceed the window, except for a single larger one. Nothing but the
own hello is sent on a connection before the hello of the other end has arrived.

A lossy channel forgets a message as soon as it is sent, and drops those that wait when the connection is lost.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from .frames import (
    TEXT,
    AckFrame,
    ChannelFrameError,
    CloseFrame,
    HelloFrame,
    MessagePart,
    SkipFrame,
    decode,
    encode_ack,
    encode_close,
    encode_hello,
    encode_skip,
)
from .reassembly import AtMostOnce, InOrder
from .send_window import MAX_WINDOW_BYTES, MAX_WINDOW_MESSAGES, Window

MAX_MESSAGE = 64 * 1024 * 1024
"""Maximum message size in bytes, sent and received. Larger content is sent as a file."""

ACK_MESSAGES = 64
ACK_BYTES = 512 * 1024
"""Unacknowledged data that triggers an acknowledgement at once: a fraction of a window, so that it never fills up."""

ACK_DELAY = 0.05
"""Maximum delay of an acknowledgement, in seconds. Until then it may share a packet with other frames."""

MAX_RESYNCS = 16
"""Repetitions that an end may request on one connection. An ordered connection needs none."""


@dataclass(frozen=True, slots=True)
class Deliver:
    """A message arrived."""

    data: str | bytes


@dataclass(frozen=True, slots=True)
class Resumed:
    """The hello of the other end arrived on a connection.

    `resent` messages are sent again, and `dropped` ones were dropped; `missed` messages of the other end will never
    arrive. `restarted`: the other end is another program than before.
    """

    resent: int
    dropped: int
    missed: int
    restarted: bool


@dataclass(frozen=True, slots=True)
class Missed:
    """The other end dropped `count` messages that have not arrived here."""

    count: int


@dataclass(frozen=True, slots=True)
class Closed:
    """The other end closed the channel. `reason` is that of its frame."""

    reason: int


Effect = Deliver | Resumed | Missed | Closed


class ReplayEndpoint:
    """One end of a channel over all its connections.

    Pass arriving frames to `receive`, and send those that `next_frame` returns; report connections with `connected` and
    `disconnected`. While `ack_owed` is true, call `acknowledge` within `ACK_DELAY`. Set `holds_acks` while the reader
    is behind: the window of the other end then fills up, and its sender waits. With `serves_successors`, a program that
    replaces the other end is sent the messages that its predecessor has not acknowledged.
    """

    def __init__(
        self,
        instance_id: int,
        *,
        reliable: bool = True,
        max_messages: int = MAX_WINDOW_MESSAGES,
        max_bytes: int = MAX_WINDOW_BYTES,
        max_message: int = MAX_MESSAGE,
        serves_successors: bool = True,
    ) -> None:
        self.instance_id = instance_id
        self.reliable = reliable
        self.window = Window(reliable=reliable, max_messages=max_messages, max_bytes=max_bytes)
        self.remote_instance_id = 0
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
        """Messages that arrived again after their delivery."""
        return self._incoming.duplicates

    @property
    def ack_owed(self) -> bool:
        """Whether messages have arrived that are not acknowledged yet."""
        return self.reliable and self._unacked_messages > 0

    @property
    def has_answers(self) -> bool:
        """Whether a control frame waits to be sent."""
        return bool(self._control)

    def connected(self) -> None:
        """Start on a new connection with a hello."""
        self._is_connected = True
        self._resyncs = 0
        self._asked_again = False
        self._control.clear()
        self._say_hello()

    def remind(self) -> None:
        """Repeat an unanswered hello, which may have been lost on a lossy connection."""
        if self._is_connected and not self.greeted and not self.reliable:
            self._say_hello()

    def disconnected(self) -> None:
        """Handle the loss of the connection and of the frames in flight."""
        self._is_connected = self.greeted = False
        self._control.clear()
        self.window.connection_lost()
        if isinstance(self._incoming, AtMostOnce):
            self._incoming.connection_lost()

    def accept(self, payload: bytes, *, is_text: bool) -> None:
        """Add a message to the window, which must have room."""
        self.window.put(payload, TEXT if is_text else 0)

    def give_up(self) -> int:
        """Drop every message in the window and tell the other end. Return the number of messages."""
        count = self.window.drop_all()
        if self._is_connected and self.reliable and count:
            self._control.append(encode_skip(self.window.base))
        return count

    def close(self, reason: int = 0) -> None:
        """Queue a close frame."""
        self._control.append(encode_close(reason))

    def next_frame(self, max_frame: int) -> bytes | None:
        """Return the next frame to send, None if there is none now."""
        if self._control:
            return self._control.popleft()
        if self.greeted and self.window.has_more:
            return self.window.next_frame(max_frame)
        return None

    def next_farewell(self) -> bytes | None:
        """Return the next control frame, for an end that has stopped sending messages. None if there is none."""
        return self._control.popleft() if self._control else None

    def acknowledge(self) -> None:
        """Queue an acknowledgement, unless acknowledgements are held back."""
        if self.ack_owed and self._is_connected and not self.holds_acks:
            self._unacked_messages = self._unacked_bytes = 0
            self._control.append(encode_ack(self._incoming.next))

    def receive(self, frame: bytes) -> Effect | None:
        """Process a frame. Return its effect, None if there is none.

        Raises:
            ChannelFrameError: the other end violated the protocol. The channel cannot continue.
        """
        arrived = decode(frame)
        if type(arrived) is MessagePart:  # the common case; a match statement is slower
            return self._receive_part(arrived)
        match arrived:
            case AckFrame(next_number):
                self.window.acknowledge(next_number)
            case HelloFrame() as hello:
                return self._receive_hello(hello)
            case SkipFrame(base):
                missed = self._incoming.skip(base)
                return Missed(missed) if missed else None
            case CloseFrame(reason):
                return Closed(reason)
        return None

    def _receive_part(self, part: MessagePart) -> Deliver | None:
        if not self.remote_instance_id:
            if not self.reliable:  # it may have overtaken the hello, or the hello was lost
                return None
            raise ChannelFrameError("a message before the hello")
        payload = self._incoming.add_part(part)
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
            raise ChannelFrameError("text that is not UTF-8") from None

    def _note_arrival(self, size: int, *, is_urgent: bool) -> None:
        self._unacked_messages += 1
        self._unacked_bytes += size
        if is_urgent or self._unacked_messages >= ACK_MESSAGES or self._unacked_bytes >= ACK_BYTES:
            self.acknowledge()

    def _ask_again(self) -> None:
        """Request repetition with another hello, once for each gap."""
        if not self._asked_again:
            self._asked_again = True
            self._count_resync()
            self._say_hello()

    def _receive_hello(self, hello: HelloFrame) -> Resumed:
        was_greeted, known = self.greeted, hello.known == self.instance_id
        if was_greeted and self.reliable:
            self._count_resync()
        restarted = self.remote_instance_id not in (0, hello.instance_id)
        if hello.instance_id != self.remote_instance_id:
            missed, dropped = 0, self._meet(hello)
        else:
            missed, dropped = self._incoming.skip(hello.base), 0
        resent, lost = self.window.resume(hello, known=known)
        self.remote_knows = hello.known
        self.greeted = True
        if was_greeted and not known and not self.reliable:
            self._say_hello()  # the other end repeats its hello, so this end's was lost
        return Resumed(resent, dropped + lost, missed, restarted)

    def _meet(self, hello: HelloFrame) -> int:
        """Start with a new instance of the other end. Return the number of messages dropped because of it."""
        is_successor, self.remote_instance_id = self.remote_instance_id != 0, hello.instance_id
        self.remote_max_message = hello.max_message
        self._incoming.start(hello.base)
        self._unacked_messages = self._unacked_bytes = 0
        if is_successor and not self._serves_successors:
            return self.window.drop_for_successor()
        return self.window.drop_larger(hello.max_message)

    def _count_resync(self) -> None:
        self._resyncs += 1
        if self._resyncs > MAX_RESYNCS:
            raise ChannelFrameError(f"more than {MAX_RESYNCS} repetitions requested on one connection")

    def _say_hello(self) -> None:
        self._unacked_messages = self._unacked_bytes = 0
        incoming = self._incoming
        known = self.remote_instance_id
        self._control.append(
            encode_hello(
                HelloFrame(self.instance_id, self.window.base, known, incoming.next, incoming.offset, self.max_message)
            )
        )
