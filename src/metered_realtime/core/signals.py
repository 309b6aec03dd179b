"""What peers send each other through the server to set up a connection: descriptions, candidates, track metadata.

They travel as ordinary direct messages and are told apart by their shape. Anything else is application data.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .sdp import DescriptionKind

MAX_METADATA_ENTRIES = 512
"""Track metadata kept for one remote. The oldest goes first."""

MAX_IDENTIFIER_LENGTH = 256

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
    """An ICE candidate of the sender, or None when there are no more."""

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
    """Metadata of a track of the sender; None clears it."""

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
"""Asks a polite end whether it is of this make, and says so in return: then there is no need to hold an offer back. To
others it clears the metadata of a track that does not exist, which does nothing."""


def in_channel(payload: dict[str, Any], channel: str) -> dict[str, Any]:
    """Return a signal's message with the channel that it belongs to, for ends that share more than one."""
    return {**payload, _CHANNEL_KEY: channel}


def channel_of(data: Any) -> str | None:
    """Return the channel that a signal's message names."""
    return _text(data.get(_CHANNEL_KEY)) if isinstance(data, dict) else None


def parse_signal(data: Any) -> Signal | MetadataSignal | None:
    """Return the signal that a direct message is, or None if it is application data."""
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


class MetadataBook:
    """The track metadata that one remote has sent. Outlives its connections."""

    def __init__(self) -> None:
        self._entries: OrderedDict[str, MetadataSignal] = OrderedDict()

    def take(self, signal: MetadataSignal) -> None:
        """Store or clear."""
        self._entries.pop(signal.track_id, None)
        if signal.metadata is None:
            return
        while len(self._entries) >= MAX_METADATA_ENTRIES:
            self._entries.popitem(last=False)
        self._entries[signal.track_id] = signal

    def find(
        self, track_id: str, kind: str, stream_id: str | None, signalled: Iterable[str] = ()
    ) -> dict[str, Any] | None:
        """Return the metadata of a track: by its id, else by a unique match of stream and kind.

        The match leaves out entries whose track is `signalled` under its own id: they belong to that track.
        """
        entry = self._entries.get(track_id)
        if entry is None and stream_id is not None:
            others = set(signalled)
            fitting = [
                it
                for it in self._entries.values()
                if it.stream_id == stream_id and it.kind == kind and it.track_id not in others
            ]
            entry = fitting[0] if len(fitting) == 1 else None
        return entry.metadata if entry is not None else None
