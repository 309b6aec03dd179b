"""A peer's place at a signalling client: a client of its own, or one that it shares with other peers."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import Any

from msgspec import Raw

from ..core.negotiation.delivery import concerns_everybody, is_final
from ..core.negotiation.signals import MetadataSignal, Signal, in_channel
from ..core.wire.frames import Send, encode, encode_payload
from ..core.wire.names import MAX_PEER_ID_LENGTH
from ..errors import (
    MeteredPeerOversizedError,
    MeteredPeerStateError,
    PayloadTooLargeError,
    ServerRequestError,
    SignallingError,
)
from ..events import Event, StateChange
from ..log import Logger
from ..options import IceServerConfig, SubscribeOptions
from ..signalling import SignallingClient
from ..signalling.for_peers import check_connection, leave_warning_to_peer, publish_encoded, send_encoded

_seats: weakref.WeakKeyDictionary[SignallingClient, list[SignallingSeat]] = weakref.WeakKeyDictionary()
"""The seats of each client that are in a channel, in the order in which they entered."""

_LONGEST_REQUEST_ID = "0" * 20


class SignallingSeat:
    """Enters and leaves one channel at a time, and sends from there.

    A client of its own is connected on entering and closed at the end. A shared one is connected by whoever enters
    first, and stays connected: it belongs to the program.
    """

    def __init__(
        self,
        client: SignallingClient,
        listeners: dict[type[Event], Callable[[Any], None]],
        *,
        is_shared: bool,
        knows: Callable[[str], bool],
        logger: Logger,
        not_permitted: Callable[[ServerRequestError], None] = lambda error: None,
    ) -> None:
        self.client = client
        self.channel: str | None = None
        self._is_shared = is_shared
        if not is_shared:
            leave_warning_to_peer(client)
        self._knows = knows
        self._not_permitted = not_permitted
        self._listeners = listeners
        self._logger = logger
        self._options = SubscribeOptions()
        self.signals_ignored = 0
        self.signals_refused = 0
        self._learnt_cap = math.inf

    @property
    def peer_id(self) -> str | None:
        """The id that the server gave the client last."""
        return self.client.peer_id

    @property
    def is_open(self) -> bool:
        """Whether a client of its own is connected, or about to be."""
        return not self._is_shared and self.client.state not in ("idle", "closed")

    @property
    def ice_servers(self) -> tuple[IceServerConfig, ...] | None:
        """The ICE servers that the server named last."""
        return self.client.ice_servers

    @property
    def max_message_size(self) -> int:
        """The bytes of a payload that the server takes."""
        return self.client.max_message_size

    def doubt(self) -> None:
        """Find out soon whether the server can be reached: a link that used the same network has failed."""
        check_connection(self.client)

    # --- entering and leaving

    async def enter(self, channel: str, options: SubscribeOptions) -> None:
        """Connect if need be, and subscribe.

        Raises:
            MeteredPeerStateError: another peer of a shared client is in this channel.
            Exception: whatever `SignallingClient.connect` and `subscribe` raise.
        """
        if any(seat.channel == channel for seat in self._others()):
            raise MeteredPeerStateError(
                "invalid_state", "join", f"another peer of this client is in {channel!r}", "idle"
            )
        self.channel = channel
        self._options = options
        _seats.setdefault(self.client, []).append(self)
        await self._connect()
        await self.client.subscribe(channel, options)

    async def subscribe_again(self) -> None:
        """Subscribe once more: the snapshot comes anew."""
        assert self.channel is not None
        await self.client.subscribe(self.channel, self._options)

    async def abandon(self, error: BaseException) -> None:
        """Undo an `enter` that failed.

        After a plain refusal the connection is good for another try. Otherwise the server may have taken the
        subscription, and this peer would be in the channel without knowing.
        """
        is_refusal = isinstance(error, ServerRequestError | TypeError | ValueError | MeteredPeerStateError)
        if self._is_shared:
            await self.leave(unsubscribe=not is_refusal)
        else:
            self._give_up_seat()
            if not is_refusal or self.client.state != "connected":
                await self.client.close()

    async def leave(self, *, unsubscribe: bool = True) -> None:
        """Unsubscribe, and keep the client connected. Whatever the server says, the channel is forgotten."""
        channel = self._give_up_seat()
        if channel is None or not unsubscribe:
            return
        try:
            await self.client.unsubscribe(channel)
        except (SignallingError, TypeError, ValueError) as error:
            self._logger.debug("unsubscribing failed", {"channel": channel, "error": str(error)})

    async def close(self) -> None:
        """End for good: close the client, or leave it to those who share it."""
        if self._is_shared:
            self._ignore()
            await self.leave()
        else:
            self._give_up_seat()
            await self.client.close()

    # --- what is sent

    def encode(self, data: Any) -> Raw:
        """Return the payload of data.

        Raises:
            MeteredPeerOversizedError: the server does not take as much.
            TypeError, ValueError: not JSON.
        """
        payload = encode_payload(data)
        size, cap = len(bytes(payload)), self.max_message_size
        if size > cap:
            raise MeteredPeerOversizedError(size, cap)
        return payload

    async def publish(self, payload: Raw) -> None:
        """Send to everybody in the channel."""
        assert self.channel is not None
        await publish_encoded(self.client, self.channel, payload)

    async def send(self, peer_id: str, payload: Raw) -> None:
        """Send to one peer."""
        await send_encoded(self.client, peer_id, payload)

    async def send_signal(self, peer_id: str, signal: Signal | MetadataSignal) -> None:
        """Send a signal to one peer, with the channel that it belongs to.

        A refusal that concerns every remote is told to `not_permitted` as well.

        Raises:
            MeteredPeerOversizedError: the server does not take as much. Nothing was sent.
            ValueError: it has text that is no Unicode.
            SignallingError: as for `SignallingClient.send`.
        """
        try:
            await send_encoded(self.client, peer_id, self._message(peer_id, signal))
        except ServerRequestError as error:
            self.signals_refused += is_final(error)
            if concerns_everybody(error):
                self._not_permitted(error)
            raise
        except Exception as error:
            self.signals_refused += is_final(error)
            if isinstance(error, PayloadTooLargeError):
                # The server ended the connection for it and takes less than it says. Halving finds out how much.
                self._learnt_cap = min(self._learnt_cap, error.size // 2)
            raise

    def check_signal(self, signal: Signal | MetadataSignal, peer_id: str = "-" * MAX_PEER_ID_LENGTH) -> None:
        """Raise what `send_signal` would raise for its size, by default to a peer of the longest id that there is."""
        self._message(peer_id, signal)

    def _message(self, peer_id: str, signal: Signal | MetadataSignal) -> Raw:
        payload = signal.payload()
        if self.channel is not None:
            payload = in_channel(payload, self.channel)
        encoded = encode_payload(payload)
        # The documented cap of the hosted service is for the frame, not for the payload.
        size = len(encode(Send(peer_id, encoded, _LONGEST_REQUEST_ID)))
        cap = min(self.max_message_size, self._learnt_cap)
        if size > cap:
            raise MeteredPeerOversizedError(size, int(cap))
        return encoded

    # --- what arrives

    def is_strange(self, sender: str) -> bool:
        """Tell whether another peer of the client knows a sender whom this one does not know."""
        return not self._knows(sender) and any(seat._knows(sender) for seat in self._others())

    def is_addressed(self, sender: str, channel: str | None) -> bool:
        """Return whether a signal or a call is for this peer: by its channel, else for the first who knows the sender.

        One without a channel whose sender nobody knows is for everybody: presence may be about to announce the sender.
        One for a channel in which no peer of this client is counts as ignored.
        """
        seats = _seats.get(self.client, [])
        if channel is not None:
            self.signals_ignored += all(seat.channel != channel for seat in seats)
            return channel == self.channel
        return next((seat for seat in seats if seat._knows(sender)), self) is self

    # --- inside

    async def _connect(self) -> None:
        client = self.client
        if not self._is_shared and client.state == "reconnecting":
            await client.close()  # whoever joins now wants to know now
        self._listen()
        while client.state != "connected":
            if client.state in ("idle", "closed"):
                await client.connect()
            else:
                await _next_state(client)
        self._listen()

    def _listen(self) -> None:
        """Hear the client. The end of one of its lives takes the handlers along."""
        self._ignore()
        for event_type, listener in self._listeners.items():
            self.client.on(event_type, listener)

    def _ignore(self) -> None:
        for event_type, listener in self._listeners.items():
            self.client.off(event_type, listener)

    def _others(self) -> list[SignallingSeat]:
        return [seat for seat in _seats.get(self.client, ()) if seat is not self]

    def _give_up_seat(self) -> str | None:
        channel, self.channel = self.channel, None
        seats = _seats.get(self.client, [])
        if self in seats:
            seats.remove(self)
        return channel


async def _next_state(client: SignallingClient) -> None:
    async with client.events(StateChange) as changes:
        async for _ in changes:
            return
