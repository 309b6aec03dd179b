"""The page on other implementations says what was recorded, and what was recorded is still what tests expect."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tools import interoperability

from tests.support.foreign_ends import IMPLEMENTATIONS, LIMITS


def test_the_page_is_as_generated_and_every_test_that_it_names_exists() -> None:
    assert interoperability.faults(interoperability.recorded()) == []


def test_the_recorded_limits_are_those_of_the_tests() -> None:
    tests = interoperability.recorded()["tests"]
    names = {it.name for it in IMPLEMENTATIONS}
    ends = [end for end in interoperability.ENDS if end.name in names]
    stated = {end.tests[key]: tests[end.tests[key]] for end in ends for key in end.tests}
    limits = {test: result for test, result in stated.items() if result != "passed"}
    assert limits == {test: reason for test in stated for name, reason in LIMITS.items() if test.endswith(f"::{name}")}


def test_a_report_of_tests_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passed, limited = "test_media.py::test_a[x]", "test_media.py::test_b[x]"
    tests = {"once": f"tests/foreign_ends/{passed}", "replaced": f"tests/foreign_ends/{limited}"}
    end = interoperability.End("x", (sys.executable, "-c", "print('x 1.0')"), tests)
    monkeypatch.setattr(interoperability, "ENDS", (end,))
    monkeypatch.setattr(interoperability, "RESULTS", tmp_path / "results.json")
    report = tmp_path / "report.xml"
    report.write_text(
        '<testsuites><testsuite><testcase classname="tests.foreign_ends.test_media" name="test_a[x]"/>'
        '<testcase classname="tests.foreign_ends.test_media" name="test_b[x]">'
        '<skipped type="pytest.xfail" message="[NOTRUN] it cannot"/></testcase></testsuite></testsuites>'
    )
    interoperability.record(report)
    results = interoperability.recorded()
    assert results["versions"] == {"x": "x 1.0"}
    assert results["tests"] == {tests["once"]: "passed", tests["replaced"]: "it cannot"}
    text = interoperability.page(results)
    assert f"| ✓ | `{tests['once']}` |" in text
    assert f"| ✗ it cannot | `{tests['replaced']}` |" in text
    report.write_text(
        '<testsuite><testcase classname="tests.foreign_ends.test_media" name="test_a[x]"><failure/></testcase>'
        "</testsuite>"
    )
    with pytest.raises(SystemExit, match=r"test_a\[x\]: failed"):
        interoperability.record(report)
