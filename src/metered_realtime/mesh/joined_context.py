"""`async with peer.joined(channel):`."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .peer import MeteredPeer


class _JoinedContext:
    """The context manager that `MeteredPeer.joined` returns."""

    def __init__(self, peer: MeteredPeer, channel: str, include_sender_metadata: bool) -> None:
        self._peer = peer
        self._channel = channel
        self._include_sender_metadata = include_sender_metadata

    async def __aenter__(self) -> MeteredPeer:
        await self._peer.join(self._channel, include_sender_metadata=self._include_sender_metadata)
        return self._peer

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._peer.close()
