"""Datagrams to and from the socket of a connection, with little in between.

aiortc and aioice read one datagram for each turn of the event loop, try to parse each as STUN first, and pass it on
through a queue and four coroutines; each one that is sent goes through five. Here the first byte tells what a datagram
is (RFC 7983), a wake-up takes all that have come up to a bound, media before data, and what is sent goes straight from
TLS to the socket. Nothing of this shows on the wire.

tests/aiortc_compat/test_dtls.py fails when a release moves something underneath.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Sequence
from contextlib import suppress
from struct import Struct
from typing import Any, Protocol

import pylibsrtp
from aioice.ice import StunProtocol
from aiortc import clock
from aiortc.rtcdtlstransport import RTCDtlsTransport, State
from aiortc.rtp import is_rtcp
from OpenSSL import SSL

DRAIN = 32
"""Datagrams that a wake-up takes from a socket, and records that a turn of the event loop decrypts: about a
millisecond of work, so that media, timers and other connections have their turn."""

MAX_WAITING = 1024
"""Datagrams of each kind that wait between socket and TLS. There are more than `DRAIN` only while TLS is not up or a
handler of RTP takes its time; beyond that they stay where they are lost as on any network."""

MAX_DATAGRAM = 65_536
"""Bytes read at once: no datagram is larger. asyncio makes room for 256 KiB each time, which costs ten times as much
as the reading."""

RECEIVE_BUFFER = 1024 * 1024
"""Bytes that the system is asked to hold of a socket, of which it counts about 2,300 for a full packet. The 512 KiB of
aioice are 230 packets: data at full speed fills them in 5 ms, and then media is lost."""

MAX_RECORD = 1500
"""Bytes of a TLS record or of its content, as in aiortc."""

APPLICATION_DATA = 23
"""First byte of a DTLS 1.2 record with data (RFC 6347 section 4.1, RFC 5246 section 6.2.1)."""

RECORD_HEADER = 13

MAX_ARRIVAL = 2_048
"""Bytes of a datagram that is kept until TLS or SRTP takes it. Anybody can send to a socket, and no peer sends more
than a path carries."""

MAX_SRTP_SOURCES = 512
"""Sources of which SRTP keeps state: it looks for the one of a packet in a list. Some 30 media sections have as many
with retransmissions and reports."""

MAX_RTCP_PACKETS = 32
"""RTCP packets in one datagram that are parsed. Browsers put together five or six."""

MAX_EXTENSION_WORDS = 64
"""Words of 4 bytes in the header extensions of a packet (RFC 8285). Browsers send some 20; each element costs time."""

_RTCP = Struct("!2xH")
_log = logging.getLogger("metered_realtime")


class Done(Coroutine[Any, Any, None]):
    """A coroutine that has nothing left to do: what a function returns that may have to be awaited, and was not."""

    def __await__(self) -> Generator[Any, Any, None]:
        return iter(())  # type: ignore[return-value]

    def send(self, value: Any) -> Any:
        raise StopIteration

    def throw(self, *error: Any) -> Any:
        raise error[0]

    def close(self) -> None:
        """There is nothing to close."""


DONE = Done()


class RecordReceiver(Protocol):
    """Receives the content of DTLS records, in batches of those that were read at once."""

    def begin_batch(self) -> None: ...
    def receive_packet(self, data: bytes) -> None: ...
    def end_batch(self) -> None: ...


class DatagramQueue:
    """Holds what has arrived until TLS takes it: stands in for the queue of an aioice connection.

    What is neither DTLS nor SRTP by its first byte (RFC 7983) is dropped: aiortc ignores it further up.
    """

    def __init__(self) -> None:
        self.records: deque[bytes] = deque()
        self.media: deque[bytes] = deque()
        self.dropped = 0
        self.ended = False
        self._waiter: asyncio.Future[None] | None = None

    def put(self, data: bytes) -> None:
        """Take a datagram."""
        first = data[0] if data else 0
        kind = self.records if 19 < first < 64 else self.media if 127 < first < 192 else None
        if kind is None or len(kind) >= MAX_WAITING or len(data) > MAX_ARRIVAL:
            self.dropped += 1
            return
        kind.append(data)
        self.wake()

    def wake(self) -> None:
        """Wake who waits."""
        if self._waiter is not None:
            if not self._waiter.done():
                self._waiter.set_result(None)
            self._waiter = None

    async def wait(self) -> None:
        """Return when there is something, or nothing comes any more."""
        while not (self.records or self.media or self.ended):
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def put_nowait(self, item: tuple[bytes, int] | None) -> None:
        """Take what aioice has for its queue: a datagram with its component, or None at the end."""
        if item is None:
            self.ended = True
            self.wake()
        else:
            self.put(item[0])

    async def get(self) -> tuple[bytes, int] | None:
        """Return what aioice expects of its queue. Serves until the handshake is through."""
        await self.wait()
        for kind in (self.records, self.media):
            if kind:
                return kind.popleft(), 1
        return None


class SocketReceiver:
    """Takes what the socket of a candidate receives: stands in for `datagram_received` of its protocol.

    STUN and media go by aioice, where others may stand in between, TLS goes to the arrived. asyncio hands over one
    datagram; the others that have come are read here, where the transport is asyncio's own: that of uvloop reads
    several at once by itself, one over TURN has no socket.
    """

    def __init__(self, protocol: StunProtocol, arrived: DatagramQueue) -> None:
        self._arrived = arrived
        self._connection = protocol.receiver
        self._pass_on = protocol.datagram_received
        self._error_received = protocol.error_received
        transport: Any = protocol.transport
        sock = getattr(transport, "_sock", None)
        self._read: Callable[[int], tuple[bytes, Any]] | None = getattr(sock, "recvfrom", None)
        if self._read is not None and hasattr(transport, "max_size"):
            transport.max_size = MAX_DATAGRAM

    def __call__(self, data: bytes, address: Any) -> None:
        self._sort(data, address)
        if self._read is None:
            return
        try:
            for _ in range(DRAIN - 1):
                self._sort(*self._read(MAX_DATAGRAM))
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self._error_received(error)

    def _sort(self, data: bytes, address: Any) -> None:
        first = data[0] if data else 0
        if 19 < first < 64:
            self._arrived.put(data)
        elif first > 127:
            self._connection.data_received(data, 1)
        else:
            self._pass_on(data, address)


class PairSender:
    """Sends on the pair in use: stands in for `send` of an aioice connection.

    It has sent before it returns, unless somebody put another `send_data` in the protocol's place. Without a pair the
    `former` one serves; without that too, what is sent is lost while `is_paused`, as on any network.
    """

    def __init__(self, connection: Any) -> None:
        self.former: Any = None
        self.is_paused = False
        self._pairs = connection._nominated
        self._pair: Any = None
        self._address: Any = None

    def __call__(self, data: bytes) -> Coroutine[Any, Any, None]:
        pair = self._pairs.get(1) or self.former
        if pair is None:
            if self.is_paused:
                return DONE
            raise ConnectionError("Cannot send data, not connected")
        if pair is not self._pair:
            self._pair, self._address = pair, pair.remote_addr
        protocol = pair.protocol
        if getattr(protocol.send_data, "__func__", None) is StunProtocol.send_data:
            protocol.transport.sendto(data, self._address)
            return DONE
        return protocol.send_data(data, self._address)  # type: ignore[no-any-return]

    def send_all(self, datagrams: Sequence[bytes]) -> Coroutine[Any, Any, None]:
        """Send several as `__call__` sends one, but look for the way once."""
        pair = self._pairs.get(1)
        if pair is None or getattr(pair.protocol.send_data, "__func__", None) is not StunProtocol.send_data:
            return one_by_one(self, datagrams)
        send, address = pair.protocol.transport.sendto, pair.remote_addr
        for datagram in datagrams:
            send(datagram, address)
        return DONE


def send_all(send: Any, datagrams: Sequence[bytes]) -> Coroutine[Any, Any, None]:
    """Send several datagrams, at once if what sends can do that. What is returned is `DONE` or has to be awaited."""
    together: Callable[[Sequence[bytes]], Coroutine[Any, Any, None]] | None = getattr(send, "send_all", None)
    return together(datagrams) if together is not None else one_by_one(send, datagrams)


async def one_by_one(send: Callable[[bytes], Awaitable[None]], datagrams: Iterable[bytes]) -> None:
    """Send datagrams in turn."""
    for datagram in datagrams:
        await send(datagram)


class FastDtlsTransport(RTCDtlsTransport):
    """A DTLS transport that takes all that has come at once, and sends before it returns."""

    def quicken(self) -> None:
        """Set up what aiortc's transport does not have. Call it before anything is gathered."""
        path: Any = self._transport
        connection = path._connection
        self._arrived = connection._queue = DatagramQueue()
        self._connection = connection
        self._tapped: set[Any] = set()
        self._late: set[asyncio.Future[None]] = set()
        self._srtp_sources: set[bytes] = set()
        self.media_refused = 0
        self.pair_sender = path._send = PairSender(connection)

    async def _recv_next(self) -> None:
        """Take what has come, media first: replaces one datagram for each call.

        The handshake is left to aiortc, which repeats flights that were lost (RFC 6347 section 4.2.4).
        """
        inside: Any = self
        if not inside._RTCDtlsTransport__handshake_done:
            await super()._recv_next()
            return
        arrived = self._arrived
        self._tap_sockets()
        await arrived.wait()
        for _ in range(min(DRAIN, len(arrived.media))):
            await self._take_media(arrived.media.popleft())
        await self._take_records()
        if arrived.records or arrived.media:
            await asyncio.sleep(0)
        elif arrived.ended:
            raise ConnectionError("Connection lost while receiving data")

    def _tap_sockets(self) -> None:
        """Have the sockets bypass aioice from now on. Those that are added later go through it, into the arrived."""
        for protocol in self._connection._protocols:
            if protocol not in self._tapped:
                self._tapped.add(protocol)
                protocol.datagram_received = SocketReceiver(protocol, self._arrived)
                _enlarge(protocol.transport)

    async def _take_records(self) -> None:
        receiver: Any = self._data_receiver
        batches: RecordReceiver | None = receiver if hasattr(receiver, "receive_packet") else None
        records = self._arrived.records
        if batches is not None:
            batches.begin_batch()
        try:
            for _ in range(min(DRAIN, len(records))):
                data = records.popleft()
                self._count_received(data)
                for content in self._decrypt(data):
                    if batches is not None:
                        batches.receive_packet(content)
                    elif receiver is not None:
                        await receiver._handle_data(content)
                if data[0] != APPLICATION_DATA:
                    await self._write_ssl()
        except ConnectionError:
            await self._write_ssl()
            raise
        finally:
            if batches is not None:
                batches.end_batch()

    def _decrypt(self, data: bytes) -> list[bytes]:
        """Return what the records of a datagram contain: one, but for handshakes."""
        tls: Any = self._ssl
        tls.bio_write(data)
        contents: list[bytes] = []
        try:
            while True:
                contents.append(tls.recv(MAX_RECORD))
                if len(data) < RECORD_HEADER or RECORD_HEADER + (data[11] << 8 | data[12]) >= len(data):
                    return contents
        except SSL.ZeroReturnError:
            raise ConnectionError("TLS was shut down by the other end") from None
        except SSL.Error:
            return contents

    async def _take_media(self, data: bytes) -> None:
        """Decrypt and route SRTP or SRTCP, as aiortc does. What it trips over costs that packet alone."""
        self._count_received(data)
        if not self._rx_srtp:
            return
        try:
            await (self._take_reports(data) if is_rtcp(data) else self._take_packet(data))
        except pylibsrtp.Error:
            return  # as aiortc does: it was not for us, or came twice
        except ConnectionError:
            raise
        except Exception as error:  # aiortc's parsers raise whatever a packet makes them trip over
            self._refuse_media(error)

    async def _take_packet(self, data: bytes) -> None:
        arrival_time_ms = clock.current_ms()
        source = data[8:12]
        if len(data) > MAX_RECORD or _extension_words(data) > MAX_EXTENSION_WORDS or not self._has_room_for(source):
            self._refuse_media()
            return
        packet = self._rx_srtp.unprotect(data)
        self._srtp_sources.add(source)
        await self._handle_rtp_data(packet, arrival_time_ms=arrival_time_ms)

    async def _take_reports(self, data: bytes) -> None:
        source = data[4:8]
        if len(data) > MAX_RECORD or not self._has_room_for(source):
            self._refuse_media()
            return
        packets = self._rx_srtp.unprotect_rtcp(data)
        self._srtp_sources.add(source)
        if _count_reports(packets) > MAX_RTCP_PACKETS:
            self._refuse_media()
            return
        await self._handle_rtcp_data(packets)

    def _has_room_for(self, source: bytes) -> bool:
        """Return whether SRTP may keep state of a source. Those that no section receives from make room for it."""
        known = self._srtp_sources
        if source in known or len(known) < MAX_SRTP_SOURCES:
            return True
        inside: Any = self
        routed = self._rtp_router.ssrc_table
        for other in [it for it in known if int.from_bytes(it) not in routed]:
            known.discard(other)
            with suppress(pylibsrtp.Error):
                inside._rx_srtp.remove_stream(int.from_bytes(other))
        return len(known) < MAX_SRTP_SOURCES

    def _refuse_media(self, error: Exception | None = None) -> None:
        """Count a packet that is not taken, and tell of the first one."""
        self.media_refused += 1
        if self.media_refused == 1:
            _log.warning("media packets of the remote refused: malformed, or too much in them", exc_info=error)

    def _count_received(self, data: bytes) -> None:
        inside: Any = self
        inside._RTCDtlsTransport__rx_bytes += len(data)
        inside._RTCDtlsTransport__rx_packets += 1

    def send_now(self, data: bytes) -> None:
        """Encrypt and send.

        Raises:
            ConnectionError: TLS is not up, or there is no path.
        """
        if self._state is not State.CONNECTED:
            raise ConnectionError("Cannot send encrypted data, not connected")
        inside: Any = self
        tls = inside._ssl
        try:
            tls.send(data)
            record = tls.bio_read(MAX_RECORD)
        except SSL.Error as error:  # it is being shut down
            raise ConnectionError("TLS takes no more data") from error
        rest = self._transport._send(record)
        if rest is not DONE:
            late = asyncio.ensure_future(rest)
            self._late.add(late)
            late.add_done_callback(self._late.discard)
        inside._RTCDtlsTransport__tx_bytes += len(record)
        inside._RTCDtlsTransport__tx_packets += 1

    def send_media(self, packets: Iterable[bytes]) -> Coroutine[Any, Any, None]:
        """Protect packets of RTP and send them. What is returned is `DONE` if they have left, else to be awaited.

        Raises:
            ConnectionError: TLS is not up, or there is no path.
        """
        if self._state is not State.CONNECTED:
            raise ConnectionError("Cannot send encrypted RTP, not connected")
        inside: Any = self
        protect = inside._tx_srtp.protect
        datagrams = [protect(packet) for packet in packets]
        rest = send_all(self._transport._send, datagrams)
        inside._RTCDtlsTransport__tx_bytes += sum(map(len, datagrams))
        inside._RTCDtlsTransport__tx_packets += len(datagrams)
        return rest

    async def _send_data(self, data: bytes) -> None:
        """Send without ever suspending: replaces a chain of coroutines."""
        self.send_now(data)


def _extension_words(data: bytes) -> int:
    """Return how long the header extensions of an RTP packet are (RFC 3550 section 5.3.1). They are not encrypted."""
    if not data[0] & 0x10:
        return 0
    start = 12 + 4 * (data[0] & 0x0F)
    return int.from_bytes(data[start + 2 : start + 4])


def _count_reports(data: bytes) -> int:
    """Return how many packets are in a compound one (RFC 3550 section 6.1), by their lengths alone."""
    count = position = 0
    while position + 4 <= len(data):
        (words,) = _RTCP.unpack_from(data, position)
        position += 4 * words + 4
        count += 1
    return count


def _enlarge(transport: Any) -> None:
    """Ask the system to hold more. It gives what it allows."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        with suppress(OSError):  # some systems refuse what is above their limit
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
