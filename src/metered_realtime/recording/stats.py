"""The state and the stats of recordings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

RecordingState = Literal["waiting", "recording", "closed", "failed"]


@dataclass(frozen=True, slots=True)
class ParticipantFigures:
    """The stats of one participant's recording.

    `state` is `waiting` for the first packet, `recording`, `closed` or `failed`; the text of a failure is in `error`.
    `began` is the second of the recording at which the first file begins, `duration` the seconds from there to the last
    packet. `packets` counts those written, by kind. `lost` counts gaps in the sound, `dropped` what arrived and was not
    written: before a key frame, too late, or too much for the disk. `waiting` items are queued for the disk.
    `reencoded` holds the kinds that the format cannot hold as they were sent. `changes_refused` counts changes of the
    video that needed another file too early.
    """

    peer_id: str
    files: tuple[Path, ...]
    state: RecordingState
    began: float | None
    duration: float
    bytes_written: int
    packets: dict[str, int]
    lost: int
    dropped: int
    waiting: int
    reencoded: tuple[str, ...]
    error: str | None
    changes_refused: int = 0


@dataclass(slots=True)
class Totals:
    """Sums over participants."""

    participants: int = 0
    tracks: int = 0
    audio: int = 0
    video: int = 0
    lost: int = 0
    dropped: int = 0
    waiting: int = 0
    bytes_written: int = 0

    def add(self, participant: ParticipantFigures) -> None:
        """Add the stats of a participant."""
        self.participants += 1
        self.tracks += sum(count > 0 for count in participant.packets.values())
        self.audio += participant.packets["audio"]
        self.video += participant.packets["video"]
        self.lost += participant.lost
        self.dropped += participant.dropped
        self.waiting += participant.waiting
        self.bytes_written += participant.bytes_written


@dataclass(frozen=True, slots=True)
class RecorderStats:
    """The progress of a recording.

    `seconds` since the start, frames by kind ("audio", "video"), `frames_waiting` for the encoder or the disk,
    `bytes_written` so far (of encoded media), and the texts of the last 100 `errors`. With `follow`, `participants` has
    an entry for each participant in the order of arrival, and the other numbers are their sums. Only the last 1,000
    (`MAX_LEFT`) participants that have left are listed; `participants_forgotten` counts earlier ones, which are only in
    the sums.
    """

    seconds: float
    tracks: int
    frames_written: dict[str, int]
    frames_dropped: dict[str, int]
    frames_waiting: int
    bytes_written: int
    errors: tuple[str, ...]
    participants: tuple[ParticipantFigures, ...] = ()
    participants_forgotten: int = 0


class RecordingError(OSError):
    """Files of a recording could not be written. Other files are complete. `files` holds the failed ones by peer id."""

    def __init__(self, message: str, files: dict[str, Path]) -> None:
        super().__init__(message)
        self.files = files
