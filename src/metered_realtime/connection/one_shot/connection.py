"""A connection whose program carries the descriptions: no channel, no politeness, no second connection in its place.

`core.negotiation.one_shot_lifecycle` decides when it is lost; `PeerConnection` does the rest.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ...aiortc_compat.version import check_version
from ...core.negotiation.ice_fragment import fragment_of
from ...core.negotiation.one_shot_lifecycle import OneShotLifecycle
from ...core.negotiation.sharing import Sharing
from ...emitter import AsyncEventEmitter
from ...errors import ConnectionLostError, MeteredPeerStateError, NegotiationFailedError
from ...events import (
    ConnectionClosed,
    DataChannelOpened,
    IceCandidateError,
    LocalTrackEnded,
    NegotiationError,
    StateChange,
)
from ...events.emitted import BY_ONE_SHOT
from ...lifetime import Lifetime
from ...log import Logger
from ...media.stream import MediaStream
from ...options import (
    DEFAULT_TUNING,
    IceServerConfig,
    IceServersOption,
    IceTransportPolicy,
    PeerConnectionState,
    Tuning,
)
from ...signalling.scrubbing import scrubbing
from ..interfaces import AnyPeerConnection, PeerConnectionObserver
from ..offer import OfferPlan
from ..remote_description import RemoteDescription
from ..remote_media import RemoteMedia
from ..sections import Incoming
from ..stats import ConnectionStats
from ..timers import Timers
from .descriptions import KnownRemote, usable_answer, usable_description, usable_fragment
from .local_tracks import LocalTracks, checked_tracks
from .peer_connection import OneShotPeerConnection, check_receive
from .server_gathering import ServerGathering

if TYPE_CHECKING:
    from aiortc import MediaStreamTrack, RTCDataChannel, RTCPeerConnection

    from ...media.receiving.remote_track import RemoteTrack

CLOSE_TIMEOUT = 2.0
"""Seconds that `close` may take altogether: the connection, the encoders, then the handlers that still run."""


class OneShotConnection(AsyncEventEmitter, PeerConnectionObserver):
    """One WebRTC connection to any end, whose descriptions and candidates the program carries itself.

    Either this end offers (`create_offer`, `accept_answer`) or the other end does (`accept_offer`). Both may be
    repeated, in any order, to change what is sent and received. Create it in a running event loop, and close it.

    Nothing is offered beside what is asked for: a section for each of `tracks`, one for each kind in `receive`
    (`"audio"`, `"video"`), which shares the section of a track of its kind where there is one, and a data section with
    `data`. Answers take whatever the other end sends, and send the tracks in the sections that it offers.

    The tracks belong to the caller and stay open. They are sent in one stream: that of the `MediaStream`, if one is
    given in the place of a list. A track that several connections send is encoded once for all of them. One that gives
    encoded packets, such as a `RemoteTrack`, is passed on.

    `ice_servers` are the STUN and TURN servers, of which one of each kind is asked; None waits for `use_ice_servers`.
    With `ice_transport_policy` `relay` only relayed candidates are used. Descriptions have the host candidates, and
    `LocalCandidate` events bring those of the servers.

    When the other end stops answering, the connection ends after about 6 s. With a `restart_window` it becomes
    `reconnecting` instead, for that many seconds, and returns to `connected` if ICE is restarted by either end.

    Events: `StateChange`, `Track`, `TrackEnded`, `StreamAdded`, `StreamRemoved`, `PictureRefused`, `LocalCandidate`,
    `LocalTrackEnded`, `DataChannelOpened`, `IceCandidateError`, `NegotiationError` for sections that cannot be
    received, and `ConnectionClosed` as the last one.

    Raises:
        ImportError: aiortc is a release that is not supported.
        RuntimeError: no event loop is running.
        TypeError: something in `tracks` is not a track, or in `ice_servers` not an `IceServerConfig`.
        ValueError: `receive` names another kind or too many, an unknown policy, or a `restart_window` below 0.
    """

    _EMITS = BY_ONE_SHOT

    def __init__(
        self,
        tracks: Iterable[MediaStreamTrack] | MediaStream = (),
        *,
        receive: Sequence[str] = (),
        data: bool = False,
        ice_servers: IceServersOption | None = (),
        ice_transport_policy: IceTransportPolicy = "all",
        restart_window: float = 0.0,
        tuning: Tuning = DEFAULT_TUNING,
        logger: Logger | None = None,
    ) -> None:
        check_version()
        check_receive(receive)
        first = checked_tracks(tracks)
        if not restart_window >= 0:
            raise ValueError(f"restart_window must be 0 or more, not {restart_window!r}")
        super().__init__(scrubbing(logger))
        self._loop = asyncio.get_running_loop()
        self.id = uuid.uuid4().hex
        self.error: ConnectionLostError | None = None
        self._lifecycle = OneShotLifecycle(restart_window)
        self._shown: PeerConnectionState = "idle"
        self._gathering = ServerGathering(ice_servers, ice_transport_policy, self.emit, self._logger)
        stream = tracks if isinstance(tracks, MediaStream) else None
        self._local = LocalTracks(stream, self._logger, self._track_ended)
        self._media = RemoteMedia(self.emit)
        self._pc = OneShotPeerConnection(
            self,
            self._logger,
            receive=receive,
            offers_data=data,
            has_servers=self._gathering.may_have_servers,
            relay_only=ice_transport_policy == "relay",
            tuning=tuning,
        )
        self._lock = asyncio.Lock()
        self._timers = Timers()
        self._pending: tuple[OfferPlan, str] | None = None
        self._remote: KnownRemote | None = None
        self._ending: asyncio.Task[None] | None = None
        self._lifetime = Lifetime(self, self.close)
        self._lifetime.begin()
        for track in first:
            self._local.add(track)

    def __repr__(self) -> str:
        return f"<OneShotConnection {self.state} sending={len(self._local)} receiving={len(self.tracks)}>"

    @property
    def state(self) -> PeerConnectionState:
        """`idle`, `connecting`, `connected`, `reconnecting` while another path is looked for, or `closed`."""
        return self._lifecycle.state

    @property
    def pc(self) -> RTCPeerConnection:
        """aiortc's connection."""
        return self._pc.pc

    @property
    def tracks(self) -> list[RemoteTrack]:
        """The tracks that the other end sends, in the order of their sections."""
        return [incoming.track for incoming in self._media.incoming]

    @property
    def incoming_tracks(self) -> list[RemoteTrack]:
        """The same, under the name that `Recorder.follow` takes."""
        return self.tracks

    @property
    def streams(self) -> list[MediaStream]:
        """The streams that the other end sends, in the order in which they came."""
        return self._media.streams

    # --- what is sent

    def add_track(self, track: MediaStreamTrack) -> None:
        """Send another track, from the next offer or answer on. Does nothing if it is being sent already.

        Raises:
            TypeError: it is not a track.
            MeteredPeerStateError: the connection is closed.
        """
        self._require_open("add_track")
        self._local.add(*checked_tracks([track]))

    def remove_track(self, track: MediaStreamTrack) -> None:
        """Stop sending a track at once. Its section stays, and is described as idle from the next offer on."""
        if self._local.remove(track):
            self._pc.release(self._local.outgoing)

    def replace_track(self, old: MediaStreamTrack, new: MediaStreamTrack) -> None:
        """Send a track in the place of another of its kind, without negotiation. The other end sees the same track.

        Raises:
            TypeError: `new` is not a track.
            ValueError: the kinds differ, `old` is not being sent, or `new` is being sent already.
        """
        self._pc.replace(*self._local.replace(old, *checked_tracks([new])))

    def create_data_channel(self, label: str, **options: Any) -> RTCDataChannel:
        """Create a data channel, with the options of aiortc's `createDataChannel`. `DataChannel` makes it convenient.

        Raises:
            MeteredPeerStateError: the connection is closed, or neither its offers nor those of the other end have a
                data section.
        """
        self._require_open("create_data_channel")
        if not (self._pc.offers_data or self._pc.data_negotiated):
            raise self._state_error("create_data_channel", "no data section: create the connection with data=True")
        return self._pc.create_data_channel(label, options)

    # --- descriptions

    async def create_offer(self, *, trickle: bool = True, restart_ice: bool = False) -> str:
        """Return an offer of everything that is to be sent and received. `accept_answer` takes its answer.

        Nothing changes before the answer, and another offer takes the place of one without an answer. Without `trickle`
        the servers are waited for, 5 s at most, and no `LocalCandidate` follows. With `restart_ice` the offer has new
        ICE credentials, with which another path is found.

        Raises:
            MeteredPeerStateError: the connection is closed, has never been up and cannot restart ICE, or has nothing
                to offer.
        """
        async with self._lock:
            self._require_open("create_offer")
            if restart_ice:
                await self._renew_ice("create_offer")
            await self._gathering.begin(self._pc, trickle=trickle)
            plan = self._pc.plan(self._local.outgoing)
            if not plan.sections:
                raise self._state_error("create_offer", "there is nothing to offer: no track, receive or data")
            text = self._pc.offer_text(plan)
            self._pending = plan, text
            self._pc.offer_sent()
            self._lifecycle.negotiating()
            self._show_state()
            return text

    async def accept_answer(self, sdp: str) -> None:
        """Apply the answer to the last offer. `tracks` then has what the other end sends.

        Raises:
            NegotiationFailedError: the answer cannot be used, and the offer still waits for one; or it could be applied
                only in part, and the connection is closed.
            MeteredPeerStateError: no offer waits for an answer.
        """
        async with self._lock:
            self._require_open("accept_answer")
            await self._accept_answer(sdp, "accept_answer")

    async def accept_offer(self, sdp: str, *, trickle: bool = True) -> str:
        """Apply an offer of the other end, and return the answer. `tracks` then has what the other end sends.

        An offer of this end that waits for its answer is forgotten. Without `trickle` the answer has every candidate,
        see `create_offer`. New ICE credentials of the other end restart ICE.

        Raises:
            NegotiationFailedError: the offer cannot be used, and nothing has changed; or it could be applied only in
                part, and the connection is closed.
            MeteredPeerStateError: the connection is closed.
        """
        async with self._lock:
            self._require_open("accept_offer")
            return await self._accept_offer(sdp, trickle=trickle)

    # --- candidates, and other paths

    @property
    def waits_for_ice_servers(self) -> bool:
        """Whether `use_ice_servers` is still to name the servers."""
        return self._gathering.is_waiting

    def use_ice_servers(self, servers: Sequence[IceServerConfig]) -> None:
        """Ask these STUN and TURN servers, if the connection was created with `ice_servers=None`.

        Raises:
            MeteredPeerStateError: it was given servers when it was created, or earlier by this method.
        """
        if not self._gathering.is_waiting:
            raise self._state_error("use_ice_servers", "the ICE servers are known already")
        self._gathering.use(servers)

    async def add_candidate(self, candidate: str | None, ufrag: str | None = None) -> None:
        """Add a candidate of the other end as a `candidate:...` line, or None after its last one.

        `ufrag` is the user fragment that came with it, if any: a candidate of other credentials waits for these.

        Raises:
            ValueError: it cannot be parsed, is refused, or is one too many.
        """
        if self.state != "closed":
            await self._pc.add_candidate(candidate, ufrag)

    async def add_fragment(self, text: str) -> str | None:
        """Apply a fragment of the other end (`application/trickle-ice-sdpfrag`, RFC 8840): candidates, or a restart.

        New credentials restart ICE: then the fragment of this end is returned, which answers it.

        Raises:
            NegotiationFailedError: the fragment cannot be used.
            ValueError: a candidate is refused; the others are added.
            MeteredPeerStateError: nothing is negotiated yet.
        """
        async with self._lock:
            known, fragment = self._known_remote("add_fragment"), usable_fragment(text)
            if fragment.ufrag in (None, known.ufrag):
                await self._pc.add_candidates_of(fragment)
                return None
            return fragment_of(await self._accept_offer(known.restarted(fragment), trickle=True))

    async def create_restart(self) -> str:
        """Return a fragment with new ICE credentials of this end, to restart ICE. `accept_restart` takes its answer.

        Raises:
            MeteredPeerStateError: the connection is closed, or has never been up.
        """
        return fragment_of(await self.create_offer(restart_ice=True))

    async def accept_restart(self, text: str) -> None:
        """Apply the fragment that answers that of `create_restart`.

        Raises:
            NegotiationFailedError: it cannot be used, or could be applied only in part.
            MeteredPeerStateError: no restart waits for an answer.
        """
        async with self._lock:
            self._require_open("accept_restart")
            answer = self._known_remote("accept_restart").restarted(usable_fragment(text))
            await self._accept_answer(answer, "accept_restart")

    # --- the life of the connection

    async def wait_connected(self) -> None:
        """Return once the connection is up: within 15 s of its descriptions, if the other end can be reached.

        Raises:
            ConnectionLostError: it has ended by itself.
            MeteredPeerStateError: the program has closed it.
        """
        async with self.events(StateChange) as changes:
            while self.state not in ("connected", "closed"):
                await anext(changes)
        if self.error is not None:
            raise self.error
        self._require_open("wait_connected")

    async def wait_closed(self) -> None:
        """Return once the connection is closed, also in a handler of an event.

        Raises:
            ConnectionLostError: it has ended by itself.
        """
        async with self.events(StateChange) as changes:
            while self.state != "closed":
                await anext(changes)
        await self.close()
        if self.error is not None:
            raise self.error

    def stats(self) -> ConnectionStats:
        """Return the statistics of the connection. Cheap; each call is a sample for the rates."""
        measured = self._pc.totals() if self.state == "closed" else self._pc.stats()
        return ConnectionStats(self.state, **measured)

    async def is_alive(self) -> bool:
        """Ask the other end, by a STUN check, whether it is still there. Takes 1.5 s at the most."""
        return self.state != "closed" and await self._pc.is_alive()

    async def close(self) -> None:
        """End the connection. Idempotent; takes `CLOSE_TIMEOUT` at the most, also in a handler of an event."""
        self._enter_close()
        self._lifecycle.close()
        self._show_state()
        if self._ending is not None:
            await asyncio.wait([self._ending])

    async def __aenter__(self) -> OneShotConnection:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    # --- what the RTCPeerConnection reports

    def peer_connection_state_changed(self, peer_connection: AnyPeerConnection, state: str) -> None:
        """Handle another `connectionState` (W3C WebRTC, RTCPeerConnectionState)."""
        if state == "connected":
            self._lifecycle.connected()
        elif state == "failed":
            self._lifecycle.path_lost(self._loop.time(), can_restart=self._pc.can_restart_ice)
        elif state == "closed":
            self._lifecycle.gone()
        self._show_state()

    def tracks_changed(self, removed: Sequence[Incoming], added: Sequence[Incoming]) -> None:
        """Report what the other end stopped and began to send."""
        self._media.change(removed, added)

    def section_declined(self, mid: str, reason: str) -> None:
        """Report that something of the other end cannot be received."""
        self.emit(NegotiationError(NegotiationFailedError(f"section {mid!r} of the other end declined: {reason}")))

    def candidate_refused(self, error: Exception) -> None:
        """Report a candidate that is not taken."""
        self.emit(IceCandidateError(error))

    def channel_opened(self, channel: Any) -> None:
        """Report a data channel that the other end opened."""
        self.emit(DataChannelOpened(channel))

    # --- inside: negotiation

    async def _accept_answer(self, sdp: str, method: str) -> None:
        if self._pending is None:
            raise self._state_error(method, "no offer waits for an answer")
        plan, offer = self._pending
        answer = usable_answer(sdp, plan.mids, self._pc.kinds_of(plan))
        self._pending = None
        await self._apply(self._pc.commit(plan, offer, answer, self._local.outgoing))
        self._negotiated(answer, offer)

    async def _accept_offer(self, sdp: str, *, trickle: bool) -> str:
        offer = usable_description("offer", sdp, self._pc.mids)
        if self._pending is not None:
            self._pending = None
            self._pc.offer_forgotten()
        if self._remote is not None and offer.ufrag != self._remote.ufrag:
            await self._renew_ice("accept_offer")
        await self._gathering.begin(self._pc, trickle=trickle)
        answer, _ = await self._apply(self._pc.answer(offer, self._local.outgoing, sharing=Sharing.ONCE))
        self._negotiated(offer, answer)
        return str(answer)

    async def _apply(self, operation: Coroutine[Any, Any, Any]) -> Any:
        """Run an operation that leaves the connection unusable if it stops half-way."""
        try:
            return await operation
        except BaseException as error:
            self._require_open("close")
            self.error = self.error or ConnectionLostError("negotiation_failed", f"{type(error).__name__}: {error}")
            self.error.__cause__ = error
            self._lifecycle.failed()
            self._show_state()
            if not isinstance(error, Exception):
                raise  # cancelled
            raise NegotiationFailedError(f"the description cannot be applied: {error}") from error

    def _negotiated(self, remote: RemoteDescription, own: str) -> None:
        self._remote = KnownRemote.of(remote, own)
        self._pc.outlive_its_path()
        self._lifecycle.negotiated(self._loop.time())
        self._show_state()

    def _known_remote(self, method: str) -> KnownRemote:
        self._require_open(method)
        if self._remote is None:
            raise self._state_error(method, "nothing is negotiated yet")
        return self._remote

    # --- inside: ICE

    async def _renew_ice(self, method: str) -> None:
        if not self._pc.can_restart_ice:
            raise self._state_error(method, "ICE can be restarted only after the connection has been up")
        await self._gathering.renew(self._pc)

    # --- inside: state and end

    def _show_state(self) -> None:
        self._timers.set("deadline", self._lifecycle.deadline, self._on_deadline)
        state = self.state
        if state == self._shown:
            return
        if state == "closed":
            self._timers.close()
            loss = self._lifecycle.loss
            self.error = self.error or (ConnectionLostError(loss) if loss is not None else None)
            self._ending = asyncio.ensure_future(self._end())
        before, self._shown = self._shown, state
        self.emit(StateChange(before, state))
        if state == "closed":
            self.emit(ConnectionClosed(self.error))

    def _on_deadline(self) -> None:
        self._lifecycle.timer(self._loop.time())
        self._show_state()

    async def _end(self) -> None:
        deadline = self._loop.time() + CLOSE_TIMEOUT
        self._lifetime.end()
        parts = [self._gathering.close(), self._local.close(), self._pc.close()]
        await asyncio.wait([asyncio.ensure_future(part) for part in parts], timeout=CLOSE_TIMEOUT)
        await self._shut_down_emitter(max(0.0, deadline - self._loop.time()))

    def _track_ended(self, track: Any, error: BaseException | None) -> None:
        self.remove_track(track)
        self.emit(LocalTrackEnded(track, error))

    def _require_open(self, method: str) -> None:
        if self.state == "closed":
            raise self._state_error(method, "the connection is closed")

    def _state_error(self, method: str, why: str) -> MeteredPeerStateError:
        return MeteredPeerStateError("invalid_state", method, f"{method}(): {why}", self.state)
