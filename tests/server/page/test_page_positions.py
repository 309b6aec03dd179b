"""The room page and the Python client come to the same decisions about what is new and what is lost."""

from __future__ import annotations

import asyncio
import json
import shutil
from random import Random
from typing import Any

import pytest

from metered_realtime.core.session.positions import Positions, ReadPosition
from metered_realtime.server.room_page import load_page
from tests.support.patience import PATIENCE

NODE = shutil.which("node")
SCRIPTS, STEPS = 300, 40

RUNNER = """
const [source, scripts] = JSON.parse(await new Response(process.stdin).text());
const { Positions } = await import("data:text/javascript," + encodeURIComponent(source));
const shown = scripts.map((script) => {
  const positions = new Positions();
  return script.map(([name, frame]) => {
    const answers = {
      welcome: () => positions.welcomed(frame),
      ack: () => positions.acknowledged(frame.channel, frame, "epoch" in positions.asking(frame.channel)),
      message: () => positions.takes(frame),
      direct: () => positions.takes(frame),
      lost: () => positions.lost(frame) !== null,
      drop: () => positions.disconnected(),
      forget: () => positions.forget(frame.channel),
    };
    return [answers[name]() ?? null, positions.query, positions.asking("a")];
  });
});
console.log(JSON.stringify(shown));
"""


def step(random: Random) -> tuple[str, dict[str, Any]]:
    """Return something that happens. Frames of a channel that was never acknowledged do not come."""
    name = random.choice(["welcome", "ack", "message", "message", "direct", "direct", "lost", "drop", "forget"])
    frame: dict[str, Any] = {"type": name, "channel": "a", "from": "bob", "offset": random.randrange(8)}
    if name in ("welcome", "ack", "lost"):
        frame["epoch"] = random.choice("eef")
    if name in ("welcome", "ack") and random.random() < 0.1:
        del frame["epoch"]
    if name == "welcome":
        frame["peerId"] = random.choice(["ann", "ann", "ann", "eve"])
    if name == "lost":
        frame["count"] = random.choice([None, 3])
        if random.random() < 0.5:
            del frame["channel"]
    return name, frame


class Reader:
    """The Python client, as the page is called."""

    def __init__(self) -> None:
        self._positions = Positions()

    def do(self, name: str, frame: dict[str, Any]) -> list[Any]:
        since = self._positions.since("a")
        answer = self._answer(name, frame, since)
        since = self._positions.since("a")
        asking = {} if since is None else since._asdict()
        return [answer, self._positions.query, {"recover": True, **asking}]

    def _answer(self, name: str, frame: dict[str, Any], since: ReadPosition | None) -> bool | None:
        position = ReadPosition(frame["epoch"], frame["offset"]) if "epoch" in frame else None
        match name:
            case "welcome":
                return self._positions.welcomed(frame["peerId"], position)
            case "ack":
                return self._positions.acknowledged("a", position, was_asked=since is not None)
            case "message":
                return self._positions.takes_message("a", "bob", frame["offset"])
            case "direct":
                return self._positions.takes_direct(frame["offset"])
            case "lost":
                assert position is not None
                if "channel" in frame and since is None:
                    return False  # the session knows that it was left
                return self._positions.lost(frame.get("channel"), position, frame["count"])
            case "drop":
                return self._positions.connection_lost()
        return self._positions.forget("a")


@pytest.mark.skipif(NODE is None, reason="needs node")
async def test_the_page_and_the_python_client_decide_alike() -> None:
    random = Random("positions")
    scripts = [[step(random) for _ in range(STEPS)] for _ in range(SCRIPTS)]
    readers = [(Reader(), script) for script in scripts]
    expected = [[reader.do(*it) for it in script] for reader, script in readers]
    source = load_page()["positions.js"].body.decode()
    node = await asyncio.create_subprocess_exec(
        str(NODE),
        "--input-type=module",
        "--eval",
        RUNNER,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE):
        told, _ = await node.communicate(json.dumps([source, scripts]).encode())
    assert node.returncode == 0
    for script, mine, theirs in zip(scripts, expected, json.loads(told), strict=True):
        assert theirs == mine, script
