"""A WebRTC peer: one channel, everybody in it, and what is sent to them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from ssl import SSLContext
from typing import TYPE_CHECKING, Any

from msgspec import Raw

from ..channels.options import ChannelOptions
from ..channels.peer_channel import PATIENCE, PeerChannel, PeerChannels
from ..connection.ice_servers import IceServers
from ..core.negotiation.signals import GREETING, MetadataSignal, channel_of, parse_signal
from ..core.session.close_codes import FATAL_CLOSES, FATAL_ERROR_CODES, code_of_close
from ..core.wire.names import is_reserved_channel, peer_id_fault
from ..emitter import AsyncEventEmitter
from ..errors import (
    ConnectionEndedError,
    FileTransferError,
    MeteredPeerSendError,
    MeteredPeerStateError,
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
    SubscriptionLost,
    TokenProviderError,
    TokenRefreshed,
)
from ..files.transfers import AcceptFn, FileReceiver, FileTransfers, ProgressFn, TransferResult
from ..lifetime import Lifetime
from ..log import Logger
from ..media.stream import MediaStream, StreamMetadata
from ..options import (
    DEFAULT_TUNING,
    IceServersOption,
    IceTransportPolicy,
    MeteredPeerState,
    ReconnectOptions,
    SignallingClientOptions,
    SubscribeOptions,
    TokenProviderFn,
    Tuning,
)
from ..rpc.errors import ErrorRegistry, RpcError
from ..rpc.methods import RpcInvocationData, RpcMethods
from ..rpc.transports import is_envelope
from ..signalling import SignallingClient
from ..signalling.scrubbing import scrubbing
from ..signalling.socket import TOKEN_PROVIDER_FAILED
from .call_permission import CallPermission
from .connections import PeerConnections
from .early_events import EarlyEvents
from .joined_context import _JoinedContext
from .local_media import LocalMedia
from .remote_peer import RemotePeer
from .remotes import Remotes
from .seat import SignallingSeat
from .snapshot_watch import SnapshotWatch
from .stats import PeerStats, peer_stats
from .webrtc_extra import connection_class

if TYPE_CHECKING:
    from ..connection.remote_connection import RemoteConnection

CLOSE_TIMEOUT = 2.0
"""Seconds that `close()` may take altogether: connections, signalling, then the handlers that still run."""

MEETING_TIME = 0.25
"""Seconds that the impolite end leaves to a stranger who has something to offer: Chromium that has to take back the
first offer of a page, while it gathers for that, may stay without any candidate for good. An end of this make says so
when it is asked, and is not waited for any longer."""

CANCEL_GRACE = 0.2
"""Seconds of those that are left to handlers which had to be cancelled."""


class MeteredPeer(AsyncEventEmitter):
    """Join a channel and be a peer of everybody in it.

    `rpc` holds the methods that it offers to others, see `RpcMethods`.

    Events: `StateChange`, `Joined`, `Left`, `PeerJoined`, `PeerLeft`, `Data`, `FatalError`. Media and data channels
    belong to the `RemotePeer` that `PeerJoined` brings: register for its events in that handler and nothing is missed.

    If `options` is given the other options of the client are ignored; see `SignallingClientOptions` for their meaning.
    Subscriptions always come back after a reconnect: a peer without its channel would be joined and deaf.

    Several peers, each in a channel of its own, may share a `client`: one connection to the server for all of them.
    It belongs to the program, which closes it; the first join connects it. Direct messages of the program name no
    channel: they reach every peer that knows the sender.

    `ice_servers` replaces the STUN and TURN servers that the signalling server names: a sequence, in which one server
    of each kind is used and each recovery of a connection takes the next ones, or a function, plain or async, that is
    asked on joining and again for connections made more than a minute later. An empty list means none.
    `ice_transport_policy` `relay` uses relayed candidates only.

    `tuning` switches off what connections do faster than aiortc itself, see `Tuning`.

    `rpc_debug` sends callers the text of what a handler raises. `rpc_errors` is the registry, or a class of one, whose
    errors calls raise; see `RpcMethods`.

    Raises:
        ValueError: not exactly one of `api_key` and `token_provider` is given and no `client`, or one of them together
            with a `client`, or an option is out of its range.
        TypeError: `ice_servers` holds something else than `IceServerConfig`.
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
        queue_while_reconnecting: int = 0,
        ssl_context: SSLContext | None = None,
        allow_insecure_url: bool = False,
        client: SignallingClient | None = None,
        ice_servers: IceServersOption | None = None,
        ice_transport_policy: IceTransportPolicy = "all",
        rpc_debug: bool = False,
        rpc_errors: ErrorRegistry | type[RpcError] | None = None,
        tuning: Tuning = DEFAULT_TUNING,
    ) -> None:
        if client is not None and (options is not None or api_key or token_provider):
            raise ValueError("a shared client has its credential: give no options, api_key or token_provider with it")
        chosen = options or SignallingClientOptions(
            api_key=api_key,
            token_provider=token_provider,
            url=url,
            token_provider_timeout=token_provider_timeout,
            logger=logger,
            reconnect=reconnect,
            inactivity_timeout=inactivity_timeout,
            auto_resubscribe=auto_resubscribe,
            queue_while_reconnecting=queue_while_reconnecting,
            ssl_context=ssl_context,
            allow_insecure_url=allow_insecure_url,
        )
        super().__init__(scrubbing(chosen.logger))
        if not chosen.auto_resubscribe:
            self._logger.warning("auto_resubscribe=False is ignored: a peer without its channel would be deaf")
        self._state: MeteredPeerState = "idle"
        self._channel: str | None = None
        self._peer_id: str | None = None
        self._remotes = Remotes(self, self._logger)
        self._files = FileTransfers(self)
        self.rpc = RpcMethods(debug=rpc_debug, errors=rpc_errors)
        self._permission = CallPermission(self.emit, self._is_heard, self._remotes)
        self._early = EarlyEvents(lambda: self._channel if self._state == "joining" else None, self._logger)
        self._seat = SignallingSeat(
            client if client is not None else self._new_client(chosen),
            {
                Connected: self._on_connected,
                Disconnected: self._on_disconnected,
                StateChange: self._on_client_state,
                Presence: self._early.held_for(self._on_presence),
                Message: self._early.held_for(self._on_message),
                Direct: self._early.held_for(self._on_direct),
                ServerError: self._on_server_error,
                SubscriptionLost: self._on_subscription_lost,
                TokenProviderError: lambda event: self.emit(FatalError(event.err, "token_provider_failed")),
                TokenRefreshed: self._on_token_refreshed,
            },
            is_shared=client is not None,
            knows=self._remotes.__contains__,
            logger=self._logger,
            not_permitted=self._permission.refuse,
        )
        self._ice_servers = IceServers(ice_servers, lambda: self._seat.ice_servers, self._logger, ice_transport_policy)
        self._connections = PeerConnections(self._connection_class, self._seat, self._ice_servers, self._logger, tuning)
        no_snapshot = FatalError(ReconcileTimeoutError(), "reconcile_timeout")
        self._watch = SnapshotWatch(self._seat.subscribe_again, lambda: self.emit(no_snapshot), self._logger)
        self._media = LocalMedia(lambda: self.remote_peers, self._tell_metadata, self._logger, self.emit)
        self._channels = PeerChannels(self._logger)
        self._seen_off: set[RemotePeer] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._leaving: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._lifetime = Lifetime(self, self.close)

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
        """The channel, set while joining already, None when left."""
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
            Exception: what the provider of ICE servers raised, credentials masked.
        """
        self._require_state("join", "idle")
        if isinstance(channel, str) and is_reserved_channel(channel):
            raise MeteredPeerSendError("reserved_channel", f"channel {channel!r} belongs to the service")
        self._channel = channel
        self._set_state("joining")
        self._lifetime.begin()
        try:
            await self._ice_servers.prepare()
            await self._seat.enter(channel, SubscribeOptions(include_sender_metadata=include_sender_metadata))
        except BaseException as error:
            await self._abandon_join(error)
            raise
        if self._state != "joining":
            raise MeteredPeerStateError("invalid_state", "join", "the peer was closed while joining", self._state)
        self._enter_channel(channel)

    def joined(self, channel: str, *, include_sender_metadata: bool = False) -> _JoinedContext:
        """Return an async context manager that joins on entering and closes on leaving."""
        return _JoinedContext(self, channel, include_sender_metadata)

    async def leave(self, reason: str | None = None) -> None:
        """Leave the channel and be `idle` again: `PeerLeft` for everybody, then `Left`. Does nothing when idle.

        The connection to the server stays, and so does what is attached: the next `join`, of this channel or another,
        sends it there. May be awaited in any handler; takes 2 s at most, and finishes even if its caller is cancelled.

        Raises:
            MeteredPeerStateError: `invalid_state`, joining or closed.
        """
        if self._leaving is None:
            if self._state == "idle":
                return
            self._require_state("leave", "joined", "reconnecting")
            self._set_state("leaving")
            self._leaving = asyncio.ensure_future(self._leave(reason))
        for emitter in (*self._remotes, *self._seen_off):
            emitter._enter_close()  # this may be one of their handlers
        await asyncio.shield(self._leaving)

    async def close(self, reason: str | None = None) -> None:
        """Leave and end for good: `PeerLeft` for everybody, then `Left`. Idempotent; ends within 2 s or so.

        May be awaited in any handler. Local tracks go on: they belong to the caller. So does a shared client.
        """
        for emitter in (self, *self._remotes, *self._seen_off):
            emitter._enter_close()  # this may be one of their handlers
        if self._state == "closed" and self._ending is None:
            return
        if self._ending is None:
            was_idle = self._state == "idle"
            self._end_with(reason)
            if not was_idle:
                self._set_state("leaving")
        assert self._ending is not None
        await asyncio.shield(self._ending)

    # --- data through the server

    async def send(self, data: Any) -> None:
        """Send data to everybody in the channel, through the server.

        Raises:
            MeteredPeerSendError: `not_joined`, or `invalid_args` for None, and for what is no peer id.
            MeteredPeerOversizedError: too large; nothing was sent.
            TypeError, ValueError: not JSON.
            ServerRequestError, AckTimeoutError, DisconnectedError: as for `SignallingClient.publish`.
        """
        await self._seat.publish(self._payload(data))

    async def send_to(self, peer_id: str, data: Any) -> None:
        """Send data to one peer, through the server. Raises like `send`, and `self_send` for the own id."""
        payload = self._payload(data)
        if peer_id_fault(peer_id) is not None:
            raise MeteredPeerSendError("invalid_args", f"a peer id is needed, not {peer_id!r}")
        if peer_id == self._peer_id:
            raise MeteredPeerSendError("self_send", "a peer cannot send to itself")
        if (signal := parse_signal(data)) is not None:
            self._logger.warning("send_to: data has the shape of a signal", {"shape": type(signal).__name__})
        await self._seat.send(peer_id, payload)

    # --- data between peers

    def open_channel(self, label: str, *, patience: float | None = PATIENCE, **options: Any) -> PeerChannel:
        """Open a channel to every current and future remote, or return the one that is open under this label.

        Meets what the others open under the label, with this method or `RemotePeer.open_channel`, which has the same
        options. It stays until it is closed: a remote that comes later is sent what is sent from then on. `patience`
        is for how many seconds a send waits for a connected remote that does not keep up; see `PeerChannel`.

        Raises:
            MeteredPeerStateError: `invalid_state`, leaving or closed.
            ValueError: options that do not fit.
        """
        self._require_open("open_channel")
        return self._channels.open(label, ChannelOptions(**options), patience, self._remotes)

    # --- calls between peers

    def register_rpc_method(
        self, name: str, handler: Callable[[RpcInvocationData], Any], *, replace: bool = False
    ) -> None:
        """Offer every remote a handler, plain or async, that takes an `RpcInvocationData` and returns text.

        `peer.rpc` offers functions of any signature.

        Raises:
            ValueError: the name is taken and `replace` is not given, or it is empty or reserved.
            TypeError: not a function.
        """
        self.rpc.add_text(name, handler, replace=replace)

    def unregister_rpc_method(self, name: str) -> None:
        """Offer a method no more. Calls that run go on; unknown names are ignored."""
        self.rpc.remove(name)

    # --- media

    def add_stream(self, stream: MediaStream, metadata: StreamMetadata | None = None) -> None:
        """Send the tracks of a stream to every current and future peer. See `add_track` for what is raised.

        Nothing is attached if one of the tracks cannot be.
        """
        self._require_open("add_stream")
        if not isinstance(stream, MediaStream):
            raise TypeError(f"a MediaStream is needed, not {stream!r}")
        self._media.attach(stream.get_tracks(), stream, metadata, self._seat.check_signal, "add_stream")

    def add_track(self, track: Any, stream: MediaStream | None = None, metadata: StreamMetadata | None = None) -> None:
        """Send a track to every current and future peer. With the same stream again it does nothing.

        Raises:
            MeteredPeerStateError: `invalid_state` when leaving or closed; `track_already_attached` with another stream.
            MeteredPeerOversizedError: the metadata is too large; nothing was remembered.
            TypeError: not a track, a stream or a dict.
        """
        self._require_open("add_track")
        self._media.attach([track], stream, metadata, self._seat.check_signal, "add_track")

    def remove_stream(self, stream: MediaStream) -> None:
        """Stop sending the tracks of a stream. Does nothing for an unknown one."""
        self._require_open("remove_stream")
        for attachment in self._media.of_stream(stream):
            self._media.detach(attachment.track)

    def remove_track(self, track: Any) -> None:
        """Stop sending a track. Does nothing for an unknown one."""
        self._require_open("remove_track")
        self._media.detach(track)

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
        self._media.replace(old_track, new_track, self._seat.check_signal)

    # --- files

    async def send_file(
        self,
        path: str | Path,
        *,
        name: str | None = None,
        progress: ProgressFn | None = None,
        patience: float | None = None,
    ) -> dict[str, TransferResult | FileTransferError]:
        """Send a file to everybody who is in the channel now, and return by peer id how that went.

        It is read once, and goes to each at its own pace. `name` is what it is called there, its own name by default.
        `progress` is called with a `TransferProgress` often. `patience` is for how many seconds a remote may be
        away, 60 by default. See `RemotePeer.send_file` for one of them.

        Raises:
            OSError: it cannot be opened.
            ValueError: no usable name.
        """
        return await self._files.send_to_all(path, name=name, progress=progress, patience=patience)

    def receive_files(
        self,
        directory: str | Path,
        *,
        accept: AcceptFn | None = None,
        max_size: int | None = None,
        progress: ProgressFn | None = None,
    ) -> FileReceiver:
        """Receive files into a directory from now on: `async with` it, `async for` gives each `FileReceived`.

        Events on this peer and on the remote: `FileOffered`, `FileReceived`, `FileFailed`. `accept`, plain or async,
        gets the `FileOffered` and says whether it is wanted; everything is by default, up to `max_size` bytes, 16 GiB
        by default. Names are made safe and never overwrite. Begun files are gone on with, also after a restart.

        Raises:
            MeteredPeerStateError: `invalid_state`, it receives already.
            OSError: the directory cannot be made.
        """
        return self._files.receive(directory, accept, max_size, progress)

    # --- figures

    def stats(self) -> PeerStats:
        """Return the figures of every remote now, and their sums. See `RemotePeer.stats`."""
        return peer_stats(self)

    # --- inside: joining

    def _new_client(self, options: SignallingClientOptions) -> SignallingClient:
        return SignallingClient(replace(options, auto_resubscribe=True))

    async def _abandon_join(self, error: BaseException) -> None:
        if self._state != "joining":
            return
        self._channel = None
        self._early.clear()
        try:
            await self._seat.abandon(error)
        finally:
            if self._state == "joining":  # it may have been closed meanwhile
                self._set_state("idle")

    def _enter_channel(self, channel: str) -> None:
        assert self._seat.peer_id is not None
        self._peer_id = self._seat.peer_id
        self._remotes.expect_snapshot(self._peer_id)
        self._set_state("joined")
        self.emit(Joined(self._peer_id, channel))
        self._early.release()

    # --- inside: what the client tells

    def _on_connected(self, event: Connected) -> None:
        previous, self._peer_id = self._peer_id, event.peer_id
        self._permission.ask_again(is_reachable=False)
        if self._state != "reconnecting":
            return
        self._remotes.expect_snapshot(event.peer_id)
        if previous != event.peer_id:
            for remote in self._remotes:
                remote._start_over(self._is_polite_towards(remote.id))
        if len(self._remotes):
            self._watch.start()
        else:
            self._finish_reconnect()

    def _on_disconnected(self, event: Disconnected) -> None:
        if not event.will_reconnect:
            self._on_ended(event)
        elif self._state in ("joined", "reconnecting"):
            self._remotes.set_signalling_lost(True)
            self._set_state("reconnecting")

    def _on_ended(self, event: Disconnected) -> None:
        if self._state not in ("joining", "joined", "reconnecting") or self._ending is not None:
            return  # leaving is under way
        code = "token_provider_failed" if event.reason == TOKEN_PROVIDER_FAILED else code_of_close(event.code)
        if self._state == "joining" and (self._seat.client.state == "connecting" or code not in FATAL_CLOSES):
            return  # the join raises what there is to know
        self.emit(FatalError(ConnectionEndedError(event.code, event.reason), code))
        if self._state != "joining":
            self._end_with(event.reason or f"disconnected (code {event.code})")

    def _on_client_state(self, event: StateChange) -> None:
        if event.to == "closed" and self._state in ("joined", "reconnecting"):
            self._end_with("the signalling client was closed")

    def _on_server_error(self, event: ServerError) -> None:
        if event.code in FATAL_ERROR_CODES and event.request_id is None:
            self.emit(FatalError(ServerRequestError(event.code, event.message), event.code))

    def _on_subscription_lost(self, event: SubscriptionLost) -> None:
        if event.channel == self._channel:
            self.emit(FatalError(event.err, getattr(event.err, "code", "subscription_lost")))

    def _on_token_refreshed(self, _: TokenRefreshed) -> None:
        """Signal again what the server has refused: a new token may permit it."""
        self._permission.ask_again(is_reachable=self._state == "joined")
        self._remotes.retry()

    def _on_message(self, event: Message) -> None:
        if event.channel == self._channel and event.sender_peer_id != self._peer_id:
            self.emit(Data(event.sender_peer_id, event.data, "broadcast", event.sender_metadata))

    def _on_direct(self, event: Direct) -> None:
        if self._state not in ("joined", "reconnecting"):
            return
        sender, signal, is_call = event.sender_peer_id, parse_signal(event.data), is_envelope(event.data)
        if (signal is not None or is_call) and not self._seat.is_addressed(sender, channel_of(event.data)):
            return
        if signal is not None:
            self._remotes.receive(sender, signal)
        elif is_call and (remote := self._remotes.get(sender)) is not None:
            remote._take_call(event.data)
        elif not self._seat.is_strange(sender):
            self.emit(Data(sender, event.data, "direct", event.sender_metadata))

    def _on_presence(self, event: Presence) -> None:
        if event.channel != self._channel or self._state not in ("joined", "reconnecting"):
            return
        is_snapshot = self._remotes.awaits_snapshot
        self._remotes.update(event.joined, event.left)
        if is_snapshot and self._state == "reconnecting":
            self._finish_reconnect()

    # --- inside: what the remotes ask for and tell

    def _make_remote(self, peer: PresencePeer) -> RemotePeer:
        remote = RemotePeer(
            id=peer.peer_id,
            connection=self._connect,
            send=self.send_to,
            metadata=peer.metadata,
            logger=self._logger,
            polite=self._is_polite_towards(peer.peer_id),
            tell_metadata=self._send_metadata_to,
            greet=lambda remote: self._tell_metadata(remote, GREETING),
            files=self._files,
            methods=self.rpc,
            server_cap=lambda: self._seat.max_message_size,
            channel=self._channel,
        )
        if not remote.polite:
            remote._hold_back(MEETING_TIME)
            if self._media.is_any:
                remote._greet()
        return remote

    def _send_media_to(self, remote: RemotePeer) -> None:
        self._media.send_everything(remote)

    def _send_metadata_to(self, remote: RemotePeer) -> None:
        self._media.tell_metadata(remote)

    def _remote_joined(self, remote: RemotePeer) -> None:
        self._channels.remote_joined(remote)
        self.emit(PeerJoined(remote))

    def _remote_left(self, remote: RemotePeer) -> None:
        self.emit(PeerLeft(remote))
        self._seen_off.add(remote)
        self._spawn(self._see_off(remote))

    async def _see_off(self, remote: RemotePeer) -> None:
        try:
            await remote._close()
        finally:
            self._seen_off.discard(remote)

    def _connect(self, remote: RemotePeer) -> RemoteConnection:
        connection = self._connections.make(remote)
        if self._state == "reconnecting" or self._permission.is_refused:
            connection.set_reachable(False)
        return connection

    def _connection_class(self) -> type[RemoteConnection]:
        return connection_class()

    def _is_polite_towards(self, peer_id: str) -> bool:
        return self._peer_id is not None and self._peer_id < peer_id

    # --- inside: reconnecting

    def _finish_reconnect(self) -> None:
        self._watch.stop()
        self._remotes.set_signalling_lost(False)
        self._set_state("joined")

    # --- inside: media

    def _tell_metadata(self, remote: RemotePeer, signal: MetadataSignal) -> None:
        self._spawn(remote._tell(signal, self._seat.send_signal))

    # --- inside: checks, state, the end

    def _payload(self, data: Any) -> Raw:
        if self._state != "joined":
            raise MeteredPeerSendError("not_joined", f"the peer is {self._state}, not joined")
        if data is None:
            raise MeteredPeerSendError("invalid_args", "data must not be None")
        return self._seat.encode(data)

    def _require_state(self, method: str, *allowed: MeteredPeerState) -> None:
        if self._state not in allowed or self._ending is not None:
            raise MeteredPeerStateError(
                "invalid_state", method, f"{method}() does not fit the state {self._state}", self._state
            )

    def _require_open(self, method: str) -> None:
        self._require_state(method, "idle", "joining", "joined", "reconnecting")

    def _set_state(self, state: MeteredPeerState) -> None:
        if state != self._state:
            previous, self._state = self._state, state
            if state == "closed" or (state == "idle" and not self._seat.is_open):
                self._lifetime.end()
            self.emit(StateChange(previous, state))

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _leave(self, reason: str | None) -> None:
        try:
            await self._clear_channel(self._seat.leave(), CLOSE_TIMEOUT)
            channel, self._channel = self._channel, None
            self._connections.forget_certificate()
            self._set_state("idle")
            self.emit(Left(self._peer_id, channel, reason))
        finally:
            self._leaving = None

    def _end_with(self, reason: str | None) -> None:
        """Begin to end, unless that has begun."""
        if self._ending is None and self._state != "closed":
            was_in_channel = self._state in ("joining", "joined", "reconnecting")
            self._ending = asyncio.ensure_future(self._end(reason, emit_left=was_in_channel))

    async def _end(self, reason: str | None, *, emit_left: bool) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + CLOSE_TIMEOUT - CANCEL_GRACE
        if self._leaving is not None:
            await asyncio.wait([self._leaving], timeout=CLOSE_TIMEOUT / 2)
        self._ice_servers.close()
        self._spawn(self._media.close())
        self._channels.close()
        self._spawn(self._files.close())
        await self._clear_channel(self._seat.close(), deadline - loop.time())
        channel, self._channel = self._channel, None
        self._set_state("closed")
        if emit_left:
            self.emit(Left(self._peer_id, channel, reason))
        await self._shut_down_emitter(max(0.0, deadline - loop.time()), CANCEL_GRACE)
        self._ending = None

    async def _clear_channel(self, farewell: Coroutine[Any, Any, None], timeout: float) -> None:
        """Let everybody go and say so to the server, and wait for what that takes."""
        self._watch.stop()
        self._remotes.clear()
        self._early.clear()
        self._spawn(farewell)
        await asyncio.wait(self._tasks, timeout=timeout)
