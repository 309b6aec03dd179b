"""What the faster data path knows of aiortc's and aioice's insides, as digests of their source.

Where a release has changed something that is replaced, or that calls a replacement, aiortc goes its own way.
tests/aiortc_compat/test_sctp.py fails then.
"""

from __future__ import annotations

import hashlib
import inspect
import linecache
import logging
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from typing import Any

import aioice.ice
from aiortc import RTCDataChannel
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtcicetransport import RTCIceTransport
from aiortc.rtcsctptransport import RTCSctpTransport

_log = logging.getLogger("metered_realtime")

SUPPORTED = "1.16."


@cache  # it parses the metadata of a package, and every connection asks
def check_version() -> None:
    """Refuse an aiortc whose insides are not the ones known here.

    Raises:
        ImportError: another minor release is installed.
    """
    installed = version("aiortc")
    if not installed.startswith(SUPPORTED):
        raise ImportError(f"aiortc {SUPPORTED}x is needed, {installed} is installed")


@cache
def insides_are_known() -> bool:
    """Return whether everything that this relies on reads as it did when this was written. If not, log it once."""
    changed = [name for name, (known, parts) in KNOWN.items() if fingerprint(parts()) != known]
    if changed:
        _log.warning("data channels take aiortc's own, slower path: %s changed", ", ".join(changed))
    return not changed


def fingerprint(parts: list[Callable[..., Any]]) -> str:
    """Return a digest of the source of functions. That of nothing where there is no source."""
    return hashlib.sha256("".join(map(_source, parts)).encode()).hexdigest()[:16]


def _source(function: Callable[..., Any]) -> str:
    """Return the lines of a function. `inspect.getsource` reads on to the end of the block, which takes 5 times as
    long; a connection waits for this."""
    code = function.__code__
    last = max(end for _, end, _, _ in code.co_positions() if end is not None)
    return "".join(linecache.getlines(code.co_filename)[code.co_firstlineno - 1 : last])


def _all_of(owner: type) -> list[Callable[..., Any]]:
    return [it for it in vars(owner).values() if inspect.isfunction(it)]


def _some_of(owner: Any, *names: str) -> list[Callable[..., Any]]:
    return [getattr(owner, name) for name in names]


KNOWN: dict[str, tuple[str, Callable[[], list[Callable[..., Any]]]]] = {
    "RTCSctpTransport": ("ea2322c8aa980c46", lambda: _all_of(RTCSctpTransport)),
    "RTCDataChannel": ("0bdc32681c7b000c", lambda: _all_of(RTCDataChannel)),
    "RTCDtlsTransport": (
        "b2106a99fdd8a2b8",
        lambda: _some_of(
            RTCDtlsTransport,
            "__init__",
            "_do_handshake",
            "_RTCDtlsTransport__run",
            "_handle_rtcp_data",
            "_handle_rtp_data",
            "_recv_next",
            "_send_data",
            "_send_rtp",
            "_write_ssl",
            "stop",
        ),
    ),
    "RTCIceTransport": ("d3d11f6af7e5f7dd", lambda: _all_of(RTCIceTransport)),
    "aioice.Connection": (
        "b35851e19d9154e0",
        lambda: _some_of(
            aioice.ice.Connection, "recv", "recvfrom", "send", "sendto", "data_received", "protocol_lost", "close"
        ),
    ),
    "aioice.StunProtocol": ("9d5873dfff69a1a6", lambda: _all_of(aioice.ice.StunProtocol)),
}
"""What is replaced and what the replacements call or are called by: its digest, and where it is found."""
