"""The few facts of a session description (RFC 8866, RFC 8829) that aiortc does not expose.

Also the offer tag: an attribute of this project, `a=x-metered-offer:ID`, which native answers echo as
`a=x-metered-answer:ID`. Other implementations ignore it, as RFC 8866 section 5.13 asks, and their answers are matched
by their list of mids instead.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Direction = Literal["sendrecv", "sendonly", "recvonly", "inactive"]
DescriptionKind = Literal["offer", "answer"]

MAX_SDP_SECTIONS = 128
"""Sections of a remote description. Each costs this end 0.14 MB, about 2 ms and 1 KB of answer, whatever is in it. A
message that a server passes on by default has room for half as many."""

MAX_STREAMS_OF_TRACK = 16
"""Streams that a track may belong to; further ones are ignored. Programs use one or two."""

_OF_SOURCES = re.compile(r"(?m)^a=(?:msid|ssrc|ssrc-group):[^\r\n]*\r?\n")

_DIRECTIONS: dict[str, Direction] = {
    "a=sendrecv": "sendrecv",
    "a=sendonly": "sendonly",
    "a=recvonly": "recvonly",
    "a=inactive": "inactive",
}

_OFFER_TAG = "a=x-metered-offer:"
_ANSWER_TAG = "a=x-metered-answer:"


MAX_LINE_LENGTH = 4_096
"""Characters of a line that is read. The longest real ones are fmtp lines with parameter sets, of some hundreds."""

MAX_SHOWN_LENGTH = 100
"""Characters of a line that an error or a log shows."""

_OPEN_ATTRIBUTES = frozenset(
    {"rtpmap", "fmtp", "rtcp-fb", "extmap", "ssrc", "ssrc-group", "candidate", "setup", "fingerprint", "mid", "msid"}
    | {"sctp-port", "max-message-size", "rid", "simulcast"}
)
_SECRET = re.compile(r"(ice-pwd|ufrag)(?s:.*)", re.IGNORECASE)


class SdpError(ValueError):
    """A session description that cannot be used. `line` is the line at fault without its secrets, if there is one."""

    def __init__(self, message: str, line: str | None = None) -> None:
        self.line = masked(line) if line is not None else None
        super().__init__(message if self.line is None else f"{message}: {self.line!r}")


def masked(line: str) -> str:
    """Return a line as it may be shown: cut short, and with values only of attributes that hold no secrets."""
    line = line[: 4 * MAX_SHOWN_LENGTH]
    name, colon, _ = line.partition(":")
    is_open = name.removeprefix("a=").strip() in _OPEN_ATTRIBUTES or (line.startswith("m=") and not colon)
    shown = line if is_open else f"{name[:2]}{name[2:].strip().partition(' ')[0].partition('=')[0]}"
    shown = _SECRET.sub(r"\1", shown)[:MAX_SHOWN_LENGTH]
    return shown if shown == line else f"{shown}…"


@dataclass(frozen=True, slots=True)
class Section:
    """One m-section. `stream_ids` and `track_id` are from its msid lines (RFC 8830), one for each stream."""

    kind: str
    mid: str
    rejected: bool
    direction: Direction
    stream_ids: tuple[str, ...]
    track_id: str | None

    @property
    def sends(self) -> bool:
        """Whether the describing end sends media in this section."""
        return self.kind != "application" and not self.rejected and self.direction in ("sendrecv", "sendonly")

    @property
    def receives(self) -> bool:
        """Whether the describing end receives media in this section."""
        return self.kind != "application" and not self.rejected and self.direction in ("sendrecv", "recvonly")

    @property
    def names_track(self) -> bool:
        """Whether the describing end has a track for this section, whether or not it may send."""
        return self.track_id is not None or bool(self.stream_ids)


@dataclass(frozen=True, slots=True)
class Description:
    """An offer or answer with the facts that the negotiation needs."""

    kind: DescriptionKind
    sdp: str
    ufrag: str
    mids: tuple[str, ...]
    tag: str | None = None
    fingerprint: str = ""

    def restarts(self, earlier: Description) -> bool:
        """Return whether this is an ICE restart of the end that sent `earlier`: only its ICE user fragment differs.

        The certificate shows that it is the same end. The id of the session (RFC 8829 section 5.2.1) does not: some
        ends write another one in each description. False for tagged descriptions: a native end makes a new connection
        instead, maybe with the same certificate.
        """
        is_same = self.fingerprint == earlier.fingerprint != ""
        return is_same and self.tag is None and self.ufrag != earlier.ufrag

    def answers(self, offer: Description) -> bool:
        """Return whether this answer is one to an offer: by its tag, or else by its sections."""
        return self.mids == offer.mids if self.tag is None else self.tag == offer.tag

    @staticmethod
    def parse(kind: DescriptionKind, sdp: str) -> Description:
        """Read the facts of a description.

        Raises:
            SdpError: it has no ICE user fragment, no or too many sections, a section without a mid, or a mid twice.
        """
        mids = tuple(section.mid for section in sections(sdp))
        if not mids or "" in mids or len(set(mids)) != len(mids):
            raise SdpError(f"the description has no sections or no distinct mids: {mids!r}")
        tag = _attribute(sdp, _OFFER_TAG if kind == "offer" else _ANSWER_TAG)
        fingerprint = (_attribute(sdp, "a=fingerprint:") or "").upper()
        return Description(kind, sdp, ice_ufrag(sdp), mids, tag, fingerprint)


def sections(sdp: str) -> tuple[Section, ...]:
    """Return the m-sections in order.

    Raises:
        SdpError: there are more than `MAX_SDP_SECTIONS`.
    """
    session, parts = section_texts(sdp)
    session_direction: Direction = "sendrecv"
    for line in session:
        session_direction = _DIRECTIONS.get(line, session_direction)
    return tuple(_section(part, session_direction) for part in parts)


def section_texts(sdp: str) -> tuple[list[str], list[list[str]]]:
    """Return the lines before the first m-section, and those of each section, without blanks around them.

    Raises:
        SdpError: there are more than `MAX_SDP_SECTIONS`.
    """
    session: list[str] = []
    parts: list[list[str]] = []
    current = session
    for line in map(str.strip, sdp.splitlines()):
        if line[:2] == "m=":
            if len(parts) == MAX_SDP_SECTIONS:
                raise SdpError(f"the description has more than {MAX_SDP_SECTIONS} sections")
            current = [line]
            parts.append(current)
        elif line:
            current.append(line)
    return session, parts


def ice_ufrag(sdp: str) -> str:
    """Return the first ICE user fragment. It changes exactly when an end is replaced or restarts ICE.

    Raises:
        SdpError: there is none.
    """
    ufrag = _attribute(sdp, "a=ice-ufrag:")
    if not ufrag:
        raise SdpError("the description has no ICE user fragment")
    return ufrag


def with_origin(sdp: str, session: int, version: int) -> str:
    """Return the description with this origin (RFC 8829 section 5.2.1).

    For one connection `session` stays the same, and `version` grows by one with each description.
    """
    return re.sub(r"(?m)^o=[^\r\n]*", f"o=- {session} {version} IN IP4 0.0.0.0", sdp, count=1)


def with_offer_tag(sdp: str, tag: str) -> str:
    """Return an offer with the tag, at session level."""
    return _insert_at_session_level(sdp, _OFFER_TAG + tag)


def with_answer_tag(sdp: str, tag: str | None) -> str:
    """Return an answer that echoes the tag of its offer, if the offer had one."""
    return sdp if tag is None else _insert_at_session_level(sdp, _ANSWER_TAG + tag)


def with_trickle(sdp: str) -> str:
    """Return the description of an end that takes and sends candidates one by one (RFC 8840 section 4.1.1)."""
    return _insert_at_session_level(sdp, "a=ice-options:trickle")


def without_end_of_candidates(sdp: str) -> str:
    """Return the description without `a=end-of-candidates` (RFC 8840 section 8.2): more candidates follow."""
    return "".join(line for line in sdp.splitlines(keepends=True) if line.strip() != "a=end-of-candidates")


def without_idle_sources(sdp: str) -> str:
    """Return a description of this end with sources and msids only in sections whose direction sends.

    Others have none (RFC 8829 section 5.2.1): older releases of libwebrtc refuse a section that has sources and does
    not send.
    """
    kept = []
    for section in re.split(r"(?m)^(?=m=)", sdp):
        sends = re.search(r"(?m)^a=(?:recvonly|inactive)\r?$", section) is None
        kept.append(section if sends else _OF_SOURCES.sub("", section))
    return "".join(kept)


def _section(lines: list[str], session_direction: Direction) -> Section:
    kind, _, rest = lines[0][2:].partition(" ")
    mid, track_id = "", None
    stream_ids: list[str] = []
    direction = session_direction
    bundle_only = False
    for line in lines[1:]:
        if line.startswith("a=mid:"):
            mid = line[6:]
        elif line.startswith("a=msid:") and len(stream_ids) < MAX_STREAMS_OF_TRACK:
            stream_id, its_track = _msid(line[7:])
            track_id = track_id or its_track
            if stream_id is not None and stream_id not in stream_ids:
                stream_ids.append(stream_id)
        elif line == "a=bundle-only":
            bundle_only = True  # port 0 then does not mean rejected (RFC 8843 section 6)
        else:
            direction = _DIRECTIONS.get(line, direction)
    rejected = rest.split(" ", 1)[0] == "0" and not bundle_only
    return Section(kind, mid, rejected, direction, tuple(stream_ids), track_id)


def _msid(value: str) -> tuple[str | None, str | None]:
    fields = value.split()
    stream_id = fields[0] if fields and fields[0] != "-" else None
    return stream_id, fields[1] if len(fields) > 1 else None


def _attribute(sdp: str, prefix: str) -> str | None:
    for line in sdp.splitlines():
        if line.startswith(prefix):
            return line[len(prefix) :].strip()
    return None


def _insert_at_session_level(sdp: str, attribute: str) -> str:
    end = sdp.find("\nm=") + 1
    newline = "\r\n" if "\r\n" in sdp else "\n"
    return f"{sdp[:end]}{attribute}{newline}{sdp[end:]}"
