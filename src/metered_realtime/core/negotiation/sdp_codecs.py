"""Codecs as descriptions name them: `rtpmap`, `fmtp` and `rtcp-fb` (RFC 8866, RFC 4585), or a number alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

STATIC_CODECS: dict[int, tuple[str, int]] = {
    0: ("PCMU", 8000),
    3: ("GSM", 8000),
    4: ("G723", 8000),
    7: ("LPC", 8000),
    8: ("PCMA", 8000),
    9: ("G722", 8000),
    13: ("CN", 8000),
    15: ("G728", 8000),
    18: ("G729", 8000),
    26: ("JPEG", 90000),
    31: ("H261", 90000),
    32: ("MPV", 90000),
    34: ("H263", 90000),
}
"""What a payload type without an rtpmap means (RFC 3551 section 6)."""

FEEDBACK = ("nack", "nack pli", "goog-remb")
"""The RTCP feedback that this end knows. Of a description nothing else is kept: `a=rtcp-fb:*` is for each codec of a
section, and hundreds of either would make tens of thousands of objects."""

UNUSED = "x-unused"
"""What a codec is called that is offered once more under another number: the number is taken, and means nothing."""

MAX_PARAMETERS = 32
"""Format parameters of one codec. Real ones have five."""

MAX_MISFITS = 8
"""Codecs that a reason names. Browsers offer tens."""

_AUXILIARY = frozenset({"rtx", "red", "ulpfec", "flexfec-03", "telephone-event", "cn"})
"""What goes with a codec and is no use without one."""

_NUMERIC = frozenset({"apt", "max-fr", "max-fs", "maxplaybackrate", "minptime", "stereo", "useinbandfec"})
_WITH_VALUE = _NUMERIC | {"packetization-mode", "profile-level-id"}
_NUMBER = re.compile(r"\d{1,9}", re.ASCII)
_PROFILE = re.compile(r"[0-9a-f]{6}", re.ASCII)

# RFC 6184 section 8.1. The level is no part of what has to match; aiortc refuses those that it does not know.
_H264_LEVELS = (52, 51, 50, 42, 41, 40, 32, 31, 30, 22, 21, 20, 13, 12, 11, 10)


@dataclass(slots=True)
class SdpCodec:
    """A codec under its payload type. Names of parameters are in lower case; those without a value have None."""

    payload_type: int
    name: str
    clock_rate: int
    channels: int | None = None
    parameters: dict[str, str | None] = field(default_factory=dict)

    def take_parameters(self, text: str) -> bool:
        """Add the parameters of an fmtp line. Return False if one of them had to be left out."""
        complete = True
        for part in text.split(";", MAX_PARAMETERS)[:MAX_PARAMETERS]:
            name, equals, value = part.partition("=")
            name, value = name.strip().lower(), value.strip()
            if not _is_sound(name, value if equals else None):
                complete = complete and not part.strip()
            elif name in self.parameters or len(self.parameters) < MAX_PARAMETERS:
                self.parameters[name] = _shown(name, value) if equals else None
            else:
                complete = False
        return complete and text.count(";") < MAX_PARAMETERS

    def lines(self, feedback: Iterable[str]) -> list[str]:
        """Return the lines that describe the codec."""
        channels = f"/{self.channels}" if self.channels is not None else ""
        parameters = ";".join(name if value is None else f"{name}={value}" for name, value in self.parameters.items())
        return [
            f"a=rtpmap:{self.payload_type} {self.name}/{self.clock_rate}{channels}",
            *(f"a=rtcp-fb:{self.payload_type} {kind}" for kind in feedback),
            *([f"a=fmtp:{self.payload_type} {parameters}"] if parameters else []),
        ]


def describe_misfits(offered: Sequence[SdpCodec], known: Sequence[SdpCodec]) -> str:
    """Say why none of the offered codecs can be used, each by what did not fit."""
    main = [codec for codec in offered if codec.name.lower() not in _AUXILIARY] or offered
    reasons = list(dict.fromkeys(_misfit(codec, known) for codec in main))
    more = f", and {len(reasons) - MAX_MISFITS} more" if len(reasons) > MAX_MISFITS else ""
    return ", ".join(reasons[:MAX_MISFITS]) + more


def _misfit(codec: SdpCodec, known: Sequence[SdpCodec]) -> str:
    name = codec.name
    same = [it for it in known if it.name.lower() == name.lower()]
    if not same:
        return f"{name} is unknown"
    rates = sorted({it.clock_rate for it in same})
    if codec.clock_rate not in rates:
        return f"{name} has clock rate {codec.clock_rate}, not {_either(rates)}"
    mode = codec.parameters.get("packetization-mode") or "0"  # RFC 6184 section 8.1
    modes = sorted({it.parameters.get("packetization-mode") or "0" for it in same})
    if mode not in modes:
        return f"{name} has packetization-mode {mode}, not {_either(modes)}"
    profiles = sorted({it.parameters.get("profile-level-id") or "" for it in same})
    return f"{name} has profile-level-id {codec.parameters.get('profile-level-id')}, not {_either(profiles)}"


def _either(values: Sequence[object]) -> str:
    return " or ".join(map(str, values))


def _is_sound(name: str, value: str | None) -> bool:
    if not name or " " in name or value == "":
        return False
    if name not in _WITH_VALUE:
        return True
    return value is not None and (name == "profile-level-id" or _NUMBER.fullmatch(value) is not None)


def _shown(name: str, value: str) -> str:
    """Return the value in the form in which it is compared."""
    if name != "profile-level-id":
        return value
    value = value.lower()
    if _PROFILE.fullmatch(value) is None:
        return value
    level = int(value[4:], 16)
    return f"{value[:4]}{next((it for it in _H264_LEVELS if it <= level), 10):02x}"


def codec_of(payload_type: int, codecs: Mapping[int, SdpCodec]) -> SdpCodec | None:
    """Return the codec of a payload type: the one that an rtpmap names, or else the one that the number stands for."""
    if payload_type in codecs or payload_type not in STATIC_CODECS:
        return codecs.get(payload_type)
    return SdpCodec(payload_type, *STATIC_CODECS[payload_type])
