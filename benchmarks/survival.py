"""Everybody broadcasts on a channel that survives its connections while links are replaced; then everything is counted.

    python -m benchmarks.survival

The peers are spread over processes, which talk real WebRTC over loopback. A message that was lost, came twice or out of
order fails the run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from dataclasses import dataclass, field

from metered_realtime import ChannelError, ChannelMessage, ConnectionReset, MeteredPeer, PeerChannel, RemotePeer
from metered_realtime.server import SignallingServer

LABEL = "survival"
PATIENCE = 120.0
"""Seconds that the last messages may take: on a machine that is too slow for the rate, much is still under way."""


@dataclass
class Broadcaster:
    """A peer that broadcasts numbers, and the numbers that it got from each other one."""

    peer: MeteredPeer
    channel: PeerChannel
    got: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    slowest: float = 0.0

    def __post_init__(self) -> None:
        self.channel.on(ChannelMessage, self._on_message)
        self.channel.on(ChannelError, lambda event: self.errors.append(repr(event.err)))

    def _on_message(self, event: ChannelMessage) -> None:
        number, sent_at = str(event.data).split()
        expected = self.got.get(event.remote.id, 0)
        if int(number) != expected:
            self.wrong.append(f"{event.remote.id}: {number} instead of {expected}")
        self.got[event.remote.id] = int(number) + 1
        self.slowest = max(self.slowest, time.time() - float(sent_at))

    async def broadcast(self, count: int, rate: float) -> None:
        start = time.monotonic()
        for number in range(count):
            await self.channel.send(f"{number} {time.time():.4f}")
            await asyncio.sleep(max(0.0, start + (number + 1) / rate - time.monotonic()))
        await self.channel.drain()


async def until(condition: object, what: str) -> None:
    """Wait for something that no event tells."""
    assert callable(condition)
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        await asyncio.sleep(0.05)


async def work(options: argparse.Namespace) -> None:
    """Run the peers of one process, as told by lines on stdin, and print what they saw."""
    peers = [MeteredPeer(url=options.url, api_key=options.api_key) for _ in range(options.worker_peers)]
    all_of_them = [Broadcaster(peer, peer.open_channel(LABEL)) for peer in peers]
    for peer in peers:
        await peer.join("survival")
    others = options.peers - 1
    await until(lambda: all(_open(it.channel) == others for it in all_of_them), "not everybody connected")
    tell(ready=len(peers))
    await line()
    count = int(options.rate * options.seconds)
    resets = [0]
    replacing = asyncio.ensure_future(replace_links(peers, options.replace_every, resets))
    await asyncio.gather(*(it.broadcast(count, options.rate) for it in all_of_them))
    replacing.cancel()
    await until(lambda: all(sum(it.got.values()) >= count * others for it in all_of_them), "not everything arrived")
    stats = [channel.stats() for it in all_of_them for channel in it.channel.channels.values()]
    tell(
        received=sum(sum(it.got.values()) for it in all_of_them),
        wrong=[text for it in all_of_them for text in it.wrong],
        errors=[text for it in all_of_them for text in it.errors],
        resent=sum(it.messages_resent for it in stats),
        duplicates=sum(it.duplicates_removed for it in stats),
        replaced=resets[0],
        slowest=max(it.slowest for it in all_of_them),
        cpu=time.process_time(),
    )
    await line()
    await asyncio.gather(*(peer.close() for peer in peers))


def _open(channel: PeerChannel) -> int:
    return sum(it.ready_state == "open" for it in channel.channels.values())


async def replace_links(peers: list[MeteredPeer], interval: float, resets: list[int]) -> None:
    """Replace one link after the other, each with one end in this process."""
    links: list[RemotePeer] = [remote for peer in peers for remote in peer.remote_peers]
    for remote in links:
        remote.on(ConnectionReset, lambda event: resets.__setitem__(0, resets[0] + 1))
    turn = 0
    while interval:
        await asyncio.sleep(interval)
        connection = links[turn * 7 % len(links)]._connection
        assert connection is not None
        connection.start_over(polite=connection.polite)
        turn += 1


def tell(**news: object) -> None:
    """Tell the parent process."""
    print(json.dumps(news), flush=True)


async def line() -> None:
    """Wait for the parent process."""
    await asyncio.to_thread(sys.stdin.readline)


async def run(options: argparse.Namespace) -> bool:
    """Start the processes, let them go, and judge what they saw."""
    shares = [len(range(index, options.peers, options.processes)) for index in range(options.processes)]
    async with SignallingServer(port=0) as server:
        workers = [await start(options, server, share, index) for index, share in enumerate(shares)]
        for worker in workers:
            await answer(worker)
        count = int(options.rate * options.seconds)
        expected = options.peers * (options.peers - 1) * count
        print(f"{options.peers} peers connected; each broadcasts {count} messages at {options.rate:g} per second")
        started = time.monotonic()
        progress = asyncio.ensure_future(show_progress(started))
        go(workers)
        results = [await answer(worker) for worker in workers]
        took = time.monotonic() - started
        progress.cancel()
        go(workers)
        for worker in workers:
            await worker.wait()
    return judge(results, expected, took)


async def start(
    options: argparse.Namespace, server: SignallingServer, share: int, index: int
) -> asyncio.subprocess.Process:
    """Start a process with its share of the peers. The first one replaces the links."""
    interval = options.replace_every if index == 0 else 0
    arguments = {
        "url": server.url,
        "api-key": server.api_key,
        "worker-peers": share,
        "peers": options.peers,
        "rate": options.rate,
        "seconds": options.seconds,
        "replace-every": interval,
    }
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "benchmarks.survival",
        *(f"--{name}={value}" for name, value in arguments.items()),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )


async def answer(worker: asyncio.subprocess.Process) -> dict[str, object]:
    """Return the next thing that a process tells."""
    assert worker.stdout is not None
    told = await worker.stdout.readline()
    if not told:
        raise RuntimeError("a process ended early")
    result: dict[str, object] = json.loads(told)
    return result


def go(workers: list[asyncio.subprocess.Process]) -> None:
    """Let the processes go on."""
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write(b"\n")


async def show_progress(started: float) -> None:
    """Print that time passes."""
    while True:
        await asyncio.sleep(5)
        print(f"  {time.monotonic() - started:3.0f} s", flush=True)


def judge(results: list[dict[str, object]], expected: int, took: float) -> bool:
    """Print the figures and the verdict."""
    total = {name: sum(result[name] for result in results) for name in ("received", "resent", "duplicates", "replaced")}  # type: ignore[misc]
    wrong = [text for result in results for text in (*result["wrong"], *result["errors"])]  # type: ignore[misc]
    slowest = max(float(str(result["slowest"])) for result in results)
    cpu = sum(float(str(result["cpu"])) for result in results)
    print(f"received {total['received']} of {expected} in {took:.1f} s ({total['received'] / took:.0f} per second)")
    print(f"links replaced: {total['replaced']}; messages sent again: {total['resent']}")
    print(f"duplicates removed: {total['duplicates']}; slowest message: {slowest:.2f} s; CPU: {cpu:.1f} s")
    for text in wrong[:10]:
        print(f"  {text}")
    passed = not wrong and total["received"] == expected
    print("PASSED: nothing lost, duplicated or out of order" if passed else "FAILED")
    return passed


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=int, default=10)
    parser.add_argument("--rate", type=float, default=100.0, help="messages per second of each peer")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--replace-every", type=float, default=3.0, help="seconds between two replaced links")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--worker-peers", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--api-key", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    chosen = options()
    if chosen.worker_peers:
        asyncio.run(work(chosen))
    else:
        sys.exit(0 if asyncio.run(run(chosen)) else 1)
