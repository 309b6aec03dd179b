"""Many idle clients in a process of its own, for `benchmarks.scale`: lines of JSON in, lines of JSON out.

    python -m benchmarks.scale_clients PORT COUNT

connects, says so, and answers pings. A line with a channel has all clients subscribe at once; the answer comes when
each of them knows as many peers as the line says.
"""

from __future__ import annotations

import json
import resource
import select
import socket
import sys
import time
from typing import Any

from .signalling import UPGRADE, frame

DIALS = 12
"""Connections that are opened at once. The server keeps 64 of one network that owe it a request, and this is one of
several processes."""

READ_SIZE = 1 << 18
PING, PONG = b"\x89\x00", b"\x8a\x80\0\0\0\0"
ENTRY = b'"peerId"'
"""Each entry of a presence frame has it once."""


class Client:
    """One connection, and how many peers it was told of."""

    __slots__ = ("_tail", "known", "socket")

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.sendall(UPGRADE)
        self.known = 0
        self._tail = b""

    def expect_welcome(self) -> None:
        """Wait for the welcome."""
        seen = b""
        while b'"maxMessageSize":65536' not in seen:
            got = self.socket.recv(READ_SIZE)
            if not got:
                raise SystemExit(f"refused: {seen!r}")
            seen += got

    def receive(self) -> int:
        """Take what has come, and return its size."""
        data = self.socket.recv(READ_SIZE)
        if not data:
            raise SystemExit("the server has closed a connection")
        if PING in data:
            self.socket.sendall(PONG)
        whole = self._tail + data
        self.known += whole.count(ENTRY)
        self._tail = whole[-len(ENTRY) + 1 :]
        return len(data)


class Clients:
    """All clients of this process."""

    def __init__(self, port: int, count: int) -> None:
        self._epoll = select.epoll()
        self._clients: dict[int, Client] = {}
        while len(self._clients) < count:
            batch = [Client(port) for _ in range(min(DIALS, count - len(self._clients)))]
            for client in batch:
                client.expect_welcome()
                self._clients[client.socket.fileno()] = client
                self._epoll.register(client.socket, select.EPOLLIN)

    def serve(self) -> None:
        """Answer pings and lines until there are no more lines."""
        self._epoll.register(sys.stdin, select.EPOLLIN)
        while True:
            for fd, _ in self._epoll.poll():
                if fd != sys.stdin.fileno():
                    self._clients[fd].receive()
                elif line := sys.stdin.readline():
                    say(self._storm(**json.loads(line)))
                else:
                    return

    def _storm(self, channel: str, peers: int) -> dict[str, float]:
        request = frame(type="subscribe", channel=channel)
        for client in self._clients.values():
            client.known = 0
        began, size = time.monotonic(), 0
        left = set(self._clients)
        for client in self._clients.values():
            client.socket.sendall(request)
        while left:
            for fd, _ in self._epoll.poll():
                client = self._clients[fd]
                size += client.receive()
                if client.known >= peers:
                    left.discard(fd)
        return {"began": began, "ended": time.monotonic(), "bytes": size}


def say(message: dict[str, Any]) -> None:
    """Print a line."""
    print(json.dumps(message), flush=True)


def main(port: str, count: str) -> None:
    """Connect and serve."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    clients = Clients(int(port), int(count))
    say({"connected": int(count)})
    clients.serve()


if __name__ == "__main__":
    main(*sys.argv[1:])
