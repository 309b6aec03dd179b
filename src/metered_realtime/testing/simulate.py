"""Play the runs of seeds: `python -m metered_realtime.testing.simulate --seed 7`, or many with `--seeds 0:1000`."""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

from .scenario import Outcome, Scenario
from .stage import play
from .trace import FAULT

TAIL = 60
AFTERMATH = 10
"""Lines of the trace that a failure shows, before the first fault and from it on. The command shows the whole trace."""

CHUNK = 20
"""Seeds that a process plays before it takes more."""


class SimulationFailed(AssertionError):
    """An invariant did not hold in a run. The text has the seed, the command that replays it, and part of the trace."""


def check(seed: int, *, peers: int | None = None, calm: bool | None = None) -> Outcome:
    """Play the run of a seed, and return how it ended. The same arguments always give the same run.

    `peers` (2 to 8) and `calm` override those of the seed; in a calm run nothing fails.

    Raises:
        SimulationFailed: an invariant did not hold.
    """
    outcome = play(Scenario.draw(seed, peers=peers, calm=calm))
    if outcome.faults:
        raise SimulationFailed(report(outcome, peers=peers, calm=calm))
    return outcome


def check_many(
    seeds: Iterable[int], *, peers: int | None = None, calm: bool | None = None, processes: int = 2
) -> Iterator[tuple[int, str | None]]:
    """Play many runs in worker processes. Yield each seed, in order, with its failure, None if it passed."""
    wanted = list(seeds)
    chunks = [wanted[start : start + CHUNK] for start in range(0, len(wanted), CHUNK)]
    context = multiprocessing.get_context("spawn")  # a fork of a program with threads may hang
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_begin_worker) as pool:
        for results in pool.map(_check_chunk, chunks, [peers] * len(chunks), [calm] * len(chunks)):
            yield from results


def report(outcome: Outcome, *, peers: int | None = None, calm: bool | None = None) -> str:
    """Return the faults, the command that replays the run, and the trace around the first fault."""
    scenario = outcome.scenario
    lines = [
        f"seed {scenario.seed} failed: {outcome.faults[0]}",
        *(f"  also: {fault}" for fault in outcome.faults[1:]),
        f"replay: {command(scenario.seed, peers=peers, calm=calm)}",
        f"{scenario}",
        *_crucial(list(outcome.trace.lines())),
    ]
    return "\n".join(lines)


def _crucial(lines: list[str]) -> list[str]:
    fault = next((index for index, line in enumerate(lines) if FAULT in line), len(lines))
    return lines[max(0, fault - TAIL) : fault + AFTERMATH]


def command(seed: int, *, peers: int | None = None, calm: bool | None = None) -> str:
    """Return the command that replays a run."""
    text = f"python -m metered_realtime.testing.simulate --seed {seed}"
    text += f" --peers {peers}" if peers is not None else ""
    return text + ("" if calm is None else " --calm" if calm else " --rough")


def _begin_worker() -> None:
    # Cycles are collected after each run, and imported modules are never garbage.
    gc.disable()
    gc.freeze()


def _check_chunk(seeds: Sequence[int], peers: int | None, calm: bool | None) -> list[tuple[int, str | None]]:
    results: list[tuple[int, str | None]] = []
    for seed in seeds:
        try:
            check(seed, peers=peers, calm=calm)
        except SimulationFailed as failure:
            results.append((seed, str(failure)))
        except Exception as error:
            how = command(seed, peers=peers, calm=calm)
            results.append((seed, f"seed {seed} raised {type(error).__name__}: {error}\nreplay: {how}"))
        else:
            results.append((seed, None))
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Return its exit code: 1 if any run failed."""
    parser = argparse.ArgumentParser(prog="python -m metered_realtime.testing.simulate", description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--seed", type=int, help="play one run, and print its trace")
    which.add_argument("--seeds", type=_range, metavar="FIRST:END", help="play a range of runs, END not included")
    parser.add_argument(
        "--peers", type=int, choices=range(2, 9), metavar="2..8", help="the number of peers (default: from the seed)"
    )
    weather = parser.add_mutually_exclusive_group()
    weather.add_argument("--calm", action="store_true", default=None, help="play without failures")
    weather.add_argument("--rough", action="store_false", dest="calm", help="play with failures")
    parser.add_argument("--processes", type=int, default=2, help="worker processes for a range (default: 2)")
    given = parser.parse_args(arguments)
    if given.seed is not None:
        return _play_one(given.seed, given.peers, given.calm)
    return _play_range(given.seeds, given.peers, given.calm, given.processes)


def _play_one(seed: int, peers: int | None, calm: bool | None) -> int:
    outcome = play(Scenario.draw(seed, peers=peers, calm=calm))
    print("\n".join(outcome.trace.lines()))
    for fault in outcome.faults:
        print(f"failed: {fault}")
    if not outcome.faults:
        print(f"all as it should be, {outcome.settled_in:.1f} s after the last event")
    print(outcome.scenario)
    return 1 if outcome.faults else 0


def _play_range(seeds: range, peers: int | None, calm: bool | None, processes: int) -> int:
    from rich.progress import track

    failures = 0
    results = check_many(seeds, peers=peers, calm=calm, processes=processes)
    for _, failure in track(results, description="seeds", total=len(seeds)):
        if failure is not None:
            failures += 1
            print("\n".join(failure.splitlines()[:3]))
    print(f"{len(seeds)} runs, {failures} failed")
    return 1 if failures else 0


def _range(text: str) -> range:
    first, colon, end = text.partition(":")
    if not colon:
        raise argparse.ArgumentTypeError(f"FIRST:END is needed, not {text!r}")
    return range(int(first), int(end))


if __name__ == "__main__":
    sys.exit(main())
