"""Sources refuse what cannot be with an error that helps."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from metered_realtime.media import sources
from metered_realtime.media.sources import (
    DeviceInput,
    camera_input,
    from_camera,
    from_file,
    from_microphone,
    from_rtsp,
    microphone_input,
    screen_input,
    screen_share,
)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        from_file(str(tmp_path / "none.mp4"))
    assert caught.value.filename == str(tmp_path / "none.mp4")


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        from_file(str(tmp_path))


def test_a_file_without_media_is_named(tmp_path: Path) -> None:
    data = tmp_path / "notes.dat"
    data.write_text("no media here\n" * 100)
    with pytest.raises(ValueError, match=r"notes\.dat"):
        from_file(str(data))


@pytest.mark.parametrize("bad", [None, 5, b"clip.mp4"])
def test_a_file_that_is_no_path_is_a_type_error(bad: Any) -> None:
    with pytest.raises(TypeError) as caught:
        from_file(bad)
    assert repr(bad) in str(caught.value)


@pytest.mark.parametrize("transport", ["quic", "", "TCP"])
def test_rtsp_transports_are_four(transport: str) -> None:
    with pytest.raises(ValueError, match="udp_multicast") as caught:
        from_rtsp("rtsp://camera/1", transport=transport)
    assert repr(transport) in str(caught.value)


@pytest.mark.parametrize("url", ["http://camera/1", "camera", "rtsp://", ""])
def test_rtsp_needs_an_rtsp_url(url: str) -> None:
    with pytest.raises(ValueError, match="rtsp://"):
        from_rtsp(url)


def test_a_camera_that_refuses_is_an_os_error_without_its_password() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        port = unused.getsockname()[1]
        with pytest.raises(OSError, match=f"127.0.0.1:{port}/live") as caught:
            from_rtsp(f"rtsp://admin:hunter2@127.0.0.1:{port}/live?token=s3cret")
    shown = str(caught.value) + repr(caught.value.__cause__) + repr(caught.value.filename)
    assert "hunter2" not in shown
    assert "s3cret" not in shown
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (
            camera_input("linux", None, 640, 480, 30),
            DeviceInput("/dev/video0", "v4l2", {"video_size": "640x480", "framerate": "30"}),
        ),
        (camera_input("linux", "/dev/video2", 0, 0, 0), DeviceInput("/dev/video2", "v4l2", {})),
        (camera_input("linux", None, 640, 0, 0), DeviceInput("/dev/video0", "v4l2", {})),
        (camera_input("darwin", None, 0, 0, 0), DeviceInput("default:none", "avfoundation", {})),
        (camera_input("win32", "USB Cam", 0, 0, 0), DeviceInput("video=USB Cam", "dshow", {})),
        (camera_input("win32", "video=USB Cam", 0, 0, 0), DeviceInput("video=USB Cam", "dshow", {})),
        (microphone_input("linux", None), DeviceInput("default", "alsa", {})),
        (microphone_input("darwin", "1"), DeviceInput("none:1", "avfoundation", {})),
        (microphone_input("win32", "Headset"), DeviceInput("audio=Headset", "dshow", {})),
        (screen_input("linux", None, 0, 0, 30), DeviceInput(":0.0", "x11grab", {"framerate": "30"})),
        (
            screen_input("linux", ":1.0", 800, 600, 0),
            DeviceInput(":1.0", "x11grab", {"video_size": "800x600"}),
        ),
        (screen_input("win32", None, 0, 0, 0), DeviceInput("desktop", "gdigrab", {})),
    ],
)
def test_each_platform_has_its_devices(made: DeviceInput, expected: DeviceInput) -> None:
    assert made == expected


@pytest.mark.parametrize("open_device", [from_camera, from_microphone, screen_share])
def test_other_platforms_have_none(open_device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources.sys, "platform", "sunos5")
    with pytest.raises(RuntimeError, match="sunos5"):
        open_device()


def test_a_build_without_the_device_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources.sys, "platform", "win32")
    monkeypatch.setattr(sources.av, "formats_available", {"mp4"})
    with pytest.raises(RuntimeError, match="gdigrab"):
        screen_share()


@pytest.mark.parametrize("options", [{"width": -1}, {"height": 1.5}, {"fps": True}, {"fps": "30"}])
def test_sizes_and_rates_that_cannot_be_are_named(options: dict[str, Any]) -> None:
    [(name, value)] = options.items()
    for open_device in (from_camera, screen_share):
        with pytest.raises(ValueError, match=name) as caught:
            open_device(**options)
        assert repr(value) in str(caught.value)


@pytest.mark.parametrize("open_device", [from_camera, from_microphone, screen_share])
def test_devices_are_named_by_a_word(open_device: Any) -> None:
    with pytest.raises(ValueError, match="default"):
        open_device("")
    with pytest.raises(TypeError, match="0"):
        open_device(0)


def test_a_device_that_is_not_there_is_an_os_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources.sys, "platform", "linux")
    with pytest.raises(FileNotFoundError, match="camera"):
        from_camera("/dev/no-such-camera")
