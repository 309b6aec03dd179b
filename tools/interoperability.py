"""The page on what works with which other implementation, `docs/interoperability.md`, from the results of tests.

    pytest tests/foreign_ends tests/interop --junitxml=results.xml
    python tools/interoperability.py --record results.xml

writes results and page. Without `--record` the page is written from the results that are recorded in
`docs/interoperability.json`; `--check` fails if it is not as they say, or names a test that does not exist.
"""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "interoperability.md"
RESULTS = ROOT / "docs" / "interoperability.json"
PROGRAMS = ROOT / "tests" / "foreign_ends"

VERSION_TIMEOUT = 60
"""Seconds that a program may take to tell its version."""

CAPABILITIES = {
    "media, Python first": "Sound and pictures both ways, Python offers first",
    "media, other first": "Sound and pictures both ways, the other end offers first",
    "once": "An end that offers once, to receive only, is sent media",
    "data, Python first": "Data both ways, Python offers first",
    "data, other first": "Data both ways, the other end offers first",
    "media after data, Python first": "Data first, then media of both; Python offers first",
    "media after data, other first": "Data first, then media of both; the other end offers first",
    "data after media, Python first": "Media first, then data; Python offers first",
    "data after media, other first": "Media first, then data; the other end offers first",
    "Python changes": "Python adds and removes tracks in mid-call",
    "other changes": "The other end adds and removes tracks in mid-call",
    "glare, other gives way": "Both offer at once, and the other end has to give way",
    "glare, Python gives way": "Both offer at once, and Python has to give way",
    "ICE-lite": "The other end has ICE-lite",
    "RSA": "The other end has an RSA certificate",
    "restart by the other": "The other end restarts ICE",
    "restart by Python": "Python restarts ICE when the path is lost",
    "replaced": "Another program takes the place of one that was killed",
}
"""What is tested, by a short name."""

_OF_EVERY_PROGRAM = {
    "media, Python first": "test_media.py::test_media_flows_both_ways_when_python_offers_first[{}]",
    "media, other first": "test_media.py::test_media_flows_both_ways_when_the_other_end_offers_first[{}]",
    "once": "test_media.py::test_an_end_that_offers_once_is_sent_what_it_asks_for[{}]",
    "data, Python first": "test_data.py::test_data_goes_both_ways[{}-python]",
    "data, other first": "test_data.py::test_data_goes_both_ways[{}-other]",
    "media after data, Python first": "test_data.py::test_media_is_added_to_data[{}-python]",
    "media after data, other first": "test_data.py::test_media_is_added_to_data[{}-other]",
    "data after media, Python first": "test_data.py::test_data_is_added_to_media[{}-python]",
    "data after media, other first": "test_data.py::test_data_is_added_to_media[{}-other]",
    "Python changes": "test_changes.py::test_python_adds_and_removes_a_track[{}]",
    "other changes": "test_changes.py::test_the_other_end_adds_and_removes_a_track[{}]",
    "glare, other gives way": "test_changes.py::test_both_offer_at_once[{}-polite]",
    "glare, Python gives way": "test_changes.py::test_both_offer_at_once[{}-impolite]",
    "restart by the other": "test_paths.py::test_the_other_end_restarts_ice[{}]",
    "restart by Python": "test_paths.py::test_python_restarts_ice_when_the_path_is_lost[{}]",
    "replaced": "test_paths.py::test_another_program_takes_the_place_of_one_that_was_killed[{}]",
}


_OF_JANUS = {
    "media, Python first": "media_goes_in_when_python_offers_and_comes_out_when_janus_offers[full ICE]",
    "media, other first": "media_goes_in_when_python_offers_and_comes_out_when_janus_offers[full ICE]",
    "data, Python first": "data_goes_in_and_comes_out[full ICE]",
    "data, other first": "data_goes_in_and_comes_out[full ICE]",
    "Python changes": "python_adds_a_track_and_removes_one[full ICE]",
    "other changes": "janus_adds_a_feed_and_removes_one[full ICE]",
    "ICE-lite": "media_goes_in_when_python_offers_and_comes_out_when_janus_offers[ICE-lite]",
    "RSA": "media_goes_in_when_python_offers_and_comes_out_when_janus_offers[full ICE, RSA]",
    "restart by the other": "janus_restarts_ice[full ICE]",
    "restart by Python": "python_restarts_ice[full ICE]",
}
"""Of a VideoRoom: publishers offer, and subscribers are offered to, so that never both do at once."""


def _of_program(name: str) -> dict[str, str]:
    return {key: f"tests/foreign_ends/{test.format(name)}" for key, test in _OF_EVERY_PROGRAM.items()}


@dataclass(frozen=True)
class End:
    """Another implementation: how it is called, the program that tells its version, the test of each capability, and
    what has to be said of them."""

    name: str
    command: tuple[str, ...]
    tests: Mapping[str, str]
    note: str = ""


def _of_browser(browser: str) -> dict[str, str]:
    pairs, negotiation = "tests/interop/test_python_and_browsers.py", "tests/interop/test_perfect_negotiation.py"
    removes = "test_a_stream_that_the_page_removes_is_reported_and_can_come_back"
    return {
        "media, Python first": f"{pairs}::test_media_flows_both_ways_with_metadata[impolite-{browser}-python]",
        "media, other first": f"{pairs}::test_media_flows_both_ways_with_metadata[impolite-{browser}-page]",
        "data, Python first": f"{pairs}::test_data_channels_open_from_either_side[impolite-{browser}-python]",
        "data, other first": f"{pairs}::test_data_channels_open_from_either_side[impolite-{browser}-page]",
        "Python changes": f"{pairs}::test_changes_in_mid_call_reach_the_other_side[polite-{browser}]",
        "other changes": f"{pairs}::{removes}[polite-{browser}]",
        "glare, other gives way": f"{pairs}::test_both_change_at_the_same_moment_three_times[impolite-{browser}]",
        "glare, Python gives way": f"{pairs}::test_both_change_at_the_same_moment_three_times[polite-{browser}]",
        "restart by the other": f"{negotiation}::test_an_ice_restart_of_the_browser_loses_nothing[polite-{browser}]",
        "restart by Python": (
            f"{negotiation}::test_a_path_that_dies_is_replaced_by_another_and_what_was_sent_arrives[polite-{browser}]"
        ),
    }


ENDS = (
    End("Chromium", ("chromium", "--version"), _of_browser("chromium")),
    End("Firefox", ("firefox-esr", "--version"), _of_browser("firefox")),
    End("webrtcbin", ("/usr/bin/python3", "webrtcbin_peer.py"), _of_program("webrtcbin")),
    End("wrtc", ("node", "wrtc_peer.mjs"), _of_program("wrtc")),
    End("werift", ("node", "werift_peer.mjs"), _of_program("werift")),
    End(
        "Janus",
        ("janus", "--help"),
        {key: f"tests/foreign_ends/test_janus.py::test_{test}" for key, test in _OF_JANUS.items()},
        "A VideoRoom, with a `OneShotConnection` over the API of Janus. [sfu_bridge.md](sfu_bridge.md) bridges it.",
    ),
    End("aiortc", (sys.executable, "aiortc_peer.py"), _of_program("aiortc")),
)
"""In the order of the columns."""


def recorded() -> dict[str, Any]:
    """Return the recorded results: `versions` by end, and `tests`, each `passed`, or why it cannot."""
    if not RESULTS.exists():
        return {"versions": {}, "tests": {}}
    results: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return results


def record(*reports: Path) -> None:
    """Record the results of runs of pytest that wrote JUnit reports. Of a test in several of them the last one counts.

    Raises:
        SystemExit: a test that the page names failed, or was skipped.
    """
    results, seen = recorded(), dict(it for report in reports for it in _results(report))
    named = {test: end for end in ENDS for test in end.tests.values()}
    failed = [f"{test}: {seen[test]}" for test in named if seen.get(test, "passed").startswith(("failed", "skipped"))]
    if failed:
        raise SystemExit("not recorded:\n" + "\n".join(failed))
    results["tests"].update({test: seen[test] for test in named if test in seen})
    results["tests"] = {test: results["tests"][test] for test in sorted(results["tests"]) if test in named}
    for end in {named[test].name: named[test] for test in named if test in seen}.values():
        results["versions"][end.name] = _version(end)
    results["versions"] = dict(sorted(results["versions"].items()))
    RESULTS.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _results(report: Path) -> Iterator[tuple[str, str]]:
    for case in ElementTree.parse(report).iter("testcase"):
        test = f"{case.attrib['classname'].replace('.', '/')}.py::{case.attrib['name']}"
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            yield test, "failed"
        elif skipped is None:
            yield test, "passed"
        elif skipped.attrib.get("type") == "pytest.xfail":
            yield test, skipped.attrib["message"].removeprefix("[NOTRUN] ")
        else:
            yield test, f"skipped: {skipped.attrib['message']}"


def _version(end: End) -> str:
    """Return what an end says of itself: in the event `ready` of a program, or for `--version`."""
    finished = subprocess.run(
        end.command,
        cwd=PROGRAMS,
        input="",
        capture_output=True,
        text=True,
        timeout=VERSION_TIMEOUT,
        check=True,
    )
    first = finished.stdout.strip().splitlines()[0].strip()
    return str(json.loads(first)["version"]) if first.startswith("{") else first


def page(results: dict[str, Any]) -> str:
    """Return the page for results."""
    lines = [
        "# Interoperability",
        "",
        "<!-- Written by tools/interoperability.py from docs/interoperability.json. -->",
        "",
        "A channel takes every end that speaks WebRTC and the signals of [protocol.md](protocol.md). The tests below",
        "connect a `MeteredPeer` with other implementations, over UDP, with the server of this package between them:",
        "",
        *(f"- **{end.name}**: {results['versions'].get(end.name, 'not tried')}" for end in ENDS),
        "",
        "✓ works and is tested. ✗ is a limit of the other end, whose reason stands in its table further down. An empty",
        "cell has no test.",
        "",
        "| | " + " | ".join(f"[{end.name}](#{_anchor(end)})" for end in ENDS) + " |",
        "|---|" + ":-:|" * len(ENDS),
        *(f"| {title} | " + " | ".join(_mark(end, key, results) for end in ENDS) + " |" for key, title in _titles()),
    ]
    for end in ENDS:
        lines += [
            "",
            f"## {end.name}",
            "",
            *([end.note, ""] if end.note else ()),
            "| capability | result | test |",
            "|---|---|---|",
        ]
        for key, title in _titles():
            if key in end.tests:
                lines.append(f"| {title} | {_result(end, key, results)} | `{end.tests[key]}` |")
    lines += [
        "",
        "## Trying it again",
        "",
        "`tools/install-test-programs` installs the other ends. With `--runxfail` the limits are tried, too:",
        "",
        "```sh",
        "pytest tests/foreign_ends --runxfail",
        "```",
        "",
        "The page is written from the results of a run:",
        "",
        "```sh",
        "pytest tests/foreign_ends tests/interop --junitxml=results.xml",
        "python tools/interoperability.py --record results.xml",
        "```",
        "",
    ]
    return "\n".join(lines)


def _titles() -> Iterator[tuple[str, str]]:
    for key, title in CAPABILITIES.items():
        if any(key in end.tests for end in ENDS):
            yield key, title


def _anchor(end: End) -> str:
    return end.name.lower().replace(" ", "-")


def _mark(end: End, key: str, results: dict[str, Any]) -> str:
    result = results["tests"].get(end.tests.get(key, ""))
    return "" if result is None else "✓" if result == "passed" else "✗"


def _result(end: End, key: str, results: dict[str, Any]) -> str:
    result = results["tests"].get(end.tests[key])
    return "not recorded" if result is None else "✓" if result == "passed" else f"✗ {result}"


def faults(results: dict[str, Any]) -> list[str]:
    """Return what is wrong: tests that do not exist, or have no result at an end that was tried; another page."""
    found = []
    for end in ENDS:
        for test in end.tests.values():
            path, _, name = test.partition("::")
            if name.partition("[")[0] not in _tests_in(ROOT / path):
                found.append(f"{test} does not exist")
            elif end.name in results["versions"] and test not in results["tests"]:
                found.append(f"{test} has no recorded result")
    if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page(results):
        found.append(f"{PAGE.relative_to(ROOT)} is not what tools/interoperability.py writes")
    return found


@cache
def _tests_in(path: Path) -> frozenset[str]:
    if not path.exists():
        return frozenset()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(it.name for it in tree.body if isinstance(it, ast.FunctionDef | ast.AsyncFunctionDef))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path, action="append", metavar="RESULTS.XML", help="a JUnit report of pytest")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page is not as recorded")
    options = parser.parse_args()
    if options.check:
        if found := faults(recorded()):
            raise SystemExit("\n".join(found))
        return
    if options.record:
        record(*options.record)
    PAGE.write_text(page(recorded()), encoding="utf-8")


if __name__ == "__main__":
    main()
