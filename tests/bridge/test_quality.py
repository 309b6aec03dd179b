"""What browsers see of FFmpeg's WHIP client: nearly every picture, and sound and picture together."""

from __future__ import annotations

import os

import pytest
from benchmarks import whip

from tests.bridge.whip_whep import is_installed
from tests.support.browsers import needs_chromium

SECONDS = 8.0


@pytest.mark.alone
@pytest.mark.chromium
@needs_chromium
@pytest.mark.skipif(
    not is_installed() and "CI" not in os.environ, reason="whip-whep is needed: npm ci in tests/foreign_ends"
)
async def test_ffmpeg_is_seen_and_heard_in_two_browsers_and_by_a_player() -> None:
    result = await whip.run(SECONDS)
    assert result.faults() == []
