"""A shorter way for datagrams between TLS and the socket of a connection.

aiortc and aioice read one datagram in each turn of the event loop, try to parse each as STUN first, and pass it on
through a queue and four coroutines; each one that is sent goes through five. Here the first byte identifies a datagram
(RFC 7983), one wake-up reads all that have arrived, up to a bound, media before data, and what is sent goes straight
from TLS to the socket. Nothing of this is visible on the wire.
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
"""Datagrams that one wake-up reads from a socket, and records that one turn of the event loop decrypts: about a
millisecond of work, so that media, timers and other connections get their turn."""

MAX_WAITING = 1024
"""Datagrams of each kind that wait between socket and TLS. More than `DRAIN` wait only while TLS is not up or a
handler of RTP is slow; further ones are dropped, as on any network."""

MAX_DATAGRAM = 65_536
"""Bytes read at once: no datagram is larger. asyncio allocates 256 KiB each time, which costs ten times as much as the
read."""

RECEIVE_BUFFER = 1024 * 1024
"""Receive buffer requested for a socket, in bytes. The system counts about 2,300 for a full packet: the 512 KiB of
aioice are 230 packets, which data at full speed fills in 5 ms, and then media is lost."""

MAX_RECORD = 1500
"""Bytes of a TLS record or of its content, as in aiortc."""

APPLICATION_DATA = 23
"""First byte of a DTLS 1.2 record with data (RFC 6347 section 4.1, RFC 5246 section 6.2.1)."""

RECORD_HEADER = 13

MAX_ARRIVAL = 2_048
"""Maximum size of a queued datagram. Anybody can send to a socket, and no peer sends more than a path carries."""

MAX_SRTP_SOURCES = 512
"""Sources of which SRTP keeps state, in a list that it searches for each packet. Some 30 media sections need as many,
with retransmissions and reports."""

MAX_RTCP_PACKETS = 32
"""RTCP packets in one datagram that are parsed. Browsers send five or six."""

MAX_EXTENSION_WORDS = 64
"""Words of 4 bytes in the header extensions of a packet (RFC 8285). Browsers send some 20; each element costs time."""

_RTCP = Struct("!2xH")
_log = logging.getLogger("metered_realtime")


class Done(Coroutine[Any, Any, None]):
    """A coroutine that has ended already: returned, to be awaited, by functions that suspend only sometimes."""

    def __await__(self) -> Generator[Any, Any, None]:
        return iter(())  # type: ignore[return-value]

    def send(self, value: Any) -> Any:
        raise StopIteration

    def throw(self, *error: Any) -> Any:
        raise error[0]

    def close(self) -> None:
        """Do nothing."""


DONE = Done()


class RecordReceiver(Protocol):
    """Receives the content of DTLS records, in batches of those that were read at once."""

    def begin_batch(self) -> None: ...
    def receive_packet(self, data: bytes) -> None: ...
    def end_batch(self) -> None: ...


class DatagramQueue:
    """Queues datagrams for TLS: replaces the queue of an aioice connection.

    Datagrams that are neither DTLS nor SRTP by their first byte (RFC 7983) are dropped: aiortc ignores them.
    """

    def __init__(self) -> None:
        self.records: deque[bytes] = deque()
        self.media: deque[bytes] = deque()
        self.dropped = 0
        self.ended = False
        self._waiter: asyncio.Future[None] | None = None

    def put(self, data: bytes) -> None:
        """Queue a datagram, or drop it."""
        first = data[0] if data else 0
        kind = self.records if 19 < first < 64 else self.media if 127 < first < 192 else None
        if kind is None or len(kind) >= MAX_WAITING or len(data) > MAX_ARRIVAL:
            self.dropped += 1
            return
        kind.append(data)
        self.wake()

    def wake(self) -> None:
        """Wake the waiter."""
        if self._waiter is not None:
            if not self._waiter.done():
                self._waiter.set_result(None)
            self._waiter = None

    async def wait(self) -> None:
        """Return when the queue has a datagram or has ended."""
        while not (self.records or self.media or self.ended):
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def put_nowait(self, item: tuple[bytes, int] | None) -> None:
        """Queue what aioice puts: a datagram with its component, or None at the end."""
        if item is None:
            self.ended = True
            self.wake()
        else:
            self.put(item[0])

    async def get(self) -> tuple[bytes, int] | None:
        """Return the next datagram with its component, None at the end. aioice calls it during the handshake."""
        await self.wait()
        for kind in (self.records, self.media):
            if kind:
                return kind.popleft(), 1
        return None


class SocketReceiver:
    """Reads the socket of a candidate: replaces `datagram_received` of its protocol.

    STUN and media are passed to aioice, where gates may be in place; DTLS goes to the queue. asyncio delivers one
    datagram, and the others that have arrived are read here if the transport is asyncio's own: that of uvloop reads
    several by itself, and one over TURN has no socket.
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
    """Sends on the candidate pair in use: replaces `send` of an aioice connection.

    It sends before it returns, unless `send_data` of the protocol has been replaced. Without a pair it uses the
    `former` one; without that datagrams are dropped while `is_paused`, as on any network.
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
        """Send several datagrams, looking up the pair once."""
        pair = self._pairs.get(1)
        if pair is None or getattr(pair.protocol.send_data, "__func__", None) is not StunProtocol.send_data:
            return one_by_one(self, datagrams)
        send, address = pair.protocol.transport.sendto, pair.remote_addr
        for datagram in datagrams:
            send(datagram, address)
        return DONE


def send_all(send: Any, datagrams: Sequence[bytes]) -> Coroutine[Any, Any, None]:
    """Send several datagrams, together if `send` can. Returns `DONE`, or a coroutine that has to be awaited."""
    together: Callable[[Sequence[bytes]], Coroutine[Any, Any, None]] | None = getattr(send, "send_all", None)
    return together(datagrams) if together is not None else one_by_one(send, datagrams)


async def one_by_one(send: Callable[[bytes], Awaitable[None]], datagrams: Iterable[bytes]) -> None:
    """Send datagrams one after the other."""
    for datagram in datagrams:
        await send(datagram)


class FastDtlsTransport(RTCDtlsTransport):
    """A DTLS transport that handles all waiting datagrams at once, and sends before it returns."""

    def quicken(self) -> None:
        """Initialise the attributes that aiortc's transport does not have. Call it before gathering."""
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
        """Handle all waiting datagrams, media first. aiortc handles one for each call.

        The handshake is left to aiortc, which repeats lost flights (RFC 6347 section 4.2.4).
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
        """Read the sockets without aioice from now on. Those that are added later use aioice until the next call."""
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
        """Return the contents of the records in a datagram: one record, except in handshakes."""
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
        """Decrypt and route SRTP or SRTCP, as aiortc does. An error costs that packet alone."""
        self._count_received(data)
        if not self._rx_srtp:
            return
        try:
            await (self._take_reports(data) if is_rtcp(data) else self._take_packet(data))
        except pylibsrtp.Error:
            return  # as in aiortc: not for this connection, or a duplicate
        except ConnectionError:
            raise
        except Exception as error:  # aiortc's parsers may raise anything for a malformed packet
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
        """Return whether SRTP may keep state of a source. Sources that no section receives are removed for it."""
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
        """Count a refused packet, and log the first one."""
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
        except SSL.Error as error:  # TLS is being shut down
            raise ConnectionError("TLS takes no more data") from error
        rest = self._transport._send(record)
        if rest is not DONE:
            late = asyncio.ensure_future(rest)
            self._late.add(late)
            late.add_done_callback(self._late.discard)
        inside._RTCDtlsTransport__tx_bytes += len(record)
        inside._RTCDtlsTransport__tx_packets += 1

    def send_media(self, packets: Iterable[bytes]) -> Coroutine[Any, Any, None]:
        """Encrypt and send RTP packets. Returns `DONE` if they are sent, or a coroutine that has to be awaited.

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
        """Send without suspending. aiortc goes through a chain of coroutines."""
        self.send_now(data)


def _extension_words(data: bytes) -> int:
    """Return the length of the header extensions of an RTP packet (RFC 3550 section 5.3.1), which are not encrypted."""
    if not data[0] & 0x10:
        return 0
    start = 12 + 4 * (data[0] & 0x0F)
    return int.from_bytes(data[start + 2 : start + 4])


def _count_reports(data: bytes) -> int:
    """Return the number of packets in a compound one (RFC 3550 section 6.1), from their lengths alone."""
    count = position = 0
    while position + 4 <= len(data):
        (words,) = _RTCP.unpack_from(data, position)
        position += 4 * words + 4
        count += 1
    return count


def _enlarge(transport: Any) -> None:
    """Request a larger receive buffer. The system grants what it allows."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        with suppress(OSError):  # some systems refuse sizes above their limit
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
