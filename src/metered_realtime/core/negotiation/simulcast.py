"""Simulcast that a remote offers (RFC 8853): its layers, and the one that this end receives.

One layer is answered, so that the remote sends only that one and adapts it to the path, as it does without simulcast.
An answer without simulcast makes a browser send the first of its layers, which usually is the smallest.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .sdp import section_texts

STREAM_ID = "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id"
"""The header extension that tells which layer a packet belongs to (RFC 8852)."""

REPAIRED_STREAM_ID = "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id"
"""The header extension of retransmissions: which layer they repair (RFC 8852)."""

MAX_LAYERS = 8
"""Layers of one section. Browsers have three."""

_NAMES = (
    ("q", "h", "f"),
    ("l", "m", "h"),
    ("lo", "mid", "hi"),
    ("low", "mid", "high"),
    ("low", "medium", "high"),
    ("quarter", "half", "full"),
    ("small", "medium", "large"),
)
_LIMIT = re.compile(r"(max-width|max-height|max-fs|max-br)=(\d{1,9})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer that the remote can send.

    Attributes:
        rid: Its id (RFC 8851).
        size: Its largest picture or rate, in a unit that is the same for all layers. None if it is not limited.
        is_paused: Whether it is offered as paused.
    """

    rid: str
    size: int | None = None
    is_paused: bool = False


def read_layers(listed: str, restrictions: Mapping[str, str]) -> tuple[Layer, ...]:
    """Return the layers of the `send` list of an `a=simulcast` line, in its order.

    `restrictions` are those of the `a=rid` lines in the direction `send`, by rid; a rid without such a line is left
    out. Of alternatives the first one counts.
    """
    layers: dict[str, Layer] = {}
    for alternatives in listed.split(";")[:MAX_LAYERS]:
        for text in alternatives.split(","):
            rid = text.removeprefix("~")
            if rid in restrictions and rid not in layers:
                layers[rid] = Layer(rid, _size(restrictions[rid]), text.startswith("~"))
                break
    return tuple(layers.values())


def choose_layer(layers: Sequence[Layer], current: str | None = None) -> str:
    """Return the rid of the layer to receive: the one that is received already, or else the largest.

    Without restrictions the usual names tell which one that is. Otherwise it is the last one, as in browsers, where
    layers without a scale of their own get larger from the first to the last (W3C WebRTC, addTransceiver).
    """
    if any(layer.rid == current for layer in layers):
        assert current is not None
        return current
    able = [layer for layer in layers if not layer.is_paused] or list(layers)
    sizes = [layer.size for layer in able]
    if None not in sizes and len(set(sizes)) > 1:
        return max(able, key=lambda layer: layer.size or 0).rid
    for names in _NAMES:
        if len(able) > 1 and all(layer.rid.lower() in names for layer in able):
            return max(able, key=lambda layer: names.index(layer.rid.lower())).rid
    return able[-1].rid


def with_layers(sdp: str, chosen: Mapping[str, str]) -> str:
    """Return a description of this end that asks for one layer of sections, given as rid by mid."""
    if not chosen:
        return sdp
    session, sections = section_texts(sdp)
    for lines in sections:
        rid = next((chosen[line[6:]] for line in lines if line.startswith("a=mid:") and line[6:] in chosen), None)
        if rid is not None and lines[0].split(" ")[1] != "0":
            lines += [f"a=rid:{rid} recv", f"a=simulcast:recv {rid}"]
    return "".join(f"{line}\r\n" for line in _flat((session, *sections)))


def _flat(parts: Iterable[Sequence[str]]) -> list[str]:
    return [line for lines in parts for line in lines]


def _size(restrictions: str) -> int | None:
    limits = {name: int(value) for name, value in _LIMIT.findall(restrictions)}
    if "max-width" in limits and "max-height" in limits:
        return limits["max-width"] * limits["max-height"]
    return next((limits[name] for name in ("max-fs", "max-height", "max-width", "max-br") if name in limits), None)
