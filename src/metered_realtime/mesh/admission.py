"""What of a remote description this end can take: the whole, all but some sections, or nothing."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from aiortc.codecs import CODECS
from aiortc.rtcicetransport import RTCIceParameters
from aiortc.rtcpeerconnection import find_common_codecs
from aiortc.sdp import MediaDescription, SessionDescription

from ..core.declined import declined_sections, first_lines, stand_in
from ..core.sdp import SdpError


@dataclass(frozen=True, slots=True)
class Admission:
    """A remote description as aiortc is shown it.

    `declined` has the first lines of the sections that either end declines, by mid. `unusable` says of those which this
    end declines what is wrong with them.
    """

    sdp: str
    parsed: SessionDescription
    declined: dict[str, str]
    unusable: dict[str, str]


def admit(sdp: str) -> Admission:
    """Say what of a remote description can be taken.

    Raises:
        SdpError: nothing, for aiortc would trip over it half-way, when the connection is already changed.
        Exception: whatever aiortc's parser raises for what is no description.
    """
    kinds = first_lines(sdp)
    declined = declined_sections(sdp)
    text = stand_in(sdp, declined)
    parsed = SessionDescription.parse(text)
    unusable = {mid: "its kind is unknown" for mid in declined if _is_open(kinds[mid])}
    faults = {media.rtp.muxId: _fault(media) for media in parsed.media if media.rtp.muxId not in declined}
    unusable |= {mid: fault for mid, fault in faults.items() if fault is not None}
    if unusable.keys() - declined.keys():
        declined |= {mid: kinds[mid] for mid in unusable}
        text = stand_in(sdp, declined)
        parsed = SessionDescription.parse(text)
    for media in parsed.media:
        _check(media)
    return Admission(text, parsed, declined, unusable)


def usable_ice(parsed: SessionDescription, declined: Collection[str]) -> RTCIceParameters:
    """Return the ICE credentials of the first section that is not declined; a BUNDLE has one transport."""
    return next(media.ice for media in parsed.media if media.ice is not None and media.rtp.muxId not in declined)


def _is_open(first_line: str) -> bool:
    return first_line.split(" ")[1] != "0"


def _fault(media: MediaDescription) -> str | None:
    """Say why a section is to be declined, None if it is not."""
    if media.kind == "application":
        return None
    if not media.rtcp_mux:
        return "it does not multiplex RTCP (RFC 5761)"
    if not find_common_codecs(CODECS[media.kind], media.rtp.codecs):
        names = sorted({codec.mimeType.partition("/")[2] for codec in media.rtp.codecs})
        return f"no codec in common, it has {', '.join(names) or 'none'}"
    return None


def _check(media: MediaDescription) -> None:
    mid = media.rtp.muxId
    if media.ice is None or not media.ice.usernameFragment or not media.ice.password:
        raise SdpError(f"section {mid!r} has no ICE credentials")
    if media.dtls is None or not media.dtls.fingerprints:
        raise SdpError(f"section {mid!r} has no DTLS fingerprint or setup")
