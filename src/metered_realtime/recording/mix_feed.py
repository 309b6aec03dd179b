"""The frames of one track on their way into a mix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiortc.mediastreams import MediaStreamError

from ..core.media.lip_sync import SyncGroup
from ..media.receiving.mailbox import Tally
from ..media.receiving.waiting import room_for
from .file_thread import MAX_FRAMES, MAX_WAITING, FileThread
from .mix import MixedFrame, MixItem, Source, SourceGone
from .participant_recording import PlacedTrack


async def feed_track(
    thread: FileThread[MixItem],
    source: Source,
    track: Any,
    *,
    group: SyncGroup,
    now: Callable[[], float],
    unplaced: Tally,
    failed: Callable[[Exception], None],
) -> None:
    """Pass the frames of a track to the thread that mixes, in sync with its `group`, until the track ends.

    `now` is the clock of the mix. `failed` is called if the track cannot be read.
    """

    def put(item: MixedFrame) -> None:
        thread.put(item, room_for(item.frame, MAX_FRAMES))

    reader = track.decoded()
    placed = PlacedTrack(track, group, now, put, unplaced)
    try:
        while True:
            frame = await reader.recv()
            placed.push_frame(float(frame.pts * frame.time_base), MixedFrame(source, frame, 0.0))
    except MediaStreamError:
        pass
    except Exception as error:
        failed(error)
    finally:
        placed.end()
        reader.stop()
        thread.put(SourceGone(source, now()), MAX_WAITING)
