"""Streams group tracks."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from metered_realtime.media.stream import MediaStream
from tests.support.patience import PATIENCE


def track(kind: str) -> Any:
    return SimpleNamespace(kind=kind)


def test_tracks_keep_their_order_and_can_be_had_by_kind() -> None:
    audio, video, more = track("audio"), track("video"), track("audio")
    stream = MediaStream([video, audio])
    stream.add_track(more)
    assert stream.get_tracks() == [video, audio, more]
    assert stream.get_audio_tracks() == [audio, more]
    assert stream.get_video_tracks() == [video]


def test_a_track_is_in_a_stream_once_and_by_identity() -> None:
    first, equal = track("audio"), track("audio")
    assert first == equal
    stream = MediaStream([first, first, equal])
    assert len(stream.get_tracks()) == 2
    stream.remove_track(first)
    stream.remove_track(first)
    assert stream.get_tracks()[0] is equal
    assert len(stream.get_tracks()) == 1


def test_the_returned_list_is_a_copy() -> None:
    stream = MediaStream([track("audio")])
    stream.get_tracks().clear()
    assert len(stream.get_tracks()) == 1


def test_ids_are_random_unless_given() -> None:
    assert MediaStream(id="cam-1").id == "cam-1"
    assert MediaStream().id != MediaStream().id
    assert len(MediaStream().id) == 32


@pytest.mark.parametrize("bad", [5, track("audio"), None])
def test_tracks_that_are_no_iterable_are_named_in_the_error(bad: Any) -> None:
    with pytest.raises(TypeError, match="iterable of tracks"):
        MediaStream(bad)


@pytest.mark.parametrize("bad", [object(), "audio", None, track("data")])
def test_the_error_names_what_is_not_a_track(bad: Any) -> None:
    with pytest.raises(TypeError) as caught:
        MediaStream().add_track(bad)
    assert repr(bad) in str(caught.value)


def test_ids_that_sdp_cannot_carry_are_refused() -> None:
    with pytest.raises(TypeError, match="7"):
        MediaStream(id=7)  # type: ignore[arg-type]
    for bad in ("", "a b", "a\n"):
        with pytest.raises(ValueError, match="id must be"):
            MediaStream(id=bad)


def test_the_module_loads_without_the_media_stack() -> None:
    code = (
        "import sys; sys.modules['aiortc'] = sys.modules['av'] = None; "
        "from metered_realtime.media.stream import MediaStream; print(MediaStream(id='x'))"
    )
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.stdout == "<MediaStream x audio=0 video=0>\n", done.stderr
