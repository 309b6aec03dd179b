"""A WebRTC peer: one channel, the remote peers in it, and what is sent to them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from msgspec import Raw

from ..channels.options import ChannelOptions
from ..channels.peer_channel import PATIENCE, PeerChannel, PeerChannels
from ..connection.ice_servers import IceServers
from ..core.negotiation.signals import MetadataSignal, channel_of, parse_signal
from ..core.session.close_codes import FATAL_ERROR_CODES
from ..core.session.peer_lifecycle import (
    AnnounceJoined,
    AnnounceLeft,
    AskForSnapshot,
    Effect,
    End,
    ExpectSnapshot,
    Leave,
    Method,
    PeerLifecycle,
    ReportFatal,
    ServerBack,
    ServerLost,
    ShowState,
    StartOver,
)
from ..core.wire.names import is_reserved_channel, peer_id_fault
from ..emitter import AsyncEventEmitter, enter_close, listens_for
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
    MessagesLost,
    PeerJoined,
    PeerLeft,
    Presence,
    PresencePeer,
    ServerError,
    StateChange,
    StreamOpened,
    SubscriptionLost,
    TokenProviderError,
    TokenRefreshed,
)
from ..events.emitted import BY_PEER
from ..files.progress import ProgressFn, TransferResult
from ..files.receiving import AcceptFn, FileReceiver
from ..files.transfers import FileTransfers
from ..lifetime import Lifetime
from ..media.stream import MediaStream, StreamMetadata
from ..options import (
    DEFAULT_TUNING,
    ClientKeywords,
    IceServersOption,
    IceTransportPolicy,
    MeteredPeerState,
    SignallingClientOptions,
    SubscribeOptions,
    Tuning,
    has_credential,
    options_or_keywords,
    shows_client_keywords,
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
from .own_name import OwnName
from .peer_stats import peer_stats
from .remote_peer import RemotePeer
from .remotes import Remotes
from .seat import SignallingSeat
from .snapshot_watch import SnapshotWatch
from .stats import PeerStats
from .webrtc_extra import connection_class

if TYPE_CHECKING:
    from aiortc import MediaStreamTrack

    from ..connection.remote_connection import RemoteConnection

CLOSE_TIMEOUT = 2.0
"""Seconds that `close()` may take altogether: connections, signalling, then the handlers that still run."""

MEETING_TIME = 0.25
"""Seconds that the impolite end waits for the offer of a foreign remote: Chromium that has to roll back the first offer
of a page while it gathers candidates may never gather any again. A native remote answers the greeting, and is not
waited for any longer."""

CANCEL_GRACE = 0.2
"""Seconds of `CLOSE_TIMEOUT` for handlers that had to be cancelled."""


class MeteredPeer(AsyncEventEmitter):
    """A peer of everybody in the channel that it joins.

    `rpc` holds the methods that it offers to others; see `RpcMethods`.

    Events: `StateChange`, `Joined`, `Left`, `PeerJoined`, `PeerLeft`, `Data`, `MessagesLost`, `FatalError`,
    `LocalTrackEnded`, and those of all remotes: `NameChanged`, `StreamOpened`, `FileOffered`, `FileReceived`,
    `FileFailed`. Media and data channels belong to the `RemotePeer` of `PeerJoined`: what its handler registers there
    misses nothing.

    If `options` is given the other options of the client are ignored; see `SignallingClientOptions` for their meaning.
    Subscriptions are always restored after a reconnect: without its channel a peer would be joined and receive nothing.

    Several peers, each in a channel of its own, may share a `client`: one connection to the server for all of them.
    It belongs to the program, which closes it; the first join connects it. Direct messages of the program name no
    channel: they reach every peer that knows the sender.

    `ice_servers` replaces the STUN and TURN servers that the signalling server names: a sequence, in which one server
    of each kind is used and each recovery of a connection takes the next ones, or a function, plain or async, that is
    called on joining and again for connections made more than a minute later. An empty list means none.
    `ice_transport_policy` `relay` uses relayed candidates only.

    `tuning` switches off what connections do faster than aiortc itself, see `Tuning`. `name` is what others see: the
    room page, and programs as `RemotePeer.name`: one line of at most 80 characters, told if the key permits `send`.

    `rpc_debug` sends callers the text of what a handler raises. `rpc_errors` is the registry, or a class of one, whose
    errors calls raise; see `RpcMethods`.

    Raises:
        ValueError: not exactly one of `api_key`, `token`, `token_provider` and `client` is given, or an option is out
            of its range.
        TypeError: `ice_servers` holds something else than `IceServerConfig`.
    """

    _EMITS = BY_PEER

    @shows_client_keywords
    def __init__(
        self,
        options: SignallingClientOptions | None = None,
        *,
        client: SignallingClient | None = None,
        ice_servers: IceServersOption | None = None,
        ice_transport_policy: IceTransportPolicy = "all",
        rpc_debug: bool = False,
        rpc_errors: ErrorRegistry | type[RpcError] | None = None,
        tuning: Tuning = DEFAULT_TUNING,
        name: str | None = None,
        **keywords: Unpack[ClientKeywords],
    ) -> None:
        if client is not None and (options or has_credential(keywords)):
            raise ValueError("a shared client has its credential: give no options, key, token or provider with it")
        chosen = options_or_keywords(options, keywords)
        super().__init__(scrubbing(chosen.logger))
        if not chosen.auto_resubscribe:
            self._logger.warning("auto_resubscribe=False is ignored: a peer without its channel would receive nothing")
        self._life = PeerLifecycle()
        self._remotes = Remotes(self, self._logger)
        self._files = FileTransfers(self, self._logger)
        self.rpc = RpcMethods(debug=rpc_debug, errors=rpc_errors)
        self._permission = CallPermission(self.emit, self._is_heard, self._remotes)
        self._early = EarlyEvents(lambda: self._life.joining, self._logger)
        self._seat = SignallingSeat(
            client if client is not None else self._new_client(chosen),
            {
                Connected: self._on_connected,
                Disconnected: self._on_disconnected,
                StateChange: self._on_client_state,
                Presence: self._early.held_for(self._on_presence),
                Message: self._early.held_for(self._on_message),
                Direct: self._early.held_for(self._on_direct),
                MessagesLost: self._early.held_for(self._on_messages_lost),
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
        self._media = LocalMedia(self, self._seat.check_signal, self._logger)
        self._own_name = OwnName(self, name)
        self._channels = PeerChannels(self._logger)
        self._seen_off: set[RemotePeer] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._leaving: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._lifetime = Lifetime(self, self.close)

    def __repr__(self) -> str:
        return f"<MeteredPeer {self.peer_id or '-'} {self.state}>"

    async def __aenter__(self) -> MeteredPeer:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    @property
    def state(self) -> MeteredPeerState:
        """`idle`, `joining`, `joined`, `reconnecting`, `leaving` or `closed`."""
        return self._life.state

    @property
    def peer_id(self) -> str | None:
        """The id that the server gave this peer last. Kept after the end."""
        return self._life.peer_id

    @property
    def channel(self) -> str | None:
        """The channel that it is in, or is joining. None without one."""
        return self._life.channel

    @property
    def name(self) -> str | None:
        """The name that others see, None without one. Another one is told to everybody at once."""
        return self._own_name.value

    @name.setter
    def name(self, name: str | None) -> None:
        self._own_name.change(name)

    @property
    def remote_peers(self) -> list[RemotePeer]:
        """Everybody else in the channel, in the order of arrival."""
        return list(self._remotes)

    # --- joining and leaving

    async def join(self, channel: str, *, include_sender_metadata: bool = False) -> None:
        """Join a channel. Emits `Joined`, then `PeerJoined` for each peer that is there.

        A failed or cancelled join leaves the peer `idle`: it may be tried again.

        Raises:
            MeteredPeerStateError: `invalid_state`, not idle.
            MeteredPeerSendError: `reserved_channel`.
            TypeError, ValueError: not a channel name.
            SignallingConnectError, ServerRequestError, AckTimeoutError, DisconnectedError: the server refused, or was
                not reached.
            Exception: what the provider of ICE servers raised, credentials masked.
        """
        self._require("join", "join")
        if isinstance(channel, str) and is_reserved_channel(channel):
            raise MeteredPeerSendError("reserved_channel", f"channel {channel!r} belongs to the service")
        self._perform(self._life.join(channel))
        self._lifetime.begin()
        try:
            await self._ice_servers.prepare()
            await self._seat.enter(channel, SubscribeOptions(include_sender_metadata=include_sender_metadata))
        except BaseException as error:
            await self._abandon_join(error)
            raise
        effects = self._life.joined(self._seat.peer_id)
        if effects is None:
            raise MeteredPeerStateError("invalid_state", "join", "the peer was closed while joining", self.state)
        self._perform(effects)

    def joined(self, channel: str, *, include_sender_metadata: bool = False) -> _JoinedContext:
        """Return an async context manager that joins on entering and closes on leaving."""
        return _JoinedContext(self, channel, include_sender_metadata)

    async def leave(self, reason: str | None = None) -> None:
        """Leave the channel and become `idle`. Emits `PeerLeft` for everybody, then `Left`. Does nothing when idle.

        The connection to the server stays, and so do attached tracks: the next `join`, of this channel or another,
        sends them there. May be awaited in any handler; takes 2 s at most, and finishes even if its caller is
        cancelled.

        Raises:
            MeteredPeerStateError: `invalid_state`, joining or closed.
        """
        if self._leaving is None:
            if self.state == "idle":
                return
            self._require("leave", "leave")
            self._perform(self._life.leave(reason))
        enter_close((*self._remotes, *self._seen_off))  # this may be one of their handlers
        assert self._leaving is not None
        await asyncio.shield(self._leaving)

    async def close(self, reason: str | None = None) -> None:
        """Leave the channel and close the peer. Emits `PeerLeft` for everybody, then `Left`. Idempotent; takes about 2
        s at most.

        May be awaited in any handler. Local tracks go on: they belong to the caller. So does a shared client.
        """
        enter_close((self, *self._remotes, *self._seen_off))  # this may be one of their handlers
        self._perform(self._life.close(reason))
        if self._ending is not None:
            await asyncio.shield(self._ending)

    # --- data through the server

    async def send(self, data: Any) -> None:
        """Send data to everybody in the channel, through the server.

        Raises:
            MeteredPeerSendError: `not_joined`, or `invalid_args` for None and for an invalid peer id.
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
        if peer_id == self.peer_id:
            raise MeteredPeerSendError("self_send", "a peer cannot send to itself")
        if (signal := parse_signal(data)) is not None:
            self._logger.warning("send_to: data has the shape of a signal", {"shape": type(signal).__name__})
        await self._seat.send(peer_id, payload)

    # --- data between peers

    def open_channel(self, label: str, *, patience: float | None = PATIENCE, **options: Any) -> PeerChannel:
        """Open a channel to every current and future remote, or return the one that is open under this label.

        It is the same channel as the one that others open under the label, with this method or with
        `RemotePeer.open_channel`, which has the same options. It stays open until it is closed; a remote that joins
        later receives what is sent from then on. `patience` is for how many seconds a send waits for a connected remote
        that does not keep up; see `PeerChannel`.

        Raises:
            MeteredPeerStateError: `invalid_state`, leaving or closed.
            ValueError: options that do not fit.
        """
        self._require("change", "open_channel")
        by_remote = {remote: remote._channels for remote in self._remotes}
        return self._channels.open(label, ChannelOptions(**options), patience, by_remote)

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
        """Stop offering a method. Calls that run go on; unknown names are ignored."""
        self.rpc.remove(name)

    # --- media

    def add_stream(self, stream: MediaStream, metadata: StreamMetadata | None = None) -> None:
        """Send the tracks of a stream to every current and future peer. Raises like `add_track`.

        Nothing is attached if one of the tracks cannot be.
        """
        self._require("change", "add_stream")
        self._media.attach_stream(stream, metadata)

    def add_track(
        self, track: MediaStreamTrack, stream: MediaStream | None = None, metadata: StreamMetadata | None = None
    ) -> None:
        """Send a track to every current and future peer. Does nothing if it is attached with the same stream already.

        Raises:
            MeteredPeerStateError: `invalid_state` when leaving or closed; `track_already_attached` with another stream,
                or to one remote.
            MeteredPeerOversizedError: the metadata is too large; nothing was remembered.
            TypeError: not a track, a stream or a dict.
        """
        self._require("change", "add_track")
        self._media.attach([track], stream, metadata, "add_track")

    def remove_stream(self, stream: MediaStream) -> None:
        """Stop sending the tracks of a stream. Does nothing for an unknown one."""
        self._require("change", "remove_stream")
        self._media.detach_stream(stream)

    def remove_track(self, track: MediaStreamTrack) -> None:
        """Stop sending a track. Does nothing for an unknown one."""
        self._require("change", "remove_track")
        self._media.detach(track)

    def get_track_metadata(self, track: MediaStreamTrack) -> StreamMetadata | None:
        """Return a copy of the metadata that a track was attached with, None if it has none."""
        return self._media.metadata_of(track)

    def get_stream_metadata(self, stream: MediaStream) -> StreamMetadata | None:
        """Return a copy of the metadata of the first attached track of a stream."""
        return self._media.metadata_of_stream(stream)

    async def replace_track(self, old_track: MediaStreamTrack, new_track: MediaStreamTrack | None) -> None:
        """Replace a track by another one, or by nothing, for every peer and without negotiation.

        Raises:
            MeteredPeerStateError: `invalid_state` when reconnecting, leaving or closed; `track_already_attached`.
            MeteredPeerReplaceTrackError: it failed on some peers, which go on receiving the old track.
            TypeError: `old_track` is None or `new_track` is no track.
            ValueError: the tracks are of different kinds.
        """
        self._require("replace", "replace_track")
        self._media.replace(old_track, new_track)

    # --- files

    async def send_file(
        self,
        path: str | Path,
        *,
        name: str | None = None,
        progress: ProgressFn | None = None,
        patience: float | None = None,
    ) -> dict[str, TransferResult | FileTransferError]:
        """Send a file to everybody in the channel now, and return the result or the error of each by peer id.

        The file is read once and sent to each remote at its own pace. `name` is its name at the other end, by default
        its own. `progress` is called with a `TransferProgress`, often. `patience` is for how many seconds a remote may
        be away, 60 by default. See also `RemotePeer.send_file`.

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
        """Receive files into a directory from now on. Use the receiver with `async with`; `async for` yields each
        `FileReceived`.

        Emits `FileOffered`, `FileReceived` and `FileFailed` on this peer and on the remote. `accept`, plain or async,
        is called with the `FileOffered` and returns whether to accept it; by default every file of up to `max_size`
        bytes is accepted, 16 GiB by default. Names are made safe and never overwrite a file. Interrupted files are
        resumed, also after a restart of the program.

        Raises:
            MeteredPeerStateError: `invalid_state`, files are received already.
            OSError: the directory cannot be created.
        """
        return self._files.receive(directory, accept, max_size, progress)

    # --- stats

    def stats(self) -> PeerStats:
        """Return the current stats of every remote, and their sums. See `RemotePeer.stats`."""
        return peer_stats(self._life, self._remotes, self._seat, self._connections.set_ups, self._media.tracks_failed)

    # --- inside: joining

    def _new_client(self, options: SignallingClientOptions) -> SignallingClient:
        return SignallingClient(replace(options, auto_resubscribe=True))

    async def _abandon_join(self, error: BaseException) -> None:
        if not self._life.forget_channel():
            return
        self._early.clear()
        try:
            await self._seat.abandon(error)
        finally:
            self._perform(self._life.join_failed())

    # --- inside: events of the client

    def _on_connected(self, event: Connected) -> None:
        self._permission.ask_again(is_reachable=False)
        self._perform(self._life.connected(event.peer_id, is_alone=not self._remotes))

    def _on_disconnected(self, event: Disconnected) -> None:
        if event.will_reconnect:
            self._perform(self._life.connection_lost())
            return
        is_dialling = self._seat.client.state == "connecting"
        lacks_token = event.reason == TOKEN_PROVIDER_FAILED
        told = {"lacks_token": lacks_token, "is_dialling": is_dialling}
        self._perform(self._life.disconnected(event.code, event.reason, **told, err=event.err))

    def _on_client_state(self, event: StateChange) -> None:
        if event.to == "closed":
            self._perform(self._life.client_closed())

    def _on_server_error(self, event: ServerError) -> None:
        if event.code in FATAL_ERROR_CODES and event.request_id is None:
            self.emit(FatalError(ServerRequestError(event.code, event.message), event.code))

    def _on_subscription_lost(self, event: SubscriptionLost) -> None:
        if event.channel == self.channel:
            self.emit(FatalError(event.err, getattr(event.err, "code", "subscription_lost")))

    def _on_token_refreshed(self, _: TokenRefreshed) -> None:
        """Send again what the server has refused: a new token may permit it."""
        self._permission.ask_again(is_reachable=self.state == "joined")
        self._remotes.retry()

    def _on_message(self, event: Message) -> None:
        if event.channel == self.channel and event.sender_peer_id != self.peer_id:
            self.emit(Data(event.sender_peer_id, event.data, "broadcast", event.sender_metadata))

    def _on_messages_lost(self, event: MessagesLost) -> None:
        if self._life.is_in_channel and event.channel in (None, self.channel):
            self.emit(event)

    def _on_direct(self, event: Direct) -> None:
        if not self._life.is_in_channel:
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
        if event.channel != self.channel or not self._life.is_in_channel:
            return
        is_snapshot = self._remotes.awaits_snapshot
        self._remotes.update(event.joined, event.left)
        if is_snapshot:
            self._perform(self._life.snapshot())

    # --- inside: what the remotes need and report

    def _make_remote(self, peer: PresencePeer) -> RemotePeer:
        remote = RemotePeer(
            id=peer.peer_id,
            connection=self._connect,
            send=self.send_to,
            metadata=peer.metadata,
            logger=self._logger,
            polite=self._is_polite_towards(peer.peer_id),
            owner=self,
        )
        if not remote.polite:
            remote._hold_back(MEETING_TIME)
            if self._media.is_any:
                remote._greet()
        return remote

    def _send_metadata_to(self, remote: RemotePeer) -> None:
        self._own_name.tell(remote)
        self._media.tell_metadata(remote)

    def _stream_opened(self, event: StreamOpened) -> bool:
        is_wanted = listens_for(self, StreamOpened)
        self.emit(event)
        return is_wanted

    def _remote_joined(self, remote: RemotePeer) -> None:
        self._channels.remote_joined(remote, remote._channels)
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
        if self.state == "reconnecting" or self._permission.is_refused:
            connection.set_reachable(False)
        return connection

    def _connection_class(self) -> type[RemoteConnection]:
        return connection_class()

    def _is_polite_towards(self, peer_id: str) -> bool:
        return self.peer_id is not None and self.peer_id < peer_id

    # --- inside: media

    def _tell_metadata(self, remote: RemotePeer, signal: MetadataSignal) -> None:
        self._spawn(remote._tell(signal, self._seat.send_signal))

    # --- inside: checks, state, the end

    def _payload(self, data: Any) -> Raw:
        if self.state != "joined":
            raise MeteredPeerSendError("not_joined", f"the peer is {self.state}, not joined")
        if data is None:
            raise MeteredPeerSendError("invalid_args", "data must not be None")
        return self._seat.encode(data)

    def _require(self, what: Method, method: str) -> None:
        if not self._life.allows(what):
            raise MeteredPeerStateError(
                "invalid_state", method, f"{method}() does not fit the state {self.state}", self.state
            )

    def _perform(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case ShowState(previous, state):
                    if state == "closed" or (state == "idle" and not self._seat.is_open):
                        self._lifetime.end()
                    self.emit(StateChange(previous, state))
                case ExpectSnapshot(peer_id):
                    self._remotes.expect_snapshot(peer_id)
                case AnnounceJoined(peer_id, channel):
                    self.emit(Joined(peer_id, channel))
                    self._early.release()
                case StartOver():
                    for remote in self._remotes:
                        remote._start_over(self._is_polite_towards(remote.id))
                case ServerLost():
                    self._remotes.set_signalling_lost(True)
                case AskForSnapshot():
                    self._watch.start()
                case ServerBack():
                    self._watch.stop()
                    self._remotes.set_signalling_lost(False)
                case ReportFatal(close_code, reason, code, err):
                    self.emit(FatalError(err or ConnectionEndedError(close_code, reason), code))
                case Leave():
                    self._leaving = asyncio.ensure_future(self._leave())
                case End():
                    self._ending = asyncio.ensure_future(self._end())
                case AnnounceLeft(peer_id, channel, reason):
                    self.emit(Left(peer_id, channel, reason))

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _leave(self) -> None:
        try:
            await self._clear_channel(self._seat.leave(), CLOSE_TIMEOUT)
            self._connections.forget_certificate()
            self._perform(self._life.left())
        finally:
            self._leaving = None

    async def _end(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + CLOSE_TIMEOUT - CANCEL_GRACE
        if self._leaving is not None:
            await asyncio.wait([self._leaving], timeout=CLOSE_TIMEOUT / 2)
        self._ice_servers.close()
        self._spawn(self._media.close())
        self._channels.close()
        self._spawn(self._files.close())
        await self._clear_channel(self._seat.close(), deadline - loop.time())
        self._perform(self._life.ended())
        await self._shut_down_emitter(max(0.0, deadline - loop.time()), CANCEL_GRACE)
        self._ending = None

    async def _clear_channel(self, farewell: Coroutine[Any, Any, None], timeout: float) -> None:
        """Remove every remote, leave the channel at the server, and wait for both."""
        self._watch.stop()
        self._remotes.clear()
        self._early.clear()
        self._spawn(farewell)
        await asyncio.wait(self._tasks, timeout=timeout)
