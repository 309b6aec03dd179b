"""Descriptions that the server will never deliver: which failures are final, and what can be left out to fit."""

from __future__ import annotations

from collections.abc import Container, Sequence

from ...errors import MeteredPeerOversizedError, PayloadTooLargeError, ServerRequestError, SignallingError
from ..wire.frames import encode_payload
from .sdp import section_texts

PASSING_REFUSALS = frozenset({"peer_not_found", "backend_error", "internal_error"})
"""Codes of refusals that may be temporary. After any other the same message is refused again."""

NOT_PERMITTED = "action_not_permitted"
"""The code of a refusal that concerns all remotes: this end may not send signals at all."""

DECLINED_SECTION_SIZE = 100
"""Bytes of a declined section: its first line, mid and direction."""


def is_final(error: Exception) -> bool:
    """Return whether the same message would fail again, whenever it is repeated."""
    if isinstance(error, ServerRequestError):
        return error.code not in PASSING_REFUSALS
    if isinstance(error, PayloadTooLargeError | MeteredPeerOversizedError):
        return True
    return not isinstance(error, SignallingError)  # the message cannot be encoded


def concerns_everybody(error: Exception) -> bool:
    """Return whether a refusal is reported once for the whole peer, and not for each remote."""
    return isinstance(error, ServerRequestError) and error.code == NOT_PERMITTED


def trimmed(sdp: str) -> str:
    """Return a description of this end without the parts that the other end does not need.

    These are the candidates, which may follow as separate messages (RFC 8840), and all fingerprints of a section but
    the first, which is of SHA-256 here (RFC 8122 section 5). Sections stay, inactive ones included, with the codecs
    that each needs to be used again.
    """
    kept = []
    has_fingerprint = False
    for line in sdp.splitlines(keepends=True):
        is_fingerprint = line.startswith("a=fingerprint:")
        if line.startswith("m="):
            has_fingerprint = False
        if not (line.startswith(("a=candidate:", "a=end-of-candidates")) or (is_fingerprint and has_fingerprint)):
            kept.append(line)
        has_fingerprint = has_fingerprint or is_fingerprint
    return "".join(kept)


def last_sections(sdp: str, eligible: Container[str], excess: int, *, remains: int = 0) -> list[str]:
    """Return the mids of the last eligible sections, as many as make a description smaller by `excess` bytes, or all.

    `remains` is the number of bytes that each section still takes on the wire when it is left out.
    """
    chosen: list[str] = []
    for lines in reversed(section_texts(sdp)[1]):
        mid = next((line[6:] for line in lines if line.startswith("a=mid:")), "")
        if excess <= 0:
            break
        if mid in eligible:
            chosen.append(mid)
            excess -= _wire_size(lines) - remains
    return chosen


def _wire_size(lines: Sequence[str]) -> int:
    return len(bytes(encode_payload("".join(f"{line}\r\n" for line in lines)))) - 2
