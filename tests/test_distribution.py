"""The wheel and the sdist: built, complete, and installed without an extra in an environment of its own."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path, PurePosixPath

import pytest

from metered_realtime.server import SignallingServer
from tests.support.patience import PATIENCE

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "metered_realtime"

NO_INDEX = ("No matching distribution found for", "Connection", "Temporary failure in name resolution")
"""What pip says where no package index can be reached."""

PUBSUB = """
import asyncio, sys
from metered_realtime import Message, MeteredPeer, SignallingClient

async def main(url, key):
    ears, mouth = SignallingClient(api_key=key, url=url), SignallingClient(api_key=key, url=url)
    async with ears, mouth:
        messages = ears.events(Message)
        await ears.subscribe("news")
        await mouth.publish("news", {"n": 1})
        print((await anext(messages)).data)

asyncio.run(main(*sys.argv[1:]))
for room in ("server", "testing", "recording"):
    try:
        __import__(f"metered_realtime.{room}")
    except ImportError as error:
        print(error)
"""


def run(*arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=PATIENCE)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Build both, and return their paths by suffix."""
    folder = tmp_path_factory.mktemp("dist")
    done = run(sys.executable, "-m", "hatchling", "build", "--directory", folder)
    assert done.returncode == 0, done.stderr
    return {path.suffix: path for path in folder.iterdir()}


def package_files() -> set[str]:
    """Return the files of the package in the source, page and everything else that is no Python included."""
    found = (path.relative_to(PACKAGE.parent) for path in PACKAGE.rglob("*") if path.is_file())
    return {path.as_posix() for path in found if path.suffix != ".pyc"}


def test_the_wheel_has_every_file_of_the_package_and_no_other(built: dict[str, Path]) -> None:
    with zipfile.ZipFile(built[".whl"]) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == package_files()
    assert {"metered_realtime/py.typed", "metered_realtime/server/page/index.html"} <= names


def test_the_sdist_has_what_the_wheel_is_built_from_and_nothing_that_was_made(built: dict[str, Path]) -> None:
    with tarfile.open(built[".gz"]) as sdist:
        names = {PurePosixPath(*PurePosixPath(name).parts[1:]).as_posix() for name in sdist.getnames()}
    assert {f"src/{name}" for name in package_files()} <= names
    assert {"pyproject.toml", "README.md", "LICENSE", "tests/conftest.py"} <= names
    assert not {name for name in names if "node_modules/" in name or name.startswith((".venv/", "dist/"))}


async def test_the_wheel_alone_does_publish_subscribe_and_says_what_else_needs(
    built: dict[str, Path], tmp_path: Path
) -> None:
    await asyncio.to_thread(venv.create, tmp_path / "venv", with_pip=True)
    binaries = tmp_path / "venv" / "bin"
    python = binaries / "python"
    installed = await asyncio.to_thread(
        run, python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", built[".whl"], cwd=tmp_path
    )
    if installed.returncode and any(text in installed.stderr for text in NO_INDEX):
        pytest.skip("no package index can be reached")
    assert installed.returncode == 0, installed.stderr
    listed = await asyncio.to_thread(run, python, "-m", "pip", "list", "--format=freeze", cwd=tmp_path)
    names = {line.partition("==")[0].lower() for line in listed.stdout.splitlines()}
    assert names - {"pip", "setuptools"} == {"metered-realtime-mesh", "msgspec", "websockets"}
    async with SignallingServer(port=0) as server:
        done = await asyncio.to_thread(run, python, "-c", PUBSUB, server.url, server.api_key, cwd=tmp_path)
    assert done.stdout.splitlines() == [
        "{'n': 1}",
        "metered_realtime.server needs aiohttp: pip install 'metered-realtime-mesh[server]'",
        "metered_realtime.testing needs aiortc: pip install 'metered-realtime-mesh[webrtc]'",
        "metered_realtime.recording needs aiortc: pip install 'metered-realtime-mesh[webrtc]'",
    ], done.stderr
    shown = await asyncio.to_thread(run, binaries / "metered-realtime", "--version", cwd=tmp_path)
    assert (shown.returncode, "metered-realtime-mesh[cli]" in shown.stderr) == (1, True)


def test_the_sdist_builds_the_same_wheel(built: dict[str, Path], tmp_path: Path) -> None:
    with tarfile.open(built[".gz"]) as sdist:
        sdist.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    out = tmp_path / "out"
    done = run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", out, cwd=source)
    assert done.returncode == 0, done.stderr
    (again,) = out.iterdir()
    with zipfile.ZipFile(again) as one, zipfile.ZipFile(built[".whl"]) as other:
        assert {it.filename: it.CRC for it in one.infolist()} == {it.filename: it.CRC for it in other.infolist()}
