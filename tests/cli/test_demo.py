"""The demo as a user runs it, with its files and exit codes."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import av

from metered_realtime.media.sources.testsource import write_test_clip
from tests.support.patience import PATIENCE


async def started(*arguments: str) -> asyncio.subprocess.Process:
    """Start the demo."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "metered_realtime",
        "demo",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def demo(*arguments: str) -> tuple[int | None, str]:
    """Run the demo; return its exit code and what it printed."""
    process = await started(*arguments)
    async with asyncio.timeout(PATIENCE):
        output, _ = await process.communicate()
    return process.returncode, output.decode()


async def test_demo_streams_a_file_and_leaves_a_recording_and_a_contact_sheet(tmp_path: Path) -> None:
    clip, output = tmp_path / "clip.mp4", tmp_path / "out"
    await asyncio.to_thread(write_test_clip, clip, seconds=2.0, width=320, height=180)
    code, printed = await demo(str(clip), "--output", str(output))
    assert code == 0, printed
    for said in ("video frames arrived", "audio frames arrived", "digest equal", "can be played", "/?channel=demo"):
        assert said in printed
    assert "receiver sees sender" in " ".join(printed.split())
    assert "STAY=1" in printed
    with av.open(str(output / "received.mp4")) as received:
        assert received.streams.audio
        assert sum(1 for _ in received.decode(video=0)) > 25
    assert (output / "contact-sheet.png").read_bytes().startswith(b"\x89PNG")


async def test_demo_fails_with_a_sentence_when_the_file_is_no_media(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a film")
    for path in (text, tmp_path / "missing.mp4"):
        code, printed = await demo(str(path), "--output", str(tmp_path))
        assert code == 1, printed
        assert str(path) in printed
        assert "Traceback" not in printed


async def test_the_room_stays_open_until_ctrl_c_if_that_is_asked_for(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    await asyncio.to_thread(write_test_clip, clip, seconds=1.0, width=320, height=180)
    process = await started(str(clip), "--output", str(tmp_path / "out"), "--stay", "inf")
    assert process.stdout is not None
    printed = ""
    try:
        async with asyncio.timeout(PATIENCE):
            while "stays open" not in printed:
                line = (await process.stdout.readline()).decode()
                assert line, printed
                printed += line
            url = printed.split()[-1]
            page = await asyncio.to_thread(urllib.request.urlopen, url)
            assert page.status == 200
            page.close()
            process.send_signal(signal.SIGINT)
            rest, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert "until you press Ctrl-C" in printed
    assert (process.returncode, rest.decode()) == (0, "")


def test_make_demo_keeps_the_room_open_with_stay() -> None:
    root = Path(__file__).parents[2]
    for setting, is_open in (("STAY=1", True), ("STAY=", False)):
        arguments = ["make", "--dry-run", "--old-file", ".venv/.installed-all", "demo", setting]
        done = subprocess.run(arguments, cwd=root, capture_output=True, text=True, check=True, timeout=PATIENCE)
        assert ("--stay inf" in done.stdout) is is_open
