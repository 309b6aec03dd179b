"""Tracks from files, network cameras and local devices.

Every function opens its source at once and blocks until it answers: in a coroutine, open a network source with
`await asyncio.to_thread(from_rtsp, url)`. Stop the tracks, or `await player.close()`, to release the source.
"""

from __future__ import annotations

import errno
import math
import os
import sys
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import av
from av.container import InputContainer

from ...log import Logger, NoopLogger
from .decoding import FrameReader, Kind
from .devices import (
    DeviceInput,
    camera_input,
    find_alsa_config,
    microphone_input,
    screen_input,
)
from .opening import described, open_source, without_credentials
from .passthrough import Packet, Passthrough, check_shown_as_it_is, first_picture
from .player import Player
from .reopening import ReopeningReader
from .stream_choice import chosen_streams

RTSP_TRANSPORTS = ("tcp", "udp", "udp_multicast", "http")
NETWORK_TIMEOUT = 10.0
"""Seconds that a network source may stay silent, while opening and later, before it counts as gone."""

RTSP_SILENCE = 5.0
"""Seconds without a frame after which a camera is opened again. Cameras send several frames per second, and key frames
are seldom more than 4 s apart."""

DEVICE_TIMEOUT = 10.0
"""Seconds that a capture device may stay silent. Slow webcams take about three to start."""

LIVE_OPTIONS = {"fpsprobesize": "0"}
"""Collects no pictures at first to measure their rate: that takes 0.8 s, after which they are no longer live."""

FILE_HINT = "is it a media file?"


def from_file(file: str, *, loop: bool = False, start: float = 0.0, packets: bool | None = False) -> Player:
    """Play a media file, or a URL that FFmpeg can read, in real time.

    Playback begins `start` seconds into the file; what comes before is decoded and dropped. `loop` starts over there at
    the end; timestamps keep rising.

    `packets=True` sends the packets of the file unchanged (VP8, H.264 of Baseline profile without B-frames, Opus). That
    takes hardly any CPU, but the bitrate does not adapt, and a receiver that joins or loses a packet waits for the
    file's next key frame. Video then begins at the key frame before `start`. `packets=None` does so for the kinds that
    allow it and decodes the others.

    Raises:
        FileNotFoundError, IsADirectoryError, PermissionError: `file` is not a readable file.
        TypeError: `file` is not a path.
        ValueError: it is not a media file, has neither audio nor video, or cannot be looped, started at `start` or sent
            as packets.
        OSError: it cannot be read for another reason.
    """
    if not isinstance(file, str | os.PathLike):
        raise TypeError(f"file must be a path or a URL, not {file!r}")
    _check_start(start)
    name = os.fspath(file)
    is_url = "://" in name
    if not is_url:
        _check_file(name)
    shown = without_credentials(name) if is_url else name
    container = open_source(name, shown=shown, hint=FILE_HINT, timeout=NETWORK_TIMEOUT if is_url else None)
    try:
        reader = _file_reader(container, shown, loop, start, packets)
    except BaseException:
        container.close()
        raise
    return Player(reader, describe=partial(described, shown=shown, hint=FILE_HINT))


def from_rtsp(
    url: str, *, transport: str = "tcp", silence: float = RTSP_SILENCE, logger: Logger | None = None
) -> Player:
    """Receive the stream of a network camera. `transport` is "tcp", "udp", "udp_multicast" or "http".

    Frames are not paced and never more than half a second old: those that are not read in time are dropped. When the
    camera fails, ends or sends no frame for `silence` seconds, it is opened again, after 0.5 s at first and then up to
    10 s, until the tracks are stopped. The tracks stay the same, and their timestamps continue. `player.reopened`
    counts this, and `logger` is called from the player's thread. Only the first opening raises.

    Raises:
        TypeError: `url` is not a str.
        ValueError: `url` is not an rtsp or rtsps URL, `transport` is unknown, or `silence` is not positive.
        OSError: the camera does not answer or refuses. No text, log line or repr contains credentials.
    """
    if not isinstance(url, str):
        raise TypeError(f"url must be a str, not {type(url).__name__}")  # not its value: it may hold credentials
    if transport not in RTSP_TRANSPORTS:
        raise ValueError(f"transport must be one of {', '.join(RTSP_TRANSPORTS)}, not {transport!r}")
    if not isinstance(silence, int | float) or not (math.isfinite(silence) and silence > 0):
        raise ValueError(f"silence must be a positive number of seconds, not {silence!r}")
    shown = without_credentials(url)
    if not _is_rtsp(url):
        raise ValueError(f"url must be an rtsp:// or rtsps:// URL, not {shown!r}")
    open = partial(
        open_source,
        url,
        shown=shown,
        hint="is the camera reachable?",
        format="rtsp",
        options={"rtsp_transport": transport, **LIVE_OPTIONS},
        timeout=(NETWORK_TIMEOUT, silence),
    )
    reader = ReopeningReader(open, shown=shown, silence=silence, logger=logger or NoopLogger())
    return Player(reader, live=True)


def from_camera(device: str | None = None, *, width: int = 640, height: int = 480, fps: int = 30) -> Player:
    """Capture a camera, by default the first one.

    `device` is FFmpeg's name: "/dev/video0" on Linux, "0" or a name on macOS, a name on Windows. Zero for `width`,
    `height` or `fps` leaves the choice to the device.

    Raises:
        ValueError: a size or rate is negative, or `device` is empty.
        RuntimeError: this platform, or this PyAV build, does not support capture devices.
        OSError: the device cannot be opened. The text says what to check.
    """
    return _open_device(camera_input(sys.platform, device, width, height, fps), "camera")


def from_microphone(device: str | None = None) -> Player:
    """Capture a microphone, by default that of the system.

    `device` is FFmpeg's name: an ALSA name on Linux, "0" or a name on macOS, a name on Windows.

    Raises:
        ValueError: `device` is empty.
        RuntimeError: this platform, or this PyAV build, does not support capture devices.
        OSError: the device cannot be opened. The text says what to check.
    """
    source = microphone_input(sys.platform, device)
    if source.format == "alsa":
        find_alsa_config(os.environ)
    return _open_device(source, "microphone")


def screen_share(device: str | None = None, *, width: int = 0, height: int = 0, fps: int = 30) -> Player:
    """Capture a screen, by default that of DISPLAY, or the first one.

    `device` is FFmpeg's name: an X11 display such as ":0.0" on Linux, "Capture screen 0" on macOS, "desktop" or
    "title=..." on Windows. Zero for `width` or `height` captures the whole screen.

    Raises:
        ValueError: a size or rate is negative, or `device` is empty.
        RuntimeError: this platform, or this PyAV build, does not support screen capture.
        OSError: the screen cannot be opened. The text says what to check.
    """
    return _open_device(screen_input(sys.platform, device, width, height, fps), "screen")


def _file_reader(container: InputContainer, shown: str, loop: bool, start: float, packets: bool | None) -> FrameReader:
    length = None if container.duration is None else container.duration / av.time_base
    if loop and length is None:
        raise ValueError(f"{shown!r} cannot be looped: its length is not known")
    if length is not None and start and start >= length:
        raise ValueError(f"start must be before the end of {shown!r}, which takes {length:.3f} s, not {start!r}")
    passed, read = ({}, []) if packets is False else _passthroughs(container, shown, required=bool(packets))
    try:
        return FrameReader(container, loop=loop, start=start, passed=passed, read=read)
    except av.FFmpegError:
        raise ValueError(f"{shown!r} cannot be started at {start!r} s: it cannot seek") from None


def _passthroughs(
    container: InputContainer, shown: str, *, required: bool
) -> tuple[dict[Kind, Passthrough], list[Packet]]:
    """Return the kinds that can be sent as packets, and the packets that were read to find out."""
    passed: dict[Kind, Passthrough] = {}
    read: list[Packet] = []
    chosen = chosen_streams(container)
    for kind, stream in chosen.items():
        try:
            passthrough = Passthrough(stream)
            if kind == "video":
                picture, read = first_picture(container, list(chosen.values()))
                if picture is not None:
                    check_shown_as_it_is(stream, picture)
            passed[kind] = passthrough
        except ValueError as error:
            if required:
                raise ValueError(f"{shown!r} cannot be sent as packets: its {error}") from None
    return passed, read


def _check_start(start: Any) -> None:
    if not isinstance(start, int | float) or isinstance(start, bool) or not (math.isfinite(start) and start >= 0):
        raise ValueError(f"start must be a number of seconds, 0 or more, not {start!r}")


def _check_file(name: str) -> None:
    if not os.path.exists(name):
        raise FileNotFoundError(errno.ENOENT, "no such media file", name)
    if os.path.isdir(name):
        raise IsADirectoryError(errno.EISDIR, "a media file is needed, this is a directory", name)
    if not os.access(name, os.R_OK):
        raise PermissionError(errno.EACCES, "the media file is not readable", name)


def _is_rtsp(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme.lower() in ("rtsp", "rtsps") and bool(parts.hostname)
    except ValueError:  # its text may hold credentials
        return False


def _open_device(source: DeviceInput, what: str) -> Player:
    if source.format not in {name for group in av.formats_available for name in group.split(",")}:
        raise RuntimeError(f"this build of PyAV has no {source.format!r} input, which a {what} needs")
    hint = f"{what}: {source.hint}"
    container = open_source(
        source.file,
        shown=source.file,
        hint=hint,
        format=source.format,
        options=source.options | LIVE_OPTIONS,
        timeout=DEVICE_TIMEOUT,
    )
    return Player(FrameReader(container), live=True, describe=partial(described, shown=source.file, hint=hint))
