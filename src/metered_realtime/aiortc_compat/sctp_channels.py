"""Data channels above an SCTP association: aiortc's, with a fair queue, and without a task for each message.

Opening channels (RFC 8832) and resetting their streams (RFC 6525) stay aiortc's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from aiortc import RTCDataChannel
from aiortc.rtcsctptransport import (
    RECONFIG_MAX_STREAMS,
    WEBRTC_BINARY,
    WEBRTC_BINARY_EMPTY,
    WEBRTC_DCEP,
    WEBRTC_STRING,
    WEBRTC_STRING_EMPTY,
    RTCSctpTransport,
)

from ..core.sctp.congestion import CHUNK_SIZE
from ..core.sctp.outbound import FairQueue, Outbound, PartialReliability
from .dcep import open_message
from .dtls import DONE

_log = logging.getLogger("metered_realtime")
_EMPTY: dict[int, str | bytes] = {WEBRTC_STRING_EMPTY: "", WEBRTC_BINARY_EMPTY: b""}


class SctpDataChannels(RTCSctpTransport):
    """The data channels of `FastSctpTransport`: messages in both directions, and streams that are reset."""

    _event_loop: asyncio.AbstractEventLoop
    _outbound: Outbound

    def quicken_channels(self) -> None:
        """Initialise the attributes that aiortc's transport does not have."""
        inside: Any = self
        inside._data_channel_queue = FairQueue()
        self._flush_handle: asyncio.Handle | None = None
        self._freed: dict[RTCDataChannel, int] = {}
        self.packets_malformed = 0

    def _send_all(self) -> None:
        """Send everything that is due and allowed."""
        raise NotImplementedError

    # --- messages that arrive

    def _deliver(self, stream_id: int, protocol: int, data: bytes) -> None:
        work: Any = self._data_channel_receive(stream_id, protocol, data)
        if work is not DONE:
            run_now(work)

    def _data_channel_receive(self, stream_id: int, pp_id: int, data: bytes) -> Coroutine[Any, Any, None]:
        """Emit a message at once, without a coroutine. DCEP (RFC 8832) is left to aiortc.

        An exception of a listener goes to the event loop's exception handler; it would close the DTLS transport. Text
        that is not UTF-8 is only counted, as the remote can send any number of such messages.
        """
        channel = self._data_channels.get(stream_id)
        if channel is None or pp_id == WEBRTC_DCEP:
            return super()._data_channel_receive(stream_id, pp_id, data)
        try:
            text = data.decode() if pp_id == WEBRTC_STRING else None
        except UnicodeDecodeError as error:
            self._malformed(error)
            return DONE
        try:
            if pp_id == WEBRTC_BINARY:
                channel.emit("message", data)
            elif text is not None:
                channel.emit("message", text)
            elif pp_id in _EMPTY:
                channel.emit("message", _EMPTY[pp_id])
        except Exception as error:
            self._report("a listener of a data channel raised an exception", error)
        return DONE

    def _report(self, what: str, error: Exception) -> None:
        self._event_loop.call_exception_handler({"message": what, "exception": error})

    def _malformed(self, error: Exception | None = None) -> None:
        """Count a malformed packet, and log the first one."""
        self.packets_malformed += 1
        if self.packets_malformed == 1:
            _log.warning("SCTP packets of the remote refused: malformed, or too many chunks", exc_info=error)

    # --- messages that are sent

    def _data_channel_open(self, channel: RTCDataChannel) -> None:
        """Queue the message that opens a channel. aiortc counts characters where `open_message` counts bytes."""
        if channel.id is not None:
            if channel.id in self._data_channels:
                raise ValueError(f"Data channel with ID {channel.id} already registered")
            self._data_channels[channel.id] = channel
        self._data_channel_queue.append((channel, WEBRTC_DCEP, open_message(channel)))
        if self._flush_handle is None:
            self._flush_handle = self._event_loop.call_soon(self._flush)

    def _data_channel_send(self, channel: RTCDataChannel, data: bytes | str) -> None:
        """Queue a message. Those of one turn of the event loop are sent together, without a task for each."""
        if isinstance(data, str):
            protocol, payload = (WEBRTC_STRING, data.encode()) if data else (WEBRTC_STRING_EMPTY, b"\0")
        else:
            protocol, payload = (WEBRTC_BINARY, data) if data else (WEBRTC_BINARY_EMPTY, b"\0")
        size = len(payload)
        if self._remote_max_message_size and size > self._remote_max_message_size:
            raise ValueError(
                f"Cannot send message of {size} bytes, the remote party only supports messages up to "
                f"{self._remote_max_message_size} bytes"
            )
        channel._addBufferedAmount(size)
        self._data_channel_queue.append((channel, protocol, payload))
        if self._flush_handle is None:
            self._flush_handle = self._event_loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_handle = None
        self._send_all()

    async def _data_channel_flush(self) -> None:
        """Send what is queued: called by aiortc."""
        self._send_all()

    def _take_message(self) -> bool:
        """Make chunks of the next message. Return False if there is none, or the association is not established."""
        if not self._data_channel_queue or self._association_state != self.State.ESTABLISHED:
            return False
        channel, protocol, data = self._data_channel_queue.popleft()
        stream_id = channel.id
        if stream_id is None:
            stream_id = self._announce(channel)
        if protocol == WEBRTC_DCEP:
            self._queue_chunks(stream_id, protocol, data)
            return True
        lifetime, retransmits = channel.maxPacketLifeTime, channel.maxRetransmits
        reliability = None
        if lifetime or retransmits is not None:
            reliability = PartialReliability(
                retransmits, self._event_loop.time() + lifetime / 1000 if lifetime else None
            )
        self._queue_chunks(stream_id, protocol, data, reliability, ordered=channel.ordered)
        self._freed[channel] = self._freed.get(channel, 0) + len(data)
        return True

    def _announce(self, channel: RTCDataChannel) -> int:
        """Assign a stream to a channel (RFC 8832 section 6) once the DTLS role is known, as in aiortc."""
        stream_id = self._data_channel_id
        assert stream_id is not None
        while stream_id in self._data_channels:
            stream_id += 2
        self._data_channels[stream_id] = channel
        channel._setId(stream_id)
        return stream_id

    def _queue_chunks(
        self,
        stream_id: int,
        protocol: int,
        data: bytes,
        reliability: PartialReliability | None = None,
        *,
        ordered: bool = True,
    ) -> None:
        sequence = None
        if ordered:
            sequence = self._outbound_stream_seq.get(stream_id, 0)
            self._outbound_stream_seq[stream_id] = (sequence + 1) & 0xFFFF
        self._outbound.add(data, CHUNK_SIZE, stream_id, sequence, protocol, reliability)

    def _tell_freed(self) -> None:
        """Subtract what was sent from the buffered amounts, once for each channel. Listeners may send more."""
        freed, self._freed = self._freed, {}
        for channel, amount in freed.items():
            try:
                channel._addBufferedAmount(-amount)
            except Exception as error:
                self._report("a listener of bufferedamountlow raised an exception", error)

    def _take_turns(self) -> None:
        """Restore the fair queue: aiortc replaces it by a deque when a channel closes before this."""
        inside: Any = self
        if not isinstance(inside._data_channel_queue, FairQueue):
            inside._data_channel_queue, waiting = FairQueue(), inside._data_channel_queue
            for message in waiting:
                inside._data_channel_queue.append(message)

    # --- streams that are reset

    async def _transmit_reconfig(self) -> None:
        """Reset streams. aiortc walks through every queued message for it."""
        streams, queue = self._reconfig_queue[:RECONFIG_MAX_STREAMS], self._data_channel_queue
        if not streams or self._reconfig_request or not isinstance(queue, FairQueue):
            return
        if {channel.id for channel in queue.channels()}.intersection(streams):
            return
        inside: Any = self
        inside._data_channel_queue = ()  # no queued message concerns these streams
        try:
            await super()._transmit_reconfig()
        finally:
            inside._data_channel_queue = queue

    async def _send_reconfig_param(self, param: Any) -> None:
        with suppress(ConnectionError):  # the path is lost; aiortc sends these in tasks that are not awaited
            await super()._send_reconfig_param(param)


def run_now(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine of aiortc to its end. It only awaits sending, which does not suspend here."""
    try:
        work.send(None)
    except StopIteration:
        return
    work.close()
    raise RuntimeError(f"{work!r} was expected not to suspend")
