"""Admission of remote descriptions: as a whole, without some sections, or not at all."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiortc.codecs import CODECS, is_rtx
from aiortc.rtcicetransport import RTCIceCandidate, RTCIceParameters
from aiortc.rtcpeerconnection import is_codec_compatible
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from aiortc.rtp import DYNAMIC_PAYLOAD_TYPES
from aiortc.sdp import SessionDescription

from ..core.negotiation.candidates import Candidate
from ..core.negotiation.rejected_sections import stand_in
from ..core.negotiation.remote_sdp import RemoteSdp, RemoteSection, read_remote
from ..core.negotiation.sdp import Description, DescriptionKind, SdpError, Section, section_texts
from ..core.negotiation.sdp_codecs import SdpCodec, describe_misfits
from ..core.negotiation.sdp_sections import Form
from ..core.negotiation.simulcast import Layer


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteDescription(Description):
    """A description of the remote as this end uses it.

    `shown` is the text for aiortc. `declined` has the first lines of the sections that either end declines, by mid, and
    `unusable` the reasons for those that this end declines. `forms` are forms of first lines that answers have to
    repeat, and `layers` those of simulcast, by mid. `noted` are some of the invalid lines that were left out,
    `odd_lines` is their number; `candidates_refused` is the number of candidates that were refused, and `refusal` the
    reason of the first.
    """

    shown: str
    sections: tuple[Section, ...]
    candidates: tuple[Candidate, ...]
    candidates_refused: int
    refusal: str
    declined: Mapping[str, str]
    unusable: Mapping[str, str]
    forms: Mapping[str, Form]
    layers: Mapping[str, Sequence[Layer]]
    noted: tuple[str, ...]
    odd_lines: int


def admit(kind: DescriptionKind, sdp: str, known_mids: Sequence[str] = ()) -> RemoteDescription:
    """Check a remote description. `known_mids` are the mids of the sections so far, in order.

    Raises:
        SdpError: it is unusable: aiortc would fail half-way, when the connection is already changed.
    """
    read = read_remote(sdp, known_mids, _identify)
    unusable = _unusable(read.sections)
    declined = {it.facts.mid: it.first_line for it in read.sections if it.facts.rejected or it.facts.mid in unusable}
    shown = stand_in(read.text, declined)
    _check(kind, shown, read)
    return RemoteDescription(
        kind,
        sdp,
        read.ufrag,
        tuple(section.facts.mid for section in read.sections),
        read.offer_tag if kind == "offer" else read.answer_tag,
        read.fingerprint,
        shown=shown,
        sections=tuple(section.facts for section in read.sections),
        candidates=read.candidates,
        candidates_refused=read.candidates_refused,
        refusal=read.refusal,
        declined=declined,
        unusable=unusable,
        forms={it.facts.mid: it.form for it in read.sections if it.form is not None and it.facts.mid not in declined},
        layers={it.facts.mid: it.layers for it in read.sections if it.layers and it.facts.mid not in declined},
        noted=read.noted,
        odd_lines=read.odd_lines,
    )


def admitted(description: Description) -> RemoteDescription:
    """Return a description as it was admitted, or admit one that was only parsed."""
    if isinstance(description, RemoteDescription):
        return description
    return admit(description.kind, description.sdp)


def usable_ice(parsed: SessionDescription, declined: Collection[str]) -> RTCIceParameters:
    """Return the ICE credentials of the first section that is not declined; a BUNDLE has one transport."""
    return next(media.ice for media in parsed.media if media.ice is not None and media.rtp.muxId not in declined)


def ice_candidate(candidate: Candidate) -> RTCIceCandidate:
    """Return a candidate as aiortc's class."""
    return RTCIceCandidate(
        component=candidate.component,
        foundation=candidate.foundation,
        ip=candidate.address,
        port=candidate.port,
        priority=candidate.priority,
        protocol=candidate.protocol,
        type=candidate.type,
        relatedAddress=candidate.related_address,
        relatedPort=candidate.related_port,
        tcpType=candidate.tcp_type,
    )


def _unusable(sections: Sequence[RemoteSection]) -> dict[str, str]:
    """Return the reason for each section that this end declines, by mid."""
    faults: dict[str, str] = {}
    has_data = False
    for section in sections:
        if section.facts.rejected:
            continue
        fault = section.fault
        if section.facts.kind != "application":
            fault = fault or _codec_fault(section)
        elif fault is None:
            fault, has_data = "there is a data section already" if has_data else None, True
        if fault is not None:
            faults[section.facts.mid] = fault
    return faults


def _codec_fault(section: RemoteSection) -> str | None:
    if any(not isinstance(identity, str) for identity in section.identities):
        return None
    if not section.codecs:
        return f"no codec in common, and no number with a meaning in {section.first_line!r}"
    return f"no codec in common: {describe_misfits(section.codecs, _KNOWN[section.facts.kind])}"


def _identify(kind: str, codec: SdpCodec) -> Hashable:
    """Return which codec of aiortc a codec is compatible with, or of which payload type it is the retransmission.

    aiortc answers with a number of its own if the offered one is below 96. That is no reason to leave out another.
    """
    theirs = _parameters(kind, codec)
    if is_rtx(theirs):
        return f"rtx of {codec.parameters.get('apt')}"
    for ours in CODECS.get(kind, ()):
        if is_codec_compatible(ours, theirs):
            return ours.payloadType, codec.payload_type in (ours.payloadType, *DYNAMIC_PAYLOAD_TYPES)
    return None


def _parameters(kind: str, codec: SdpCodec) -> RTCRtpCodecParameters:
    return RTCRtpCodecParameters(
        mimeType=f"{kind}/{codec.name}",
        clockRate=codec.clock_rate,
        channels=codec.channels,
        payloadType=codec.payload_type,
        parameters=dict(codec.parameters),
    )


def _codec(codec: Any) -> SdpCodec:
    return SdpCodec(codec.payloadType, codec.name, codec.clockRate, codec.channels, dict(codec.parameters))


_KNOWN = {kind: [_codec(codec) for codec in codecs if not is_rtx(codec)] for kind, codecs in CODECS.items()}


def _check(kind: DescriptionKind, shown: str, read: RemoteSdp) -> None:
    """Check that each section has a transport.

    Raises:
        SdpError: one has none, or an answer leaves open who begins DTLS (RFC 8842 section 5.3).
    """
    odd = f" (left out: {', '.join(map(repr, read.noted))})" if read.noted else ""
    for section, lines in zip(read.sections, section_texts(shown)[1], strict=True):
        names = {line.partition(":")[0] for line in lines}
        mid = section.facts.mid
        if not names >= {"a=ice-ufrag", "a=ice-pwd"}:
            raise SdpError(f"section {mid!r} has no ICE credentials{odd}")
        if not names >= {"a=fingerprint", "a=setup"}:
            raise SdpError(f"section {mid!r} has no DTLS fingerprint or setup{odd}")
        if kind == "answer" and "a=setup:actpass" in lines:
            raise SdpError(f"the answer leaves open who begins DTLS in section {mid!r}", "a=setup:actpass")
