"""Sections of a description that one end has declined with port 0 (RFC 8829 sections 5.2.2 and 5.3.1).

A browser declines a section for good by stopping its transceiver, and uses its position again under another mid. This
end declines sections that it cannot use, such as those without a common codec. aiortc does not support declined
sections: it is given an inactive one in the place of each (`stand_in`), and the other end is sent port 0
(`with_port_zero`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from .sdp import section_texts

KINDS = frozenset({"audio", "video", "application"})
"""The kinds of sections (RFC 8829 section 5.1.2)."""

NAMELESS = "x-nameless-"
"""Prefix of the mid that is made up for a section without one of its own. It is never sent to the other end."""

_TRANSPORT = ("ice-ufrag", "ice-pwd", "ice-options", "fingerprint", "setup")
"""Attributes of the transport that bundled sections share: all but the first may omit them (RFC 8843 section 7.1.3)."""

_NEEDED = {"ice-ufrag", "ice-pwd", "fingerprint", "setup"}

_STAND_INS = {
    "audio": ("m=audio 9 UDP/TLS/RTP/SAVPF 111", "a=rtpmap:111 opus/48000/2"),
    "video": ("m=video 9 UDP/TLS/RTP/SAVPF 96", "a=rtpmap:96 VP8/90000"),
    "application": ("m=application 9 UDP/DTLS/SCTP webrtc-datachannel", "a=sctp-port:5000"),
}


def first_lines(sdp: str) -> dict[str, str]:
    """Return the first line of each section by mid."""
    return {_mid(lines): lines[0] for lines in section_texts(sdp)[1]}


def stand_in(sdp: str, declined: Collection[str]) -> str:
    """Return a description in which the declined sections are inactive instead.

    Bundled sections that omit attributes of the shared transport are completed.
    """
    session, sections = section_texts(sdp)
    if not declined and all(_names(lines) >= _NEEDED for lines in sections):
        return sdp
    bundled = _bundle(session)
    shared = _shared(sections, declined)
    data = _data_mid(sections, declined)
    shown = [
        _inactive(lines, shared, data)
        if _mid(lines) in declined
        else _completed(lines, shared if _mid(lines) in bundled else [])
        for lines in sections
    ]
    return _text(sdp, session, shown) if shown != sections else sdp


def with_port_zero(sdp: str, declined: Mapping[str, str]) -> str:
    """Return a description of this end with sections declined: their mids, with the first lines of the other end."""
    if not declined:
        return sdp
    session, sections = section_texts(sdp)
    for index, lines in enumerate(sections):
        mid = _mid(lines)
        if mid in declined:
            kind, _, rest = declined[mid].partition(" ")
            name = [] if mid.startswith(NAMELESS) else [f"a=mid:{mid}"]
            sections[index] = [f"{kind} 0 {rest.partition(' ')[2]}", "c=IN IP4 0.0.0.0", *name, "a=inactive"]
    session = [_without(line, declined) for line in session]
    return _text(sdp, session, sections)


def _shared(sections: Sequence[list[str]], declined: Collection[str]) -> list[str]:
    """Return the lines that describe the transport, preferably of a complete section that is not declined."""
    described = [lines for lines in sections if _attribute(lines, "ice-ufrag") is not None]
    ranked = sorted(described, key=lambda lines: (not _names(lines) >= _NEEDED, _mid(lines) in declined))
    chosen = ranked[0] if ranked else []
    # Bundled sections multiplex RTCP (RFC 8843 section 9.3), but a data section does not say so.
    return [*(line for line in chosen if _attribute_name(line) in _TRANSPORT), "a=rtcp-mux"]


def _data_mid(sections: Sequence[list[str]], declined: Collection[str]) -> str | None:
    """Return the mid of the one section that carries data, preferably one that is not declined."""
    mids = [_mid(lines) for lines in sections if _kind(lines) == "application"]
    return next((mid for mid in mids if mid not in declined), mids[0] if mids else None)


def _inactive(lines: Sequence[str], shared: Sequence[str], data: str | None) -> list[str]:
    mid, kind = _mid(lines), _kind(lines)
    first, codec = _STAND_INS[kind if kind == "audio" or (kind == "application" and mid == data) else "video"]
    return [first, "c=IN IP4 0.0.0.0", f"a=mid:{mid}", "a=inactive", codec, *shared]


def _completed(lines: list[str], shared: Sequence[str]) -> list[str]:
    """Return a section with the attributes that it lacks. ICE credentials are copied together, or not at all."""
    names = _names(lines)
    lacking = [line for line in shared if _attribute_name(line) not in names]
    if "ice-ufrag" in names:
        lacking = [line for line in lacking if _attribute_name(line) in ("fingerprint", "setup")]
    return [*lines, *lacking] if lacking else lines


def _bundle(session: Sequence[str]) -> frozenset[str]:
    groups = [line.split() for line in session if line.startswith("a=group:BUNDLE")]
    return frozenset(mid for group in groups for mid in group[1:])


def _without(line: str, mids: Collection[str]) -> str:
    if not line.startswith("a=group:BUNDLE"):
        return line
    name, *members = line.split()
    return " ".join((name, *(mid for mid in members if mid not in mids)))


def _kind(lines: Sequence[str]) -> str:
    return lines[0][2:].partition(" ")[0]


def _mid(lines: Sequence[str]) -> str:
    return _attribute(lines, "mid") or ""


def _attribute(lines: Sequence[str], name: str) -> str | None:
    return next((line.partition(":")[2] for line in lines if _attribute_name(line) == name), None)


def _names(lines: Sequence[str]) -> set[str]:
    return {line[2:].partition(":")[0] for line in lines if line.startswith("a=")}


def _attribute_name(line: str) -> str:
    return line[2:].partition(":")[0] if line.startswith("a=") else ""


def _text(like: str, session: Sequence[str], sections: Sequence[Sequence[str]]) -> str:
    newline = "\r\n" if "\r\n" in like else "\n"
    return "".join(f"{line}{newline}" for lines in (session, *sections) for line in lines)
