"""Which local tracks may share a section with media of the remote.

An end that negotiates only once receives in sections of its own, and sends in sections that it is offered, or not at
all. So a section of a foreign end takes a local track, and the first offer lets a foreign end send. Native ends
negotiate as often as needed, and each sends in sections of its own.

Where a browser has opened a section, the track that it receives there has an id of the browser's choice instead of the
one in the msid (W3C WebRTC section 4.4.2, `addTrack`). Pages that find metadata by this id, such as those with the
hosted service's JavaScript SDK, need a track with metadata in a section that this end has opened. They send their
candidates after their descriptions (trickle ICE, RFC 8838). Ends that negotiate once usually send one description with
everything in it.
"""

from __future__ import annotations

from enum import Enum, auto


class Sharing(Enum):
    """Which local tracks share sections with media of the remote."""

    NONE = auto()
    WITHOUT_METADATA = auto()
    ALL = auto()
    ONCE = auto()
    """All, and those that have to be transcoded for the section too: nothing will be negotiated later."""

    def admits(self, *, has_metadata: bool) -> bool:
        """Return whether a track shares sections."""
        return self in (Sharing.ALL, Sharing.ONCE) or (self is Sharing.WITHOUT_METADATA and not has_metadata)


class RemoteTraits:
    """What the signals of a remote show of its implementation.

    Attributes:
        is_native: Whether it is this implementation, None as long as that is unknown.
        trickles: Whether it is known to send candidates after its descriptions.
    """

    def __init__(self) -> None:
        self.is_native: bool | None = None
        self.trickles = False

    def note_description(self, *, is_tagged: bool, has_candidates: bool) -> None:
        """Record a description. Those of native ends are tagged."""
        self.is_native = is_tagged
        self.trickles = self.trickles or not has_candidates

    @property
    def sharing(self) -> Sharing:
        """Which local tracks share sections with its media. All do as long as nothing is known: a native end answers
        such an offer like any other, and sends in sections of its own."""
        if self.is_native:
            return Sharing.NONE
        return Sharing.WITHOUT_METADATA if self.trickles else Sharing.ALL
