"""What the extras of the package install."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from metered_realtime import missing
from tests.support.patience import PATIENCE

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "metered_realtime"
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
BY_AIORTC = {
    "OpenSSL": "pyopenssl",
    "google_crc32c": "google-crc32c",
    "pyee": "pyee",
    "pylibsrtp": "pylibsrtp",
}
"""Modules that come with aiortc, and are used where its insides are: a release of it without one of them fails here."""

MODULES = {
    "PyJWT": "jwt",
    "prometheus-client": "prometheus_client",
    "opentelemetry-api": "opentelemetry",
    "opentelemetry-sdk": "opentelemetry.sdk",
}
"""Modules that are named otherwise than what is installed."""


def names(extra: str) -> set[str]:
    """Return what an extra installs, those that it refers to included."""
    found = set()
    for requirement in EXTRAS[extra]:
        if nested := re.fullmatch(r"metered-realtime-mesh\[(.*)\]", requirement):
            found |= {name for each in nested[1].split(",") for name in names(each)}
        else:
            found.add(re.split(r"[<>=]", requirement)[0])
    return found


def own(extra: str) -> set[str]:
    """Return the modules that an extra installs, those of the extras that it refers to left out."""
    found = (re.split(r"[<>=]", it)[0] for it in EXTRAS[extra] if not it.startswith("metered-realtime-mesh["))
    return {MODULES.get(name, name) for name in found}


def imported() -> dict[str, set[str]]:
    """Return which rooms of the package import each module from outside, at run time."""
    rooms: dict[str, set[str]] = defaultdict(set)
    for path in SOURCE.rglob("*.py"):
        room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        tree = ast.parse(path.read_text())
        typing = {id(it) for branch in ast.walk(tree) if _is_for_types(branch) for it in ast.walk(branch)}
        for node in ast.walk(tree):
            if id(node) in typing:
                continue
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "require":
                names = [each for it in node.args for each in missing.EXTRAS[ast.literal_eval(it)]]
            else:
                continue
            for name in names:
                rooms[name.partition(".")[0]].add(room)
    return {name: found for name, found in rooms.items() if name not in {*sys.stdlib_module_names, "metered_realtime"}}


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def test_every_module_that_is_installed_is_imported() -> None:
    every = {name for extra in ("webrtc", "server", "whip", "numpy", "cli") for name in own(extra)}
    base = {re.split(r"[<>=]", it)[0] for it in PROJECT["dependencies"]}
    assert (every | base) - imported().keys() == set()


def test_every_module_that_is_imported_is_installed() -> None:
    base = {re.split(r"[<>=]", it)[0] for it in PROJECT["dependencies"]}
    declared = base | {MODULES.get(name, name) for name in names("all")}
    assert imported().keys() - declared == set(BY_AIORTC)
    needed_by_aiortc = {re.split(r"[^\w-]", it)[0].lower() for it in metadata.requires("aiortc") or []}
    assert set(BY_AIORTC.values()) <= needed_by_aiortc


def test_what_is_said_of_a_missing_module_names_the_extra_that_installs_it() -> None:
    for extra, modules in missing.EXTRAS.items():
        assert set(modules) == {MODULES.get(name, name) for name in names(extra)}


PROGRAM = """
import importlib, sys

allowed = set(sys.argv[1].split(","))

class Blocker:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in {"aiortc", "aioice", "av", "aiohttp", "prometheus_client", "jwt", "numpy", "typer", "rich"} - allowed:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
import metered_realtime as api
from metered_realtime import *

print("metered_realtime: ok")
for room in sys.argv[2:]:
    try:
        importlib.import_module(f"metered_realtime.{room}")
        print(f"{room}: ok")
    except ModuleNotFoundError as error:
        print(f"{room}: {error}")
"""

ROOMS = {
    "bridge.app": {"webrtc", "server"},
    "cli.app": {"cli"},
    "connection.one_shot.connection": {"webrtc"},
    "recording.recorder": {"webrtc"},
    "server": {"server"},
    "server.config.file": {"server"},
    "testing": {"webrtc", "server"},
    "whip.clients": {"whip"},
}
"""What programs import by its own name, and the extras that it needs."""


@pytest.mark.parametrize("extras", ["", "webrtc", "server", "whip", "numpy", "cli", "webrtc,server"])
def test_each_extra_alone_imports_and_what_is_missing_is_said_in_words(extras: str) -> None:
    allowed = {MODULES.get(name, name) for extra in extras.split(",") if extra for name in names(extra)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, ",".join(allowed), *ROOMS],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    said = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert said.pop("metered_realtime") == "ok"
    for room, needed in ROOMS.items():
        installed = {MODULES.get(name, name) for extra in needed for name in names(extra)}
        if installed <= allowed:
            assert said[room] == "ok"
        else:
            assert re.search(rf"needs (\w+): pip install 'metered-realtime-mesh\[({'|'.join(needed)})\]'$", said[room])


def test_the_command_line_says_what_to_install() -> None:
    program = PROGRAM.replace('print("metered_realtime: ok")', "from metered_realtime.__main__ import main; main()")
    done = subprocess.run([sys.executable, "-c", program, "jwt"], capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "the command line needs typer: pip install 'metered-realtime-mesh[cli]'\n"


def test_all_is_what_the_readme_says() -> None:
    table = (ROOT / "README.md").read_text().partition("## Install")[2].partition("\n\nThe import name")[0]
    rows = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert rows[-1] == "all"
    assert names("all") == {name for extra in rows[:-1] for name in names(extra)}


def test_the_name_of_every_extra_stays() -> None:
    assert EXTRAS.keys() >= {"webrtc", "server", "whip", "redis", "numpy", "cli", "fast", "otel", "all", "dev"}
