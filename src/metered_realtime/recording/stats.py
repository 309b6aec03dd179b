"""How a recording stands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

RecordingState = Literal["waiting", "recording", "closed", "failed"]


@dataclass(frozen=True, slots=True)
class ParticipantFigures:
    """How the recording of a participant stands.

    `waiting` for its first packet, `recording`, `closed` or `failed`, with the text in `error`. `began` is the second
    of the recording at which the first file begins, `duration` in seconds from there to the last packet. `packets` are
    those written, by kind; `lost` counts holes in the sound, `dropped` what came and could not be written: before a key
    frame, too late, or too much for the disk. `reencoded` has the kinds that the format does not take as they come.
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
    """The sums over participants."""

    participants: int = 0
    tracks: int = 0
    audio: int = 0
    video: int = 0
    lost: int = 0
    dropped: int = 0
    waiting: int = 0
    bytes_written: int = 0

    def add(self, participant: ParticipantFigures) -> None:
        """Add a participant."""
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
    """A recording's progress.

    `seconds` since the start, frames by kind ("audio", "video"), `frames_waiting` for the encoder or the disk,
    `bytes_written` so far (of encoded media), and the texts of what went wrong. `participants` are those of what is
    followed, in the order of arrival; the numbers above then are of all together. Of those who have left only the last
    `MAX_LEFT` (1,000) are listed; `participants_forgotten` counts the others, who are in the sums only. The texts of
    errors are the last 100.
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
    """Files of a recording could not be written. Those of others went on: `files` has the failed ones by peer id."""

    def __init__(self, message: str, files: dict[str, Path]) -> None:
        super().__init__(message)
        self.files = files
