"""One reader for each local track, one encoder for each codec of it, one forward track for each remote that gets it.

A local track is pulled by a single task, and only while somebody receives it. What comes is encoded once for each codec
that was negotiated (`CodecFanout`), whoever and however many receive it.

A track whose `recv()` returns `av.Packet`s is encoded already: they go as they are to everybody who negotiated their
codec, and are decoded only for others. It may say in `codec` what they are (`video/VP8`), and be asked by
`request_key_frame()`. A track with `encoded()`, as `RemoteTrack` has it, is read by what that returns.

Every remote has a `ForwardTrack` of its own, which lives as long as the sender that reads it: its source can be
switched at any time, also to nothing. When a track ends, its owner is told (`ended`), who takes it from all remotes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from fractions import Fraction
from math import inf
from typing import Any

import av
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from ...core.media.timeline import Timeline
from ...core.media.track_clock import TrackClock
from ...log import Logger, log_exception
from ..codecs.encoded import EncodedFrame
from ..codecs.encoders import SendCodec
from ..receiving.frame_decoder import FrameDecoder
from ..receiving.key_frames import KeyFrameRequests
from ..receiving.mailbox import Tally
from .codec_fanout import CodecFanout
from .forward_track import ForwardTrack
from .packet_forward import PacketForward, SourcePacket, time_of
from .shared_encoder import LOG_PAUSE, SharedEncoder

__all__ = ["ForwardTrack", "TrackFanout"]

REPEAT_AFTER = 0.2
"""Seconds without a picture after which the last one is sent again to whoever has none: a source may stand still."""


LAST_WORDS = 1.0
"""Seconds that the last frames of a track may take to be encoded and sent before the remotes are told that it ended."""

LAST_STEP = 0.1
"""Seconds between looks at whether they are on their way; so long at least they have to arrive."""

EndedFn = Callable[[MediaStreamTrack, BaseException | None], None]


class TrackFanout:
    """Pulls one local track while there are forward tracks, and hands each packet to all of a codec.

    `ended` is called once the track has ended, with what it failed of or None.
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
        self._last: tuple[Any, float] | None = None
        self._repeat: asyncio.TimerHandle | None = None
        self._logged_at = -inf

    @property
    def codec(self) -> str | None:
        """The MIME type in which the track comes encoded, None if it does not or that is not known yet."""
        codec = getattr(self._source, "codec", None)
        return codec if isinstance(codec, str) else None

    @property
    def is_reading(self) -> bool:
        """Whether the track is being pulled, or has just ended."""
        return self._reader is not None and not self._reader.done()

    async def close(self) -> None:
        """Stop pulling and encoding. The local track belongs to the caller and stays as it is."""
        for codec in tuple(self._codecs.values()):
            for forward in codec.forwards:
                forward.switch(None)
        self._stop()
        if self._ending:
            await asyncio.wait(self._ending)

    # --- the side of the forward tracks

    def add(self, forward: ForwardTrack) -> None:
        """Send to a forward track that knows its codec, from the next key frame on."""
        assert forward.codec is not None
        codec = self._codecs.get(forward.codec)
        if codec is None:
            codec = self._codecs[forward.codec] = CodecFanout(forward.codec, self.track.kind, self, self._logger)
        codec.add(forward)
        if not self.is_reading:
            self._reader = asyncio.ensure_future(self._read())
        self._repeat_later()

    def remove(self, forward: ForwardTrack) -> None:
        """Send nothing more to a forward track."""
        codec = self.codec_of(forward)
        if codec is not None:
            codec.remove(forward)
            if not codec.forwards:
                del self._codecs[codec.codec]
        if not self._codecs:
            self._stop()

    def request_key_frame(self, forward: ForwardTrack) -> None:
        """Have a key frame made of what a forward track gets."""
        codec = self.codec_of(forward)
        if codec is not None:
            codec.request_key_frame(forward)
            self._repeat_later()

    def estimate_changed(self, forward: ForwardTrack) -> None:
        """Take what a remote says it can take."""
        codec = self.codec_of(forward)
        if codec is not None:
            codec.estimate_changed(forward)

    def codec_of(self, forward: ForwardTrack) -> CodecFanout | None:
        """Return where a forward track is, None if it is not being sent anything."""
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
        """Return when, on the event loop's clock, the track gave what stands at this second of its time line."""
        return self._clock.soonest(at) if self._clock is not None else asyncio.get_running_loop().time()

    # --- the side of the track

    async def _read(self) -> None:
        encoded = getattr(self.track, "encoded", None)
        source = self._source = encoded() if callable(encoded) else self.track
        self._packets = PacketForward(source)
        failure: BaseException | None = None
        try:
            while not _is_cancelled():  # the track may keep the cancellation to itself
                self._take(await source.recv())
                await asyncio.sleep(0)  # a track that never waits must not keep everybody else from running
        except MediaStreamError as end:
            failure = end.__cause__
        except asyncio.CancelledError as error:
            if _is_cancelled():
                raise
            failure = error  # of something that the track waited for
        except Exception as error:
            failure = error
        finally:
            self._last = None
            if source is not self.track:
                source.stop()
        if _is_cancelled():
            return
        self._log_end(failure)
        await self._say_last_words()
        if self._ended is not None:
            self._ended(self.track, failure)

    def _log_end(self, failure: BaseException | None) -> None:
        if failure is None:
            self._logger.debug("local track ended", {"track": self.track.id})
        else:
            log_exception(self._logger, "local track failed", failure, {"track": self.track.id})

    async def _say_last_words(self) -> None:
        """Wait until what the track gave last has been encoded and sent, but not for ever."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + LAST_WORDS
        await asyncio.sleep(LAST_STEP)
        while any(it.queue_length for it in self._forwards) and loop.time() < deadline:  # noqa: ASYNC110 - senders tell nothing
            await asyncio.sleep(LAST_STEP)

    def _take(self, unit: Any) -> None:
        try:
            if isinstance(unit, av.Packet):
                self._take_packet(unit)
            else:
                self._take_frame(unit)
        except Exception as error:  # whatever is wrong with it must not end the track
            self._fail(error)

    def _take_frame(self, frame: Any) -> None:
        now = asyncio.get_running_loop().time()
        at = self._timeline.place(time_of(frame), now)
        self._note(float(at), now, self._timeline)
        self._hand_out(frame, at)
        if self.track.kind == "video":
            self._last = frame, now

    def _hand_out(self, frame: Any, at: Fraction) -> None:
        for codec in tuple(self._codecs.values()):
            codec.pass_through(False)
            codec.frame(frame, at)

    def _take_packet(self, packet: Any) -> None:
        assert self._packets is not None
        now = asyncio.get_running_loop().time()
        for unit in self._packets.take(packet, now):
            self._note(unit.at, now, self._packets.timeline)
            for codec in tuple(self._codecs.values()):
                codec.pass_through(codec.codec.mime_type == unit.mime_type)
                if codec.passes:
                    codec.packet(unit.packet)
            self._decode(unit)

    def _note(self, at: float, now: float, timeline: Timeline) -> None:
        """Record when a unit came: one that was held up says less than the others.

        A track of this program that comes late from some moment on has lost time, which its own times do not tell: what
        follows stands later. What a remote sends comes late when the network does.
        """
        is_local = self._source is self.track
        self._clock = self._clock or (TrackClock(inf) if is_local else TrackClock())
        self._clock.note(at, now)
        if is_local:
            timeline.skip(self._clock.take_lost())

    def _fail(self, error: Exception) -> None:
        for forward in self._forwards:
            forward.frame_failed()
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

    def ask_for_key_frame(self) -> bool:
        """Ask the track for a key frame. Return whether it can be asked."""
        if self.makes_key_frames:
            self._source.request_key_frame()
        return self.makes_key_frames

    # --- packets for those who negotiated another codec

    def _decode(self, unit: SourcePacket) -> None:
        """Decode packets only while somebody needs the frames."""
        if not any(codec.needs_frames for codec in self._codecs.values()):
            self._stop_decoding()
            return
        if self._decoder is None:
            self._decoder = FrameDecoder(self.track.kind, self._decoded, self._need_key_frame, Tally())
        packet = unit.packet
        assert packet.pts is not None
        self._decoder.submit(EncodedFrame(unit.codec, bytes(packet), packet.pts, packet.is_keyframe))

    def _decoded(self, frames: list[Any]) -> None:
        for frame in frames:
            at = time_of(frame)
            assert at is not None, "it is that of the packet"
            for codec in tuple(self._codecs.values()):
                codec.frame(frame, at)

    def _need_key_frame(self) -> None:
        self._requests.ask()

    def _stop_decoding(self) -> None:
        if self._decoder is not None:
            self._decoder.close()
            self._decoder = None

    # --- a source that stands still

    def _repeat_later(self) -> None:
        if self._repeat is None and self._last is not None:
            self._repeat = asyncio.get_running_loop().call_later(REPEAT_AFTER, self._repeat_last)

    def _repeat_last(self) -> None:
        """Send the last picture once more if somebody waits for a key frame and the source gives no other."""
        self._repeat = None
        if self._last is None or not any(codec.wants_key_frame for codec in self._codecs.values()):
            return
        now = asyncio.get_running_loop().time()
        frame, since = self._last
        if now - since >= REPEAT_AFTER:
            self._hand_out(frame, self._timeline.place(None, now))
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


def _is_cancelled() -> bool:
    """Return whether the running task is to end, and not only something that it waited for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
