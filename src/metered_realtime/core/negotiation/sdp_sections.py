"""One m-section of a remote description: its contents, and its lines in the normal form (see `remote_sdp`)."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field

from .rejected_sections import KINDS
from .sdp import MAX_LINE_LENGTH, Direction, masked, section_texts
from .sdp_codecs import FEEDBACK, UNUSED, SdpCodec, codec_of
from .simulcast import STREAM_ID, Layer, read_layers

SCTP_PORT = 5000
"""The SCTP port of an end that names none. All known implementations use it."""

MAX_DATA_STREAMS = 65_535
"""Streams that a data section of the old form announces: as many as aiortc supports."""

RTP_PROTO = "UDP/TLS/RTP/SAVPF"
DATA_PROTO = "UDP/DTLS/SCTP"
DATA_FORMAT = "webrtc-datachannel"

IdentifyFn = Callable[[str, SdpCodec], Hashable]
"""Return what a codec is at this end, None if it is unknown. Called with the kind of media and the codec."""

_FIRST_LINE = re.compile(r"m=([a-z]{1,16}) +(\d{1,5})(?:/\d{1,5})? +([A-Za-z0-9/]{1,32}) +(\S.*)", re.ASCII)
_RTP = re.compile(r"(?:(?:UDP|TCP)/(?:D?TLS)/)?RTP/S?AVPF?", re.ASCII)
_SCTP = re.compile(r"(?:(?:UDP|TCP)/)?DTLS/SCTP", re.ASCII)
_PORT = re.compile(r"\d{1,5}", re.ASCII)
_PAYLOAD_TYPE = re.compile(r"0|[1-9]\d{0,2}", re.ASCII)
_CONFLICT = range(64, 96)  # payload types that cannot be told from RTCP (RFC 5761 section 4)


@dataclass(frozen=True, slots=True)
class Form:
    """A way to write a first line that is not the way of this end: an answer repeats it (RFC 8829 section 5.3.1)."""

    proto: str
    formats: str | None = None


def in_form(sdp: str, forms: Mapping[str, Form]) -> str:
    """Return a description of this end with the first lines of sections, by mid, in the form of the other end."""
    if not forms:
        return sdp
    session, sections = section_texts(sdp)
    for lines in sections:
        form = next((forms[line[6:]] for line in lines if line.startswith("a=mid:") and line[6:] in forms), None)
        if form is not None and lines[0].split(" ")[1] != "0":
            lines[:] = _in_form(lines, form)
    return "".join(f"{line}\r\n" for lines in (session, *sections) for line in lines)


def _in_form(lines: list[str], form: Form) -> list[str]:
    kind, port, _, formats = lines[0].split(" ", 3)
    if form.formats is None or not form.formats.isdecimal():
        return [f"{kind} {port} {form.proto} {form.formats or formats}", *lines[1:]]
    rest = [line for line in lines[1:] if not line.startswith("a=sctp-port:")]
    sctpmap = f"a=sctpmap:{SCTP_PORT} {DATA_FORMAT} {MAX_DATA_STREAMS}"
    return [f"{kind} {port} {form.proto} {SCTP_PORT}", *rest, sctpmap]


@dataclass(slots=True)
class Level:
    """Attributes of a section, or of the session level, where they apply to all sections."""

    values: dict[str, str] = field(default_factory=dict)
    flags: set[str] = field(default_factory=set)
    fingerprints: dict[str, None] = field(default_factory=dict)
    extensions: dict[int, str] = field(default_factory=dict)
    groups: list[str] = field(default_factory=list)
    direction: Direction | None = None
    count: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class MediaLevel(Level):
    """An m-section while it is read. `fault` is why it cannot be used, None if it can."""

    first_line: str = ""
    kind: str = ""
    port: int = 9
    proto: str = ""
    formats: list[str] = field(default_factory=list)
    fault: str | None = None
    streams: dict[str, None] = field(default_factory=dict)
    track: str | None = None
    codecs: dict[int, SdpCodec] = field(default_factory=dict)
    parameters: list[tuple[int, str]] = field(default_factory=list)
    feedback: dict[str, set[str]] = field(default_factory=dict)
    sources: dict[int, str] = field(default_factory=dict)
    repeated: set[int] = field(default_factory=set)
    identities: set[Hashable] = field(default_factory=set)
    rids: dict[str, str] = field(default_factory=dict)
    simulcast: str = ""

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers of simulcast. Without ids in their packets (RFC 8852) they cannot be told apart."""
        return read_layers(self.simulcast, self.rids) if STREAM_ID in self.extensions.values() else ()

    @property
    def is_data(self) -> bool:
        """Whether the section carries data channels."""
        return self.kind == "application"

    @property
    def mid(self) -> str:
        """The mid, empty if there is none."""
        return self.values.get("mid", "")

    @property
    def is_rejected(self) -> bool:
        """Whether port 0 rejects the section. It does not with `bundle-only` (RFC 8843 section 6)."""
        return self.port == 0 and "bundle-only" not in self.flags

    @property
    def form(self) -> Form | None:
        """The way the first line is written, None if it is the way of this end."""
        is_native = self.proto == (DATA_PROTO if self.is_data else RTP_PROTO) and not self.numbered
        if is_native or self.fault is not None:
            return None
        return Form(self.proto, self.formats[0] if self.is_data else None)

    @property
    def numbered(self) -> bool:
        """Whether the format of a data section is its SCTP port, as drafts of RFC 8841 had it with `sctpmap`."""
        return self.is_data and _PORT.fullmatch(self.formats[0]) is not None

    def complete(self, session: Level, *, is_bundled: bool) -> None:
        """Add the attributes of the session level."""
        for name in ("ice-ufrag", "ice-pwd", "setup"):
            if name in session.values:
                self.values.setdefault(name, session.values[name])
        self.fingerprints = self.fingerprints or session.fingerprints
        self.direction = self.direction or session.direction or "sendrecv"
        if self.fault is not None or self.is_data:
            return
        self.extensions = session.extensions | self.extensions
        # A bundled section without a transport of its own uses the shared one, which multiplexes RTCP.
        if "rtcp-mux" not in self.flags and (not is_bundled or "ice-ufrag" in self.values):
            self.fault = "it does not multiplex RTCP (RFC 5761)"

    def choose_codecs(self, identify: IdentifyFn) -> list[str]:
        """Put the codecs in the order of the first line and add their parameters. Return the odd fmtp lines.

        A codec that is known here is used once: an answer repeats all that fit, and aiortc multiplies those that it
        puts under one number.
        """
        if self.is_data:
            return []
        offered = [codec_of(int(number), self.codecs) for number in self.formats]
        self.codecs = {codec.payload_type: codec for codec in offered if codec is not None}
        odd = []
        for number, text in self.parameters:
            codec = self.codecs.get(number)
            if codec is None or not codec.add_parameters(text):
                odd.append(f"a=fmtp:{number} {text}")
        for number, codec in self.codecs.items():
            identity = identify(self.kind, codec)
            if identity is not None and identity in self.identities:
                self.repeated.add(number)
            elif identity is not None:
                self.identities.add(identity)
        return odd

    def lines(self) -> list[str]:
        """Return the lines of the section in the normal form."""
        port = 9 if "bundle-only" in self.flags else self.port
        formats = [DATA_FORMAT] if self.is_data else [str(number) for number in self.codecs] or ["0"]
        lines = [f"m={self.kind} {port} {DATA_PROTO if self.is_data else RTP_PROTO} {' '.join(formats)}"]
        lines += [f"a=mid:{self.mid}", *(self._data_lines() if self.is_data else self._media_lines())]
        lines += [f"a={name}:{self.values[name]}" for name in ("ice-ufrag", "ice-pwd", "setup") if name in self.values]
        lines += [f"a=fingerprint:{fingerprint}" for fingerprint in self.fingerprints]
        return lines + (["a=end-of-candidates"] if "end-of-candidates" in self.flags else [])

    def _media_lines(self) -> list[str]:
        lines = [f"a={self.direction}", *(["a=rtcp-mux"] if "rtcp-mux" in self.flags else [])]
        lines += [f"a=extmap:{number} {uri}" for number, uri in self.extensions.items()]
        for_all = self.feedback.get("*", set())
        for number, codec in self.codecs.items():
            if number in self.repeated:
                lines.append(f"a=rtpmap:{number} {UNUSED}/{codec.clock_rate}")
                continue
            wanted = self.feedback.get(str(number), set()) | for_all
            lines += codec.lines(kind for kind in FEEDBACK if kind in wanted)
        lines += [f"a=ssrc-group:{group}" for group in self.groups]
        return lines + [f"a=ssrc:{source} cname:{name}" for source, name in self.sources.items()]

    def _data_lines(self) -> list[str]:
        port = self.formats[0] if self.numbered else self.values.get("sctp-port", "")
        lines = [f"a=sctp-port:{port if port.isdecimal() and 1 <= int(port) <= 65_535 else SCTP_PORT}"]
        size = self.values.get("max-message-size")
        return lines if size is None else [*lines, f"a=max-message-size:{size}"]


def begin_section(line: str) -> MediaLevel:
    """Return a section with this first line, and nothing else yet."""
    match = _FIRST_LINE.fullmatch(line) if line.isprintable() and len(line) <= MAX_LINE_LENGTH else None
    if match is None:
        kind = re.match(r"m=(audio|video|application)\b", line, re.ASCII)
        name = kind[1] if kind else "video"
        shown = f"m={name} 9 {DATA_PROTO} {DATA_FORMAT}" if name == "application" else f"m={name} 9 {RTP_PROTO} 0"
        return MediaLevel(
            first_line=shown, kind=name, formats=["0"], fault=f"its first line makes no sense: {masked(line)!r}"
        )
    section = MediaLevel(
        first_line=line, kind=match[1], port=int(match[2]), proto=match[3].upper(), formats=match[4].split()
    )
    section.fault = _fault(section)
    if not section.is_data:
        numbers = [it for it in dict.fromkeys(section.formats) if _PAYLOAD_TYPE.fullmatch(it)]
        section.formats = [it for it in numbers if int(it) < 128 and int(it) not in _CONFLICT]
    return section


def _fault(section: MediaLevel) -> str | None:
    if section.kind not in KINDS:
        return "its kind is unknown"
    known = _SCTP if section.is_data else _RTP
    return None if known.fullmatch(section.proto) else f"its protocol is unknown: {masked(section.first_line)!r}"
