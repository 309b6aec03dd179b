"""How FFmpeg opens cameras, microphones and screens on each platform, and what to check if it cannot."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ALSA_CONFIG = Path("/usr/share/alsa/alsa.conf")
"""ALSA's configuration on Linux distributions."""

_PERMISSION = "allow it in System Settings, Privacy & Security"
_LIST_DSHOW = "`ffmpeg -list_devices true -f dshow -i dummy` lists them"
_LIST_AVFOUNDATION = '`ffmpeg -f avfoundation -list_devices true -i ""` lists them'

HINTS = {
    "v4l2": "is there such a camera (`v4l2-ctl --list-devices`), is it free, and may this user open it (group video)?",
    "alsa": "is there such a microphone (`arecord -L`, package alsa-utils), is it free, and may this user open it "
    "(group audio)?",
    "x11grab": "is there an X server at this display (DISPLAY is {display}), and may this user connect to it (xhost)? "
    "On Wayland only the windows of XWayland can be captured",
    "avfoundation": f"is there such a device ({_LIST_AVFOUNDATION})? If so, {_PERMISSION}",
    "dshow": f"is there such a device ({_LIST_DSHOW}), and is it free?",
    "gdigrab": "is there such a window, and is the session not locked?",
}
"""What to check when a device cannot be opened, by FFmpeg format."""


@dataclass(frozen=True, slots=True)
class DeviceInput:
    """The arguments with which FFmpeg opens a capture device."""

    file: str
    format: str
    options: dict[str, str] = field(default_factory=dict)

    @property
    def hint(self) -> str:
        """What to check when the device cannot be opened."""
        return HINTS[self.format].format(display=os.environ.get("DISPLAY") or "not set")


def camera_input(platform: str, device: str | None, width: int, height: int, fps: int) -> DeviceInput:
    """Return the input for a camera on `platform` (a `sys.platform`)."""
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
    """Return the input for a microphone on `platform` (a `sys.platform`)."""
    name = _device_name(device)
    match _family(platform):
        case "linux":
            return DeviceInput(name or "default", "alsa")
        case "darwin":
            return DeviceInput(f"none:{name or 'default'}", "avfoundation")
        case _:
            return DeviceInput(_prefixed("audio", name or "Microphone"), "dshow")


def screen_input(platform: str, device: str | None, width: int, height: int, fps: int) -> DeviceInput:
    """Return the input for a screen on `platform` (a `sys.platform`)."""
    options = _video_options(width, height, fps)
    name = _device_name(device)
    match _family(platform):
        case "linux":
            return DeviceInput(name or os.environ.get("DISPLAY") or ":0.0", "x11grab", options)
        case "darwin":
            return DeviceInput(f"{name or 'Capture screen 0'}:none", "avfoundation", options)
        case _:
            return DeviceInput(name or "desktop", "gdigrab", options)


def find_alsa_config(environment: MutableMapping[str, str], config: Path = ALSA_CONFIG) -> None:
    """Set ALSA_CONFIG_PATH in the environment, unless it is set already.

    The ALSA in PyAV's wheels looks for its configuration where the wheel was built (/tmp/vendor), and finds no device
    without it.
    """
    if config.exists():
        environment.setdefault("ALSA_CONFIG_PATH", str(config))


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
