"""Signals among direct messages, and the track metadata of a remote."""

from __future__ import annotations

from typing import Any

import pytest

from metered_realtime.core.negotiation.signals import (
    MAX_METADATA_ENTRIES,
    CandidateSignal,
    DescriptionSignal,
    MetadataBook,
    MetadataSignal,
    parse_signal,
)


@pytest.mark.parametrize(
    "signal",
    [
        DescriptionSignal("offer", "v=0"),
        DescriptionSignal("answer", ""),
        CandidateSignal("candidate:1", "0", 0, "abcd"),
        CandidateSignal("candidate:1"),
        CandidateSignal(None),
        MetadataSignal("t", {"n": 1}, "video", "s"),
        MetadataSignal("t", {}),
        MetadataSignal("t", None, "video", "s"),
    ],
)
def test_a_signal_is_read_from_its_own_message(signal: Any) -> None:
    assert parse_signal(signal.payload()) == signal


def test_signals_have_the_known_wire_format() -> None:
    assert DescriptionSignal("offer", "x").payload() == {
        "type": "rtc-description",
        "description": {"type": "offer", "sdp": "x"},
    }
    assert CandidateSignal(None).payload() == {"type": "rtc-ice", "candidate": None}
    assert CandidateSignal("c", "0", 0, "u").payload() == {
        "type": "rtc-ice",
        "candidate": {"candidate": "c", "sdpMid": "0", "sdpMLineIndex": 0, "usernameFragment": "u"},
    }
    assert MetadataSignal("t", {"n": 1}, "audio", "s").payload() == {
        "__meteredTrackMeta": {"trackId": "t", "metadata": {"n": 1}, "kind": "audio", "streamId": "s"}
    }
    assert MetadataSignal("t", None).payload() == {"__meteredTrackMeta": {"trackId": "t"}}


@pytest.mark.parametrize("candidate", [None, {"candidate": ""}])
def test_both_forms_of_the_end_of_candidates_are_read(candidate: Any) -> None:
    assert parse_signal({"type": "rtc-ice", "candidate": candidate}) == CandidateSignal(None)


def test_invalid_details_of_a_candidate_are_ignored() -> None:
    odd = {"candidate": "c", "sdpMid": 7, "sdpMLineIndex": True, "usernameFragment": None}
    assert parse_signal({"type": "rtc-ice", "candidate": odd}) == CandidateSignal("c")


def test_a_message_with_metadata_is_a_signal_whatever_its_other_keys() -> None:
    signal = {"__meteredTrackMeta": {"trackId": "t", "metadata": None}, "type": "chat"}
    assert parse_signal(signal) == MetadataSignal("t", None)


@pytest.mark.parametrize(
    "data",
    [
        None,
        "rtc-description",
        [],
        {},
        {"type": "rtc-description"},
        {"type": "rtc-description", "description": None},
        {"type": "rtc-description", "description": {"type": "pranswer", "sdp": ""}},
        {"type": "rtc-description", "description": {"type": "offer"}},
        {"type": "rtc-description", "description": {"type": [], "sdp": ""}},
        {"type": "rtc-ice"},
        {"type": "rtc-ice", "candidate": "c"},
        {"type": "rtc-ice", "candidate": {"candidate": None}},
        {"type": ["rtc-ice"], "candidate": None},
        {"__meteredTrackMeta": None},
        {"__meteredTrackMeta": {}},
        {"__meteredTrackMeta": {"trackId": ""}},
        {"__meteredTrackMeta": {"trackId": 7}},
        {"__meteredTrackMeta": {"trackId": "t", "metadata": []}},
        {"__meteredTrackMeta": {"trackId": "t", "kind": ""}},
        {"__meteredTrackMeta": {"trackId": "t", "streamId": "x" * 257}},
    ],
)
def test_anything_else_is_application_data(data: Any) -> None:
    assert parse_signal(data) is None


def entry(track_id: str, n: int, kind: str = "video", stream_id: str | None = "s") -> MetadataSignal:
    return MetadataSignal(track_id, {"n": n}, kind, stream_id)


def test_metadata_is_found_by_the_id_of_the_track() -> None:
    book = MetadataBook()
    book.apply_signal(entry("t", 1))
    book.apply_signal(entry("u", 2))
    assert book.find("t", "video", None) == {"n": 1}
    book.apply_signal(entry("t", 3))
    assert book.find("t", "video", None) == {"n": 3}
    book.apply_signal(MetadataSignal("t", None))
    assert book.find("t", "video", None) is None
    book.apply_signal(MetadataSignal("nobody", None))


def test_metadata_is_found_by_stream_and_kind_when_that_is_unique() -> None:
    book = MetadataBook()
    book.apply_signal(entry("t", 1))
    book.apply_signal(entry("u", 2, kind="audio"))
    assert book.find("other", "video", "s") == {"n": 1}
    assert book.find("other", "audio", "s") == {"n": 2}
    assert book.find("other", "video", "elsewhere") is None
    assert book.find("other", "video", None) is None
    book.apply_signal(entry("v", 3))
    assert book.find("other", "video", "s") is None, "two fit"
    assert book.find("other", "video", "s", signalled=["t"]) == {"n": 3}, "one of them is known to be another"


def test_the_oldest_metadata_is_dropped_first() -> None:
    book = MetadataBook()
    for n in range(MAX_METADATA_ENTRIES):
        book.apply_signal(entry(f"t{n}", n))
    book.apply_signal(entry("t0", -1))
    book.apply_signal(entry("new", 0))
    assert book.find("t0", "video", None) == {"n": -1}
    assert book.find("t1", "video", None) is None
    assert book.find("new", "video", None) == {"n": 0}
