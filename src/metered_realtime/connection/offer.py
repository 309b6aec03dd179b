"""Builds offers that leave the connection unchanged until they are committed.

aiortc's own `createOffer` resets the codecs and header extensions of running sections to its defaults and renumbers
payload types, which stops media in both directions (RFC 8829 section 5.2.2 keeps them). Here a description is built
beside the connection: existing sections keep what was negotiated, new ones get numbers that are in use for the same
thing anywhere in the BUNDLE, or else the ones that browsers use, and the data section comes first.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiortc import RTCPeerConnection, RTCRtpTransceiver, clock
from aiortc.codecs import CODECS, HEADER_EXTENSIONS, is_rtx
from aiortc.rtcrtpparameters import RTCRtpCodecParameters, RTCRtpHeaderExtensionParameters
from aiortc.sdp import GroupDescription, MediaDescription, SessionDescription

from ..aiortc_compat import transceivers
from ..aiortc_compat.transceivers import describe_data, describe_media, header_extensions
from ..core.negotiation.sdp import Section

DIRECTIONS = {
    (True, True): "sendrecv",
    (True, False): "sendonly",
    (False, True): "recvonly",
    (False, False): "inactive",
}
"""The direction of a section by whether this end sends, and whether it receives."""

_MID_EXTENSION = "urn:ietf:params:rtp-hdrext:sdes:mid"

# What Chromium proposes, so that a browser which later adds media finds its usual numbers free or meaning the same.
_USUAL_PAYLOAD_TYPES = {
    ("audio/opus", ""): 111,
    ("video/vp8", ""): 96,
    ("video/h264", "42001f"): 102,
    ("video/h264", "42e01f"): 106,
}

# Chromium numbers extensions by what it adds first: 1 to 8, 10, 11, 13 and 14 with audio, 1 to 11 with video only,
# where 9 is the mid. When two offers collide it refuses an id of ours that means something else in its own, before it
# rolls that back. These mean the same in both numberings, or nothing.
_EXTENSION_IDS = {
    "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time": 2,
    _MID_EXTENSION: 9,
    "urn:ietf:params:rtp-hdrext:ssrc-audio-level": 12,
}
_DYNAMIC_PAYLOAD_TYPES = (*range(96, 128), *range(35, 64))


@dataclass(frozen=True, slots=True)
class PlannedSection:
    """A section of an offer: a transceiver, or the data section when None."""

    mid: str
    transceiver: RTCRtpTransceiver | None

    def __str__(self) -> str:
        return f"{self.mid} {self.kind}"

    @property
    def kind(self) -> str:
        """`audio`, `video` or `application`."""
        return "application" if self.transceiver is None else str(self.transceiver.kind)


@dataclass(frozen=True, slots=True)
class OfferPlan:
    """An offer and its sections. Committing it is the first step that changes the connection.

    `one_way` has the mids of the sections in which the remote may not send.
    """

    sdp: str
    sections: tuple[PlannedSection, ...]
    one_way: frozenset[str] = frozenset()

    @property
    def mids(self) -> tuple[str, ...]:
        """The mids of its sections, in order."""
        return tuple(section.mid for section in self.sections)

    def keeps_waiting(self, answer: Iterable[Section]) -> bool:
        """Return whether the remote would send in a section of this offer if it might.

        A page may add a track while it applies an offer. The browser then puts the track into a section of that offer,
        and names it in the answer (RFC 8829 section 5.3.1) even where the offer does not let it send. Having named it,
        the browser sees nothing left to negotiate (W3C WebRTC, check if negotiation is needed): an offer that lets it
        send has to come from this end.
        """
        return any(it.mid in self.one_way and not it.rejected and it.names_track for it in answer)


def plan_offer(
    pc: RTCPeerConnection,
    running: Sequence[PlannedSection],
    new: Sequence[RTCRtpTransceiver],
    directions: dict[RTCRtpTransceiver, str],
    remote: SessionDescription | None,
    preferred: Mapping[RTCRtpTransceiver, str] | None = None,
    former_mids: Collection[str] = (),
    *,
    has_data: bool = True,
) -> OfferPlan:
    """Build an offer of the sections so far in their order, followed by new ones.

    Those so far are negotiated, or were with the former connection to a remote which may have kept its own.
    `remote` is the last description of the remote: its numbers are taken, also those of things that aiortc does not
    support. `preferred` has the MIME type to be offered first in new sections whose media is encoded already.
    `former_mids` are those of sections that are gone: no other section gets one. Without `has_data` no data section is
    added.
    """
    planned = list(running)
    if has_data and all(section.transceiver is not None for section in planned):
        planned.append(PlannedSection(_free_mid(planned, former_mids), None))
    media = [section.transceiver for section in running if section.transceiver is not None]
    numbers = _Numbers([it for it in media if it.mid is not None], remote)
    for transceiver in (*(it for it in media if it.mid is None), *new):
        codecs, extensions = numbers.choose(transceiver.kind, (preferred or {}).get(transceiver))
        transceivers.propose(transceiver, codecs, extensions)
    for transceiver in new:
        planned.append(PlannedSection(_free_mid(planned, former_mids), transceiver))
    description = _describe(pc, planned, directions)
    ours = [it for it in planned if it.transceiver is not None and directions[it.transceiver] == "sendonly"]
    return OfferPlan(str(description), tuple(planned), frozenset(it.mid for it in ours))


def _free_mid(planned: Sequence[PlannedSection], former: Collection[str]) -> str:
    used = {section.mid for section in planned}.union(former)
    return next(mid for mid in map(str, itertools.count()) if mid not in used)


def _describe(
    pc: RTCPeerConnection, planned: Sequence[PlannedSection], directions: dict[RTCRtpTransceiver, str]
) -> SessionDescription:
    description = SessionDescription()
    seconds = clock.current_ntp_time() >> 32
    description.origin = f"- {seconds} {seconds} IN IP4 0.0.0.0"
    description.msid_semantic.append(GroupDescription(semantic="WMS", items=["*"]))
    description.group.append(GroupDescription(semantic="BUNDLE", items=[section.mid for section in planned]))
    for section in planned:
        description.media.append(_describe_section(pc, section, directions))
    return description


def _describe_section(
    pc: RTCPeerConnection, section: PlannedSection, directions: dict[RTCRtpTransceiver, str]
) -> MediaDescription:
    if section.transceiver is None:
        return describe_data(pc, section.mid)
    return describe_media(pc, section.transceiver, directions[section.transceiver], section.mid)


class _Numbers:
    """Payload types and extension ids of one BUNDLE: a number means one thing everywhere in it (RFC 8843)."""

    def __init__(self, running: Sequence[RTCRtpTransceiver], remote: SessionDescription | None) -> None:
        self._payload_types: dict[tuple[Any, ...], int] = {}
        self._extension_ids: dict[str, int] = {}
        self._taken: set[int] = set()
        for transceiver in running:
            self._note_codecs(transceivers.codecs(transceiver))
            for extension in header_extensions(transceiver):
                self._extension_ids.setdefault(extension.uri, extension.id)
        for media in remote.media if remote is not None else ():
            if media.direction != "inactive":  # a section that aiortc is shown for a declined one may have other codecs
                self._note_codecs(media.rtp.codecs)
            self._taken.update(_number(codec) for codec in media.rtp.codecs)
            for extension in media.rtp.headerExtensions:
                self._extension_ids.setdefault(extension.uri, extension.id)

    def choose(
        self, kind: str, preferred: str | None
    ) -> tuple[list[RTCRtpCodecParameters], list[RTCRtpHeaderExtensionParameters]]:
        """Return every codec of aiortc for a kind of media with its payload type, the preferred one first."""
        codecs = self._codecs(kind)
        first = {_number(it) for it in codecs if preferred is not None and it.mimeType.lower() == preferred.lower()}
        # The sort is stable, and a codec's retransmission stays behind it.
        codecs.sort(key=lambda it: it.parameters.get("apt", _number(it)) not in first)
        return codecs, self._extensions(kind)

    def _note_codecs(self, codecs: Sequence[RTCRtpCodecParameters]) -> None:
        identities = {_number(codec): _identity(codec) for codec in codecs if not is_rtx(codec)}
        for codec in codecs:
            number = _number(codec)
            base: Any = codec.parameters.get("apt")
            identity = ("rtx", identities.get(base)) if is_rtx(codec) else identities[number]
            self._payload_types.setdefault(identity, number)

    def _codecs(self, kind: str) -> list[RTCRtpCodecParameters]:
        chosen = []
        base: RTCRtpCodecParameters | None = None
        for default in CODECS[kind]:
            codec = copy.deepcopy(default)
            if is_rtx(codec):
                assert base is not None, "aiortc lists a codec before its retransmission"
                codec.parameters = {"apt": _number(base)}
                codec.payloadType = self._payload_type(("rtx", _identity(base)), _number(base) + 1)
            else:
                codec.payloadType = self._payload_type(_identity(codec), _usual_payload_type(codec))
                base = codec
            chosen.append(codec)
        return chosen

    def _payload_type(self, identity: tuple[Any, ...], usual: int) -> int:
        if identity not in self._payload_types:
            used = self._taken | set(self._payload_types.values())
            candidates = itertools.chain([usual], _DYNAMIC_PAYLOAD_TYPES)
            # Where the other end has taken them all, packets are still told apart by their mid.
            self._payload_types[identity] = next((number for number in candidates if number not in used), usual)
        return self._payload_types[identity]

    def _extensions(self, kind: str) -> list[RTCRtpHeaderExtensionParameters]:
        numbered = {default.uri: self._extension_id(default.uri) for default in HEADER_EXTENSIONS[kind]}
        return [
            RTCRtpHeaderExtensionParameters(id=number, uri=uri)
            for uri, number in numbered.items()
            if number is not None
        ]

    def _extension_id(self, uri: str) -> int | None:
        """Return the number of an extension, None if the other end has taken them all."""
        if uri not in self._extension_ids:
            used = set(self._extension_ids.values())
            # 1 to 14 fit the one-byte header (RFC 8285 section 4.2). Free ones are taken from the top.
            candidates = itertools.chain([_EXTENSION_IDS.get(uri, 14)], range(14, 0, -1))
            free = next((number for number in candidates if number not in used), None)
            if free is None:
                return None
            self._extension_ids[uri] = free
        return self._extension_ids[uri]


def _identity(codec: RTCRtpCodecParameters) -> tuple[Any, ...]:
    """Return a key that is equal for codecs which may share a payload type."""
    parameters = codec.parameters if codec.mimeType.lower() == "video/h264" else {}
    profile = str(parameters.get("profile-level-id", "")).lower()
    return codec.mimeType.lower(), codec.clockRate, profile, str(parameters.get("packetization-mode", ""))


def _usual_payload_type(codec: RTCRtpCodecParameters) -> int:
    profile = str(codec.parameters.get("profile-level-id", "")).lower()
    return _USUAL_PAYLOAD_TYPES.get((codec.mimeType.lower(), profile), _number(codec))


def _number(codec: RTCRtpCodecParameters) -> int:
    assert codec.payloadType is not None, "a codec of a description has a payload type"
    return codec.payloadType
