"""Peers whose connections leave everything to aiortc and aioice, as `Tuning` and changed releases make them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtcsctptransport import RTCSctpTransport

from metered_realtime import ToneTrack, Tuning
from metered_realtime.aiortc_compat.dtls import FastDtlsTransport
from metered_realtime.aiortc_compat.rtp_sender import SharedPacketSender
from metered_realtime.aiortc_compat.sctp import FastSctpTransport
from metered_realtime.aiortc_compat.transports import dtls_transport, ice_transport
from tests.support.changed_releases import SLOW, without_fast_paths
from tests.support.peers import Room, eventually, frames

ROOT = Path(__file__).parents[2]

REPRESENTATIVE = [
    "tests/channels/test_data_channels.py::test_backpressure_keeps_the_order_and_the_bound",
    "tests/channels/test_data_channels.py::test_channels_negotiated_out_of_band_meet",
    "tests/channels/test_data_channels.py::test_either_end_can_open_a_channel",
    "tests/channels/test_data_channels.py::test_a_close_at_the_other_end_releases_who_waits",
    "tests/channels/test_data_channels.py::test_one_message_over_what_the_other_end_takes_is_refused",
    "tests/channels/test_data_channels.py::test_text_and_bytes_arrive_as_what_they_are",
    "tests/channels/test_managed_channels.py::test_a_close_ends_both_ends_after_what_was_delivered",
    "tests/channels/test_managed_channels.py::test_a_replaced_connection_in_mid_stream_loses_nothing[a]",
    "tests/files/test_transfers.py::test_a_replaced_connection_costs_nothing[a]",
    "tests/files/test_transfers.py::test_an_empty_file_is_a_file",
    "tests/mesh/test_media.py::test_a_removed_stream_is_told_and_its_track_ends",
    "tests/mesh/test_media.py::test_a_track_that_nobody_reads_does_not_pile_up",
    "tests/mesh/test_media.py::test_glare_at_the_very_start_needs_no_second_connection",
    "tests/mesh/test_media.py::test_one_connection_carries_everything_of_a_pair",
    "tests/mesh/test_media.py::test_replace_track_switches_without_a_negotiation[True]",
    "tests/mesh/test_media.py::test_somebody_who_comes_late_receives_everything",
    "tests/mesh/test_media.py::test_tracks_added_during_the_call_arrive",
    "tests/mesh/test_media.py::test_tracks_end_when_the_remote_leaves",
    "tests/mesh/test_media.py::test_video_and_audio_flow_both_ways_with_their_metadata",
    "tests/mesh/test_peers.py::test_closing_twice_and_at_once_is_closing_once",
    "tests/rpc/test_calls_between_peers.py::test_greeting",
]
"""Connecting, media and data both ways, streams, files, calls, and connections that are replaced."""


def test_a_representative_part_of_the_suite_passes_without_any_fast_path() -> None:
    command = [sys.executable, "-m", "pytest", "--slow-paths", "-q", "-p", "no:cacheprovider", *REPRESENTATIVE]
    without_workers = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    run = subprocess.run(command, cwd=ROOT, env=without_workers, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-5_000:] + run.stderr


async def insides(room: Room) -> tuple[type, type, bool, bool, bool, bool]:
    """Return what a connection that carries media both ways is made of: what carries data, whether checks are driven by
    events, whether the jitter buffers of pictures and of sound are, and whether payloads are shared."""
    pair = await room.pair()
    for _, track in (await pair.media_to_b(), await pair.media_to_a(90)):
        await frames(track)
    pair.b.add_track(ToneTrack())
    pc: Any = pair.to_b.pc

    def is_tapped(kind: str) -> bool:
        return any(it.kind == kind and "_handle_rtcp_packet" in vars(it.receiver) for it in pc.getTransceivers())

    await eventually(lambda: is_tapped("audio") and is_tapped("video"))
    transceivers = pc.getTransceivers()
    buffers = {it.kind: it.receiver._RTCRtpReceiver__jitter_buffer for it in transceivers}
    return (
        type(pc.sctp),
        type(dtls_transport(pc)),
        "checks" in vars(ice_transport(pc)._connection),
        "_remove_frame" in vars(buffers["video"]),
        "_remove_frame" in vars(buffers["audio"]),
        any(isinstance(it.sender._next_encoded_frame, SharedPacketSender) for it in transceivers),
    )


FAST = FastSctpTransport, FastDtlsTransport, True, True, True, True
AIORTCS = RTCSctpTransport, RTCDtlsTransport, False, False, False, False


async def test_nothing_is_off_unless_that_is_said(room: Room) -> None:
    assert await insides(room) == FAST


async def test_what_is_switched_off_is_aiortcs(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Room, "tuning", SLOW)
    assert await insides(room) == AIORTCS


async def test_what_has_changed_in_aiortc_is_aiortcs(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    with without_fast_paths():
        monkeypatch.setattr(Room, "tuning", Tuning())
        assert await insides(room) == AIORTCS


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("fast_data", {0, 1}),
        ("fast_checks", {2}),
        ("prompt_video", {3}),
        ("prompt_audio", {4}),
        ("shared_payloads", {5}),
    ],
)
async def test_each_option_switches_off_one_thing(
    room: Room, monkeypatch: pytest.MonkeyPatch, name: str, places: set[int]
) -> None:
    monkeypatch.setattr(Room, "tuning", Tuning(**{name: False}))
    expected = [AIORTCS[place] if place in places else FAST[place] for place in range(len(FAST))]
    assert list(await insides(room)) == expected
