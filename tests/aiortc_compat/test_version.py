"""Which releases of aiortc and aioice are taken, and how a change in them is noticed."""

from __future__ import annotations

import ast
import linecache
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from metered_realtime.aiortc_compat import version as releases
from metered_realtime.aiortc_compat.version import ESSENTIAL, Guard, KnownPart, check_version
from tests.support.changed_releases import change, guards

LOG = "metered_realtime"


@pytest.fixture
def unchecked() -> Any:
    """`check_version` as it is before it has been called."""
    return check_version.__wrapped__


@pytest.mark.parametrize(("library", "installed"), [("aiortc", "1.17.0"), ("aioice", "0.14.1"), ("aiortc", "2.0.0")])
def test_other_minor_releases_are_refused(
    monkeypatch: pytest.MonkeyPatch, unchecked: Any, library: str, installed: str
) -> None:
    unchecked()
    monkeypatch.setattr(releases, "version", lambda name: installed if name == library else version(name))
    with pytest.raises(ImportError, match=rf"{library} .* is needed, {re.escape(installed)} is installed"):
        unchecked()


def test_the_releases_that_are_taken_are_those_of_the_package_metadata() -> None:
    pins = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    for library, supported in releases.SUPPORTED.items():
        minor = supported.rstrip(".")
        major, _, number = minor.partition(".")
        assert f'"{library}>={minor},<{major}.{int(number) + 1}"' in pins


@pytest.mark.parametrize("name", guards())
def test_everything_reads_as_it_did(name: str) -> None:
    for part in guards()[name].parts:
        assert part.fingerprint() == part.digest, f"{part} of {name} has changed: read it, and enter the new digest"


def test_what_cannot_be_done_without_reads_as_it_did() -> None:
    for part in ESSENTIAL:
        assert part.fingerprint() == part.digest, f"{part} has changed: read it, and enter the new digest"


@pytest.mark.parametrize("number", range(len(ESSENTIAL)))
def test_an_essential_part_that_has_changed_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, unchecked: Any, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    part = ESSENTIAL[number]
    monkeypatch.setattr(part, "digest", "another")
    unchecked()
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{part} has changed in aiortc 1.16")
    assert "install aiortc 1.16.0" in record.getMessage()


def test_an_essential_part_that_is_gone_is_refused(monkeypatch: pytest.MonkeyPatch, unchecked: Any) -> None:
    part = ESSENTIAL[0]
    monkeypatch.delattr(part.owner, "_RTCPeerConnection__connect")
    with pytest.raises(ImportError, match="RTCPeerConnection has changed"):
        unchecked()


def test_a_program_without_source_files_is_judged_by_the_release(
    monkeypatch: pytest.MonkeyPatch, unchecked: Any, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(linecache, "getlines", lambda name: [])
    unchecked()
    guard = Guard("it goes without", ESSENTIAL[0])
    assert not guard.holds(), "what can be done without is not touched"


class Library:
    """Stands in for a class of a release."""

    def first(self) -> int:
        return 1

    def second(self) -> int:
        return 2

    def __hidden(self) -> int:
        return 3


def test_a_guard_looks_at_the_functions_that_it_names() -> None:
    first = KnownPart(Library, "", "first").fingerprint()
    hidden = KnownPart(Library, "", "__hidden").fingerprint()
    everything = KnownPart(Library, "").fingerprint()
    assert len({first, hidden, everything}) == 3
    assert KnownPart(Library, "", "third").fingerprint() == "missing"


def test_a_change_is_logged_once_with_its_consequence(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    guard = Guard("it is slower", *(KnownPart(it.owner, it.digest, *it.names) for it in ESSENTIAL[:2]))
    assert guard.holds()
    assert caplog.messages == []
    change(monkeypatch, guard)
    assert (guard.holds(), guard.holds()) == (False, False)
    installed = version("aiortc")
    assert caplog.messages == [f"RTCPeerConnection, RTCRtpReceiver have changed in aiortc {installed}; it is slower"]


UNGUARDED = {
    "dtls": "sctp.GUARD is asked before a connection becomes one of these",
    "gathering": "public attributes that name servers, and no methods",
    "message_size": "an attribute of the transport that it has made itself, and no method",
    "peer_connection": "check_version warns where connecting has changed",
    "rtp_receiver": "check_version warns where receivers have changed",
    "sctp_channels": "sctp.GUARD is asked before a connection becomes one of these",
    "transceivers": "attributes of what it has made itself, and no methods",
    "transports": "an attribute without a leading underscore, and no method",
}
"""Modules that assign to attributes of aiortc or aioice without a guard of their own, and why."""


def test_every_module_that_replaces_something_has_a_guard() -> None:
    guarded = {name.partition(".")[0] for name in guards()}
    files = Path(releases.__file__).parent.glob("[a-z]*.py")
    assert {it.stem for it in files if _assigns(ast.parse(it.read_text()))} - guarded == set(UNGUARDED)


def _assigns(tree: ast.Module) -> bool:
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            if isinstance(target, ast.Attribute) and ast.unparse(target.value) not in ("self", "cls"):
                return True
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "setattr":
            return True
    return False
