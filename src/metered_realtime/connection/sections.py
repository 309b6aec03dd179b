"""The media sections of a connection: what this end sends in one, and what arrives in one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aiortc import RTCPeerConnection
from aiortc.rtcrtpreceiver import RTCRtpReceiver

from ..aiortc_compat import peer_connection as compat
from ..aiortc_compat.rtcp_feedback import listen_to_feedback
from ..aiortc_compat.rtp_receiver import tap_receiver
from ..aiortc_compat.rtp_sender import send_shared_packets
from ..aiortc_compat.rtp_sources import keep_reporting
from ..core.media.sender_clock import SenderClock
from ..media.codecs.encoded import EncodedFrame, RtpTimeline, is_key_frame
from ..media.codecs.encoders import SendCodec
from ..media.receiving.remote_track import RemoteTrack
from ..media.sending.fanout import TrackFanout
from ..media.sending.forward_track import ForwardTrack


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A local track as a remote is sent it."""

    kind: str
    track_id: str
    stream_id: str | None
    fanout: TrackFanout


@dataclass(frozen=True, slots=True)
class Incoming:
    """A track that the remote sends, under the ids of its msid. It may be in several streams, or in none."""

    mid: str
    track: RemoteTrack
    track_id: str
    stream_ids: tuple[str, ...]

    @property
    def stream_id(self) -> str | None:
        """The first of its streams."""
        return self.stream_ids[0] if self.stream_ids else None


class SendingSection:
    """A section that this end sends in, or will: its transceiver, what it sends, and what the remote was told of it.

    `is_usable` until the remote has declined it for good.
    """

    def __init__(self, pc: RTCPeerConnection, kind: str) -> None:
        self.forward = ForwardTrack(kind)
        self.transceiver = compat.new_transceiver(pc, self.forward)
        self.retransmissions = listen_to_feedback(self.transceiver.sender, self.forward)
        send_shared_packets(self.transceiver.sender, self.forward)
        keep_reporting(self.transceiver.sender)
        self.is_usable = True
        self.outgoing: Outgoing | None = None
        self.planned: Outgoing | None = None
        self.told: Outgoing | None = None

    def assign(self, outgoing: Outgoing | None) -> None:
        if outgoing is not None:
            compat.set_sender_identity(self.transceiver, outgoing.stream_id, outgoing.track_id)
        else:
            self.told = None
        self.outgoing = outgoing
        self.forward.switch(outgoing.fanout if outgoing is not None else None)

    def choose_codec(self) -> None:
        """Send in what was negotiated first, whatever is sent in the course of time: aiortc's sender does."""
        self.forward.negotiated(SendCodec.of(compat.codecs(self.transceiver)[0]))

    def replace(self, outgoing: Outgoing) -> None:
        """Send another track under the same msid: the other end knows the section's track by it."""
        self.told = outgoing if self.told == self.outgoing else self.told
        self.planned = outgoing if self.planned == self.outgoing else self.planned
        self.outgoing = outgoing
        self.forward.switch(outgoing.fanout)

    @property
    def negotiated(self) -> bool:
        return self.transceiver.mid is not None


class ReceivingSection:
    """Where the frames of one receiving section go: to the track that the remote sends in it now, or nowhere."""

    def __init__(self, mid: str, receiver: RTCRtpReceiver) -> None:
        self.mid = mid
        self._kind = receiver.track.kind
        self._time_line = RtpTimeline()
        self._sender_clock = SenderClock()
        self._reported_of: tuple[int, int] | None = None  # the source, and the stretch of the time line
        self._early: tuple[int, float, int] | None = None  # a report that came before what it is of
        self._incoming: Incoming | None = None
        self._tap = tap_receiver(receiver, self)

    def update(self, ids: tuple[tuple[str, ...], str] | None) -> tuple[Incoming | None, Incoming | None]:
        """Note the ids under which the remote sends here, None if it does not. Return the removed and the added."""
        current = self._incoming
        if ids is not None and current is not None and (current.stream_ids, current.track_id) == ids:
            return None, None
        self.end()
        if ids is not None:
            stream_ids, track_id = ids
            track = RemoteTrack(self._kind, track_id, upstream=self._tap, sender_clock=self._sender_clock)
            self._incoming = Incoming(self.mid, track, track_id, stream_ids)
        return current, self._incoming

    def take(self, codec: Any, data: bytes, timestamp: int) -> None:
        """Take an encoded frame."""
        place = self._place(timestamp, codec)
        if self._incoming is not None:
            self._incoming.track.push_frame(EncodedFrame(codec, data, place, is_key_frame(codec, data)))

    def skipped(self, frames: int) -> None:
        """Count frames that nobody reads."""
        if self._incoming is not None:
            self._incoming.track.count_unread(frames)

    def passed(self, codec: Any, timestamp: int) -> None:
        """Follow the time and the codec of what nobody reads."""
        self._place(timestamp, codec)
        if self._incoming is not None:
            self._incoming.track.note_codec(codec)

    def reported(self, source: int, clock: float, timestamp: int) -> None:
        """Take a report of the source that was heard last: what has this timestamp was at a second of its clock."""
        at = self._time_line.second_of(timestamp)
        if at is None:
            self._early = source, clock, timestamp
            return
        self._early = None
        if self._reported_of != (source, self._time_line.leaps):
            self._reported_of = source, self._time_line.leaps
            self._sender_clock.reset()
        self._sender_clock.note_report(at, clock)

    def picture_lost(self) -> None:
        """Take note that a part of the video did not arrive."""
        if self._incoming is not None:
            self._incoming.track.picture_lost()

    def ended(self) -> None:
        """Take note that the receiver has stopped."""
        if self._incoming is not None:
            self._incoming.track.stop()

    def end(self) -> None:
        """End the current track."""
        if self._incoming is not None:
            self._incoming.track.stop()
            self._incoming = None

    def _place(self, timestamp: int, codec: Any) -> int:
        place = self._time_line.place_frame(timestamp, codec.clockRate)
        if self._early is not None:
            early, self._early = self._early, None
            self.reported(*early)
            self._early = None
        return place
