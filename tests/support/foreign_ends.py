"""Peers on other implementations of WebRTC, each a program of its own in `tests/foreign_ends`.

A program has one peer connection. It reads commands from stdin and writes events to stdout, as JSON lines; here each is
joined to a channel as a peer that knows the wire and nothing of this package.

| command | it |
|---|---|
| `add` `kind` `picture`, `remove` `kind` | begins or ends to send a track: of a key frame where it has no encoder |
| `receiveOnly` `kind` | asks for a track without sending one |
| `open` `label`, `say` `label` `text` | opens a data channel, sends a message over it |
| `offer` `restart` | offers what was added; with `restart`, under new ICE credentials |
| `receive` `description`, `candidate` `candidate` | handles a signal of the other peer |

Each command is answered by `done`, with `error` if it failed. The other events are `ready` (with the `version`),
`description` and `candidate` for the other peer, `state`, `media` (how many frames of a track have come), `channel` and
`message`, and `ignored` for an offer that collided. A message is sent back with `echo` before it. The program ends when
stdin does.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import av
import pytest

from metered_realtime.server import SignallingServer
from tests.support.foreign_socket import ForeignSocket
from tests.support.patience import PATIENCE

PROGRAMS = Path(__file__).parents[1] / "foreign_ends"
NODE = shutil.which("node") or "node"
SYSTEM_PYTHON = "/usr/bin/python3"
"""The Python that Debian's bindings of GStreamer are for."""

LINE_LIMIT = 2**20
"""Bytes of the longest line of a program."""


@dataclass(frozen=True)
class Implementation:
    """Another implementation of WebRTC, and the program that it runs in."""

    name: str
    command: tuple[str, ...]
    install: str

    @property
    def is_installed(self) -> bool:
        """Whether everything that its program needs is there."""
        return _is_installed(self)


AIORTC = Implementation("aiortc", (sys.executable, "aiortc_peer.py"), "pip install aiortc")
WEBRTCBIN = Implementation("webrtcbin", (SYSTEM_PYTHON, "webrtcbin_peer.py"), "tools/install-test-programs")
WERIFT = Implementation("werift", (NODE, "werift_peer.mjs"), "tools/install-test-programs")
WRTC = Implementation("wrtc", (NODE, "wrtc_peer.mjs"), "tools/install-test-programs")
IMPLEMENTATIONS = (AIORTC, WEBRTCBIN, WERIFT, WRTC)


_NO_RESTART = "has no ICE restart: it keeps its credentials, as offerer and as answerer"
_RENUMBERS = (
    "aiortc gives codecs and header extensions other numbers when it offers after it has answered, "
    "and closes at the old"
)

LIMITS = {
    "test_media_is_added_to_data[aiortc-python]": _RENUMBERS,
    "test_the_other_end_restarts_ice[aiortc]": f"aiortc {_NO_RESTART}",
    "test_python_restarts_ice_when_the_path_is_lost[aiortc]": f"aiortc {_NO_RESTART}",
    "test_media_is_added_to_data[webrtcbin-python]": "webrtcbin cannot offer a section again in which it only receives",
    "test_the_other_end_restarts_ice[webrtcbin]": f"webrtcbin {_NO_RESTART}",
    "test_python_restarts_ice_when_the_path_is_lost[webrtcbin]": f"webrtcbin {_NO_RESTART}",
    "test_python_adds_and_removes_a_track[werift]": (
        "werift declines the section of a removed track, and after that answers no offer that has it"
    ),
    "test_data_is_added_to_media[werift-other]": "werift ends when it opens a channel on a connection without data",
}
"""Tests of what an implementation cannot do, and why. They do not run, except with `--runxfail`."""


@cache
def _is_installed(implementation: Implementation) -> bool:
    if implementation in (WERIFT, WRTC):
        return shutil.which("node") is not None and (PROGRAMS / "node_modules").is_dir()
    if implementation is WEBRTCBIN:
        return Path(SYSTEM_PYTHON).exists() and _has_webrtcbin()
    return True


def _has_webrtcbin() -> bool:
    look = (
        "import gi; gi.require_version('GstWebRTC', '1.0'); from gi.repository import Gst, GstWebRTC; Gst.init(None); "
        "raise SystemExit(not all(map(Gst.ElementFactory.find, ('webrtcbin', 'nicesink', 'vp8enc', 'opusenc'))))"
    )
    return subprocess.run([SYSTEM_PYTHON, "-c", look], capture_output=True, check=False).returncode == 0


def needed(implementation: Implementation) -> None:
    """Skip the test where an implementation is not installed, except in CI, where it fails."""
    if not implementation.is_installed:
        missing = f"{implementation.name} is needed: {implementation.install}"
        assert "CI" not in os.environ, missing
        pytest.skip(missing)


@cache
def key_frame() -> str:
    """Return a small picture as a key frame in VP8, in base64."""
    encoder = av.CodecContext.create("libvpx", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.framerate = 160, 120, "yuv420p", 10
    encoder.time_base = 1 / encoder.framerate
    frame = av.VideoFrame(160, 120, "yuv420p")
    for plane in frame.planes:
        plane.update(bytes([128]) * plane.buffer_size)
    frame.pts = 0
    packets = [*encoder.encode(frame), *encoder.encode(None)]
    return base64.b64encode(bytes(packets[0])).decode()


class ForeignEnd:
    """A peer on another implementation, and what its program has told."""

    def __init__(self, process: asyncio.subprocess.Process, to: str) -> None:
        self.version = ""
        self.states: list[str] = []
        self.media: dict[str, dict[str, int]] = {"audio": {}, "video": {}}
        self.channels: list[str] = []
        self.messages: dict[str, list[str]] = {}
        self.descriptions: list[dict[str, str]] = []
        self.received: list[dict[str, str]] = []
        self.ignored = 0
        self._process = process
        self._to = to
        self._socket: ForeignSocket
        self._ids = itertools.count()
        self._done: dict[int, asyncio.Future[str | None]] = {}
        self._changed = asyncio.Event()
        self._outbox: asyncio.Queue[Any] = asyncio.Queue()
        self._may_send = asyncio.Event()
        self._may_send.set()
        self._reading = asyncio.ensure_future(self._read())
        self._sending = asyncio.ensure_future(self._send_signals())
        self._commands: set[asyncio.Task[None]] = set()
        self.failures: list[str] = []

    async def command(self, command: str, **fields: Any) -> None:
        """Have a command carried out. Raises AssertionError if it fails."""
        error = await self._carry_out(command, fields)
        assert error is None, f"{self.version}: {command}: {error}"

    async def until(self, holds: Callable[[], object]) -> None:
        """Wait until what the program has told fulfils a condition."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not holds():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"{self.version}: {self}") from None

    async def receives(self, *kinds: str, tracks: int = 1, more: int = 10) -> None:
        """Wait for more frames of so many tracks of each kind."""
        before = {kind: dict(self.media[kind]) for kind in kinds}

        def flows(kind: str) -> bool:
            counts = self.media[kind]
            return sum(count - before[kind].get(it, 0) >= more for it, count in counts.items()) >= tracks

        await self.until(lambda: all(map(flows, kinds)))

    async def says(self, label: str, text: str) -> None:
        """Send a message over a channel, when it is open, and wait until it comes back from the other end."""
        await self.until(lambda: label in self.channels)
        await self.command("say", label=label, text=text)
        await self.until(lambda: f"echo {text}" in self.messages.get(label, ()))

    def sends(self, *kinds: str) -> bool:
        """Whether the last description offers or answers to send tracks of all these kinds."""
        sections = self.descriptions[-1]["sdp"].split("\nm=")[1:] if self.descriptions else []
        sending = {it.split()[0] for it in sections if "a=sendrecv" in it or "a=sendonly" in it}
        return sending >= set(kinds)

    @property
    def is_idle(self) -> bool:
        """Whether it has handled every signal so far."""
        return not self._commands

    @property
    def ufrags(self) -> list[str]:
        """The user fragments of its descriptions, each once."""
        return list(dict.fromkeys(_ufrag(it) for it in self.descriptions))

    @property
    def ufrags_received(self) -> list[str]:
        """The user fragments of the other peer's descriptions, each once."""
        return list(dict.fromkeys(_ufrag(it) for it in self.received))

    @contextmanager
    def signals_held(self) -> Iterator[None]:
        """Hold what it has to say to the other peer until the end of a block."""
        self._may_send.clear()
        try:
            yield
        finally:
            self._may_send.set()

    async def kill(self) -> None:
        """End the program, and its connection to the server, at once."""
        self._process.kill()
        await self._ended(-signal.SIGKILL)

    def __str__(self) -> str:
        messages = {label: [text[:20] for text in texts] for label, texts in self.messages.items()}
        told = f"states {self.states}, media {self.media}, channels {self.channels}, messages {messages}"
        return f"{told}, failures {self.failures}"

    async def _carry_out(self, command: str, fields: dict[str, Any]) -> str | None:
        request = next(self._ids)
        self._done[request] = asyncio.get_running_loop().create_future()
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"id": request, "command": command, **fields}).encode() + b"\n")
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._done[request]
        except TimeoutError:
            return "no answer"

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            try:
                self._take(json.loads(line))
            except ValueError:  # a library's last words
                self.failures.append(line.decode(errors="replace").strip())
            self._changed.set()
        for waiting in self._done.values():
            if not waiting.done():
                waiting.set_result("the program has ended")

    def _take(self, told: dict[str, Any]) -> None:
        match told:
            case {"done": request}:
                self._done[request].set_result(told.get("error"))
            case {"event": "ready", "version": version}:
                self.version = version
            case {"event": "state", "state": state}:
                self.states.append(state)
            case {"event": "media", "kind": kind, "track": track, "count": count}:
                self.media[kind][str(track)] = count
            case {"event": "channel", "label": label}:
                self.channels.append(label)
            case {"event": "message", "label": label, "text": text}:
                self.messages.setdefault(label, []).append(text)
            case {"event": "ignored"}:
                self.ignored += 1
            case {"event": "description", "description": description}:
                self.descriptions.append(description)
                self._outbox.put_nowait({"type": "rtc-description", "description": description})
            case {"event": "candidate", "candidate": candidate}:
                self._outbox.put_nowait({"type": "rtc-ice", "candidate": candidate})
            case _:
                raise AssertionError(told)

    async def _send_signals(self) -> None:
        while True:
            data = await self._outbox.get()
            await self._may_send.wait()
            answer = await self._socket.request(type="send", to=self._to, data=data)
            assert answer["type"] == "ack", answer

    def _on_direct(self, _: str, data: Any) -> None:
        match data:
            case {"type": "rtc-description", "description": description}:
                self.received.append(description)
                self._handle("receive", description=description)
            case {"type": "rtc-ice", "candidate": candidate}:
                self._handle("candidate", candidate=candidate)

    def _handle(self, command: str, **fields: Any) -> None:
        task = asyncio.ensure_future(self._handled(command, fields))
        self._commands.add(task)
        task.add_done_callback(self._commands.discard)

    async def _handled(self, command: str, fields: dict[str, Any]) -> None:
        if (error := await self._carry_out(command, fields)) is not None:
            self.failures.append(f"{command}: {error}")
            self._changed.set()

    async def close(self) -> None:
        """End the program, which closes its connection."""
        if self._process.returncode is None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            await self._ended(0)

    async def _ended(self, expected: int) -> None:
        """Wait for the end of the program, and leave the channel."""
        try:
            async with asyncio.timeout(PATIENCE):
                code = await self._process.wait()
        except TimeoutError:
            self._process.kill()
            code = await self._process.wait()
        await self._reading
        self._sending.cancel()
        for task in self._commands:
            task.cancel()
        await asyncio.gather(self._sending, *self._commands, return_exceptions=True)
        await self._socket.close()
        assert code == expected, f"{self.version} ended with {code}: {self}"


def _ufrag(description: dict[str, str]) -> str:
    return description["sdp"].split("a=ice-ufrag:")[1].split()[0]


@asynccontextmanager
async def foreign_end(
    implementation: Implementation, server: SignallingServer, peer_id: str, to: str
) -> AsyncIterator[ForeignEnd]:
    """Run the program of an implementation, as a peer of a channel that exchanges signals with another one."""
    needed(implementation)
    polite = ("--polite",) if peer_id < to else ()
    process = await asyncio.create_subprocess_exec(
        *implementation.command,
        *polite,
        cwd=PROGRAMS,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=LINE_LIMIT,
    )
    end = ForeignEnd(process, to)
    await end.until(lambda: end.version)
    end._socket = await ForeignSocket.join(server, peer_id, end._on_direct)
    try:
        yield end
    finally:
        await end.close()
