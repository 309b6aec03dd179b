"""A description from the remote, read once: bounded, with its facts, and as text in a normal form.

A description from another end may be odd, old or hostile. aiortc's parser fails on a line that it does not expect, with
an arbitrary exception, and its time and memory grow with the product of the numbers of lines in a section. It is given
the normal form, which is written here: known attributes only, each section with its direction, its payload types in the
order of preference (RFC 8829 section 5.2.1), without candidates. An attribute that cannot be read is left out and
noted. A section that cannot be used has a `fault`, and the other sections are used.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from .candidates import MAX_REMOTE_CANDIDATES, Candidate, parse_candidate
from .rejected_sections import NAMELESS
from .sdp import MAX_SDP_SECTIONS, SdpError, Section, masked
from .sdp_attributes import read_attribute
from .sdp_codecs import SdpCodec
from .sdp_sections import Form, IdentifyFn, Level, MediaLevel, begin_section
from .simulcast import Layer

MAX_SDP_LENGTH = 256 * 1024
"""Characters of a description: four times what a server passes on by default. Reading them takes about 0.1 s."""

MAX_NOTED_LINES = 8
"""Odd lines that are kept to be shown. Further ones are only counted."""

_LINE_END = re.compile(r"\r\n|\n|\r")


@dataclass(frozen=True, slots=True)
class RemoteSection:
    """One m-section of the remote.

    Attributes:
        facts: Its kind, mid, direction and msid.
        first_line: Its first line as received, or a stand-in for one that cannot be read.
        fault: Why it cannot be used, None if it can.
        form: The way its first line is written, None if it is the way of this end.
        codecs: Its codecs, in the order of preference.
        identities: What `identify` returned for them, without unknown codecs.
        layers: The layers of its simulcast, empty without.
    """

    facts: Section
    first_line: str
    fault: str | None
    form: Form | None
    codecs: tuple[SdpCodec, ...]
    identities: frozenset[Hashable]
    layers: tuple[Layer, ...] = ()


@dataclass(frozen=True, slots=True)
class RemoteSdp:
    """A description from the remote.

    Attributes:
        text: Its normal form.
        sections: Its m-sections, in order.
        candidates: Its usable candidates, without duplicates.
        candidates_refused: The number of candidates that are refused.
        refusal: Why the first of them is refused, empty if none is.
        ufrag: Its first ICE user fragment.
        fingerprint: Its first certificate fingerprint in upper case, empty if there is none.
        offer_tag: The tag of a native offer, None if there is none.
        answer_tag: The tag that a native answer echoes, None if there is none.
        noted: The first odd lines, without their secrets.
        odd_lines: The number of all odd lines.
    """

    text: str
    sections: tuple[RemoteSection, ...]
    candidates: tuple[Candidate, ...]
    candidates_refused: int
    refusal: str
    ufrag: str
    fingerprint: str
    offer_tag: str | None
    answer_tag: str | None
    noted: tuple[str, ...]
    odd_lines: int


def read_remote(sdp: str, known_mids: Sequence[str] = (), identify: IdentifyFn = lambda kind, codec: None) -> RemoteSdp:
    """Read a description from the remote.

    `known_mids` are the mids of the session in order; they name declined sections without a mid. `identify` returns
    what a codec is at this end.

    Raises:
        SdpError: it is too long, or has too many sections, no ICE user fragment, or no sections with a mid.
    """
    if len(sdp) > MAX_SDP_LENGTH:
        raise SdpError(f"a description of {len(sdp)} characters, more than {MAX_SDP_LENGTH}")
    reader = _SdpReader()
    for line in _LINE_END.split(sdp.replace("\t", " ")):
        reader.read_line(line.strip(" "))
    return reader.result(known_mids, identify)


class _SdpReader:
    """Reads the lines of one description. Each costs the same, whatever came before it."""

    def __init__(self) -> None:
        self._session = Level()
        self._media: list[MediaLevel] = []
        self._level = self._session
        self._candidates: dict[tuple[str, str, int], Candidate] = {}
        self._candidate_lines: set[str] = set()
        self._candidates_refused = 0
        self._refusal = ""
        self._noted: list[str] = []
        self._odd_lines = 0

    def read_line(self, line: str) -> None:
        head = line[:2]
        if head == "a=":
            if line.startswith("a=candidate"):
                self._read_candidate(line)
            elif not read_attribute(self._level, line):
                self._note(line)
        elif head == "m=":
            if len(self._media) == MAX_SDP_SECTIONS:
                raise SdpError(f"the description has more than {MAX_SDP_SECTIONS} sections")
            media = begin_section(line)
            self._media.append(media)
            self._level = media
        elif line and line[1:2] != "=":
            self._note(line)

    def _note(self, line: str) -> None:
        self._odd_lines += 1
        if len(self._noted) < MAX_NOTED_LINES:
            self._noted.append(masked(line))

    def _read_candidate(self, line: str) -> None:
        if line in self._candidate_lines:
            return  # bundled sections may all have the same ones
        try:
            if len(self._candidate_lines) == MAX_REMOTE_CANDIDATES:
                raise SdpError(f"more than {MAX_REMOTE_CANDIDATES} candidates in one description")
            candidate = parse_candidate(line)
        except SdpError as error:
            self._candidates_refused += 1
            self._refusal = self._refusal or str(error)
            return
        self._candidate_lines.add(line)
        if candidate.component == 1:  # RTP and RTCP are multiplexed (RFC 8834 section 4.5)
            self._candidates.setdefault(candidate.transport_address, candidate)

    def result(self, known_mids: Sequence[str], identify: IdentifyFn) -> RemoteSdp:
        self._assign_mids(known_mids)
        levels = (self._session, *self._media)
        ufrag = next((level.values["ice-ufrag"] for level in levels if "ice-ufrag" in level.values), None)
        if ufrag is None:
            raise SdpError("the description has no ICE user fragment")
        fingerprints = [fingerprint for level in levels for fingerprint in level.fingerprints]
        self._decline_unbundled()
        text = self._normal_form(identify)
        return RemoteSdp(
            text=text,
            sections=tuple(map(_section, self._media)),
            candidates=tuple(self._candidates.values()),
            candidates_refused=self._candidates_refused,
            refusal=self._refusal,
            ufrag=ufrag,
            fingerprint=fingerprints[0].upper() if fingerprints else "",
            offer_tag=self._session.values.get("x-metered-offer"),
            answer_tag=self._session.values.get("x-metered-answer"),
            noted=tuple(self._noted),
            odd_lines=self._odd_lines,
        )

    def _assign_mids(self, known_mids: Sequence[str]) -> None:
        """Give each section a mid of its own."""
        for media, mid in zip(self._media, known_mids, strict=False):
            if media.is_rejected:
                media.values.setdefault("mid", mid)
        if not any(media.mid for media in self._media):
            raise SdpError("the description has no sections with a mid")
        used: set[str] = set()
        for place, media in enumerate(self._media):
            if not media.mid or media.mid in used:
                line = f"a=mid:{media.mid}" if media.mid else media.first_line
                media.fault = f"it has no mid of its own: {masked(line)!r}"
                media.values["mid"] = f"{NAMELESS}{place}"
            if media.mid in used:
                raise SdpError("two sections have the same mid", f"a=mid:{media.mid}")
            used.add(media.mid)

    def _decline_unbundled(self) -> None:
        """Find fault with sections that need a transport of their own: a connection has one (RFC 8843)."""
        usable = [media for media in self._media if not media.is_rejected and media.fault is None]
        together = {media.mid for media in usable}.intersection(self._session.groups)
        if not together and usable:
            together = {usable[0].mid}
        for media in usable:
            if media.mid not in together:
                media.fault = "it is not bundled with the first section (RFC 8843): all share one transport"

    def _normal_form(self, identify: IdentifyFn) -> str:
        mids = {media.mid for media in self._media}
        bundle = [mid for mid in dict.fromkeys(self._session.groups) if mid in mids]
        lines = ["v=0", "o=- 0 0 IN IP4 0.0.0.0", "s=-", "t=0 0"]
        lines += ["a=ice-lite"] if "ice-lite" in self._session.flags else []
        lines += [f"a=group:BUNDLE {' '.join(bundle)}"] if bundle else []
        bundled = frozenset(bundle)
        for media in self._media:
            media.complete(self._session, is_bundled=media.mid in bundled)
            for odd in media.choose_codecs(identify):
                self._note(odd)
            if media.simulcast and not media.layers:
                self._note(f"a=simulcast:send {media.simulcast}")
            lines += media.lines()
        return "".join(f"{line}\r\n" for line in lines)


def _section(media: MediaLevel) -> RemoteSection:
    direction = media.direction or "sendrecv"
    facts = Section(media.kind, media.mid, media.is_rejected, direction, tuple(media.streams), media.track)
    codecs, identities = tuple(media.codecs.values()), frozenset(media.identities)
    return RemoteSection(facts, media.first_line, media.fault, media.form, codecs, identities, media.layers)
