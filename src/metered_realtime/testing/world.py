"""A virtual world: peers, their server and the network between them, in one event loop with virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from random import Random
from typing import Any, TypeVar

from .trace import Trace, TraceLogger
from .virtual_loop import VirtualLoop
from .virtual_media import MediaPlane
from .virtual_network import Conditions, Process, VirtualNetwork
from .virtual_peer import VirtualPeer
from .virtual_server import VirtualServer
from .virtual_socket import Credential, CredentialKind

T = TypeVar("T")


class VirtualWorld:
    """Real peers on a virtual network. The same seed, conditions and program give the same run, to the last event.

    That holds in every process, whatever its hash seed, as long as the program takes time and randomness only from
    `loop.time()` and `random`. Times are virtual seconds from 0 on.

    Attributes:
        loop: The event loop.
        random: A source of randomness for the program.
        trace: What happened.
        errors: The errors that peers have logged.
        network: The network between the hosts.
        server: The signalling server.
        media: The media paths between peers.
    """

    def __init__(self, seed: int | str = 0, conditions: Conditions | None = None) -> None:
        self.loop = VirtualLoop()
        self.random = Random(f"world {seed}")
        self.trace = Trace(self.loop)
        self.errors: list[str] = []
        self.network = VirtualNetwork(
            self.loop, Random(f"network {seed}"), conditions if conditions is not None else Conditions(), self.trace
        )
        self.server = VirtualServer(self.loop, self.network)
        self.media = MediaPlane(self.loop, self.network)
        self._seed = seed
        self._lives: dict[str, int] = {}
        self._ends: set[asyncio.Task[None]] = set()

    def run(self, program: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine until it completes, and return its result.

        Raises:
            NothingLeftToDo: it waits for something that never happens.
        """
        return self.loop.run_until_complete(program)

    def close(self) -> None:
        """Close the event loop."""
        self.loop.close()

    def start(self, host: str, *, peer_id: str | None = None, credential: CredentialKind = "token") -> VirtualPeer:
        """Start a program on a host and return its peer, which has not joined yet. Call it while the loop runs.

        `peer_id` is the host by default. `credential` decides on the id of later connections to the server.
        """
        life = self._lives[host] = self._lives.get(host, 0) + 1
        process = Process(host, life)
        logger = TraceLogger(self.trace, process.name, self.errors)
        identity = Credential(peer_id if peer_id is not None else host, credential)
        chance = Random(f"{self._seed} {process.name}")
        return VirtualPeer(self.server, self.media, process, identity, chance, logger)

    def kill(self, peer: VirtualPeer, *, ghost: bool = False) -> None:
        """End a program without closing its peer: nothing that it still sends is delivered.

        The server notices at once, as the system closes the sockets of a program, or with `ghost` after 10 to 40 s.
        """
        process = peer.process
        self.trace(process.name, "is killed%s", ", and leaves a ghost" if ghost else "")
        self.network.kill(process)
        for end in self.server.ends_of(process.host):
            end.break_at(client=False, server=not ghost)
        self._spawn(peer.close())

    def drop_signalling(self, host: str, *, client: bool, server: bool) -> None:
        """Break the connections of a host to the server.

        `client` and `server` say which end notices at once. The other one notices by its own timeout.
        """
        self.trace(host, "loses the server (noticed by the client: %s, by the server: %s)", client, server)
        for end in self.server.ends_of(host):
            end.break_at(client=client, server=server)

    def go_offline(self, host: str, seconds: float) -> None:
        """Cut a host off from the server and all other hosts for some seconds."""
        self.drop_signalling(host, client=False, server=False)
        self.server.offline.add(host)
        self.loop.call_later(seconds, self.server.offline.discard, host)
        self.isolate(host, seconds)

    def refuse(self, host: str, seconds: float) -> None:
        """Refuse all direct messages of a host for good. After some seconds it gets a new connection that may send."""
        self.trace(host, "may not send for %.1f s", seconds)
        self.server.refused.add(host)
        for end in self.server.ends_of(host):
            end.regrant()
        self.loop.call_later(seconds, self._permit, host)

    def _permit(self, host: str) -> None:
        self.server.refused.discard(host)
        self.drop_signalling(host, client=True, server=True)

    def isolate(self, host: str, seconds: float) -> None:
        """Interrupt the media paths between a host and all other hosts so far, for some seconds."""
        for other in self._lives:
            if other != host:
                self.cut(host, other, seconds)

    def cut(self, one: str, other: str, seconds: float) -> None:
        """Interrupt the media path between two hosts for some seconds."""
        self.trace(one, "is cut off from %s for %.1f s", other, seconds)
        self.network.cut(one, other)
        self.loop.call_later(seconds, self._mend, one, other)

    async def wait_for_killed(self) -> None:
        """Wait until the peers of killed programs have released their resources."""
        while self._ends:
            await asyncio.wait(self._ends)

    def _mend(self, one: str, other: str) -> None:
        self.trace(one, "reaches %s again", other)
        self.network.mend(one, other)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(work)
        self._ends.add(task)
        task.add_done_callback(self._ends.discard)
