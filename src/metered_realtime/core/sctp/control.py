"""Which control chunks of an SCTP packet are parsed: pure, without aiortc.

Control chunks are answered by packets of their own and cost more than data. Their number and lengths are checked before
aiortc parses them: it trusts both, and a parameter of length 0 makes it loop for ever.
"""

from __future__ import annotations

from struct import Struct

MAX_CONTROL_CHUNKS = 8
"""Control chunks of one packet that are handled; each may be answered by a packet. RFC 9260 section 6.10 lets a sender
bundle them: an acknowledgement, FORWARD TSN, RE-CONFIG and HEARTBEAT are four."""

MAX_RECONFIG_PARAMETERS = 2
"""Parameters of a RE-CONFIG chunk (RFC 6525 section 3.1): each is answered by a packet."""

COMMON_HEADER = 12
DATA, INIT, INIT_ACK, SACK, HEARTBEAT, HEARTBEAT_ACK, ABORT, SHUTDOWN = range(8)
ERROR, RECONFIG, FORWARD_TSN = 9, 130, 192

LEAST_BODY = {DATA: 13, INIT: 16, INIT_ACK: 16, SACK: 12, SHUTDOWN: 4, FORWARD_TSN: 4}
"""Minimum length of a chunk without its header, in bytes (RFC 9260 section 3.3, RFC 3758 section 3.2)."""

PARAMETERS_FROM = {INIT: 16, INIT_ACK: 16, HEARTBEAT: 0, HEARTBEAT_ACK: 0, ABORT: 0, ERROR: 0, RECONFIG: 0}
"""Chunks with parameters, and the offset of these in the body."""

LEAST_PARAMETER = {13: 12, 16: 8, 17: 8}
"""Minimum lengths of the parameters of RE-CONFIG, in bytes (RFC 6525 section 4)."""

_CHUNK = Struct("!BBH")
_PAIR = Struct("!HH")


def is_sound(kind: int, body: bytes) -> bool:
    """Return whether the lengths in the body of a chunk are valid for its kind."""
    if len(body) < LEAST_BODY.get(kind, 0):
        return False
    if kind == FORWARD_TSN:
        return len(body) % 4 == 0
    if kind == SACK:
        return 12 + 4 * sum(map(int, _PAIR.unpack_from(body, 8))) <= len(body)  # gap blocks and duplicates
    start = PARAMETERS_FROM.get(kind)
    return start is None or _has_sound_parameters(kind, body, start)


def is_sound_packet(data: bytes) -> bool:
    """Return whether all chunks of a packet are sound and not too many."""
    position, end, controls = COMMON_HEADER, len(data), 0
    while position + 4 <= end:
        kind, _, length = _CHUNK.unpack_from(data, position)
        controls += kind != DATA
        if length < 4 or position + length > end or controls > MAX_CONTROL_CHUNKS:
            return False
        if not is_sound(kind, data[position + 4 : position + length]):
            return False
        position += (length + 3) & ~3
    return True


def _has_sound_parameters(kind: int, body: bytes, position: int) -> bool:
    count = 0
    while position + 4 <= len(body):
        parameter, length = _PAIR.unpack_from(body, position)
        if length < 4 or position + length > len(body):
            return False
        if kind == RECONFIG:
            count += 1
            size = length - 4
            is_reset = parameter == 13
            if count > MAX_RECONFIG_PARAMETERS or size < LEAST_PARAMETER.get(parameter, 0) or (is_reset and size % 2):
                return False
        position += (length + 3) & ~3
    return True
