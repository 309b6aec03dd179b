"""The place of a peer at a signalling client of its own, or at one that it shares with other peers."""

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

_seats: weakref.WeakKeyDictionary[SignallingClient, list[SignallingSeat]] = weakref.WeakKeyDictionary()
"""The seats of each client that are in a channel, in the order of entering."""

_LONGEST_REQUEST_ID = "0" * 20


class SignallingSeat:
    """Enters and leaves one channel at a time, and sends from there.

    A client of its own is connected on entering and closed at the end. A shared one is connected by the first peer that
    enters, and stays connected: it belongs to the program.
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
            client._belong_to_peer()
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
        """The ICE servers that the server named last, None if it named none."""
        return self.client.ice_servers

    @property
    def max_message_size(self) -> int:
        """The maximum size of a payload, in bytes."""
        return self.client.max_message_size

    def doubt(self) -> None:
        """Check soon whether the server can be reached: a connection over the same network has failed."""
        self.client._doubt()

    # --- entering and leaving

    async def enter(self, channel: str, options: SubscribeOptions) -> None:
        """Connect if necessary, and subscribe.

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
        """Subscribe again, which brings another snapshot."""
        assert self.channel is not None
        await self.client.subscribe(self.channel, self._options)

    async def abandon(self, error: BaseException) -> None:
        """Undo an `enter` that failed.

        After a refusal the connection can be used for another try. Otherwise the server may have accepted the
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
        """Unsubscribe, and keep the client connected. The channel is left whatever the server answers."""
        channel = self._give_up_seat()
        if channel is None or not unsubscribe:
            return
        try:
            await self.client.unsubscribe(channel)
        except (SignallingError, TypeError, ValueError) as error:
            self._logger.debug("unsubscribing failed", {"channel": channel, "error": str(error)})

    async def close(self) -> None:
        """Close the client, or leave it to the peers that share it."""
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
            MeteredPeerOversizedError: it is larger than the server accepts.
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
        await self.client._publish_raw(self.channel, payload)

    async def send(self, peer_id: str, payload: Raw) -> None:
        """Send to one peer."""
        await self.client._send_raw(peer_id, payload)

    async def send_signal(self, peer_id: str, signal: Signal | MetadataSignal) -> None:
        """Send a signal to one peer, with the channel that it belongs to.

        A refusal that concerns every remote is reported to `not_permitted` as well.

        Raises:
            MeteredPeerOversizedError: it is larger than the server accepts. Nothing was sent.
            ValueError: it has text that is not Unicode.
            SignallingError: as for `SignallingClient.send`.
        """
        try:
            await self.client._send_raw(peer_id, self._message(peer_id, signal))
        except ServerRequestError as error:
            self.signals_refused += is_final(error)
            if concerns_everybody(error):
                self._not_permitted(error)
            raise
        except Exception as error:
            self.signals_refused += is_final(error)
            if isinstance(error, PayloadTooLargeError):
                # The server ended the connection because of it: it accepts less than it says. Halving finds out how
                # much.
                self._learnt_cap = min(self._learnt_cap, error.size // 2)
            raise

    def check_signal(self, signal: Signal | MetadataSignal, peer_id: str = "-" * MAX_PEER_ID_LENGTH) -> None:
        """Raise what `send_signal` would raise for its size, by default with the longest possible peer id."""
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

    def signaller(self, peer_id: str) -> RemoteSignaller:
        """Return the way to one remote."""
        return RemoteSignaller(self, peer_id)

    # --- what arrives

    def is_strange(self, sender: str) -> bool:
        """Return whether a sender is known to another peer of the client, and not to this one."""
        return not self._knows(sender) and any(seat._knows(sender) for seat in self._others())

    def is_addressed(self, sender: str, channel: str | None) -> bool:
        """Return whether a signal or a call is for this peer: by its channel, or else for the first that knows the
        sender.

        Without a channel and from an unknown sender it is for every peer: presence may be about to announce the sender.
        For a channel in which no peer of this client is, it counts as ignored.
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
            await client.close()  # a join wants an answer now
        self._listen()
        while client.state != "connected":
            if client.state in ("idle", "closed"):
                await client.connect()
            else:
                await _next_state(client)
        self._listen()

    def _listen(self) -> None:
        """Register the listeners. They are dropped when the client closes."""
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


class RemoteSignaller:
    """The way to one remote through the signalling server: the `Signaller` of its connection."""

    def __init__(self, seat: SignallingSeat, peer_id: str) -> None:
        self._seat = seat
        self._peer_id = peer_id

    async def send_signal(self, signal: Signal) -> None:
        """Send a signal. Raises like `SignallingSeat.send_signal`."""
        await self._seat.send_signal(self._peer_id, signal)

    def check_signal(self, signal: Signal) -> None:
        """Raise MeteredPeerOversizedError for a signal that is larger than the server accepts."""
        self._seat.check_signal(signal, self._peer_id)

    def connection_lost(self) -> None:
        """Check soon whether the server can be reached."""
        self._seat.doubt()


async def _next_state(client: SignallingClient) -> None:
    async with client.events(StateChange) as changes:
        async for _ in changes:
            return
