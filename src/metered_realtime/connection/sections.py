"""The media sections of a connection, at the sending and at the receiving end."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from aiortc import RTCPeerConnection, RTCRtpTransceiver
from aiortc.rtcrtpreceiver import RTCRtpReceiver

from ..aiortc_compat import transceivers
from ..aiortc_compat.rtcp_feedback import listen_to_feedback
from ..aiortc_compat.rtp_receiver import tap_receiver
from ..aiortc_compat.rtp_sender import send_shared_packets
from ..aiortc_compat.rtp_sources import keep_reporting
from ..aiortc_compat.stats import receiver_stats, sender_stats
from ..aiortc_compat.transceivers import new_transceiver, prefer_codec, set_sender_identity, use_sender
from ..core.media.sender_clock import SenderClock
from ..core.negotiation.sdp import Section
from ..core.negotiation.sharing import Sharing
from ..media.codecs.encoded import EncodedFrame, RtpTimeline, is_key_frame
from ..media.codecs.encoders import SendCodec
from ..media.receiving.remote_track import RemoteTrack
from ..media.sending.fanout import TrackFanout
from ..media.sending.forward_track import ForwardTrack
from ..options import DEFAULT_TUNING, Tuning
from .stats import InboundTrackStats, OutboundTrackStats, bits_per_second


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A local track as sent to one remote. `has_metadata`: the remote has to find its metadata by its ids."""

    kind: str
    track_id: str
    stream_id: str | None
    fanout: TrackFanout
    has_metadata: bool = False


@dataclass(frozen=True, slots=True)
class Incoming:
    """A track that the remote sends, with the ids of its msid (RFC 8830). It may be in several streams, or in none."""

    mid: str
    track: RemoteTrack
    track_id: str
    stream_ids: tuple[str, ...]

    @property
    def stream_id(self) -> str | None:
        """The id of the first of its streams, None without one."""
        return self.stream_ids[0] if self.stream_ids else None


class SendingSection:
    """A section that this end sends in, or will: its transceiver and its track.

    `outgoing` is the track that is sent now, `planned` the one in the last offer, and `told` the one that the remote
    knows of. `is_usable` is True until the remote declines the section for good. `is_offered`: the remote has opened
    it. `is_open`: the offer that opens it lets the remote send as well.
    """

    def __init__(
        self, transceiver: RTCRtpTransceiver, forward: ForwardTrack, tuning: Tuning, *, is_offered: bool = False
    ) -> None:
        self.forward = forward
        self.transceiver = transceiver
        self.is_offered = is_offered
        self.is_open = False
        self.retransmissions = listen_to_feedback(self.transceiver.sender, self.forward)
        send_shared_packets(self.transceiver.sender, self.forward, tuning)
        keep_reporting(self.transceiver.sender)
        self.is_usable = True
        self.outgoing: Outgoing | None = None
        self.planned: Outgoing | None = None
        self.told: Outgoing | None = None

    @classmethod
    def new(cls, pc: RTCPeerConnection, kind: str, tuning: Tuning) -> SendingSection:
        """Return a section that this end opens."""
        forward = ForwardTrack(kind)
        return cls(new_transceiver(pc, forward), forward, tuning)

    @classmethod
    def offered(cls, transceiver: RTCRtpTransceiver, tuning: Tuning) -> SendingSection:
        """Return the section of a transceiver with which the remote has opened it."""
        forward = ForwardTrack(transceiver.kind)
        use_sender(transceiver, forward)
        return cls(transceiver, forward, tuning, is_offered=True)

    def assign(self, outgoing: Outgoing | None) -> None:
        if outgoing is not None:
            set_sender_identity(self.transceiver, outgoing.stream_id, outgoing.track_id)
        else:
            self.told = None
        self.outgoing = outgoing
        self.forward.switch(outgoing.fanout if outgoing is not None else None)

    def choose_codec(self) -> None:
        """Send with the codec that was negotiated first: aiortc's sender keeps it for good."""
        self.forward.negotiated(SendCodec.of(transceivers.codecs(self.transceiver)[0]))

    def replace(self, outgoing: Outgoing) -> None:
        """Send another track under the same msid, by which the remote knows the track of the section."""
        self.told = outgoing if self.told == self.outgoing else self.told
        self.planned = outgoing if self.planned == self.outgoing else self.planned
        self.outgoing = outgoing
        self.forward.switch(outgoing.fanout)

    def decline(self) -> None:
        """Handle the section being declined for good. A track in a section of the remote waits for another one: the
        remote has declined its own media."""
        self.is_usable = False
        self.forward.switch(None)
        if self.is_offered:
            self.assign(None)

    def keep_codec(self) -> None:
        """Put the codec of what is sent first in the answer, where the remote has opened the section."""
        encoded = self.outgoing.fanout.codec if self.outgoing is not None else None
        codec = self.forward.codec.mime_type if self.forward.codec is not None else encoded
        if self.is_offered and codec is not None:
            prefer_codec(self.transceiver, codec)

    @property
    def negotiated(self) -> bool:
        return self.transceiver.mid is not None

    @property
    def is_sending(self) -> bool:
        """Whether this end sends here by the last descriptions."""
        return self.transceiver.currentDirection in ("sendrecv", "sendonly")

    @property
    def is_free(self) -> bool:
        """Whether a track that waits may be sent in this section of the remote. While the section counts as sending,
        the remote would take the track for the one before."""
        return self.is_offered and self.is_usable and self.outgoing is None and not self.is_sending

    def stats(self, now: float) -> OutboundTrackStats | None:
        """Return the statistics of the track sent here, None while there is none. `now` is monotonic time."""
        if self.outgoing is None:
            return None
        counted = sender_stats(self.transceiver.sender)
        codec = next(iter(transceivers.codecs(self.transceiver)), None) if self.negotiated else None
        report = counted.report
        return OutboundTrackStats(
            track_id=self.outgoing.track_id,
            stream_id=self.outgoing.stream_id,
            kind=self.outgoing.kind,
            codec=codec.mimeType if codec is not None else None,
            bytes_sent=counted.bytes,
            packets_sent=counted.packets,
            bitrate=bits_per_second(counted.rate.rate(counted.bytes, now)),
            target_bitrate=self.forward.target_bitrate,
            frames_encoded=counted.frames,
            frames_dropped=self.forward.frames_dropped,
            frames_failed=self.forward.frames_failed,
            queue_length=self.forward.queue_length,
            round_trip_time=_not_negative(report.roundTripTime) if report is not None else None,
            packets_lost=report.packetsLost if report is not None else None,
            fraction_lost=report.fractionLost / 256 if report is not None else None,
            jitter=report.jitter / codec.clockRate if report is not None and codec is not None else None,
            retransmissions=self.retransmissions.sent,
            retransmissions_refused=self.retransmissions.refused,
        )


FRESH_SECTIONS = 8
"""Sections of one kind that are opened before idle ones are used again. A track in a section of its own reaches a
browser under its own id; the bound keeps descriptions from growing while tracks come and go."""


class SendingSections:
    """The sections that this end sends in, in the order in which they were opened."""

    def __init__(self, pc: RTCPeerConnection, tuning: Tuning) -> None:
        self._pc = pc
        self._tuning = tuning
        self._sections: list[SendingSection] = []

    def __iter__(self) -> Iterator[SendingSection]:
        return iter(self._sections)

    def assign(self, wanted: Mapping[Any, Outgoing], *, frugal: bool) -> None:
        """Give every wanted track a section. `frugal`: use every idle section again before another is opened."""
        self.release({key: it for key, it in wanted.items() if not frugal or self._is_negotiated(it)})
        assigned = {section.outgoing for section in self._sections}
        for outgoing in wanted.values():
            if outgoing not in assigned:
                self._free(outgoing.kind, frugal=frugal).assign(outgoing)
        for section in self._sections:
            section.planned = section.outgoing

    def open_new(self, sharing: Sharing) -> None:
        """Set in which of the sections that are not negotiated yet the remote may send from the start."""
        for section in self._sections:
            track = section.outgoing
            section.is_open = (
                track is not None and not section.negotiated and sharing.admits(has_metadata=track.has_metadata)
            )

    def decline(self, mids: Container[str]) -> None:
        """Handle sections being declined for good."""
        for section in self._sections:
            if section.negotiated and section.transceiver.mid in mids:
                section.decline()

    def release(self, wanted: Mapping[Any, Outgoing]) -> None:
        """Stop sending, at once, tracks that are not wanted any more."""
        keep = set(wanted.values())
        for section in self._sections:
            if section.outgoing is not None and section.outgoing not in keep:
                section.assign(None)

    def reserve(self, kind: str) -> RTCRtpTransceiver:
        """Open a section for the next track of a kind, and return its transceiver."""
        section = SendingSection.new(self._pc, kind, self._tuning)
        self._sections.append(section)
        return section.transceiver

    def give_up(self, transceiver: RTCRtpTransceiver) -> None:
        """Forget the section of a transceiver, if it is one of these. Its track needs another one."""
        for section in [it for it in self._sections if it.transceiver is transceiver]:
            section.assign(None)
            self._sections.remove(section)

    def replace(self, old: Outgoing, new: Outgoing) -> bool:
        """Replace a track. Returns False if the old one is not being sent."""
        section = next((it for it in self._sections if it.outgoing == old), None)
        if section is not None:
            section.replace(new)
        return section is not None

    def use_offered(
        self, offered: Iterable[Section], wanted: Mapping[Any, Outgoing], sharing: Sharing, *, is_first: bool
    ) -> None:
        """Send tracks that wait for a section in those that the remote offers to receive in, in the order of both.

        `is_first`: nothing has been negotiated before.
        """
        if sharing is Sharing.NONE:
            return
        by_mid = {transceiver.mid: transceiver for transceiver in self._pc.getTransceivers()}
        for section in offered:
            if section.receives:
                # A player asks for tracks. Later, a browser also offers sections whose track it has removed meanwhile.
                admitted = Sharing.ALL if is_first and section.direction == "recvonly" else sharing
                tracks = [it for it in wanted.values() if admitted.admits(has_metadata=it.has_metadata)]
                self._take_offered(by_mid[section.mid], tracks, transcodes=sharing is Sharing.ONCE)
        for sending in self._sections:
            sending.keep_codec()

    def _take_offered(self, transceiver: RTCRtpTransceiver, tracks: Iterable[Outgoing], *, transcodes: bool) -> None:
        section = next((it for it in self._sections if it.transceiver is transceiver), None)
        if section is not None and not section.is_free:
            return
        used = section.forward.codec if section is not None else None
        mime_types = [it.mimeType for it in transceivers.codecs(transceiver)] if used is None else [used.mime_type]
        waiting = [it for it in tracks if it.kind == transceiver.kind and not self._is_negotiated(it)]
        outgoing = next((it for it in waiting if _fits(it, mime_types)), None)
        if outgoing is None and transcodes:
            outgoing = next(iter(waiting), None)
        if outgoing is None:
            return
        for planned in self._sections:
            if planned.outgoing == outgoing:
                planned.assign(None)
        if section is None:
            section = SendingSection.offered(transceiver, self._tuning)
            self._sections.append(section)
        section.assign(outgoing)

    def lacks(self, wanted: Mapping[Any, Outgoing]) -> bool:
        """Return whether the remote does not know of a wanted track. One that it knows and declined is not offered
        again."""
        told = {section.told for section in self._sections}
        return any(outgoing not in told for outgoing in wanted.values())

    @property
    def has_untold_end(self) -> bool:
        """Whether the remote believes that a track is sent which is not."""
        return any(it.outgoing is None and it.is_sending and it.is_usable for it in self._sections)

    def _is_negotiated(self, outgoing: Outgoing) -> bool:
        return any(section.outgoing == outgoing and section.negotiated for section in self._sections)

    def _free(self, kind: str, *, frugal: bool) -> SendingSection:
        same_kind = [section for section in self._sections if section.forward.kind == kind]
        idle = [section for section in same_kind if section.outgoing is None and section.is_usable]
        used, unused = ([section for section in idle if section.negotiated is it] for it in (True, False))
        if used and frugal:
            return used[0]
        if unused:
            return unused[0]
        if used and len(same_kind) >= FRESH_SECTIONS:
            return used[0]
        section = SendingSection.new(self._pc, kind, self._tuning)
        self._sections.append(section)
        return section


class ReceivingSection:
    """A section that this end receives in: passes its frames to the track that the remote sends in it now, if any.

    `layer` is the layer of simulcast that is received, None without.
    """

    def __init__(self, mid: str, receiver: RTCRtpReceiver, tuning: Tuning = DEFAULT_TUNING) -> None:
        self.mid = mid
        self._receiver = receiver
        self._kind = receiver.track.kind
        self.layer: str | None = None
        self._time_line = RtpTimeline()
        self._sender_clock = SenderClock()
        self._reported_of: tuple[int, int] | None = None  # the source, and the part of the time line
        self._early: tuple[int, float, int] | None = None  # a report that came before its packets
        self._incoming: Incoming | None = None
        self._tap = tap_receiver(receiver, self, tuning)

    def update(self, ids: tuple[tuple[str, ...], str] | None) -> tuple[Incoming | None, Incoming | None]:
        """Set the msid with which the remote sends here, None if it does not. Returns the removed and the added
        track."""
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
        """Pass an encoded frame to the track."""
        place = self._place(timestamp, codec)
        if self._incoming is not None:
            self._incoming.track.push_frame(EncodedFrame(codec, data, place, is_key_frame(codec, data)))

    def skipped(self, frames: int) -> None:
        """Count frames that are not read."""
        if self._incoming is not None:
            self._incoming.track.count_unread(frames)

    def passed(self, codec: Any, timestamp: int) -> None:
        """Follow the time and the codec of frames that are not read."""
        self._place(timestamp, codec)
        if self._incoming is not None:
            self._incoming.track.note_codec(codec)

    def reported(self, source: int, clock: float, timestamp: int) -> None:
        """Handle a report of the current source: the RTP timestamp at a second of its clock (RFC 3550 section
        6.4.1)."""
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
        """Handle the loss of a part of the video."""
        if self._incoming is not None:
            self._incoming.track.picture_lost()

    def ended(self) -> None:
        """Handle the receiver being stopped."""
        if self._incoming is not None:
            self._incoming.track.stop()

    def end(self) -> None:
        """End the current track."""
        if self._incoming is not None:
            self._incoming.track.stop()
            self._incoming = None

    def stats(self, now: float) -> InboundTrackStats | None:
        """Return the statistics of the track received here, None while there is none. `now` is monotonic time."""
        if self._incoming is None:
            return None
        counted = receiver_stats(self._receiver)
        codec = counted.codec
        track = self._incoming.track
        return InboundTrackStats(
            track_id=self._incoming.track_id,
            stream_id=self._incoming.stream_id,
            kind=track.kind,
            codec=codec.mimeType if codec is not None else None,
            bytes_received=counted.bytes,
            packets_received=counted.packets,
            bitrate=bits_per_second(counted.rate.rate(counted.bytes, now)),
            packets_lost=counted.packets_lost if codec is not None else None,
            jitter=counted.jitter / codec.clockRate if codec is not None else None,
            frames_decoded=track.frames_decoded,
            frames_dropped=track.frames_dropped,
            queue_length=track.queue_length,
            frames_received=track.frames_received,
            frames_unread=track.frames_unread,
            pictures_refused=track.pictures_refused,
            layer=self.layer,
        )

    def _place(self, timestamp: int, codec: Any) -> int:
        place = self._time_line.place_frame(timestamp, codec.clockRate)
        if self._early is not None:
            early, self._early = self._early, None
            self.reported(*early)
            self._early = None
        return place


def _fits(outgoing: Outgoing, mime_types: Iterable[str]) -> bool:
    """Return whether a track can be sent as it is with one of these codecs. One that gives frames fits any."""
    codec = outgoing.fanout.codec
    return codec is None or codec.lower() in {mime_type.lower() for mime_type in mime_types}


class ReceivingSections:
    """The sections that this end receives in, by mid."""

    def __init__(self, tuning: Tuning) -> None:
        self._tuning = tuning
        self._sections: dict[str, ReceivingSection] = {}

    def __iter__(self) -> Iterator[ReceivingSection]:
        return iter(self._sections.values())

    def add(self, mid: str, receiver: RTCRtpReceiver) -> None:
        """Receive in a section that was negotiated."""
        self._sections[mid] = ReceivingSection(mid, receiver, self._tuning)

    def update(
        self, described: Iterable[Section], declined: Container[str], layers: LayerChoice
    ) -> tuple[list[Incoming], list[Incoming]]:
        """Follow a description of the remote. Returns the removed and the added tracks."""
        changes = []
        for section in described:
            receiving = self._sections.get(section.mid)
            if receiving is not None:
                receiving.layer = layers.get(section.mid)
                sends = section.sends and section.mid not in declined
                ids = (section.stream_ids, section.track_id or section.mid) if sends else None
                changes.append(receiving.update(ids))
        removed = [before for before, _ in changes if before is not None]
        return removed, [after for _, after in changes if after is not None]

    def give_up(self, mid: str) -> list[Incoming]:
        """Remove a section. Returns the track that ended with it, if any."""
        receiving = self._sections.pop(mid, None)
        ended = receiving.update(None)[0] if receiving is not None else None
        return [ended] if ended is not None else []

    def end(self) -> None:
        """End all tracks."""
        for receiving in self._sections.values():
            receiving.end()


class LayerChoice(Protocol):
    """What knows which layer of simulcast is received."""

    def get(self, mid: str) -> str | None: ...


def _not_negative(seconds: float | None) -> float | None:
    """Leave out the negative time that aiortc computes from a report on an old packet, while a track is silent."""
    return seconds if seconds is not None and seconds >= 0 else None
