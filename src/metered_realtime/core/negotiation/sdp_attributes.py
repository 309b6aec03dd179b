"""The attributes of a remote description that are used here: the form of their values, and where they are stored.

Each function stores the match of its attribute's pattern. It returns False if the line has to be left out: it
contradicts an earlier line, does not fit its section, or exceeds a bound.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from .sdp import MAX_LINE_LENGTH, MAX_STREAMS_OF_TRACK, Direction
from .sdp_codecs import FEEDBACK, SdpCodec
from .sdp_sections import Level, MediaLevel

MAX_LINES_OF_KIND = 512
"""Lines of one attribute in one section. Chromium describes a camera with 230 lines of RTCP feedback."""

MAX_SOURCES = 16
"""Sources (SSRCs) of one section, and groups of them: aiortc iterates over all of them for each. Simulcast in three
layers has six."""

MAX_RIDS = 32
"""Ids of streams (RFC 8851) of one section. Browsers have three."""

MAX_FINGERPRINTS = 8
"""Fingerprints of one section: one for each hash function in use."""

MAX_EXTENSIONS = 32
"""Header extensions of one section. Chromium has 14."""

_DIRECTIONS: dict[str, Direction] = {
    "sendrecv": "sendrecv",
    "sendonly": "sendonly",
    "recvonly": "recvonly",
    "inactive": "inactive",
}


def read_attribute(level: Level, line: str) -> bool:
    """Store an attribute. Return False if it is invalid; an unknown one is ignored (RFC 8866 section 5.13)."""
    name, _, value = line[2:].partition(":")
    name = name.strip()
    known = (_OF_MEDIA if isinstance(level, MediaLevel) else _OF_SESSION).get(name)
    if known is None:
        return True
    pattern, store = known
    count = level.count[name] = level.count.get(name, 0) + 1
    if count > MAX_LINES_OF_KIND or len(line) > MAX_LINE_LENGTH or not line.isprintable():
        return False
    match = pattern.fullmatch(value.strip())
    return match is not None and store(level, name, match)


def _value(level: Level, name: str, match: re.Match[str]) -> bool:
    return level.values.setdefault(name, match[0]) == match[0]


def _setup(level: Level, name: str, match: re.Match[str]) -> bool:
    return level.values.setdefault(name, match[0].lower()) == match[0].lower()


def _flag(level: Level, name: str, match: re.Match[str]) -> bool:
    level.flags.add(name)
    return True


def _direction(level: Level, name: str, match: re.Match[str]) -> bool:
    level.direction = _DIRECTIONS[name]
    return True


def _fingerprint(level: Level, name: str, match: re.Match[str]) -> bool:
    if len(level.fingerprints) == MAX_FINGERPRINTS:
        return False
    level.fingerprints[f"{match[1].lower()} {match[2].upper()}"] = None
    return True


def _extension(level: Level, name: str, match: re.Match[str]) -> bool:
    number, uri = int(match[1]), match[3]
    taken = number in level.extensions or uri in level.extensions.values()
    if taken or number == 15 or not 1 <= number <= 255 or len(level.extensions) == MAX_EXTENSIONS:  # RFC 8285 section 4
        return False
    if match[2] != "inactive":
        level.extensions[number] = uri
    return True


def _bundle(level: Level, name: str, match: re.Match[str]) -> bool:
    if match[1] == "BUNDLE" and not level.groups:  # a second one would be another transport
        level.groups = match[2].split()
    return True


def _msid(level: MediaLevel, name: str, match: re.Match[str]) -> bool:
    level.track = level.track or match[2]
    if match[1] == "-" or match[1] in level.streams:
        return True
    if len(level.streams) == MAX_STREAMS_OF_TRACK:
        return False
    level.streams[match[1]] = None
    return True


def _rtpmap(level: MediaLevel, name: str, match: re.Match[str]) -> bool:
    number, channels = int(match[1]), match[4] if level.kind == "audio" else None
    if match[1] not in level.formats or number in level.codecs:
        return False
    level.codecs[number] = SdpCodec(number, match[2], int(match[3]), int(channels) if channels else None)
    return True


def _parameters(level: MediaLevel, name: str, match: re.Match[str]) -> bool:
    if level.is_data:  # drafts of RFC 8841 had the size here
        size = re.search(r"max-message-size=(\d{1,19})", match[2], re.ASCII)
        if size is not None:
            level.values.setdefault("max-message-size", size[1])
        return True
    if match[1] not in level.formats:
        return False
    level.parameters.append((int(match[1]), match[2]))
    return True


def _feedback(level: MediaLevel, name: str, match: re.Match[str]) -> bool:
    kind = " ".join(match[2].lower().split())
    if kind in FEEDBACK and (match[1] == "*" or match[1] in level.formats):
        level.feedback.setdefault(match[1], set()).add(kind)
    return True


def _source(level: MediaLevel, name: str, match: re.Match[str]) -> bool:
    source = int(match[1])
    if source >= 2**32 or (source not in level.sources and len(level.sources) == MAX_SOURCES):
        return False
    known = level.sources.setdefault(source, "-")
    if match[2] == "cname" and match[3] and known == "-":
        level.sources[source] = match[3]
    return True


def _source_group(level: MediaLevel, name: str, match: re.Match[str]) -> bool:
    sources = match[2].split()
    if len(level.groups) == MAX_SOURCES or any(int(source) >= 2**32 for source in sources):
        return False
    level.groups.append(f"{match[1]} {' '.join(sources)}")
    return True


def _rid(level: MediaLevel, name: str, match: re.Match[str]) -> bool:
    if match[2] == "send" and match[1] not in level.rids:
        if len(level.rids) == MAX_RIDS:
            return False
        level.rids[match[1]] = match[3] or ""
    return True


def _simulcast(level: MediaLevel, name: str, match: re.Match[str]) -> bool:
    if match[1] == match[3] or level.simulcast:
        return False
    level.simulcast = {match[1]: match[2], match[3]: match[4]}.get("send", "")
    return True


_Known = tuple[re.Pattern[str], Callable[[Any, str, re.Match[str]], bool]]


def _of(pattern: str, store: Callable[..., bool]) -> _Known:
    return re.compile(pattern, re.ASCII), store


_TEXT = r"[!-~]{1,256}"  # credentials have letters, digits, + and / (RFC 8839 section 5.4); some ends are less strict

_RID = r"[A-Za-z0-9_-]{1,64}"  # RFC 8851 section 10
_RIDS = r"[A-Za-z0-9_,;~-]{1,1024}"

_OF_BOTH: dict[str, _Known] = {
    "ice-ufrag": _of(_TEXT, _value),
    "ice-pwd": _of(_TEXT, _value),
    "setup": _of("(?i:active|passive|actpass)", _setup),
    "fingerprint": _of(r"([A-Za-z0-9-]{1,32}) +([0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){0,127})", _fingerprint),
    "extmap": _of(r"(\d{1,5})(?:/(sendrecv|sendonly|recvonly|inactive))? +(\S{1,256})(?: .*)?", _extension),
    **dict.fromkeys(_DIRECTIONS, _of(".*", _direction)),
}
_OF_SESSION = _OF_BOTH | {
    "group": _of(r"(\S+)(.*)", _bundle),
    "ice-lite": _of(".*", _flag),
    "x-metered-offer": _of(_TEXT, _value),
    "x-metered-answer": _of(_TEXT, _value),
}
_OF_MEDIA = _OF_BOTH | {
    "mid": _of(_TEXT, _value),
    "msid": _of(r"(\S+)(?: +(\S+).*)?", _msid),
    "rtpmap": _of(r"(\d{1,3}) +([^\s/]{1,64})/(\d{1,9})(?:/(\d{1,3}))?(?:[ /].*)?", _rtpmap),
    "fmtp": _of(r"([A-Za-z0-9-]{1,32}) +(\S.*)", _parameters),
    "rtcp-fb": _of(r"(\*|\d{1,3}) +(\S.*)", _feedback),
    "ssrc": _of(r"(\d{1,10}) +([^\s:]+)(?::(.*))?", _source),
    "ssrc-group": _of(r"([!-~]{1,32})((?: +\d{1,10}){1,8})", _source_group),
    "sctp-port": _of(r"\d{1,5}", _value),
    "max-message-size": _of(r"\d{1,19}", _value),
    "rid": _of(rf"({_RID}) +(send|recv)(?: +(\S.*))?", _rid),
    "simulcast": _of(rf"(send|recv) +({_RIDS})(?: +(send|recv) +({_RIDS}))?", _simulcast),
    "rtcp-mux": _of(".*", _flag),
    "bundle-only": _of(".*", _flag),
    "end-of-candidates": _of(".*", _flag),
}
