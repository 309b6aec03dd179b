"""The chat of the room page, for programs: messages to everybody, and to one person."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from functools import partial
from types import TracebackType
from typing import Any, Self

from ..channels.data_channel import DataChannel
from ..core.wire.shown_names import shown_name
from ..emitter import AsyncEventEmitter
from ..errors import MeteredRealtimeError
from ..events import ChatMessage, Data, DataChannelOpened, DCClose, DCMessage, PeerJoined, PeerLeft, StateChange
from ..events.emitted import BY_CHAT
from .peer import MeteredPeer
from .remote_peer import RemotePeer

LABEL = "chat"
"""The label of the data channels that carry messages to one person. Each message is a text of its own."""

KIND = "chat"
"""The `type` of messages to everybody, which go through the server."""

MAX_TEXT = 4_000
"""Characters of a message: what the room page shows of one. The rest of a longer one is cut off."""

MAX_MESSAGES = 200
"""Messages that are kept, and that wait for the iteration: what the room page keeps in its list."""

MAX_CHANNELS = 4
"""Chat channels of one remote that are listened to. It needs one, and two if both ends open one at once."""

OPEN_TIMEOUT = 10.0
"""Seconds that a message to one person waits for the connection, as in the room page."""


class Chat(AsyncEventEmitter):
    """The chat in the channel of a peer, as the room page has it.

    `async for message in chat` and the handlers of its event, `ChatMessage`, receive what others write, to everybody or
    to this peer alone. The name of a sender is `RemotePeer.name`, or else the one in the message. Create the chat
    before joining: messages are not stored anywhere, so that a newcomer sees only what is written from then on.

    A message to everybody goes through the server, and one to a single person over a data channel. Both are also what a
    program without a chat sees: `Data` of the peer, and `DataChannelOpened` of the remote.
    """

    _EMITS = BY_CHAT

    def __init__(self, peer: MeteredPeer) -> None:
        super().__init__(peer._logger)
        self._peer = peer
        self._messages: deque[ChatMessage] = deque(maxlen=MAX_MESSAGES)
        self._stream = self.events(ChatMessage, maxsize=MAX_MESSAGES)
        self._channels: dict[RemotePeer, list[DataChannel]] = {}
        self._openers: dict[RemotePeer, Callable[[DataChannelOpened], None]] = {}
        peer.on(Data, self._on_data)
        peer.on(PeerJoined, self._on_joined)
        peer.on(PeerLeft, self._on_left)
        peer.on(StateChange, self._on_state)
        for remote in peer.remote_peers:
            self._listen_to(remote)

    def __aiter__(self) -> AsyncIterator[ChatMessage]:
        return self._stream

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def messages(self) -> tuple[ChatMessage, ...]:
        """The latest 200 messages of others since this object was created, the oldest first."""
        return tuple(self._messages)

    async def send(self, text: str, *, to: RemotePeer | None = None) -> None:
        """Send a message to everybody in the channel, or to one person alone, who is never confused with everybody.

        Raises:
            TypeError: the text is not str.
            ValueError: it is empty, or longer than 4000 characters.
            MeteredPeerSendError: the peer is not joined.
            TimeoutError: there is no connection to that person within 10 s.
            MeteredRealtimeError: that person has left, or the server refused; see `MeteredPeer.send`.
        """
        if not isinstance(text, str):
            raise TypeError(f"a message is a str, not {text!r}")
        if not text.strip() or len(text) > MAX_TEXT:
            raise ValueError(f"a message has from 1 to {MAX_TEXT} characters, not {len(text.strip())}")
        if to is None:
            name = {"name": self._peer.name} if self._peer.name is not None else {}
            await self._peer.send({"type": KIND, "text": text, **name})
            return
        channel = self._channel_to(to)
        async with asyncio.timeout(OPEN_TIMEOUT):
            await channel.wait_open()
        await channel.send(text)

    def close(self) -> None:
        """Stop listening. The iteration ends after the messages that wait. The peer goes on."""
        self._peer.off(Data, self._on_data)
        self._peer.off(PeerJoined, self._on_joined)
        self._peer.off(PeerLeft, self._on_left)
        self._peer.off(StateChange, self._on_state)
        for remote in tuple(self._channels):
            remote.off(DataChannelOpened, self._openers.pop(remote))
            for channel in self._channels.pop(remote):
                channel.close()
        self._drop_listeners()

    # --- what others write

    def _on_data(self, event: Data) -> None:
        text, name = _text_in(event.data)
        if text is not None:
            remote = next((it for it in self._peer.remote_peers if it.id == event.sender_peer_id), None)
            self._receive(event.sender_peer_id, remote, text, event.kind == "direct", name)

    def _receive(
        self, peer_id: str, remote: RemotePeer | None, text: str, is_private: bool, name: str | None = None
    ) -> None:
        # The known name comes first, so that nobody poses as another who has told theirs.
        known = remote.name if remote is not None else None
        message = ChatMessage(peer_id, known or name, text[:MAX_TEXT], is_private, remote)
        self._messages.append(message)
        self.emit(message)

    # --- the channels to single persons

    def _on_joined(self, event: PeerJoined) -> None:
        self._listen_to(event.peer)

    def _listen_to(self, remote: RemotePeer) -> None:
        self._channels[remote] = []
        self._openers[remote] = partial(self._on_opened, remote)
        remote.on(DataChannelOpened, self._openers[remote])

    def _on_left(self, event: PeerLeft) -> None:
        self._channels.pop(event.peer, None)
        self._openers.pop(event.peer, None)

    def _on_state(self, event: StateChange) -> None:
        if event.to == "closed":
            self.close()

    def _on_opened(self, remote: RemotePeer, event: DataChannelOpened) -> None:
        known = self._channels.get(remote)
        if known is not None and event.channel.label == LABEL and len(known) < MAX_CHANNELS:
            self._use(remote, event.channel)

    def _channel_to(self, remote: RemotePeer) -> DataChannel:
        if remote not in self._channels:
            raise MeteredRealtimeError(f"peer {remote.id!r} has left, or is not in this channel")
        usable = (it for it in self._channels[remote] if it.ready_state in ("connecting", "open"))
        found = next(usable, None)
        return found if found is not None else self._use(remote, remote.create_data_channel(LABEL))

    def _use(self, remote: RemotePeer, raw: Any) -> DataChannel:
        channel = DataChannel(raw, logger=self._logger)
        self._channels[remote].append(channel)

        def received(event: DCMessage) -> None:
            if isinstance(event.data, str):
                self._receive(remote.id, remote, event.data, True)

        def closed(_: DCClose) -> None:
            channels = self._channels.get(remote, [])
            if channel in channels:
                channels.remove(channel)

        channel.on(DCMessage, received)
        channel.on(DCClose, closed)
        return channel


def _text_in(data: Any) -> tuple[str | None, str | None]:
    """Return the text and the name in a message through the server. The text is None if it is not one of a chat."""
    if isinstance(data, str):
        return data, None
    if not isinstance(data, dict) or data.get("type", KIND) != KIND or not isinstance(data.get("text"), str):
        return None, None
    return data["text"], shown_name(data.get("name"))
