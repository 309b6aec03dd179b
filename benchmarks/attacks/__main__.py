"""Run each attack in a process of its own, so that the memory of one is not counted for the next, and print a table."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import pkgutil
import subprocess
import sys

from benchmarks import attacks
from benchmarks.attacks.stage import Attack, Cost, measure

TIMEOUT = 180.0
"""Seconds that one attack may take: one that held a loop for longer than that was won."""


def all_attacks() -> dict[str, Attack]:
    """Return every attack by its name."""
    found: dict[str, Attack] = {}
    for module in pkgutil.iter_modules(attacks.__path__):
        if not module.name.startswith("_"):
            found.update(getattr(importlib.import_module(f"benchmarks.attacks.{module.name}"), "ATTACKS", {}))
    return found


def run_apart(name: str, source: str | None) -> str:
    """Run one attack in a fresh process. Return a row of the table."""
    environment = {**os.environ, "PYTHONPATH": source} if source else dict(os.environ)
    command = [sys.executable, "-m", "benchmarks.attacks", "--here", name]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        return f"| {name} | over {TIMEOUT:.0f} | | | |"
    if done.returncode:
        last_words = done.stderr.strip().splitlines()[-1:] or [f"exit {done.returncode}"]
        return f"| {name} | failed: {last_words[0]} | | | |"
    return Cost(**json.loads(done.stdout.splitlines()[-1])).row(name)


def main() -> None:
    parser = argparse.ArgumentParser(description=attacks.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="ATTACK")
    parser.add_argument("--source", help="the src folder of the version to attack, 0.2.0 or later (this one)")
    parser.add_argument("--here", metavar="ATTACK", help="run one attack in this process, and print its cost as JSON")
    options = parser.parse_args()
    known = all_attacks()
    if options.here:
        print(json.dumps(vars(asyncio.run(measure(known[options.here])))))
        return
    if unknown := set(options.names) - set(known):
        parser.error(f"no such attack: {', '.join(sorted(unknown))}. There are: {', '.join(sorted(known))}")
    print("| attack | blocked, s | honest gap, s | memory, MB | descriptors |\n|---|---|---|---|---|")
    for name in options.names or sorted(known):
        print(run_apart(name, options.source), flush=True)


if __name__ == "__main__":
    main()
