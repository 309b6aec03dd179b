"""Signals that peers exchange through the server to set up a connection: descriptions, candidates, track metadata.

They are ordinary direct messages, recognised by their shape. Anything else is application data.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .sdp import DescriptionKind

MAX_METADATA_ENTRIES = 512
"""Track metadata kept for one remote, for four times the sections of the largest description. The oldest is dropped
first."""

MAX_IDENTIFIER_LENGTH = 256
"""Characters of the kind or the stream id in track metadata. Browsers use 36 to 38."""

_METADATA_KEY = "__meteredTrackMeta"
_CHANNEL_KEY = "channel"


@dataclass(frozen=True, slots=True)
class DescriptionSignal:
    """An offer or an answer."""

    kind: DescriptionKind
    sdp: str

    def payload(self) -> dict[str, Any]:
        """Return the message to send."""
        return {"type": "rtc-description", "description": {"type": self.kind, "sdp": self.sdp}}


@dataclass(frozen=True, slots=True)
class CandidateSignal:
    """An ICE candidate of the sender, or None at the end of its candidates."""

    candidate: str | None
    mid: str | None = None
    index: int | None = None
    ufrag: str | None = None

    def payload(self) -> dict[str, Any]:
        """Return the message to send."""
        if self.candidate is None:
            return {"type": "rtc-ice", "candidate": None}
        candidate = {
            "candidate": self.candidate,
            "sdpMid": self.mid,
            "sdpMLineIndex": self.index,
            "usernameFragment": self.ufrag,
        }
        return {"type": "rtc-ice", "candidate": candidate}


@dataclass(frozen=True, slots=True)
class MetadataSignal:
    """Metadata of a track of the sender. None clears it."""

    track_id: str
    metadata: dict[str, Any] | None
    kind: str | None = None
    stream_id: str | None = None

    def payload(self) -> dict[str, Any]:
        """Return the message to send."""
        entry: dict[str, Any] = {"trackId": self.track_id}
        if self.metadata is not None:
            entry["metadata"] = self.metadata
        if self.kind is not None:
            entry["kind"] = self.kind
        if self.stream_id is not None:
            entry["streamId"] = self.stream_id
        return {_METADATA_KEY: entry}


Signal = DescriptionSignal | CandidateSignal

GREETING = MetadataSignal("x-metered-mesh", None)
"""Asks a polite end whether it is native, and is its reply that it is: then no offer has to be held back. At a foreign
end it clears the metadata of a track that does not exist, which does nothing."""


NAME_ID = "x-metered-name"
"""The track id of metadata that holds the name of the sender itself. Kind and stream id belong to no track either, so
that an end that does not know it keeps it for no track."""


def name_signal(name: str | None) -> MetadataSignal:
    """Return the signal that tells a remote the own name, or that there is none any more."""
    return MetadataSignal(NAME_ID, {"name": name} if name is not None else None, "name", NAME_ID)


def in_channel(payload: dict[str, Any], channel: str) -> dict[str, Any]:
    """Return the message of a signal or a call with its channel added.

    A direct message goes to every connection of a peer id, including those of its programs in other channels.
    """
    return {**payload, _CHANNEL_KEY: channel}


def channel_of(data: Any) -> str | None:
    """Return the channel that the message of a signal or a call names, None if it names none."""
    return _text(data.get(_CHANNEL_KEY)) if isinstance(data, dict) else None


def parse_signal(data: Any) -> Signal | MetadataSignal | None:
    """Return the signal in a direct message, None if the message is application data."""
    if not isinstance(data, dict):
        return None
    if _METADATA_KEY in data:
        return _metadata(data[_METADATA_KEY])
    match data.get("type"):
        case "rtc-description":
            return _description(data.get("description"))
        case "rtc-ice" if "candidate" in data:
            return _candidate(data["candidate"])
    return None


def _description(value: Any) -> DescriptionSignal | None:
    if not isinstance(value, dict) or not isinstance(value.get("sdp"), str):
        return None
    kind = value.get("type")
    return DescriptionSignal(kind, value["sdp"]) if kind in ("offer", "answer") else None


def _candidate(value: Any) -> CandidateSignal | None:
    if value is None:
        return CandidateSignal(None)
    if not isinstance(value, dict) or not isinstance(value.get("candidate"), str):
        return None
    text = value["candidate"]
    if not text:
        return CandidateSignal(None, ufrag=_text(value.get("usernameFragment")))
    index = value.get("sdpMLineIndex")
    return CandidateSignal(
        text,
        _text(value.get("sdpMid")),
        index if isinstance(index, int) and not isinstance(index, bool) else None,
        _text(value.get("usernameFragment")),
    )


def _metadata(value: Any) -> MetadataSignal | None:
    if not isinstance(value, dict):
        return None
    track_id, metadata = value.get("trackId"), value.get("metadata")
    kind, stream_id = value.get("kind"), value.get("streamId")
    if not isinstance(track_id, str) or not track_id:
        return None
    if metadata is not None and not isinstance(metadata, dict):
        return None
    if not all(
        it is None or (isinstance(it, str) and 1 <= len(it) <= MAX_IDENTIFIER_LENGTH) for it in (kind, stream_id)
    ):
        return None
    return MetadataSignal(track_id, metadata, kind, stream_id)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


@dataclass(frozen=True, slots=True)
class DescribedTrack:
    """A track of the remote as a description names it."""

    track_id: str
    kind: str
    stream_id: str | None


class MetadataBook:
    """The track metadata that one remote has sent. Kept across its connections.

    An entry has the track id that its sender uses. Three rules find the entry of a track in a description, in this
    order, so that a guess never uses an entry with a real match:

    1. The track id in the msid of its section.
    2. Stream id and kind, if exactly one entry has both and its track is not in the description under its own id.
    3. The order. A browser that puts a track into a section that the other end has offered describes it under another
       id, and some implementations name neither stream nor kind: their entries wait for the next description with new
       tracks that have no match. The last of the waiting entries belong to those tracks, in order. If there are fewer
       entries than tracks, they belong to none.
    """

    def __init__(self) -> None:
        self._entries: OrderedDict[str, MetadataSignal] = OrderedDict()
        self._waiting: dict[str, None] = {}
        self._described_as: dict[str, str] = {}
        """The track ids of entries that the third rule has found, by the track ids in descriptions."""

    def apply_signal(self, signal: MetadataSignal) -> None:
        """Store the metadata of a track, or remove it if it is None."""
        is_placed = signal.track_id in self._described_as.values()
        if signal.metadata is None:
            self._remove(signal.track_id)
            return
        self._entries.pop(signal.track_id, None)
        while len(self._entries) >= MAX_METADATA_ENTRIES:
            self._remove(next(iter(self._entries)))
        self._entries[signal.track_id] = signal
        self._waiting.pop(signal.track_id, None)
        if signal.kind is None and signal.stream_id is None and not is_placed:
            self._waiting[signal.track_id] = None

    def describe(self, new: Sequence[DescribedTrack], track_ids: Iterable[str]) -> None:
        """Apply the third rule to the new tracks of a description. `track_ids` are the ids of all tracks in it."""
        signalled = set(track_ids)
        unmatched = [it for it in new if self.find(it.track_id, it.kind, it.stream_id, signalled) is None]
        if not unmatched:
            return
        waiting = [track_id for track_id in self._waiting if track_id not in signalled]
        self._waiting.clear()
        if len(waiting) >= len(unmatched):
            for track, track_id in zip(unmatched, waiting[-len(unmatched) :], strict=True):
                self._described_as[track.track_id] = track_id

    def find(
        self, track_id: str, kind: str, stream_id: str | None, signalled: Iterable[str] = ()
    ) -> dict[str, Any] | None:
        """Return the metadata of a track, None if there is none.

        An entry matches by stream and kind only if its own track id is not in `signalled`, the ids of all described
        tracks.
        """
        entry = self._entries.get(track_id) or self._of_stream(kind, stream_id, set(signalled))
        if entry is None:
            entry = self._entries.get(self._described_as.get(track_id, ""))
        return entry.metadata if entry is not None else None

    def _of_stream(self, kind: str, stream_id: str | None, signalled: set[str]) -> MetadataSignal | None:
        if stream_id is None:
            return None
        fitting = [
            it
            for it in self._entries.values()
            if it.stream_id == stream_id and it.kind == kind and it.track_id not in signalled
        ]
        return fitting[0] if len(fitting) == 1 else None

    def _remove(self, track_id: str) -> None:
        self._entries.pop(track_id, None)
        self._waiting.pop(track_id, None)
        self._described_as = {name: it for name, it in self._described_as.items() if it != track_id}
