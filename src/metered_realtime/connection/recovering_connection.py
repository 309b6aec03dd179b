"""One `PeerConnection` at a time: made when first needed, repaired or replaced when it fails, each in its turn.

`core.negotiation.connection_recovery` decides; this makes, watches and closes the connections, and gathers candidates.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from ..aiortc_compat.gathering import is_usable
from ..core.negotiation.candidates import MAX_REMOTE_CANDIDATES
from ..core.negotiation.connection_recovery import (
    ConnectionLost,
    ConnectionRecovery,
    Effect,
    Exhausted,
    RecoveryPhase,
    Repair,
    ReplaceConnection,
    RestartIce,
)
from ..core.negotiation.signals import CandidateSignal
from ..errors import IceRecoveryExhaustedError, MeteredRealtimeError, NegotiationFailedError
from ..log import Logger
from ..options import PeerConnectionState
from .ice_servers import IceServers, choose
from .interfaces import AnyPeerConnection, ConnectionObserver, MakePeerConnection, PeerConnectionObserver, Signaller
from .sections import Incoming
from .set_ups import SetUps
from .timers import Timers
from .turn_taking import TurnTaking

LEAVING_GRACE = 1.0
"""Seconds to wait for the news that a remote which closed its connection has left, before a new one is made. A remote
that replaced its connection does not wait: it offers the new one."""


class RecoveryObserver(Protocol):
    """Handles what concerns the negotiation."""

    @property
    def is_replacing(self) -> bool:
        """Whether a new connection is decided on, so that what happens to the old one is of no consequence."""

    def came_up(self) -> None: ...
    def repair_due(self) -> None: ...
    def send_candidate(self, candidate: CandidateSignal) -> None: ...


class RecoveringConnection(PeerConnectionObserver):
    """The connection underneath a negotiation.

    Attributes:
        current: The connection in use, None until it is first needed.
        generation: How many connections there were.
        is_foreign: Whether the remote is another implementation, which understands a restart of ICE, and keeps its
            connection when this end makes a new one. None until it has sent a description.
    """

    def __init__(
        self,
        observer: ConnectionObserver,
        negotiation: RecoveryObserver,
        make: MakePeerConnection,
        *,
        signaller: Signaller,
        ice_servers: IceServers,
        set_ups: SetUps,
        logger: Logger,
    ) -> None:
        self.current: AnyPeerConnection | None = None
        self.generation = 0
        self.is_foreign: bool | None = None
        self._observer = observer
        self._negotiation = negotiation
        self._make = make
        self._signaller = signaller
        self._ice_servers = ice_servers
        self._logger = logger
        self._loop = asyncio.get_running_loop()
        self._recovery = ConnectionRecovery()
        self._shown: PeerConnectionState = "idle"
        self._turn = TurnTaking(set_ups)
        self._timers = Timers()
        self._gathering: AnyPeerConnection | None = None
        self._early_candidates = 0
        self._tasks: set[asyncio.Future[Any]] = set()
        self._closing: set[asyncio.Future[None]] = set()

    @property
    def state(self) -> PeerConnectionState:
        """`idle`, `connecting`, `connected`, `reconnecting` or `closed`."""
        return self._recovery.state

    @property
    def is_connected(self) -> bool:
        """Whether media and data flow."""
        return self.current is not None and self.current.pc.connectionState == "connected"

    @property
    def can_restart_ice(self) -> bool:
        """Whether another path can be looked for under the same connection. Between ends of this project a new one is
        as fast, and their channels survive it."""
        return self.current is not None and self.is_foreign is True and self.current.can_restart_ice

    def ensure(self) -> AnyPeerConnection:
        """Return the connection in use, and make it if there is none.

        Raises:
            MeteredRealtimeError: the connection to the remote is closed.
        """
        if self.current is None:
            if self.state == "closed":
                raise MeteredRealtimeError("the connection is closed")
            self.generation += 1
            # A foreign end takes the same certificate with another user fragment for a restart of ICE, and waits for
            # the DTLS that it knows.
            self.current = self._make(
                self,
                has_servers=self._ice_servers.may_have_any,
                relay_only=self._ice_servers.policy == "relay",
                is_shared=not self.is_foreign or self.generation == 1,
            )
        return self.current

    # --- its turn among the connections of a peer

    def when_free(self, action: Callable[[], None]) -> None:
        """Call a function that needs a connection: now if there is one, or room for another, else in its turn."""
        if self.current is not None:
            action()
        else:
            self._turn.when_granted(action)

    async def _take_turn(self) -> None:
        """Wait until the connection may open its sockets."""
        if self.current is None or self._gathering is not self.current:
            await self._turn.wait()

    # --- negotiation

    async def prepare(self) -> AnyPeerConnection:
        """Return the connection for an offer or an answer, with the candidates that cost nothing.

        Those of STUN and TURN servers are sent as they come.
        """
        self._recovery.negotiating()
        self._show_state()
        await self._take_turn()
        peer_connection = self._gathering = self.ensure()
        await peer_connection.gather_host()
        if peer_connection.claim_server_gathering():
            self.spawn(self._trickle(peer_connection))
        return peer_connection

    def negotiated(self) -> None:
        """Give the negotiated connection a limited time to come up."""
        peer_connection = self.ensure()
        if self.is_foreign:
            peer_connection.outlive_its_path()
        if not self.is_connected:
            self._recovery.negotiated(self._loop.time())
            self._set_timer()

    def not_negotiated(self) -> None:
        """Wait no longer: the answer cannot be delivered, and nothing can come up."""
        self._recovery.not_negotiated()
        self._set_timer()

    def offered(self) -> None:
        """Handle an offer of the remote."""
        self._recovery.offered()

    # --- candidates

    async def add_candidate(self, signal: CandidateSignal) -> None:
        """Take a candidate of the remote. What is wrong with it is reported to the observer."""
        try:
            if self.current is None:
                await self._wait_with_candidate()
            await self.ensure().add_candidate(signal.candidate, signal.ufrag)
        except Exception as error:  # looking for the name of one may fail in any way
            self._observer.candidate_refused(error)

    async def _wait_with_candidate(self) -> None:
        if self._early_candidates >= MAX_REMOTE_CANDIDATES:
            raise ValueError(f"more than {MAX_REMOTE_CANDIDATES} candidates before the connection")
        self._early_candidates += 1
        try:
            await self._take_turn()
        finally:
            self._early_candidates -= 1

    async def _trickle(self, peer_connection: AnyPeerConnection) -> None:
        """Send the candidates of STUN and TURN servers, then the end marker."""
        # IPv6 literals, for instance, are not usable. Each attempt takes other servers than the last one did.
        servers = choose(await self._ice_servers.usable(is_usable), self._recovery.attempts)
        candidates = await peer_connection.gather_rest(servers)
        if peer_connection is self.current and self.state != "closed":
            self.send_candidates(candidates)
            self._negotiation.send_candidate(CandidateSignal(None))

    def send_candidates(self, candidates: Sequence[str]) -> None:
        """Send candidates of the connection in use."""
        peer_connection = self.ensure()
        for it in candidates:
            self._negotiation.send_candidate(
                CandidateSignal(it, peer_connection.transport_mid, 0, peer_connection.local_ufrag)
            )

    # --- recovery

    def verify(self) -> None:
        """Check that the remote is still the one at the other end, and replace the connection if not."""
        if self.current is not None:
            self.spawn(self._verify(self.current))

    async def _verify(self, peer_connection: AnyPeerConnection) -> None:
        if not await peer_connection.is_alive() and peer_connection is self.current:
            self.rebuild("the other end does not answer")

    def start_over(self, reason: str) -> None:
        """Replace the connection at once, unless none was needed so far."""
        self._perform(self._recovery.start_over(reason))

    def fail(self, reason: str, least_delay: float = 0.0) -> None:
        """Handle a failure of the connection: it is repaired in that many seconds at the earliest."""
        self._perform(self._recovery.failed(self._loop.time(), reason, least_delay=least_delay))

    def rebuild(self, reason: str) -> None:
        """Handle a failure after which another path under the same connection will not do."""
        self._recovery.must_rebuild = True
        self.fail(reason)

    @property
    def is_repair_due(self) -> bool:
        """Whether `begin_repair` is to be called as soon as no operation is under way."""
        return self._recovery.phase is RecoveryPhase.DUE

    def begin_repair(self) -> RestartIce | ReplaceConnection | None:
        """Return what to do about the repair that is due, None if it is not due any more."""
        return self._recovery.begin(can_restart_ice=self.can_restart_ice)

    def replace(self, reason: str) -> None:
        """Close the connection in use and make another one."""
        self._logger.info("connection replaced", {"reason": reason})
        old, self.current = self.current, None
        self._recovery.replaced()
        self._set_timer()
        new = self.ensure()
        if old is not None:
            new.inherit_candidates(old.held_candidates)
            if self.is_foreign is not False:
                new.inherit_layout(old.layout)
            closing = asyncio.ensure_future(old.close())
            self._turn.count(closing)
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
            self._show_state()  # the remote may have noticed first that the old one is dead
            self._observer.connection_reset()

    def peer_connection_state_changed(self, peer_connection: AnyPeerConnection, state: str) -> None:
        """Handle another `connectionState` (W3C WebRTC, RTCPeerConnectionState)."""
        if peer_connection is not self.current or self.state == "closed" or self._negotiation.is_replacing:
            return
        if state == "connected":
            if self._recovery.connected(self._loop.time()):
                self._set_timer()
                self._turn.end()
                self._show_state()
                self._negotiation.came_up()
        elif state == "failed" and peer_connection.failure is not None:
            self._observer.negotiation_failed(NegotiationFailedError(peer_connection.failure))
            self.fail(peer_connection.failure)
        elif state in ("failed", "closed"):
            # Expired consent and a DTLS close by the remote go straight to closed. The latter is also how a remote
            # leaves, and the server says so within moments.
            self.fail(f"the connection is {state}", LEAVING_GRACE if state == "closed" else 0.0)

    def _perform(self, effects: Sequence[Effect]) -> None:
        self._set_timer()
        self._show_state()
        for effect in effects:
            match effect:
                case ConnectionLost(reason, retry_in):
                    self._turn.end()
                    self._signaller.connection_lost()
                    self._logger.info("connection failed", {"reason": reason, "retry_in": retry_in})
                case Exhausted(attempts, seconds):
                    self._observer.negotiation_failed(IceRecoveryExhaustedError(attempts, seconds))
                case Repair():
                    self._negotiation.repair_due()

    def _set_timer(self) -> None:
        self._timers.set("recovery", self._recovery.deadline, self._on_timer)

    def _on_timer(self) -> None:
        self._perform(self._recovery.timer(self._loop.time()))

    def _show_state(self) -> None:
        if self.state != self._shown:
            self._shown = self.state
            self._observer.state_changed(self._shown)

    # --- what the connection in use reports

    def tracks_changed(self, removed: Sequence[Incoming], added: Sequence[Incoming]) -> None:
        """Report what the remote stopped and began to send."""
        self._observer.tracks_changed(removed, added)

    def section_declined(self, mid: str, reason: str) -> None:
        """Report that something of the remote cannot be received."""
        self._observer.negotiation_failed(NegotiationFailedError(f"section {mid!r} of the remote declined: {reason}"))

    def candidate_refused(self, error: Exception) -> None:
        """Report a candidate that is not taken."""
        self._observer.candidate_refused(error)

    def channel_opened(self, channel: Any) -> None:
        """Report a data channel that the remote opened."""
        self._observer.channel_opened(channel)

    # --- the end

    async def close(self, pending: Sequence[asyncio.Future[Any]] = ()) -> None:
        """End for good, with the tasks of the negotiation. Takes `peer_connection.CLOSE_TIMEOUT` at the most."""
        self._recovery.close()
        self._timers.close()
        running = [task for task in (*pending, *self._tasks) if not task.done()]
        for task in running:
            task.cancel()
        self._turn.close()
        if self.current is not None:
            closing = asyncio.ensure_future(self.current.close())
            self._turn.count(closing)
            await closing
        if running or self._closing:
            await asyncio.wait([*running, *self._closing], timeout=1.0)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run something that `close` cancels."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
