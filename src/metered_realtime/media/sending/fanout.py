"""One reader per local track, one encoder per codec of it, one forward track per remote that receives it.

A local track is read by a single task, and only while a remote receives it. Each negotiated codec is encoded once
(`CodecFanout`), however many remotes receive it.

A track whose `recv()` returns `av.Packet`s is encoded already: the packets go unchanged to all remotes that negotiated
their codec, and are decoded only for the others. Such a track may name its codec in `codec` (`video/VP8`) and offer
`request_key_frame()`. A track with `encoded()`, such as `RemoteTrack`, is read through what that returns; its pictures
since the last key frame are kept for new receivers while that says so, in `keeps_pictures`. A track that `reads_ahead`
is read whether or not somebody receives it. What `encoded()` returns may have a `correction`, the seconds by which its
frames belong later than they arrive.

Every remote has a `ForwardTrack` of its own, which lives as long as the sender that reads it: its source can be
switched at any time, also to none. When a track ends, `ended` tells its owner, which removes it from all remotes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from math import inf
from typing import Any

import av
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from aiortc.rtcrtpparameters import RTCRtpCodecParameters

from ...core.media.timeline import Timeline
from ...core.media.track_clock import TrackClock
from ...log import Logger, log_exception
from ..codecs.encoded import EncodedFrame
from ..codecs.encoders import Packet, SendCodec
from ..receiving.frame_decoder import FrameDecoder
from ..receiving.key_frames import KeyFrameRequests
from ..receiving.mailbox import Tally
from .codec_fanout import CodecFanout
from .forward_track import ForwardTrack
from .packet_forward import PacketForward, SourcePacket, time_of
from .shared_encoder import LOG_PAUSE, SharedEncoder

__all__ = ["ForwardTrack", "TrackFanout"]

REPEAT_AFTER = 0.2
"""Seconds without a picture after which the last one is repeated for receivers that have none: a source may pause."""


END_GRACE = 1.0
"""Seconds in which a track that has been stopped may give its last frames. Then it has ended, even if its `recv` waits
for ever or goes on: a track of a program's own need not look at its state."""

DRAIN_TIMEOUT = 1.0
"""Seconds that the last frames of a track may take to be encoded and sent before the remotes learn that it ended."""

DRAIN_INTERVAL = 0.1
"""Seconds between checks of whether they have been sent. They have at least this long to arrive."""

EndedFn = Callable[[MediaStreamTrack, BaseException | None], None]


class TrackFanout:
    """Reads one local track while it has forward tracks, and sends each packet to all forward tracks of its codec.

    `ended` is called once when the track has ended, with the track and its error, None if it ended normally.
    """

    def __init__(self, track: MediaStreamTrack, logger: Logger, ended: EndedFn | None = None) -> None:
        self.track = track
        self._logger = logger
        self._ended = ended
        self._codecs: dict[SendCodec, CodecFanout] = {}
        self._source: Any = track
        self._reader: asyncio.Task[None] | None = None
        self._requests = KeyFrameRequests(self.ask_for_key_frame)
        self._ending: set[asyncio.Task[None]] = set()
        self._timeline = Timeline()
        self._clock: TrackClock | None = None
        self._packets: PacketForward | None = None
        self._decoder: FrameDecoder | None = None
        self._decoded_from: Fraction | None = None
        self._last: tuple[Any, float] | None = None
        self._repeat: asyncio.TimerHandle | None = None
        self._logged_at = -inf
        self._cut: asyncio.TimerHandle | None = None
        self._was_cut = self._is_forgiven = False
        self._reads_ahead = bool(getattr(track, "reads_ahead", False))
        if self._reads_ahead:
            self._reader = asyncio.ensure_future(self._read())

    @property
    def codec(self) -> str | None:
        """The MIME type of the track's packets, None if it gives frames or that is not known yet."""
        codec = getattr(self._source, "codec", None)
        return codec if isinstance(codec, str) else None

    @property
    def is_reading(self) -> bool:
        """Whether the track is being read, or has just ended."""
        return self._reader is not None and not self._reader.done()

    async def close(self) -> None:
        """Stop reading and encoding, and wait for the encoders. The local track is the caller's and stays open."""
        for codec in tuple(self._codecs.values()):
            for forward in codec.forwards:
                forward.switch(None)
        self._stop()
        if self._ending:
            await asyncio.wait(self._ending)

    # --- for the forward tracks

    def add(self, forward: ForwardTrack) -> None:
        """Send to a forward track that knows its codec, from the next key frame on."""
        assert forward.codec is not None
        self._codec_fanout(forward.codec).add(forward)
        if not self.is_reading:
            self._reader = asyncio.ensure_future(self._read())
        self._repeat_later()

    def _codec_fanout(self, codec: SendCodec) -> CodecFanout:
        fanout = self._codecs.get(codec)
        if fanout is None:
            fanout = self._codecs[codec] = CodecFanout(codec, self.track.kind, self, self._logger)
        return fanout

    def _drop_unused(self, codec: CodecFanout) -> None:
        if not codec.forwards and not (self._reads_ahead and codec.passes):
            self._codecs.pop(codec.codec, None)

    def remove(self, forward: ForwardTrack) -> None:
        """Send nothing more to a forward track."""
        codec = self.codec_of(forward)
        if codec is not None:
            codec.remove(forward)
            self._drop_unused(codec)
        if not self._codecs and not self._reads_ahead:
            self._stop()

    def request_key_frame(self, forward: ForwardTrack) -> None:
        """Have a key frame made for a forward track."""
        codec = self.codec_of(forward)
        if codec is not None:
            codec.request_key_frame(forward)
            self._repeat_later()

    def update_estimate(self, forward: ForwardTrack) -> None:
        """Follow the estimate of a forward track's receiver."""
        codec = self.codec_of(forward)
        if codec is not None:
            codec.update_estimate(forward)

    def codec_of(self, forward: ForwardTrack) -> CodecFanout | None:
        """Return the fan-out of a forward track's codec, None if nothing is sent in it."""
        return self._codecs.get(forward.codec) if forward.codec is not None else None

    def target_bitrate(self, forward: ForwardTrack) -> int | None:
        """Return the bits per second that the encoder for a forward track aims at, None if it has no target."""
        codec = self.codec_of(forward)
        return codec.target_bitrate(forward) if codec is not None else None

    def queue_length(self, forward: ForwardTrack) -> int:
        """Return how many frames wait for the encoder of a forward track."""
        codec = self.codec_of(forward)
        return codec.queue_length(forward) if codec is not None else 0

    def taken_at(self, at: float) -> float:
        """Return when the track gave the frame at this second of its time line, on the event loop's clock."""
        if self._clock is None:
            return asyncio.get_running_loop().time()
        return self._clock.earliest_place(at) + float(getattr(self._source, "correction", 0.0))

    # --- reading the track

    async def _read(self) -> None:
        encoded = getattr(self.track, "encoded", None)
        source = self._source = encoded() if callable(encoded) else self.track
        self._packets = PacketForward(source)
        failure: BaseException | None = None
        self._watch_end()
        try:
            while not _is_cancelled():  # the track may swallow the cancellation
                self._take(await source.recv())
                await asyncio.sleep(0)  # a track that never waits must not block the event loop
        except MediaStreamError as end:
            failure = end.__cause__
        except asyncio.CancelledError as error:
            self._forgive_cut()
            if _is_cancelled():
                raise
            failure = None if self._was_cut else error  # of an operation that the track waited for
        except Exception as error:
            failure = error
        finally:
            self._last = None
            self._unwatch_end()
            if source is not self.track:
                source.stop()
        self._forgive_cut()
        if _is_cancelled():
            return
        self._log_end(failure)
        await self._drain()
        if self._ended is not None:
            self._ended(self.track, failure)

    def _watch_end(self) -> None:
        """End the reading when the track has been stopped, whatever its `recv` does."""
        self._was_cut = self._is_forgiven = False
        if not isinstance(self.track, MediaStreamTrack):
            return
        self._loop = asyncio.get_running_loop()
        if self.track.readyState == "ended":
            self._cut_later()
        else:
            self.track.once("ended", self._stopped)

    def _unwatch_end(self) -> None:
        if self._cut is not None:
            self._cut.cancel()
            self._cut = None
        with suppress(KeyError, AttributeError):  # the track has dropped its listeners
            self.track.remove_listener("ended", self._stopped)

    def _stopped(self) -> None:
        with suppress(RuntimeError):  # stopped from another thread, after the end of the loop
            self._loop.call_soon_threadsafe(self._cut_later)

    def _cut_later(self) -> None:
        if self.is_reading and self._cut is None:
            self._cut = self._loop.call_later(END_GRACE, self._cut_off)

    def _cut_off(self) -> None:
        self._cut = None
        if self._reader is not None and not self._reader.done():
            self._was_cut = True
            self._reader.cancel()

    def _forgive_cut(self) -> None:
        """Take back the cancellation with which the reading was cut off, which is no cancellation of the task."""
        task = asyncio.current_task()
        if self._was_cut and not self._is_forgiven and task is not None:
            self._is_forgiven = True
            task.uncancel()

    def _log_end(self, failure: BaseException | None) -> None:
        if failure is None:
            self._logger.debug("local track ended", {"track": self.track.id})
        else:
            log_exception(self._logger, "local track failed", failure, {"track": self.track.id})

    async def _drain(self) -> None:
        """Wait until the last frames of the track have been encoded and sent, for `DRAIN_TIMEOUT` at most."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + DRAIN_TIMEOUT
        await asyncio.sleep(DRAIN_INTERVAL)
        while any(it.queue_length for it in self._forwards) and loop.time() < deadline:  # noqa: ASYNC110 - senders have no event
            await asyncio.sleep(DRAIN_INTERVAL)

    def _take(self, unit: Any) -> None:
        try:
            if isinstance(unit, av.Packet):
                self._take_packet(unit)
            else:
                self._take_frame(unit)
        except Exception as error:  # a bad frame must not end the track
            self._fail(error)

    def _take_frame(self, frame: Any) -> None:
        now = asyncio.get_running_loop().time()
        at = self._timeline.place_unit(time_of(frame), now)
        self._note(float(at), now, self._timeline)
        self._hand_out(frame, at)
        if self.track.kind == "video":
            self._last = frame, now

    def _hand_out(self, frame: Any, at: Fraction) -> None:
        for codec in tuple(self._codecs.values()):
            codec.set_passing(False)
            codec.push_frame(frame, at)

    def _take_packet(self, packet: Any) -> None:
        assert self._packets is not None
        now = asyncio.get_running_loop().time()
        for unit in self._packets.prepare_packet(packet, now):
            self._note(unit.at, now, self._packets.timeline)
            if self._reads_ahead and not any(it.mime_type == unit.mime_type for it in self._codecs):
                self._codec_fanout(SendCodec.usual(unit.codec))
            for codec in tuple(self._codecs.values()):
                codec.set_passing(codec.codec.mime_type == unit.mime_type)
                self._drop_unused(codec)
                if codec.passes:
                    codec.push_packet(unit.packet)
            self._decode(unit)

    def _note(self, at: float, now: float, timeline: Timeline) -> None:
        """Record the arrival of a frame or packet.

        A track of this program whose frames are all late from some moment on has lost time that its own times do not
        show: what follows is placed later. Frames of a remote may simply be delayed by the network.
        """
        is_local = self._source is self.track
        self._clock = self._clock or (TrackClock(inf) if is_local else TrackClock())
        self._clock.note_frame(at, now)
        if is_local:
            timeline.skip_time(self._clock.take_lost_time())

    def _fail(self, error: Exception) -> None:
        for forward in self._forwards:
            forward.count_failed_frame()
        now = asyncio.get_running_loop().time()
        if now - self._logged_at >= LOG_PAUSE:
            self._logged_at = now
            log_exception(self._logger, "frames cannot be sent", error, {"track": self.track.id}, level="warning")

    @property
    def _forwards(self) -> list[ForwardTrack]:
        return [forward for codec in self._codecs.values() for forward in codec.forwards]

    @property
    def makes_key_frames(self) -> bool:
        """Whether the track can be asked for a key frame."""
        return callable(getattr(self._source, "request_key_frame", None))

    @property
    def keeps_pictures(self) -> bool:
        """Whether new receivers get the pictures since the last key frame."""
        return bool(getattr(self._source, "keeps_pictures", not self.makes_key_frames))

    def ask_for_key_frame(self) -> bool:
        """Ask the track for a key frame. Return whether it can be asked."""
        if self.makes_key_frames:
            self._source.request_key_frame()
        return self.makes_key_frames

    # --- packets for receivers with another codec

    def _decode(self, unit: SourcePacket) -> None:
        """Decode packets while a codec needs the frames."""
        if not any(codec.needs_frames for codec in self._codecs.values()):
            self._stop_decoding()
            return
        if self._decoder is None:
            self._decoder = FrameDecoder(self.track.kind, self._decoded, self._need_key_frame, Tally())
            self._decoder.catch_up([_encoded(unit.codec, it) for it in self._missed(unit)])
            self._decoded_from = time_of(unit.packet)
        self._decoder.push_frame(_encoded(unit.codec, unit.packet))

    def _missed(self, unit: SourcePacket) -> list[Packet]:
        """Return the kept packets before this one, which a new decoder needs where no key frame comes on request."""
        passing = (it for it in self._codecs.values() if it.passes and it.codec.mime_type == unit.mime_type)
        kept = next((it.kept for it in passing), ())
        return [it.packet for it in kept if it.packet is not unit.packet]

    def _decoded(self, frames: list[Any]) -> None:
        for frame in frames:
            at = time_of(frame)
            assert at is not None, "it is the time of the packet"
            if self._decoded_from is not None and at < self._decoded_from:
                continue  # it was only decoded for those that follow
            for codec in tuple(self._codecs.values()):
                codec.push_frame(frame, at)

    def _need_key_frame(self) -> None:
        self._requests.request_key_frame()

    def _stop_decoding(self) -> None:
        if self._decoder is not None:
            self._decoder.close()
            self._decoder = None

    # --- a source that pauses

    def _repeat_later(self) -> None:
        if self._repeat is None and self._last is not None:
            self._repeat = asyncio.get_running_loop().call_later(REPEAT_AFTER, self._repeat_last)

    def _repeat_last(self) -> None:
        """Repeat the last picture if a receiver waits for a key frame and the source gives no other picture."""
        self._repeat = None
        if self._last is None or not any(codec.wants_key_frame for codec in self._codecs.values()):
            return
        now = asyncio.get_running_loop().time()
        frame, since = self._last
        if now - since >= REPEAT_AFTER:
            self._hand_out(frame, self._timeline.place_unit(None, now))
        self._repeat_later()

    # --- the end

    def end_encoder(self, encoder: SharedEncoder) -> None:
        """Close an encoder that no codec needs any more. `close` waits for it."""
        task = encoder.close()
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def _stop(self) -> None:
        self._stop_decoding()
        self._requests.stop()
        self._last = None
        if self._repeat is not None:
            self._repeat.cancel()
            self._repeat = None
        if self._reader is not None:
            reader, self._reader = self._reader, None
            reader.cancel()
            self._ending.add(reader)
            reader.add_done_callback(self._ending.discard)


def _encoded(codec: RTCRtpCodecParameters, packet: Packet) -> EncodedFrame:
    assert packet.pts is not None
    return EncodedFrame(codec, bytes(packet), packet.pts, packet.is_keyframe)


def _is_cancelled() -> bool:
    """Return whether the running task itself has been cancelled, not only an operation that it waited for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
