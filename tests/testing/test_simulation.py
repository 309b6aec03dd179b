"""Thousands of random runs: whatever fails, all peers end up connected and agree on what is sent."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from metered_realtime.testing import Conditions, Outcome, Scenario, Trace, VirtualLoop, play
from metered_realtime.testing.simulate import SimulationFailed, check, check_many, main, report

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "2000"))
"""The number of seeds to play."""


@pytest.mark.timeout(900)
def test_every_run_ends_with_all_connected_and_agreed() -> None:
    failures = [failure for _, failure in check_many(range(SEEDS)) if failure is not None]
    assert not failures, f"{len(failures)} of {SEEDS} seeds failed, the first of them:\n{failures[0]}"


def test_eight_peers_in_a_calm_world_rebuild_nothing() -> None:
    check(1, peers=8, calm=True)


def test_eight_peers_in_a_rough_world_find_each_other() -> None:
    check(1, peers=8, calm=False)


def test_a_seed_gives_the_same_run_in_every_process() -> None:
    seed = "--seed", "12", "--peers", "4", "--rough"
    command = [sys.executable, "-m", "metered_realtime.testing.simulate", *seed]
    traces = [
        subprocess.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONHASHSEED": hash_seed}
        ).stdout
        for hash_seed in ("1", "2")
    ]
    here = play(Scenario.draw(12, peers=4, calm=False)).trace.lines()
    assert traces[0] == traces[1]
    assert traces[0].startswith("\n".join(here))


def test_playing_a_seed_twice_gives_the_same_trace() -> None:
    first, second = (play(Scenario.draw(3, peers=3)) for _ in range(2))
    assert list(first.trace.lines()) == list(second.trace.lines())
    assert first.settled_in == second.settled_in


def failed_outcome() -> Outcome:
    loop = VirtualLoop()
    trace = Trace(loop)
    for number in range(100):
        trace("a.1", "does number %d", number)
    trace.fault("stage", "a sees nobody")
    trace("a.1", "quits")
    loop.close()
    scenario = Scenario(seed=7, peers=3, seconds=5.0, conditions=Conditions())
    return Outcome(scenario, ("a sees nobody", "b sees nobody"), 400.0, trace)


def test_a_failure_shows_the_seed_the_replay_the_invariant_and_the_trace_around_it() -> None:
    text = report(failed_outcome(), peers=3, calm=True)
    assert text.startswith("seed 7 failed: a sees nobody\n  also: b sees nobody\n")
    assert "replay: python -m metered_realtime.testing.simulate --seed 7 --peers 3 --calm\n" in text
    assert text.endswith("    0.0000  stage     FAULT: a sees nobody\n    0.0000  a.1       quits")
    assert "does number 40" in text
    assert "does number 39" not in text


def test_a_failed_check_raises_what_the_report_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metered_realtime.testing.simulate.play", lambda scenario: failed_outcome())
    with pytest.raises(SimulationFailed, match="--seed 7"):
        check(7)
    assert main(["--seed", "7"]) == 1


def test_the_command_prints_the_trace(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", "5", "--peers", "2", "--calm"]) == 0
    printed = capsys.readouterr().out
    assert "is joined" in printed
    assert "all as it should be" in printed
