"""A 1 kHz tone pushed into an `AudioSource`, over UDP to another peer: is it whole, and how late is it?

Both peers are in one process and on one clock. The tone is pushed 20 ms every 20 ms, as a program does that synthesises
or forwards sound, and 40 ms ahead. What arrives is cut into windows of 20 ms, twenty whole cycles each: a gap shows
as a window that is too quiet or as samples that are missing, a click as energy beside 1 kHz or as a phase that jumps.

    python -m benchmarks.tone --seconds 60
"""

from __future__ import annotations

import argparse
import asyncio
import cmath
import math
import statistics
import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from operator import mul
from typing import Any

from rich.console import Console
from rich.table import Table

from metered_realtime import AudioSource, MediaStream, MeteredPeer, PeerJoined, Track
from metered_realtime.server import SignallingServer

RATE, FREQUENCY, LEVEL = 48_000, 1000, 8000
WINDOW = RATE // 50
AHEAD = 0.04  # seconds pushed before the first pause: what the scheduling of a busy machine may eat up
TAIL = 0.5  # seconds to wait for what is under way at the end
MARGIN = 3  # windows left out at each end, where the encoder fades the tone in and out

COSINE = [math.cos(2 * math.pi * FREQUENCY * n / RATE) for n in range(WINDOW)]
SINE = [math.sin(2 * math.pi * FREQUENCY * n / RATE) for n in range(WINDOW)]


@dataclass
class Heard:
    """What one listener got: samples of the left channel, when each 20 ms came, and jumps in the timestamps."""

    samples: array[int]
    times: list[float]
    jumps: int


@dataclass
class Report:
    """The tone as it arrived. Levels are relative to the median level of all windows."""

    seconds: float
    missing_ms: float
    jumps: int
    quietest_db: float
    loudest_db: float
    beside_db: float  # energy beside 1 kHz in the worst window, relative to that of the tone
    phase_jump: float  # degrees between two windows, the worst
    underruns: int
    late: float  # seconds that the source was behind at the end: longer than what is pushed ahead after stalls
    delays: list[float]  # from push to `recv`, seconds, one for each window

    def delay(self, share: float) -> float:
        """Return the delay below which this share of the sound is, in milliseconds."""
        return statistics.quantiles(self.delays, n=100, method="inclusive")[round(share * 100) - 1] * 1000


def tone(start: int, count: int) -> bytes:
    """Return samples of the tone as s16le."""
    return array(
        "h", (round(LEVEL * math.sin(2 * math.pi * FREQUENCY * n / RATE)) for n in range(start, start + count))
    ).tobytes()


async def measure(seconds: float, ahead: float = AHEAD) -> Report:
    """Send the tone for a while between two peers, `ahead` seconds early, and tell how it arrived."""
    source = AudioSource(input_rate=RATE)
    async with SignallingServer() as server:
        one, other = (MeteredPeer(api_key=server.api_key, url=server.url) for _ in range(2))
        async with one, other:
            received: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

            @other.on(PeerJoined)
            def _(event: PeerJoined) -> None:
                event.peer.on(Track, lambda event: received.set_result(event.track))

            one.add_stream(MediaStream([source]))
            await other.join("room")
            await one.join("room")
            heard = Heard(array("h"), [], 0)
            listening = asyncio.ensure_future(_listen(await asyncio.wait_for(received, 20), heard))
            while len(heard.times) < 25:  # noqa: ASYNC110 - silence flows: the link is up
                await asyncio.sleep(0.02)
            pushed = await _push(source, seconds, ahead)
            late = source.buffered_seconds
            await source.wait_drained()
            await asyncio.sleep(TAIL)
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
    source.stop()
    return _judge(seconds, heard, pushed, late)


async def _listen(track: Any, heard: Heard) -> None:
    expected: int | None = None  # None before and behind silence, which a program that is held up leaves out
    while True:
        frame = await track.recv()
        heard.times.append(time.perf_counter())
        samples = array("h", bytes(frame.planes[0])[: 4 * frame.samples])[0::2]
        heard.samples += samples
        is_loud = max(samples) > LEVEL // 10
        heard.jumps += is_loud and expected is not None and frame.pts != expected
        expected = frame.pts + frame.samples if is_loud else None


async def _push(source: AudioSource, seconds: float, ahead: float) -> list[float]:
    """Push the tone in real time, and return when each 20 ms were pushed."""
    clock, pushed = time.perf_counter, []
    began = clock() - ahead
    for number in range(round(seconds * RATE) // WINDOW):
        await asyncio.sleep(max(0.0, began + number * WINDOW / RATE - clock()))
        pushed.append(clock())
        await source.push(tone(number * WINDOW, WINDOW))
    return pushed


def _judge(seconds: float, heard: Heard, pushed: list[float], late: float) -> Report:
    loud = [n for n, value in enumerate(heard.samples) if abs(value) > LEVEL // 10]
    first, last = (loud[0], loud[-1]) if loud else (0, 0)
    windows = list(_windows(heard.samples, first, last))
    levels = [abs(phasor) for phasor, _ in windows]
    typical = statistics.median(levels)
    turns = [cmath.phase(later / earlier) for (earlier, _), (later, _) in pairwise(windows)]
    return Report(
        seconds=seconds,
        missing_ms=(len(pushed) * WINDOW - (last - first + 1)) / RATE * 1000,
        jumps=heard.jumps,
        quietest_db=_db(min(levels) / typical),
        loudest_db=_db(max(levels) / typical),
        beside_db=max(_db(math.sqrt(rest)) for _, rest in windows),
        phase_jump=math.degrees(max(map(abs, turns))),
        underruns=sum(level < typical / 2 for level in levels),
        late=late,
        delays=[
            heard.times[(first + number * WINDOW) // WINDOW] - at
            for number, at in enumerate(pushed)
            if (first + number * WINDOW) // WINDOW < len(heard.times)
        ],
    )


def _windows(samples: array[int], first: int, last: int) -> Iterator[tuple[complex, float]]:
    """Yield for each 20 ms the tone in it as a phasor, and the energy beside it as a share of the tone's."""
    for start in range(first + MARGIN * WINDOW, last - (MARGIN + 1) * WINDOW, WINDOW):
        window = samples[start : start + WINDOW]
        phasor = complex(sum(map(mul, window, COSINE)), -sum(map(mul, window, SINE))) * 2 / WINDOW
        energy, of_tone = sum(map(mul, window, window)) / WINDOW, abs(phasor) ** 2 / 2
        yield phasor, max(energy - of_tone, 1e-9) / max(of_tone, 1e-9)


def _db(ratio: float) -> float:
    return 20 * math.log10(max(ratio, 1e-9))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the tone is")
    report = asyncio.run(measure(parser.parse_args().seconds))
    table = Table("what", "measured", title=f"a 1 kHz tone of {report.seconds:g} s")
    for what, value in (
        ("missing, ms", f"{report.missing_ms:.1f}"),
        ("jumps in the timestamps", f"{report.jumps}"),
        ("windows below half the level", f"{report.underruns}"),
        ("quietest and loudest window, dB", f"{report.quietest_db:+.2f}, {report.loudest_db:+.2f}"),
        ("beside 1 kHz, worst window, dB", f"{report.beside_db:.1f}"),
        ("phase jump, worst, degrees", f"{report.phase_jump:.2f}"),
        ("queued in the source at the end, ms", f"{report.late * 1000:.1f}"),
        ("one-way delay p50, p95, max, ms", f"{report.delay(0.5):.1f}, {report.delay(0.95):.1f}, "
                                            f"{max(report.delays) * 1000:.1f}"),
    ):  # fmt: skip
        table.add_row(what, value)
    Console().print(table)


if __name__ == "__main__":
    main()
