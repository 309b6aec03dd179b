"""The room as one picture and one sound, mixed live while somebody watches it."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Sequence
from fractions import Fraction
from itertools import count
from typing import Any

import av
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from ..core.media.lip_sync import SyncGroup
from ..log import Logger, log_exception
from ..media.codecs.pictures import copied
from ..media.receiving.mailbox import Tally
from ..mesh.peer import MeteredPeer
from ..recording.file_thread import MAX_FRAMES, FileThread
from ..recording.following import Follower
from ..recording.mix import Mix, MixItem, MixTick, Source
from ..recording.mix_feed import feed_track
from ..recording.stats import ParticipantFigures, Totals

WIDTH, HEIGHT, FPS = 960, 540, 25
"""Size and rate of the mixed picture: half of the pixels of a recording, since it is encoded for each codec that
players take, while the bridge passes other media on."""

MIX_DELAY = 0.25
"""Seconds after which a moment is mixed: what the jitter buffers vary by. What comes later is left out."""

TICK = 0.02
"""Seconds between rounds of mixing: one packet of sound."""

MAX_BEHIND = 0.5
"""Seconds by which mixing may be late before it skips pictures to catch up."""

MAX_WAITING_FRAMES = {"audio": 25, "video": 4}
"""Mixed frames that wait to be sent: half a second of sound. Reading does not wait for the network."""

_PICTURE_CLOCK = 90_000


class MixedTrack(MediaStreamTrack):
    """The frames of the mix of one kind."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self._frames: deque[Any] = deque(maxlen=MAX_WAITING_FRAMES[kind])
        self._arrived = asyncio.Event()

    async def recv(self) -> Any:
        """Return the next frame.

        Raises:
            MediaStreamError: the track was stopped.
        """
        while not self._frames:
            if self.readyState != "live":
                raise MediaStreamError
            self._arrived.clear()
            await self._arrived.wait()
        return self._frames.popleft()

    def push_frame(self, frame: Any) -> None:
        """Add a frame. Too many drop the oldest."""
        self._frames.append(frame)
        self._arrived.set()

    def stop(self) -> None:
        """End the track."""
        super().stop()
        self._arrived.set()


class _LiveMix(Mix):
    """Mixes in a thread, and passes frames to tracks on the event loop."""

    def __init__(self, tracks: dict[str, MixedTrack], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(WIDTH, HEIGHT, FPS)
        self.pictures_skipped = 0
        self._tracks = tracks
        self._loop = loop
        self._began = loop.time()

    def close(self) -> None:
        """Do nothing: the tracks belong to the room."""

    def give_sound(self, frame: av.AudioFrame, at: float) -> None:
        self._give("audio", frame)

    def give_picture(self, picture: av.VideoFrame, at: float) -> None:
        if self._loop.time() - self._began - MIX_DELAY - at > MAX_BEHIND:
            self.pictures_skipped += 1
            return
        frame = copied(picture)
        frame.pts, frame.time_base = round(at * _PICTURE_CLOCK), Fraction(1, _PICTURE_CLOCK)
        self._give("video", frame)

    def now(self) -> float:
        """Return the second of the mix."""
        return self._loop.time() - self._began

    def _give(self, kind: str, frame: Any) -> None:
        self._loop.call_soon_threadsafe(self._tracks[kind].push_frame, frame)


class MixedRoom:
    """All participants of the channel that a peer is in, mixed while `hold` counts more than `release`."""

    def __init__(self, peer: MeteredPeer, logger: Logger) -> None:
        self.mixed = {kind: MixedTrack(kind) for kind in ("audio", "video")}
        self._peer = peer
        self._logger = logger
        self._players = 0
        self._mixing: _Mixing | None = None
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def tracks(self) -> Sequence[Any]:
        """The mixed sound and picture."""
        return list(self.mixed.values())

    @property
    def is_running(self) -> bool:
        """Whether the room is being mixed."""
        return self._mixing is not None

    def hold(self) -> None:
        """Mix for one more player."""
        self._players += 1
        if self._mixing is None:
            self.mixed = {kind: MixedTrack(kind) for kind in self.mixed}  # the time line begins again
            self._mixing = _Mixing(self._peer, self.mixed, self._logger)

    def release(self) -> None:
        """Mix for one player less."""
        self._players -= 1
        if self._players == 0:
            self._stop()

    async def wait_for_packets(self) -> None:
        """Return at once: the mix is encoded as players like it."""

    async def close(self) -> None:
        """Stop mixing."""
        self._stop()
        if self._ending:
            await asyncio.wait(self._ending)

    def _stop(self) -> None:
        mixing, self._mixing = self._mixing, None
        if mixing is not None:
            for track in self.mixed.values():
                track.stop()
            task = asyncio.ensure_future(mixing.stop())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)


class _Mixing:
    """One run of the mix, which follows the peer's channel."""

    def __init__(self, peer: MeteredPeer, tracks: dict[str, MixedTrack], logger: Logger) -> None:
        self.forgotten = Totals()
        self.participants: tuple[ParticipantFigures, ...] = ()
        self._logger = logger
        self._mix = _LiveMix(tracks, asyncio.get_running_loop())
        self._thread: FileThread[MixItem] = FileThread(self._mix, self._failed)
        self._unplaced = Tally()
        self._known: set[Any] = set()
        self._numbers = count(1)
        self._groups: defaultdict[str, SyncGroup] = defaultdict(SyncGroup)  # by participant
        self._tasks: set[asyncio.Task[None]] = set()
        self._spawn(self._tick())
        self._follower = Follower(peer, self)

    def add_track(self, peer_id: str, track: Any) -> None:
        """Mix in a track from now on. Do nothing for a known one."""
        if track not in self._known:
            self._known.add(track)
            self._spawn(self._read((peer_id, next(self._numbers)), track))

    def remove_participant(self, peer_id: str) -> None:
        """Forget the clock of a participant. The end of its tracks frees their tiles."""
        self._groups.pop(peer_id, None)

    async def stop(self) -> None:
        """Stop following the channel, and mixing."""
        await self._follower.close()

    async def close(self) -> None:
        """Stop mixing. The follower calls this at its end."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        self._thread.finish()
        await self._thread.wait_finished()

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            if self._thread.waiting < MAX_FRAMES:
                self._thread.put(MixTick(self._mix.now() - MIX_DELAY))

    async def _read(self, source: Source, track: Any) -> None:
        def failed(error: Exception) -> None:
            log_exception(self._logger, "bridge: a track cannot be mixed", error, {"peer": source[0]})

        group, unplaced = self._groups[source[0]], self._unplaced
        try:
            await feed_track(
                self._thread, source, track, group=group, now=self._mix.now, unplaced=unplaced, failed=failed
            )
        finally:
            self._known.discard(track)

    def _failed(self, error: Exception) -> None:
        log_exception(self._logger, "bridge: the room cannot be mixed", error, {})
