"""Sources reject impossible arguments with helpful errors."""

from __future__ import annotations

import socket
import traceback
from pathlib import Path
from typing import Any

import pytest

from metered_realtime.media.sources import factories
from metered_realtime.media.sources.devices import (
    DeviceInput,
    camera_input,
    find_alsa_config,
    microphone_input,
    screen_input,
)
from metered_realtime.media.sources.factories import (
    from_camera,
    from_file,
    from_microphone,
    from_rtsp,
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
        unused.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
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
        (screen_input("linux", ":0.1", 0, 0, 30), DeviceInput(":0.1", "x11grab", {"framerate": "30"})),
        (
            screen_input("linux", ":1.0", 800, 600, 0),
            DeviceInput(":1.0", "x11grab", {"video_size": "800x600"}),
        ),
        (screen_input("win32", None, 0, 0, 0), DeviceInput("desktop", "gdigrab", {})),
    ],
)
def test_each_platform_has_its_devices(made: DeviceInput, expected: DeviceInput) -> None:
    assert made == expected


def test_the_screen_is_that_of_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    assert screen_input("linux", None, 0, 0, 0).file == ":0.0"
    monkeypatch.setenv("DISPLAY", ":7")
    assert screen_input("linux", None, 0, 0, 0).file == ":7"


def test_the_path_of_alsas_configuration_is_set_unless_it_is_set_already(tmp_path: Path) -> None:
    config = tmp_path / "alsa.conf"
    environment: dict[str, str] = {}
    find_alsa_config(environment, config)
    assert environment == {}  # there is none
    config.touch()
    find_alsa_config(environment, config)
    assert environment == {"ALSA_CONFIG_PATH": str(config)}
    environment["ALSA_CONFIG_PATH"] = "mine"
    find_alsa_config(environment, config)
    assert environment == {"ALSA_CONFIG_PATH": "mine"}


@pytest.mark.parametrize("open_device", [from_camera, from_microphone, screen_share])
def test_other_platforms_have_none(open_device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factories.sys, "platform", "sunos5")
    with pytest.raises(RuntimeError, match="sunos5"):
        open_device()


def test_a_build_without_the_device_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factories.sys, "platform", "win32")
    monkeypatch.setattr(factories.av, "formats_available", {"mp4"})
    with pytest.raises(RuntimeError, match="gdigrab"):
        screen_share()


@pytest.mark.parametrize("options", [{"width": -1}, {"height": 1.5}, {"fps": True}, {"fps": "30"}])
def test_impossible_sizes_and_rates_are_named(options: dict[str, Any]) -> None:
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
    monkeypatch.setattr(factories.sys, "platform", "linux")
    with pytest.raises(FileNotFoundError, match=r"camera.*v4l2-ctl"):
        from_camera("/dev/no-such-camera")
    with pytest.raises(OSError, match=r"microphone.*arecord -L"):
        from_microphone("no-such-microphone")
    monkeypatch.setenv("DISPLAY", ":98765")
    with pytest.raises(OSError, match=r"screen.*DISPLAY is :98765") as caught:
        screen_share()
    assert caught.value.filename == ":98765"


SECRETS = ["rtsp://admin:hunter2@", "rtsp://admin:hun/hunter2@", "rtsp://admin:hun?hunter2@", "rtsp://a#hunter2@x@"]


@pytest.mark.parametrize("login", SECRETS)
@pytest.mark.parametrize("rest", ["", "[", "127.0.0.1:1/live?hunter2", "\u2100/live"])
def test_no_error_contains_a_password(login: str, rest: str) -> None:
    for use in (from_rtsp, from_file):
        with pytest.raises((ValueError, OSError)) as caught:
            use(login + rest)
        assert "hunter2" not in "".join(traceback.format_exception(caught.value, chain=True)).replace(login, "")
        assert "hunter2" not in f"{caught.value} {caught.value!r} {vars(caught.value)}"
    with pytest.raises(TypeError) as wrong:
        from_rtsp(login.encode())  # type: ignore[arg-type]
    assert "hunter2" not in str(wrong.value)


@pytest.mark.parametrize("start", [-1, float("nan"), float("inf"), "1", None, True])
def test_impossible_starts_are_named(start: Any, clip: Path) -> None:
    with pytest.raises(ValueError, match="start") as caught:
        from_file(str(clip), start=start)
    assert repr(start) in str(caught.value)


def test_a_start_behind_the_end_says_how_long_the_file_is(clip: Path) -> None:
    with pytest.raises(ValueError, match=r"0\.8.* s, not 30"):
        from_file(str(clip), start=30)


@pytest.mark.parametrize("silence", [0, -1, float("nan"), "5"])
def test_impossible_silences_are_named(silence: Any) -> None:
    with pytest.raises(ValueError, match="silence"):
        from_rtsp("rtsp://camera/1", silence=silence)
