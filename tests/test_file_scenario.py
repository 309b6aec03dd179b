"""The file of the benchmark, smaller: two programs, lost and replaced connections, a receiver that is killed."""

from __future__ import annotations

from pathlib import Path

from benchmarks.file_transfer import MAX_MEMORY, scenario

from metered_realtime.core.streams.multiplexer import WINDOW
from metered_realtime.files.receiving import WIDER_WINDOW
from metered_realtime.streams.writer import WRITE_AHEAD

SIZE = 10_000_000

LOST = WINDOW + WIDER_WINDOW + WRITE_AHEAD + 262_144
"""Bytes that a lost connection costs at the most: the window of the stream and, if the stream is lost with it, what
waits at the sender and the block being written."""


async def test_a_file_arrives_whole_through_everything(tmp_path: Path) -> None:
    verdict = await scenario(SIZE, tmp_path)
    assert verdict.is_whole
    assert len(verdict.done) == 6
    assert verdict.sent - verdict.size + verdict.resent <= 3 * LOST
    assert max(verdict.sender_memory, verdict.receiver_memory) <= MAX_MEMORY
