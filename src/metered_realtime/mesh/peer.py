"""A WebRTC peer: one channel, everybody in it, and what is sent to them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

from msgspec import Raw

from ..core.frames import encode_payload
from ..core.names import is_reserved_channel
from ..core.signals import MetadataSignal, Signal, parse_signal
from ..emitter import AsyncEventEmitter
from ..errors import (
    ConnectionEndedError,
    MeteredPeerOversizedError,
    MeteredPeerSendError,
    MeteredPeerStateError,
    MeteredRealtimeError,
    NotConnectedError,
    ReconcileTimeoutError,
    ServerRequestError,
)
from ..events import (
    Connected,
    Data,
    Direct,
    Disconnected,
    FatalError,
    Joined,
    Left,
    Message,
    PeerJoined,
    PeerLeft,
    Presence,
    PresencePeer,
    ServerError,
    StateChange,
    TokenProviderError,
    TokenRefreshed,
    WsCloseCode,
)
from ..log import Logger
from ..media.stream import MediaStream, StreamMetadata
from ..options import (
    IceServerConfig,
    MeteredPeerState,
    ReconnectOptions,
    SignallingClientOptions,
    SubscribeOptions,
    TokenProviderFn,
)
from ..signalling import SignallingClient
from ..signalling.link import TOKEN_PROVIDER_FAILED
from ..signalling.scrubbing import ScrubbingLogger
from .local_media import LocalMedia
from .remote_peer import RemotePeer
from .remotes import Remotes
from .webrtc_extra import connection_class

if TYPE_CHECKING:
    from .connection import PeerConnection

CLOSE_TIMEOUT = 2.0
"""Seconds that `close()` may take altogether: connections, signalling, then the handlers that still run."""

CANCEL_GRACE = 0.2
"""Seconds of those that are left to handlers which had to be cancelled."""

RECONCILE_TIMEOUT = 10.0
"""Seconds after a reconnect within which the server has to say who is there, before it is asked again."""

RECONCILE_RETRIES = 2

_FATAL_CLOSE_CODES = {
    WsCloseCode.INVALID_TOKEN: "invalid_token",
    WsCloseCode.TOKEN_EXPIRED: "token_expired",
    WsCloseCode.CHANNEL_NOT_AUTHORIZED: "channel_not_authorized",
    WsCloseCode.ACCOUNT_SUSPENDED: "account_suspended",
    WsCloseCode.ADMIN_DISCONNECT: "admin_disconnect",
}
_FATAL_ERROR_CODES = frozenset(
    {"account_suspended", "channel_not_authorized", "action_not_permitted", "invalid_token", "token_expired"}
)


class MeteredPeer(AsyncEventEmitter):
    """Join a channel and be a peer of everybody in it.

    Events: `StateChange`, `Joined`, `Left`, `PeerJoined`, `PeerLeft`, `Data`, `FatalError`. Media and data channels
    belong to the `RemotePeer` that `PeerJoined` brings: register for its events in that handler and nothing is missed.

    If `options` is given the keywords are ignored; see `SignallingClientOptions`. Subscriptions always come back after
    a reconnect: a peer without its channel would be joined and deaf.

    Raises:
        ValueError: not exactly one of `api_key` and `token_provider` is given, or an option is out of its range.
    """

    def __init__(
        self,
        options: SignallingClientOptions | None = None,
        *,
        api_key: str | None = None,
        token_provider: TokenProviderFn | None = None,
        url: str | None = None,
        token_provider_timeout: float = 10.0,
        logger: Logger | None = None,
        reconnect: ReconnectOptions | bool = True,
        inactivity_timeout: float = 60.0,
        auto_resubscribe: bool = True,
    ) -> None:
        chosen = options or SignallingClientOptions(
            api_key=api_key,
            token_provider=token_provider,
            url=url,
            token_provider_timeout=token_provider_timeout,
            logger=logger,
            reconnect=reconnect,
            inactivity_timeout=inactivity_timeout,
            auto_resubscribe=auto_resubscribe,
        )
        super().__init__(None if chosen.logger is None else ScrubbingLogger(chosen.logger))
        if not chosen.auto_resubscribe:
            self._logger.warning("auto_resubscribe=False is ignored: a peer without its channel would be deaf")
        self._new_client = _client_factory(chosen)
        self._client = self._new_client()
        self._listen_to_client()
        self._state: MeteredPeerState = "idle"
        self._channel: str | None = None
        self._peer_id: str | None = None
        self._include_sender_metadata = False
        self._ice_servers: tuple[IceServerConfig, ...] = ()
        self._remotes = Remotes(self, self._logger)
        self._early_presence: list[Presence] = []
        self._media = LocalMedia(self._logger)
        self._leaving: set[RemotePeer] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._reconcile: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<MeteredPeer {self._peer_id or '-'} {self._state}>"

    async def __aenter__(self) -> MeteredPeer:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    @property
    def state(self) -> MeteredPeerState:
        """`idle`, `joining`, `joined`, `reconnecting`, `leaving` or `closed`."""
        return self._state

    @property
    def peer_id(self) -> str | None:
        """The id that the server gave this peer last. Kept after the end."""
        return self._peer_id

    @property
    def channel(self) -> str | None:
        """The channel, set while joining already, None after the end."""
        return self._channel

    @property
    def remote_peers(self) -> list[RemotePeer]:
        """Everybody else in the channel, in the order of arrival."""
        return list(self._remotes)

    # --- joining and leaving

    async def join(self, channel: str, *, include_sender_metadata: bool = False) -> None:
        """Enter a channel: `Joined`, then `PeerJoined` for each peer that is there.

        A failed or cancelled join leaves the peer `idle`: it may be tried again.

        Raises:
            MeteredPeerStateError: `invalid_state`, not idle.
            MeteredPeerSendError: `reserved_channel`.
            TypeError, ValueError: not a channel name.
            SignallingConnectError, ServerRequestError, AckTimeoutError, DisconnectedError: the server's side of it.
        """
        self._require_state("join", "idle")
        if isinstance(channel, str) and is_reserved_channel(channel):
            raise MeteredPeerSendError("reserved_channel", f"channel {channel!r} belongs to the service")
        self._channel = channel
        self._include_sender_metadata = include_sender_metadata
        self._set_state("joining")
        try:
            await self._connect_and_subscribe(channel)
        except BaseException as error:
            # After a plain refusal the connection is good for another try. Otherwise the server may have taken the
            # subscription, and this peer would be in the channel without knowing.
            await self._abandon_join(keep_client=isinstance(error, ServerRequestError | TypeError | ValueError))
            raise
        if self._state != "joining":
            raise MeteredPeerStateError("invalid_state", "join", "the peer was closed while joining", self._state)
        self._enter_channel(channel)

    def joined(self, channel: str, *, include_sender_metadata: bool = False) -> _JoinedContext:
        """Return an async context manager that joins on entering and closes on leaving."""
        return _JoinedContext(self, channel, include_sender_metadata)

    async def close(self, reason: str | None = None) -> None:
        """Leave and end for good: `PeerLeft` for everybody, then `Left`. Idempotent; ends within 2 s or so.

        May be awaited in any handler. Local tracks go on: they belong to the caller.
        """
        for emitter in (self, *self._remotes, *self._leaving):
            emitter._enter_close()  # this may be one of their handlers
        if self._state == "closed" and self._ending is None:
            return
        if self._ending is None:
            if self._state != "idle":
                self._set_state("leaving")
            self._ending = asyncio.ensure_future(self._end(reason, emit_left=self._state == "leaving"))
        await asyncio.shield(self._ending)

    # --- data through the server

    async def send(self, data: Any) -> None:
        """Send data to everybody in the channel, through the server.

        Raises:
            MeteredPeerSendError: `not_joined`, or `invalid_args` for None.
            MeteredPeerOversizedError: too large; nothing was sent.
            TypeError, ValueError: not JSON.
            ServerRequestError, AckTimeoutError, DisconnectedError: as for `SignallingClient.publish`.
        """
        payload = self._payload(data)
        assert self._channel is not None
        await self._client._publish_raw(self._channel, payload)

    async def send_to(self, peer_id: str, data: Any) -> None:
        """Send data to one peer, through the server. Raises like `send`, and `self_send` for the own id."""
        if not isinstance(peer_id, str) or not peer_id:
            raise MeteredPeerSendError("invalid_args", f"a peer id is needed, not {peer_id!r}")
        if peer_id == self._peer_id:
            raise MeteredPeerSendError("self_send", "a peer cannot send to itself")
        signal = parse_signal(data)
        payload = self._payload(data)
        if signal is not None:
            self._logger.warning("send_to: data has the shape of a signal", {"shape": type(signal).__name__})
        await self._client._send_raw(peer_id, payload)

    # --- media

    def add_stream(self, stream: MediaStream, metadata: StreamMetadata | None = None) -> None:
        """Send the tracks of a stream to every current and future peer. See `add_track` for what is raised.

        Nothing is attached if one of the tracks cannot be.
        """
        self._require_open("add_stream")
        if not isinstance(stream, MediaStream):
            raise TypeError(f"a MediaStream is needed, not {stream!r}")
        self._attach(stream.get_tracks(), stream, metadata, "add_stream")

    def add_track(self, track: Any, stream: MediaStream | None = None, metadata: StreamMetadata | None = None) -> None:
        """Send a track to every current and future peer. With the same stream again it does nothing.

        Raises:
            MeteredPeerStateError: `invalid_state` when leaving or closed; `track_already_attached` with another stream.
            MeteredPeerOversizedError: the metadata is too large; nothing was remembered.
            TypeError: not a track, a stream or a dict.
        """
        self._require_open("add_track")
        self._attach([track], stream, metadata, "add_track")

    def remove_stream(self, stream: MediaStream) -> None:
        """Stop sending the tracks of a stream. Does nothing for an unknown one."""
        self._require_open("remove_stream")
        for attachment in self._media.of_stream(stream):
            self._detach(attachment.track)

    def remove_track(self, track: Any) -> None:
        """Stop sending a track. Does nothing for an unknown one."""
        self._require_open("remove_track")
        self._detach(track)

    def get_track_metadata(self, track: Any) -> StreamMetadata | None:
        """Return a copy of the metadata that a track was attached with."""
        attachment = self._media.get(track)
        return dict(attachment.metadata) if attachment is not None and attachment.metadata is not None else None

    def get_stream_metadata(self, stream: MediaStream) -> StreamMetadata | None:
        """Return a copy of the metadata of the first attached track of a stream."""
        attachments = self._media.of_stream(stream)
        return self.get_track_metadata(attachments[0].track) if attachments else None

    async def replace_track(self, old_track: Any, new_track: Any | None) -> None:
        """Send another track, or nothing, in the place of one, on every peer, without a negotiation.

        Raises:
            MeteredPeerStateError: `invalid_state` when reconnecting, leaving or closed; `track_already_attached`.
            MeteredPeerReplaceTrackError: it failed on some peers, which go on receiving the old track.
            TypeError: `old_track` is None or `new_track` is no track.
            ValueError: the tracks are of different kinds.
        """
        self._require_state("replace_track", "idle", "joining", "joined")
        if old_track is None:
            raise TypeError("old_track must be a track, not None")
        before = self._media.get(old_track)
        try:
            self._media.replace(self.remote_peers, old_track, new_track)
        finally:
            if before is not None and before.metadata is not None and self._media.get(old_track) is None:
                self._tell_metadata(before.clear_signal())
                after = self._media.get(new_track)
                self._tell_metadata(after.metadata_signal() if after is not None else None)

    # --- inside: joining

    async def _connect_and_subscribe(self, channel: str) -> None:
        if self._client.state not in ("idle", "connected"):
            await self._client.close()
            self._client = self._new_client()
            self._listen_to_client()
        if self._client.state == "idle":
            await self._client.connect()
        await self._client.subscribe(channel, SubscribeOptions(include_sender_metadata=self._include_sender_metadata))

    async def _abandon_join(self, *, keep_client: bool) -> None:
        if self._state != "joining":
            return
        self._channel = None
        self._early_presence.clear()
        try:
            if not keep_client or self._client.state != "connected":
                await self._client.close()
        finally:
            if self._state == "joining":  # it may have been closed meanwhile
                self._set_state("idle")

    def _enter_channel(self, channel: str) -> None:
        assert self._client.peer_id is not None
        self._remotes.set_own_id(self._client.peer_id)
        self._set_state("joined")
        self.emit(Joined(self._client.peer_id, channel))
        early, self._early_presence = self._early_presence, []
        for presence in early:
            self._on_presence(presence)

    # --- inside: what the client tells

    def _listen_to_client(self) -> None:
        client = self._client
        client.on(Connected, self._on_connected)
        client.on(Disconnected, self._on_disconnected)
        client.on(Presence, self._on_presence)
        client.on(Message, self._on_message)
        client.on(Direct, self._on_direct)
        client.on(ServerError, self._on_server_error)
        client.on(TokenProviderError, self._on_token_provider_error)
        client.on(TokenRefreshed, self._on_token_refreshed)

    def _on_connected(self, event: Connected) -> None:
        previous, self._peer_id = self._peer_id, event.peer_id
        if event.ice_servers is not None:
            self._ice_servers = event.ice_servers
        if self._state != "reconnecting":
            return
        self._remotes.expect_snapshot(event.peer_id)
        if previous != event.peer_id:
            for remote in self._remotes:
                remote._start_over(self._is_polite_towards(remote.id))
        if len(self._remotes):
            self._watch_for_snapshot()
        else:
            self._finish_reconnect()

    def _on_disconnected(self, event: Disconnected) -> None:
        if not event.will_reconnect:
            self._on_ended(event)
        elif self._state in ("joined", "reconnecting"):
            self._remotes.set_signalling_lost(True)
            self._set_state("reconnecting")

    def _on_ended(self, event: Disconnected) -> None:
        if self._state not in ("joined", "reconnecting") or self._ending is not None:
            return  # a failing join raises; leaving is under way
        if event.reason == TOKEN_PROVIDER_FAILED:
            code = "token_provider_failed"
        else:
            code = _FATAL_CLOSE_CODES.get(event.code, "reconnect_exhausted")  # type: ignore[call-overload]
        self.emit(FatalError(ConnectionEndedError(event.code, event.reason), code))
        reason = event.reason or f"disconnected (code {event.code})"
        if self._ending is None:  # a handler may have closed the peer
            self._ending = asyncio.ensure_future(self._end(reason, emit_left=True))

    def _on_server_error(self, event: ServerError) -> None:
        if event.code in _FATAL_ERROR_CODES and event.request_id is None:
            self.emit(FatalError(ServerRequestError(event.code, event.message), event.code))

    def _on_token_refreshed(self, event: TokenRefreshed) -> None:
        if event.ice_servers is not None:  # for connections to come: TURN credentials expire with the token
            self._ice_servers = event.ice_servers

    def _on_token_provider_error(self, event: TokenProviderError) -> None:
        self.emit(FatalError(event.err, "token_provider_failed"))

    def _on_message(self, event: Message) -> None:
        if event.channel == self._channel and event.sender_peer_id != self._peer_id:
            self.emit(Data(event.sender_peer_id, event.data, "broadcast", event.sender_metadata))

    def _on_direct(self, event: Direct) -> None:
        signal = parse_signal(event.data)
        if signal is None:
            self.emit(Data(event.sender_peer_id, event.data, "direct", event.sender_metadata))
        elif self._state in ("joining", "joined", "reconnecting"):
            self._remotes.receive(event.sender_peer_id, signal)

    def _on_presence(self, event: Presence) -> None:
        if event.channel != self._channel:
            return
        if self._state == "joining":
            self._early_presence.append(event)
            return
        if self._state not in ("joined", "reconnecting"):
            return
        is_snapshot = self._remotes.awaits_snapshot
        self._remotes.update(event.joined, event.left)
        if is_snapshot and self._state == "reconnecting":
            self._finish_reconnect()

    # --- inside: what the remotes ask for and tell

    def _make_remote(self, peer: PresencePeer) -> RemotePeer:
        return RemotePeer(
            id=peer.peer_id,
            connection=self._make_connection,
            send=self.send_to,
            metadata=peer.metadata,
            logger=self._logger,
            polite=self._is_polite_towards(peer.peer_id),
        )

    def _send_media_to(self, remote: RemotePeer) -> None:
        for attachment in self._media.all():
            self._media.send_to(remote, attachment)

    def _send_metadata_to(self, remote: RemotePeer) -> None:
        for attachment in self._media.all():
            self._send_metadata(remote, attachment.metadata_signal())

    def _remote_joined(self, remote: RemotePeer) -> None:
        self.emit(PeerJoined(remote))

    def _remote_left(self, remote: RemotePeer) -> None:
        self.emit(PeerLeft(remote))
        self._leaving.add(remote)
        self._spawn(self._see_off(remote))

    async def _see_off(self, remote: RemotePeer) -> None:
        try:
            await remote._close()
        finally:
            self._leaving.discard(remote)

    def _make_connection(self, remote: RemotePeer) -> PeerConnection:
        async def send_signal(signal: Signal) -> None:
            await self._client._send_raw(remote.id, encode_payload(signal.payload()))

        connection = connection_class()(
            polite=remote.polite,
            send_signal=send_signal,
            ice_servers=lambda: self._ice_servers,
            observer=remote,
            logger=self._logger,
        )
        if self._state == "reconnecting":
            connection.set_reachable(False)
        return connection

    def _is_polite_towards(self, peer_id: str) -> bool:
        return self._peer_id is not None and self._peer_id < peer_id

    # --- inside: reconnecting

    def _watch_for_snapshot(self) -> None:
        self._stop_watching()
        self._reconcile = asyncio.ensure_future(self._await_snapshot())

    async def _await_snapshot(self) -> None:
        """Ask again for the snapshot that should have followed the reconnect."""
        for _ in range(RECONCILE_RETRIES):
            await asyncio.sleep(RECONCILE_TIMEOUT)
            assert self._channel is not None
            options = SubscribeOptions(include_sender_metadata=self._include_sender_metadata)
            try:
                await self._client.subscribe(self._channel, options)
            except NotConnectedError:
                return  # the next welcome starts anew
            except MeteredRealtimeError as error:
                self._logger.warning("subscribing again failed", {"error": str(error)})
        await asyncio.sleep(RECONCILE_TIMEOUT)
        self.emit(FatalError(ReconcileTimeoutError(), "reconcile_timeout"))

    def _stop_watching(self) -> None:
        if self._reconcile is not None and self._reconcile is not asyncio.current_task():
            self._reconcile.cancel()
        self._reconcile = None

    def _finish_reconnect(self) -> None:
        self._stop_watching()
        self._remotes.set_signalling_lost(False)
        self._set_state("joined")

    # --- inside: media

    def _attach(
        self, tracks: Iterable[Any], stream: MediaStream | None, metadata: StreamMetadata | None, method: str
    ) -> None:
        added = []
        try:
            for track in tracks:
                attachment = self._media.add(track, stream, metadata, self._client.max_message_size, method)
                if attachment is not None:
                    added.append(attachment)
        except Exception:
            for attachment in added:
                self._media.remove(attachment.track)
            raise
        for remote in self.remote_peers:
            for attachment in added:
                self._send_metadata(remote, attachment.metadata_signal())
                self._media.send_to(remote, attachment)

    def _detach(self, track: Any) -> None:
        attachment = self._media.remove(track)
        if attachment is None:
            return
        for remote in self.remote_peers:
            if attachment.metadata is not None:
                self._send_metadata(remote, attachment.clear_signal())
            if remote._connection is not None:
                remote._connection.detach(id(track))

    def _tell_metadata(self, signal: MetadataSignal | None) -> None:
        for remote in self.remote_peers:
            self._send_metadata(remote, signal)

    def _send_metadata(self, remote: RemotePeer, signal: MetadataSignal | None) -> None:
        if signal is not None:
            self._spawn(self._deliver_metadata(remote.id, encode_payload(signal.payload())))

    async def _deliver_metadata(self, peer_id: str, payload: Raw) -> None:
        try:
            await self._client._send_raw(peer_id, payload)
        except MeteredRealtimeError as error:
            self._logger.warning("track metadata not delivered", {"peer": peer_id, "error": str(error)})

    # --- inside: checks, state, the end

    def _payload(self, data: Any) -> Raw:
        if self._state != "joined":
            raise MeteredPeerSendError("not_joined", f"the peer is {self._state}, not joined")
        if data is None:
            raise MeteredPeerSendError("invalid_args", "data must not be None")
        payload = encode_payload(data)
        size, cap = len(bytes(payload)), self._client.max_message_size
        if size > cap:
            raise MeteredPeerOversizedError(size, cap)
        return payload

    def _require_state(self, method: str, *allowed: MeteredPeerState) -> None:
        if self._state not in allowed:
            raise MeteredPeerStateError(
                "invalid_state", method, f"{method}() does not fit the state {self._state}", self._state
            )

    def _require_open(self, method: str) -> None:
        self._require_state(method, "idle", "joining", "joined", "reconnecting")

    def _set_state(self, state: MeteredPeerState) -> None:
        if state != self._state:
            previous, self._state = self._state, state
            self.emit(StateChange(previous, state))

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end(self, reason: str | None, *, emit_left: bool) -> None:
        channel = self._channel
        deadline = asyncio.get_running_loop().time() + CLOSE_TIMEOUT - CANCEL_GRACE
        self._stop_watching()
        self._remotes.clear()
        self._spawn(self._client.close())
        self._spawn(self._media.close())
        await asyncio.wait(self._tasks, timeout=CLOSE_TIMEOUT - CANCEL_GRACE)
        self._channel = None
        self._set_state("closed")
        if emit_left:
            self.emit(Left(self._peer_id, channel, reason))
        await self._shut_down_emitter(max(0.0, deadline - asyncio.get_running_loop().time()), CANCEL_GRACE)
        self._ending = None


class _JoinedContext:
    """What `MeteredPeer.joined` returns."""

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


def _client_factory(options: SignallingClientOptions) -> Callable[[], SignallingClient]:
    """Return what makes a client. The options hold credentials: they live on in this closure only."""
    resubscribing = replace(options, auto_resubscribe=True)
    return lambda: SignallingClient(resubscribing)
