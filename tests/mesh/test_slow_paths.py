"""Peers whose connections leave everything to aiortc and aioice, as `Tuning` and changed releases make them."""

from __future__ import annotations

import os
import re
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
from metered_realtime.aiortc_compat.transports import dtls_transport
from tests.support.changed_releases import SLOW, without_fast_paths
from tests.support.inside import aioice_of
from tests.support.peers import Room, eventually, frames

ROOT = Path(__file__).parents[2]

ROOMS = ("tests/channels", "tests/files", "tests/mesh", "tests/rpc")
"""Where the tests marked `every_path` are: connecting, media and data both ways, streams, files, calls, and connections
that are replaced."""


def test_a_representative_part_of_the_suite_passes_without_any_fast_path() -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--slow-paths",
        "-m",
        "every_path",
        "-q",
        "-p",
        "no:cacheprovider",
        *ROOMS,
    ]
    without_workers = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    run = subprocess.run(command, cwd=ROOT, env=without_workers, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-5_000:] + run.stderr
    assert int(re.search(r"(\d+) passed", run.stdout)[1]) >= 20  # type: ignore[index]


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
        "checks" in vars(aioice_of(pc)),
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


async def test_what_has_changed_in_aiortc_is_aiortcs(room: Room) -> None:
    with without_fast_paths(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Room, "tuning", Tuning())
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
