"""Tracks from files, network cameras and the machine's own devices.

Every function opens its source at once and blocks until it answers: for a network source from a coroutine,
use `await asyncio.to_thread(from_rtsp, url)`. Stop the tracks, or `await player.close()`, to release it.
"""

from __future__ import annotations

import errno
import os
import sys
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import av

from metered_realtime.media.player import Player

RTSP_TRANSPORTS = ("tcp", "udp", "udp_multicast", "http")
NETWORK_TIMEOUT = 10.0
"""Seconds that a network source may stay silent, when opened and later, before it counts as gone."""

DEVICE_TIMEOUT = 10.0
"""Seconds that a capture device may stay silent. Slow webcams need about three to start."""


@dataclass(frozen=True, slots=True)
class DeviceInput:
    """How FFmpeg is to open a capture device."""

    file: str
    format: str
    options: dict[str, str] = field(default_factory=dict)


def from_file(file: str, *, loop: bool = False) -> Player:
    """Play a media file, or a URL that FFmpeg can read, in real time.

    `loop` starts over at the end; timestamps then go on growing.

    Raises:
        FileNotFoundError, IsADirectoryError, PermissionError: `file` is not a readable file.
        TypeError: `file` is not a path.
        ValueError: It is no media file, has neither audio nor video, or cannot be looped.
        OSError: It cannot be read for another reason.
    """
    if not isinstance(file, str | os.PathLike):
        raise TypeError(f"file must be a path or a URL, not {file!r}")
    name = os.fspath(file)
    is_url = "://" in name
    if not is_url:
        _check_file(name)
    shown = _without_credentials(name) if is_url else name
    timeout = NETWORK_TIMEOUT if is_url else None
    return _open(name, shown, hint="is it a media file?", timeout=timeout, loop=loop)


def from_rtsp(url: str, *, transport: str = "tcp") -> Player:
    """Receive a network camera's stream. `transport` is "tcp", "udp", "udp_multicast" or "http".

    Not paced, and never more than half a second old: frames that nobody reads in time are dropped. The stream
    ends when the camera has been silent for 10 s.

    Raises:
        ValueError: `url` is not an rtsp or rtsps URL, or `transport` is none of the four.
        OSError: The camera does not answer or refuses. The text holds no credentials.
    """
    if not isinstance(url, str):
        raise TypeError(f"url must be a str, not {url!r}")
    if transport not in RTSP_TRANSPORTS:
        raise ValueError(f"transport must be one of {', '.join(RTSP_TRANSPORTS)}, not {transport!r}")
    shown = _without_credentials(url)
    if urlsplit(url).scheme.lower() not in ("rtsp", "rtsps") or not urlsplit(url).hostname:
        raise ValueError(f"url must be an rtsp:// or rtsps:// URL, not {shown!r}")
    how = {"format": "rtsp", "options": {"rtsp_transport": transport}, "timeout": NETWORK_TIMEOUT}
    return _open(url, shown, hint="is the camera reachable?", live=True, **how)


def from_camera(device: str | None = None, *, width: int = 640, height: int = 480, fps: int = 30) -> Player:
    """Capture from a camera, by default the first one.

    `device` is as FFmpeg names it: "/dev/video0" on Linux, "0" or a name on macOS, a name on Windows. Zero
    `width`, `height` or `fps` leaves the choice to the device.

    Raises:
        ValueError: A size or rate is negative, or `device` is empty.
        RuntimeError: This platform, or this PyAV build, has no support for capture devices.
        OSError: The device cannot be opened.
    """
    return _open_device(camera_input(sys.platform, device, width, height, fps), "camera")


def from_microphone(device: str | None = None) -> Player:
    """Capture from a microphone, by default the system's.

    `device` is as FFmpeg names it: an ALSA name on Linux, "0" or a name on macOS, a name on Windows.

    Raises:
        ValueError: `device` is empty.
        RuntimeError: This platform, or this PyAV build, has no support for capture devices.
        OSError: The device cannot be opened.
    """
    return _open_device(microphone_input(sys.platform, device), "microphone")


def screen_share(device: str | None = None, *, width: int = 0, height: int = 0, fps: int = 30) -> Player:
    """Capture a screen, by default the first one.

    `device` is as FFmpeg names it: an X11 display such as ":0.0" on Linux, "Capture screen 0" on macOS,
    "desktop" or "title=..." on Windows. Zero `width` or `height` captures all of it.

    Raises:
        ValueError: A size or rate is negative, or `device` is empty.
        RuntimeError: This platform, or this PyAV build, has no support for screen capture.
        OSError: The screen cannot be opened.
    """
    return _open_device(screen_input(sys.platform, device, width, height, fps), "screen")


def camera_input(platform: str, device: str | None, width: int, height: int, fps: int) -> DeviceInput:
    """Return how to open a camera on `platform` (a `sys.platform`)."""
    options = _video_options(width, height, fps)
    name = _device_name(device)
    match _family(platform):
        case "linux":
            return DeviceInput(name or "/dev/video0", "v4l2", options)
        case "darwin":
            return DeviceInput(f"{name or 'default'}:none", "avfoundation", options)
        case _:
            return DeviceInput(_prefixed("video", name or "Integrated Camera"), "dshow", options)


def microphone_input(platform: str, device: str | None) -> DeviceInput:
    """Return how to open a microphone on `platform` (a `sys.platform`)."""
    name = _device_name(device)
    match _family(platform):
        case "linux":
            return DeviceInput(name or "default", "alsa")
        case "darwin":
            return DeviceInput(f"none:{name or 'default'}", "avfoundation")
        case _:
            return DeviceInput(_prefixed("audio", name or "Microphone"), "dshow")


def screen_input(platform: str, device: str | None, width: int, height: int, fps: int) -> DeviceInput:
    """Return how to open a screen on `platform` (a `sys.platform`)."""
    options = _video_options(width, height, fps)
    name = _device_name(device)
    match _family(platform):
        case "linux":
            return DeviceInput(name or ":0.0", "x11grab", options)
        case "darwin":
            return DeviceInput(f"{name or 'Capture screen 0'}:none", "avfoundation", options)
        case _:
            return DeviceInput(name or "desktop", "gdigrab", options)


def _family(platform: str) -> str:
    if platform in ("linux", "darwin", "win32"):
        return platform
    raise RuntimeError(f"capture devices are supported on Linux, macOS and Windows, not on {platform!r}")


def _device_name(device: Any) -> str | None:
    if device is None:
        return None
    if not isinstance(device, str):
        raise TypeError(f"device must be a str or None, not {device!r}")
    if not device:
        raise ValueError("device must not be empty; leave it out for the default one")
    return device


def _prefixed(kind: str, name: str) -> str:
    return name if name.startswith(f"{kind}=") else f"{kind}={name}"


def _video_options(width: int, height: int, fps: int) -> dict[str, str]:
    for name, value in (("width", width), ("height", height), ("fps", fps)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ValueError(f"{name} must be an int, 0 or more, not {value!r}")
    options = {}
    if width and height:
        options["video_size"] = f"{width}x{height}"
    if fps:
        options["framerate"] = str(fps)
    return options


def _check_file(name: str) -> None:
    if not os.path.exists(name):
        raise FileNotFoundError(errno.ENOENT, "no such media file", name)
    if os.path.isdir(name):
        raise IsADirectoryError(errno.EISDIR, "a media file is needed, this is a directory", name)
    if not os.access(name, os.R_OK):
        raise PermissionError(errno.EACCES, "the media file is not readable", name)


def _without_credentials(url: str) -> str:
    """Return the URL without user, password and query, which often hold a camera's secrets."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _open_device(source: DeviceInput, what: str) -> Player:
    if source.format not in {name for group in av.formats_available for name in group.split(",")}:
        raise RuntimeError(f"this build of PyAV has no {source.format!r} input, which a {what} needs")
    return _open(
        source.file,
        source.file,
        hint=f"is there such a {what}, and is it free?",
        format=source.format,
        options=source.options,
        timeout=DEVICE_TIMEOUT,
        live=True,
    )


def _open(file: str, shown: str, *, hint: str, **how: Any) -> Player:
    """Open a player; errors of FFmpeg come out as OSError or ValueError about `shown`."""
    try:
        return Player(file, **how)
    except av.FFmpegError as exc:
        reason = f"{exc.strerror or type(exc).__name__}: {hint}"
        if isinstance(exc, av.InvalidDataError | av.EOFError):
            raise ValueError(f"cannot open {shown!r}: {reason}") from None
        number = exc.errno if exc.errno is not None and exc.errno in errno.errorcode else errno.EIO
        # `from None`: the original error's text may hold a URL with credentials.
        raise OSError(number, reason, shown) from None
    except ValueError as exc:
        raise ValueError(str(exc).replace(file, shown)) from None
