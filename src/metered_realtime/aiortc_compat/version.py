"""Which releases of aiortc and aioice this is written for, down to the source of what it replaces.

A `Guard` compares digests of the methods that a module of this package replaces, wraps, or is called by. Where a
release has changed one of them, the module leaves aiortc and aioice as they are, and one warning says so. What the
package cannot work without is checked by `check_version`.

After a new release: read what has changed, run the tests, and enter the new digests, which tests/aiortc_compat/
test_version.py shows.
"""

from __future__ import annotations

import hashlib
import inspect
import linecache
import logging
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import version
from types import ModuleType
from typing import Any

from aiortc import RTCPeerConnection, RTCRtpSender, rtcrtpreceiver
from aiortc.rtcrtpreceiver import RTCRtpReceiver

SUPPORTED = {"aiortc": "1.16.", "aioice": "0.13."}
"""The minor releases that are taken: private attributes may move with each."""

_log = logging.getLogger("metered_realtime")


class KnownPart:
    """Functions of a class or module of aiortc or aioice, all unless named, and the digest of their source."""

    def __init__(self, owner: type | ModuleType, digest: str, *names: str) -> None:
        self.owner = owner
        self.digest = digest
        self.names = names

    def __str__(self) -> str:
        return self.owner.__name__.rpartition(".")[2] if isinstance(self.owner, ModuleType) else self.owner.__qualname__

    @property
    def library(self) -> str:
        """The name of the library that it is of."""
        module = self.owner.__name__ if isinstance(self.owner, ModuleType) else self.owner.__module__
        return module.partition(".")[0]

    def fingerprint(self) -> str:
        """Return the digest of what is installed: empty if its source cannot be read, `missing` if it is not there."""
        functions = list(self._functions())
        if None in functions:
            return "missing"
        sources = [_source(function) for function in functions]
        if not all(sources):
            return ""
        return hashlib.sha256("".join(sources).encode()).hexdigest()[:16]

    def _functions(self) -> Iterator[Callable[..., Any] | None]:
        if not self.names:
            yield from (it for it in vars(self.owner).values() if inspect.isfunction(it))
        for name in self.names:
            is_private = name.startswith("__") and not name.endswith("__")
            yield getattr(self.owner, f"_{self.owner.__name__}{name}" if is_private else name, None)


class Guard:
    """Whether what a module replaces is what it was written for. `consequence` is what happens where it is not."""

    def __init__(self, consequence: str, *parts: KnownPart) -> None:
        self.consequence = consequence
        self.parts = parts
        self.verdict: bool | None = None

    def holds(self) -> bool:
        """Return whether all parts are known. The first call compares them, and logs those that have changed."""
        if self.verdict is None:
            changed = [part for part in self.parts if part.fingerprint() != part.digest]
            self.verdict = not changed
            if changed:
                _log.warning("%s; %s", _have_changed(changed), self.consequence)
        return self.verdict


ESSENTIAL = (
    KnownPart(
        RTCPeerConnection,
        "a8abb2e04ff9b470",
        "__connect",
        "__createSctpTransport",
        "setLocalDescription",
        "setRemoteDescription",
    ),
    KnownPart(RTCRtpReceiver, "68405ea687cd3835"),
    KnownPart(rtcrtpreceiver, "d500d4e567d6846c", "decoder_worker"),
    KnownPart(RTCRtpSender, "a4ee4c7355f8de7a", "_handle_rtcp_packet"),
)
"""What is replaced without anything to fall back on: connecting, which has to wait for offers that are committed late,
the way from the jitter buffer to the decoder, and the requests of receivers for key frames."""


@cache  # it reads the metadata of packages, and every connection asks
def check_version() -> None:
    """Refuse an aiortc or aioice that this cannot work with.

    If an essential part has changed and is still there, as in a patch release, a warning says so: there is nothing to
    fall back on, and the change may be harmless. A program that was built without source files is judged by the
    release alone.

    Raises:
        ImportError: another minor release is installed, or an essential part is missing.
    """
    for library, supported in SUPPORTED.items():
        installed = version(library)
        if not installed.startswith(supported):
            raise ImportError(f"{library} {supported}x is needed, {installed} is installed")
    changed = [part for part in ESSENTIAL if part.fingerprint() not in ("", part.digest)]
    missing = [part for part in changed if part.fingerprint() == "missing"]
    if missing:
        raise ImportError(f"{_have_changed(missing)}, and metered_realtime cannot work with it: install aiortc 1.16.0")
    if changed:
        _log.warning(
            "%s; metered_realtime is not tested with it: install aiortc 1.16.0 if calls fail", _have_changed(changed)
        )


def _have_changed(parts: list[KnownPart]) -> str:
    library = parts[0].library
    verb = "has" if len(parts) == 1 else "have"
    return f"{', '.join(map(str, parts))} {verb} changed in {library} {version(library)}"


def _source(function: Callable[..., Any] | None) -> str:
    """Return the lines of a function, none where there is no source. `inspect.getsource` reads on to the end of the
    block, which takes 5 times as long; a connection waits for this."""
    code = getattr(function, "__code__", None)
    if code is None:
        return ""
    last = max(end for _, end, _, _ in code.co_positions() if end is not None)
    return "".join(linecache.getlines(code.co_filename)[code.co_firstlineno - 1 : last])
