"""A connection for what a node hears. The reply to each subscription comes in the same stream as the messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from .commands import RedisLost


class TopicReader:
    """Hears of topics and patterns. `run` works until the connection ends, and raises why.

    `on_message` gets the topic and the message; `on_pattern_message` also the pattern, which is one that has been
    confirmed and not been ended in the stream before it.
    """

    def __init__(
        self,
        connection: AbstractConnection,
        on_message: Callable[[bytes, bytes], None],
        on_pattern_message: Callable[[bytes, bytes, bytes], None],
    ) -> None:
        self._connection = connection
        self._on_message = on_message
        self._on_pattern_message = on_pattern_message
        self._output: list[bytes] = []
        self._has_output = asyncio.Event()
        self._unconfirmed: set[bytes] = set()
        self._confirmed = asyncio.Event()
        self.patterns: set[bytes] = set()

    async def subscribe(self, topics: Sequence[str]) -> None:
        """Hear of topics. Returns when what is published from now on is heard."""
        self._unconfirmed = {topic.encode() for topic in topics}
        self._send("SUBSCRIBE", *topics)
        await self._confirmed.wait()

    def add_pattern(self, pattern: str) -> None:
        """Hear of the topics that match a pattern."""
        self._send("PSUBSCRIBE", pattern)

    def remove_pattern(self, pattern: str) -> None:
        """End what `add_pattern` began."""
        self._send("PUNSUBSCRIBE", pattern)

    async def run(self) -> None:
        """Write and read.

        Raises:
            RedisLost: the connection is over.
        """
        writing = asyncio.ensure_future(self._write_all())
        try:
            while True:
                self._hear(await self._connection.read_response(disable_decoding=True, disconnect_on_error=False))
        except (RedisError, OSError, EOFError):
            raise RedisLost("subscriber closed") from None
        finally:
            writing.cancel()
            await asyncio.wait([writing])

    def _send(self, *command: str) -> None:
        self._output.extend(self._connection.pack_command(*command))
        self._has_output.set()

    async def _write_all(self) -> None:
        while True:
            await self._has_output.wait()
            self._has_output.clear()
            output, self._output = self._output, []
            try:
                await self._connection.send_packed_command(b"".join(output), check_health=False)
            except (RedisError, OSError):
                return  # reading tells it as well

    def _hear(self, message: Any) -> None:
        match message:
            case [b"message", topic, data]:
                self._on_message(topic, data)
            case [b"pmessage", pattern, topic, data]:
                self._on_pattern_message(pattern, topic, data)
            case [b"subscribe", topic, _]:
                self._unconfirmed.discard(topic)
                if not self._unconfirmed:
                    self._confirmed.set()
            case [b"psubscribe", pattern, _]:
                self.patterns.add(pattern)
            case [b"punsubscribe", pattern, _]:
                self.patterns.discard(pattern)
