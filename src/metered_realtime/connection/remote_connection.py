"""The connection to one remote over all its generations: negotiation, recovery, and what is sent.

A worker performs the negotiator's effects one after the other; it exists only while there are any. Everything that
happens outside (a signal, a change, a timer, a state of the link) is fed to the negotiator at once and never waits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from aiortc import RTCDataChannel, RTCPeerConnection

from ..aiortc_compat import peer_connection as compat
from ..core.negotiation import negotiator as n
from ..core.negotiation.candidates import MAX_REMOTE_CANDIDATES
from ..core.negotiation.connection_recovery import (
    ConnectionLost,
    ConnectionRecovery,
    Exhausted,
    Phase,
    Repair,
    ReplaceConnection,
    RestartIce,
)
from ..core.negotiation.connection_recovery import Effect as RecoveryEffect
from ..core.negotiation.delivery import DECLINED_SECTION_SIZE, concerns_everybody, is_final, last_sections
from ..core.negotiation.sdp import Description, DescriptionKind, SdpError, with_answer_tag
from ..core.negotiation.signals import CandidateSignal, DescriptionSignal, Signal
from ..errors import (
    DisconnectedError,
    IceRecoveryExhaustedError,
    MeteredPeerOversizedError,
    MeteredRealtimeError,
    NegotiationFailedError,
    NotConnectedError,
)
from ..log import Logger
from ..options import PeerConnectionState
from .ice_servers import IceServers, choose
from .offer import OfferPlan
from .offering import CheckSignal, DescriptionLimit, OfferWriter, new_tracks
from .peer_connection import PeerConnection
from .remote_description import admit
from .sections import Incoming, Outgoing
from .set_ups import SetUps
from .turn_taking import TurnTaking

LEAVING_GRACE = 1.0
"""Seconds to wait for the news that a remote which closed its connection has left, before a new one is made. A remote
that replaced its connection does not wait: it offers the new one."""

HELD_LONG = 0.5
"""Seconds after a change from which on its offer counts as held: what was said of it before may have been lost with a
client of the remote that was away in between. None comes back sooner."""

SendSignal = Callable[[Signal], Awaitable[None]]


class ConnectionObserver(Protocol):
    """What a connection tells."""

    def state_changed(self, state: PeerConnectionState) -> None: ...
    def tracks_changed(self, removed: Sequence[Incoming], added: Sequence[Incoming]) -> None: ...
    def channel_opened(self, channel: RTCDataChannel) -> None: ...
    def connection_reset(self) -> None: ...
    def negotiation_failed(self, error: Exception) -> None: ...
    def tracks_withheld(self, error: Exception, track_ids: Sequence[str]) -> None: ...
    def candidate_refused(self, error: Exception) -> None: ...
    def metadata_in_doubt(self) -> None: ...


class RemoteConnection:
    """One end of the connection to a remote. Idle until either end has something to send."""

    certificate_for_now = staticmethod(compat.certificate_for_now)

    def __init__(
        self,
        *,
        polite: bool,
        send_signal: SendSignal,
        ice_servers: IceServers,
        observer: ConnectionObserver,
        logger: Logger,
        link_lost: Callable[[], None] = lambda: None,
        certificate: compat.SharedCertificate | None = None,
        free_to_offer_at: float = 0.0,
        offer_held: Callable[[], None] = lambda: None,
        set_ups: SetUps | None = None,
        check_signal: CheckSignal = lambda signal: None,
    ) -> None:
        compat.check_version()
        self.generation = 0
        self._send_signal = send_signal
        self._limit = DescriptionLimit(check_signal)
        self._writer = OfferWriter(self._limit)
        self._ice_servers = ice_servers
        self._observer = observer
        self._logger = logger
        self._link_lost = link_lost
        self._offer_held = offer_held
        self._turn = TurnTaking(set_ups if set_ups is not None else SetUps())
        self._gathering: PeerConnection | None = None
        self._early_candidates = 0
        self._certificate = certificate
        self._loop = asyncio.get_running_loop()
        self._negotiator = n.Negotiator(polite=polite, holds_back=free_to_offer_at > self._loop.time())
        self._recovery = ConnectionRecovery()
        self._shown: PeerConnectionState = "idle"
        self._outgoing: dict[Any, Outgoing] = {}
        self._peer_connection: PeerConnection | None = None
        self._plan: OfferPlan | None = None
        self._uncommitted_offers = 0
        self._changed_at: float | None = None
        self._answered_generation = 0
        self._delivered_offer = ""
        self._effects: deque[n.Effect] = deque()
        self._is_foreign = False
        self._worker: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Future[Any]] = set()
        self._closing: set[asyncio.Future[None]] = set()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._arm("release", free_to_offer_at or None, self.release)

    @property
    def state(self) -> PeerConnectionState:
        """`idle`, `connecting`, `connected`, `reconnecting` or `closed`."""
        return self._recovery.state

    @property
    def polite(self) -> bool:
        """Whether this end gives way in a collision."""
        return self._negotiator.polite

    @property
    def pc(self) -> RTCPeerConnection:
        """Return aiortc's connection of the current generation; it is created when first needed."""
        return self._ensure_peer_connection().pc

    # --- what is sent

    def attach(self, key: Any, outgoing: Outgoing) -> None:
        """Send a track from now on. Needs a negotiation."""
        self._outgoing[key] = outgoing
        self._change()

    def detach(self, key: Any, *, negotiate: bool = True) -> bool:
        """Stop sending a track at once, and tell the remote now or with the next negotiation.

        False if it was not being sent.
        """
        if self._outgoing.pop(key, None) is None:
            return False
        if self._peer_connection is not None:
            self._peer_connection.release(self._outgoing)
            if negotiate:
                self._change()
        return True

    def replace(self, key: Any, new_key: Any, outgoing: Outgoing) -> bool:
        """Send another track in the place of one, without a negotiation. False if it was not being sent."""
        old = self._outgoing.pop(key, None)
        if old is None:
            return False
        self._outgoing[new_key] = outgoing
        if self._peer_connection is not None:
            self._peer_connection.replace(old, outgoing)
        return True

    def carries(self, key: Any) -> bool:
        """Tell whether a track is being sent, or is to be."""
        return key in self._outgoing

    def create_data_channel(self, label: str, **options: Any) -> RTCDataChannel:
        """Open a data channel. It opens in-band once the connection is up."""
        peer_connection = self._ensure_peer_connection()
        channel = peer_connection.create_data_channel(label, options)
        if not peer_connection.data_negotiated:
            self._change()
        return channel

    # --- its turn among the connections of a peer

    def when_free(self, action: Callable[[], None]) -> None:
        """Call a function that needs a connection: now if there is one, or room for another, else in its turn."""
        if self._peer_connection is not None:
            action()
        else:
            self._turn.when_granted(action)

    async def _take_turn(self) -> None:
        """Wait until the connection may open its sockets."""
        if self._peer_connection is None or self._gathering is not self._peer_connection:
            await self._turn.wait()

    # --- the way to the remote

    def release(self) -> None:
        """Hold the first offer back no more. `free_to_offer_at` is when that happens by itself."""
        self._disarm("release")
        self._feed(self._negotiator.release(self._loop.time()))

    def retry(self) -> None:
        """Send what the server refused for good: its rules for this end may have changed."""
        self._feed(self._negotiator.retry(self._loop.time()))

    def set_reachable(self, reachable: bool) -> None:
        """Note whether signals can be sent. While they cannot, nothing is negotiated and no offer counts as lost."""
        if reachable:
            self._feed(self._negotiator.resume(self._loop.time()))
        else:
            self._negotiator.pause()
            self._disarm("offer")

    @property
    def is_connected(self) -> bool:
        """Tell whether media and data flow, whatever the server is doing."""
        return self._peer_connection is not None and self._peer_connection.pc.connectionState == "connected"

    def verify(self) -> None:
        """Find out whether the remote is still the one at the other end, and replace the connection if not."""
        if self._peer_connection is not None:
            self._spawn(self._verify(self._peer_connection))

    async def _verify(self, peer_connection: PeerConnection) -> None:
        if not await compat.path_is_alive(peer_connection.pc) and peer_connection is self._peer_connection:
            self._rebuild("the other end does not answer")

    def start_over(self, *, polite: bool) -> None:
        """Replace the connection: the remote knows this end under another id now and has dropped the old one."""
        self._negotiator.polite = polite
        self._recover(self._recovery.start_over("the own id changed"))

    # --- signals in

    def receive(self, signal: Signal) -> None:
        """Take a signal of the remote. Never raises: what is wrong with it is told to the observer."""
        if self.state == "closed":
            return
        match signal:
            case DescriptionSignal(kind, sdp):
                self._receive_description(kind, sdp)
            case CandidateSignal():
                self._spawn(self._receive_candidate(signal))

    def _receive_description(self, kind: Any, sdp: str) -> None:
        try:
            description = admit(kind, sdp, self._known_mids(kind))
        except SdpError as error:
            self._fail_negotiation(f"the remote's {kind} is not usable", error)
            return
        if kind == "offer":
            self._recovery.offered()
        self._is_foreign = description.tag is None
        self._negotiator.restartable = (
            self._is_foreign and self._peer_connection is not None and self._peer_connection.can_restart_ice
        )
        self._feed(self._negotiator.received(description, self._loop.time()))

    def _known_mids(self, kind: str) -> Sequence[str]:
        if kind == "answer" and self._plan is not None:
            return self._plan.mids
        return self._peer_connection.mids if self._peer_connection is not None else ()

    async def _receive_candidate(self, signal: CandidateSignal) -> None:
        try:
            if self._peer_connection is None:
                await self._wait_with_candidate()
            await self._ensure_peer_connection().add_candidate(signal.candidate, signal.ufrag)
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

    # --- negotiation

    def _change(self) -> None:
        if self._changed_at is None:
            self._changed_at = self._loop.time()
        if self._negotiator.holds_back:
            self._offer_held()
        self._feed(self._negotiator.changed(self._loop.time()))

    def _feed(self, effects: Sequence[n.Effect]) -> None:
        self._effects.extend(effects)
        self._arm("offer", self._negotiator.deadline, self._on_offer_timer)
        is_needed = self._effects or self._recovery.phase is Phase.DUE
        if is_needed and (self._worker is None or self._worker.done()):
            self._worker = asyncio.ensure_future(self._work())

    async def _work(self) -> None:
        while self.state != "closed":
            if self._effects:
                await self._perform(self._effects.popleft())
            elif self._recovery.phase is Phase.DUE:
                await self._repair()
            else:
                return

    async def _repair(self) -> None:
        """Begin the repair that is due.

        Ends of this project begin anew: that is as fast, and their channels survive it.
        """
        peer_connection = self._peer_connection
        is_restartable = peer_connection is not None and self._is_foreign and peer_connection.can_restart_ice
        match self._recovery.begin(can_restart_ice=is_restartable):
            case ReplaceConnection(reason):
                self._feed(self._negotiator.restart(self._loop.time(), reason))
            case RestartIce(reason):
                assert peer_connection is not None
                self._logger.info("ICE restarted", {"reason": reason})
                await peer_connection.restart_ice()
                self._feed(self._negotiator.restart_ice(self._loop.time()))

    async def _perform(self, effect: n.Effect) -> None:
        match effect:
            case n.CreateOffer():
                await self._attempt("creating an offer", self._create_offer())
            case n.SendOffer(sdp):
                self._ensure_peer_connection().offer_sent()
                self._tell_metadata_again(is_due=self._uncommitted_offers > 0 or self._was_held())
                self._uncommitted_offers += 1
                self._describe("offer", sdp)
            case n.ForgetOffer():
                self._plan = None
                self._ensure_peer_connection().offer_forgotten()
            case n.CommitOffer(offer, answer):
                await self._attempt("applying the answer", self._commit(offer, answer))
            case n.ApplyOffer(offer):
                await self._attempt("answering an offer", self._answer(offer))
            case n.SendAnswer(sdp):
                self._tell_metadata_again(is_due=self._answered_generation != self.generation)
                self._answered_generation = self.generation
                self._await_connected(self._ensure_peer_connection())
                self._describe("answer", sdp)
            case n.Rebuild(reason):
                self._replace_peer_connection(reason)
            case n.Unanswered(reason):
                self._logger.warning("offer not answered", {"reason": reason})
                self._observer.negotiation_failed(NegotiationFailedError(reason))
            case n.GiveUp(reason):
                self._rebuild(reason)

    async def _attempt(self, what: str, operation: Awaitable[list[n.Effect]]) -> None:
        try:
            effects = await operation
        except Exception as error:  # whatever aiortc raises here leaves the connection unusable
            if self.state == "closed":
                return
            self._fail_negotiation(f"{what} failed", error)
            effects = self._negotiator.failed(f"{what} failed", self._loop.time())
        if self.state != "closed":
            self._feed(effects)

    async def _create_offer(self) -> list[n.Effect]:
        self._recovery.negotiating()
        self._show_state()
        await self._take_turn()
        peer_connection = self._ensure_peer_connection()
        await self._gather(peer_connection)
        self._negotiator.planning()
        offer = self._writer.write(peer_connection, self._outgoing)
        if offer.withheld or not offer.fits:
            assert offer.error is not None
            self._logger.warning("offer too large", {"error": str(offer.error), "left_out": len(offer.withheld)})
            self._observer.tracks_withheld(offer.error, offer.withheld)
        if not offer.fits:
            self._plan = None
            return self._negotiator.offer_undeliverable(self._loop.time())
        self._plan = offer.plan
        return self._negotiator.offer_created(Description.parse("offer", offer.text), self._loop.time())

    async def _commit(self, offer: str, answer: Description) -> list[n.Effect]:
        plan, self._plan = self._plan, None
        assert plan is not None
        assert self._peer_connection is not None
        more = await self._peer_connection.commit(plan, offer, answer, self._outgoing)
        self._uncommitted_offers = 0
        self._changed_at = None
        self._await_connected(self._peer_connection)
        return self._negotiator.committed(self._loop.time(), more=more)

    async def _answer(self, offer: Description) -> list[n.Effect]:
        self._recovery.negotiating()
        self._show_state()
        await self._take_turn()
        peer_connection = self._ensure_peer_connection()
        await self._gather(peer_connection)
        first_error: list[MeteredPeerOversizedError] = []

        def too_much(answer: str, eligible: Sequence[str]) -> list[str]:
            text = self._limit.fitting("answer", with_answer_tag(answer, offer.tag))
            if (error := self._limit.excess("answer", text)) is None:
                return []
            first_error.append(error)
            return last_sections(text, eligible, error.size - error.cap, remains=DECLINED_SECTION_SIZE)

        answer, more = await peer_connection.answer(offer, self._outgoing, too_much)
        for error in first_error:
            self._observer.negotiation_failed(error)
        text = self._limit.fitting("answer", with_answer_tag(answer, offer.tag))
        return self._negotiator.answered(text, self._loop.time(), more=more)

    # --- candidates and signals out

    async def _gather(self, peer_connection: PeerConnection) -> None:
        self._gathering = peer_connection
        await peer_connection.gather_host()
        if peer_connection.claim_server_gathering():
            self._spawn(self._trickle(peer_connection))

    async def _trickle(self, peer_connection: PeerConnection) -> None:
        """Send the candidates of STUN and TURN servers as they come, then the end marker."""
        # IPv6 literals, for instance, are not usable. Each attempt takes other servers than the last one did.
        servers = choose(await self._ice_servers.usable(compat.is_usable), self._recovery.attempts)
        for candidate in await peer_connection.gather_rest(servers):
            if peer_connection is self._peer_connection and self.state != "closed":
                self._send(CandidateSignal(candidate, peer_connection.transport_mid, 0, peer_connection.local_ufrag))
        if peer_connection is self._peer_connection and self.state != "closed":
            self._send(CandidateSignal(None))

    def _describe(self, kind: DescriptionKind, sdp: str) -> None:
        """Send a description, and behind it the candidates for which it had no room."""
        self._send(DescriptionSignal(kind, sdp))
        peer_connection = self._ensure_peer_connection()
        for candidate in peer_connection.host_candidates if "a=candidate:" not in sdp else ():
            self._send(CandidateSignal(candidate, peer_connection.transport_mid, 0, peer_connection.local_ufrag))

    def _send(self, signal: Signal) -> None:
        self._spawn(self._deliver(signal))

    async def _deliver(self, signal: Signal) -> None:
        try:
            await self._send_signal(signal)
        except (NotConnectedError, DisconnectedError):
            # `set_reachable` repairs that: an offer is sent again, an answer when its offer comes again.
            self._logger.debug("signal not delivered: signalling is down")
        except (MeteredRealtimeError, ValueError) as error:
            if isinstance(signal, DescriptionSignal) and self.state != "closed":
                self._not_delivered(signal, error)
            else:
                self._logger.debug("candidate not delivered", {"error": str(error)})
        else:
            if isinstance(signal, DescriptionSignal) and signal.kind == "offer":
                self._delivered_offer = signal.sdp

    def _not_delivered(self, signal: DescriptionSignal, error: Exception) -> None:
        """Leave it at that if a description can never be delivered: what flows goes on. Others are sent again."""
        if not is_final(error):
            self._observer.negotiation_failed(error)
        elif signal.kind == "answer":
            self._negotiator.answer_undeliverable(signal.sdp)
            self._answered_generation = 0  # the metadata before it may have been refused as well
            self._recovery.not_negotiated()  # nothing can come up, and an offer would be refused too
            self._arm_recovery()
            if not concerns_everybody(error):
                self._observer.negotiation_failed(error)
        else:
            self._offer_not_delivered(signal.sdp, error)

    def _offer_not_delivered(self, sdp: str, error: Exception) -> None:
        has_arrived = sdp == self._delivered_offer
        self._feed(self._negotiator.offer_undeliverable(self._loop.time(), sdp, has_arrived=has_arrived))
        if concerns_everybody(error):
            return  # `set_reachable` and `retry` offer it again
        if self._limit.excess("offer", sdp) is not None:  # the server takes less than it did when this was planned
            self._feed(self._negotiator.changed(self._loop.time()))
        elif has_arrived:
            self._observer.negotiation_failed(error)
        else:
            known = self._peer_connection.mids if self._peer_connection is not None else ()
            self._observer.tracks_withheld(error, tuple(new_tracks(sdp, known).values()))

    def _on_offer_timer(self) -> None:
        self._feed(self._negotiator.timer(self._loop.time()))

    def _tell_metadata_again(self, *, is_due: bool) -> None:
        """Have the metadata told before a description that may find another end than the one that was told before.

        That is an offer after one without an answer, one that was held for long, and the first answer of a generation.
        An answer to an offer shows that what was sent before it has arrived.
        """
        if is_due:
            self._observer.metadata_in_doubt()

    def _was_held(self) -> bool:
        return self._changed_at is not None and self._loop.time() - self._changed_at > HELD_LONG

    def _fail_negotiation(self, what: str, cause: Exception) -> None:
        error = NegotiationFailedError(f"{what}: {type(cause).__name__}: {cause}")
        error.__cause__ = cause
        self._logger.warning("negotiation failed", {"error": str(error)})
        self._observer.negotiation_failed(error)

    # --- the link underneath

    def _ensure_peer_connection(self) -> PeerConnection:
        if self._peer_connection is None:
            if self.state == "closed":
                raise MeteredRealtimeError("the connection is closed")
            self.generation += 1
            self._peer_connection = self._make_peer_connection()
        return self._peer_connection

    def _make_peer_connection(self) -> PeerConnection:
        if self._certificate is not None:
            self._certificate = compat.certificate_for_now(self._certificate)
        # Others take the same certificate with another user fragment for a restart of ICE, and wait for the DTLS that
        # they know.
        is_shared = not self._is_foreign or self.generation == 1
        return PeerConnection(
            self,
            self._logger,
            has_servers=self._ice_servers.may_have_any,
            relay_only=self._ice_servers.policy == "relay",
            certificate=self._certificate if is_shared else None,
        )

    def _replace_peer_connection(self, reason: str) -> None:
        self._logger.info("connection replaced", {"reason": reason})
        old, self._peer_connection = self._peer_connection, None
        self._recovery.replaced()
        self._arm_recovery()
        self._plan = None
        self._changed_at = self._loop.time()
        peer_connection = self._ensure_peer_connection()
        if old is not None:
            peer_connection.inherit_candidates(old)
            closing = asyncio.ensure_future(old.close())
            self._turn.count(closing)
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
            self._show_state()  # the remote may have noticed first that the old one is dead
            self._observer.connection_reset()

    def _await_connected(self, peer_connection: PeerConnection) -> None:
        """Give a negotiated link a limited time to come up."""
        if self._is_foreign:
            peer_connection.outlive_its_path()
        if peer_connection.pc.connectionState != "connected":
            self._recovery.negotiated(self._loop.time())
            self._arm_recovery()

    def peer_connection_state_changed(self, peer_connection: PeerConnection, state: str) -> None:
        """Follow aiortc's connection state."""
        if peer_connection is not self._peer_connection or self.state == "closed" or self._is_replacing():
            return
        if state == "connected":
            if self._recovery.connected(self._loop.time()):
                self._arm_recovery()
                self._turn.end()
                self._show_state()
                self._feed(self._negotiator.link_up(self._loop.time()))
        elif state in ("failed", "closed"):
            # Expired consent and a DTLS close by the remote go straight to closed. The latter is also how a remote
            # leaves, and the server says so within moments.
            self._fail(f"the connection is {state}", LEAVING_GRACE if state == "closed" else 0.0)

    def _is_replacing(self) -> bool:
        """Tell whether the negotiator has begun anew already, and what the old link says is of no meaning to it."""
        return any(isinstance(effect, n.Rebuild) for effect in self._effects)

    def _fail(self, reason: str, least_delay: float = 0.0) -> None:
        self._recover(self._recovery.failed(self._loop.time(), reason, least_delay=least_delay))

    def _rebuild(self, reason: str) -> None:
        """Handle a failure after which another path under the same connection will not do."""
        self._recovery.must_rebuild = True
        self._fail(reason)

    def _recover(self, effects: Sequence[RecoveryEffect]) -> None:
        self._arm_recovery()
        self._show_state()
        for effect in effects:
            match effect:
                case ConnectionLost(reason, retry_in):
                    self._turn.end()
                    self._link_lost()  # the way to the server may be dead as well, and is needed now
                    self._logger.info("connection failed", {"reason": reason, "retry_in": retry_in})
                case Exhausted(attempts, seconds):
                    self._observer.negotiation_failed(IceRecoveryExhaustedError(attempts, seconds))
                case Repair():
                    self._feed([])

    def _arm_recovery(self) -> None:
        self._arm("recovery", self._recovery.deadline, self._on_recovery_timer)

    def _on_recovery_timer(self) -> None:
        self._recover(self._recovery.timer(self._loop.time()))

    def tracks_changed(self, removed: Sequence[Incoming], added: Sequence[Incoming]) -> None:
        """Pass on what the remote stopped and began to send."""
        self._observer.tracks_changed(removed, added)

    def section_declined(self, mid: str, reason: str) -> None:
        """Tell that something of the remote cannot be received."""
        self._observer.negotiation_failed(NegotiationFailedError(f"section {mid!r} of the remote declined: {reason}"))

    def candidate_refused(self, error: Exception) -> None:
        """Tell of a candidate that is not taken."""
        self._observer.candidate_refused(error)

    def channel_opened(self, channel: RTCDataChannel) -> None:
        """Pass on a data channel that the remote opened."""
        self._observer.channel_opened(channel)

    # --- state and end

    def _show_state(self) -> None:
        if self.state != self._shown:
            self._shown = self.state
            self._observer.state_changed(self._shown)

    async def close(self) -> None:
        """End for good: nothing is sent or told any more. Takes `link.CLOSE_TIMEOUT` at the most."""
        self._recovery.close()
        self._negotiator.close()
        for name in tuple(self._timers):
            self._disarm(name)
        pending = [task for task in (self._worker, *self._tasks) if task is not None and not task.done()]
        for task in pending:
            task.cancel()
        self._turn.close()
        if self._peer_connection is not None:
            closing = asyncio.ensure_future(self._peer_connection.close())
            self._turn.count(closing)
            await closing
        if pending or self._closing:
            await asyncio.wait([*pending, *self._closing], timeout=1.0)

    def _arm(self, name: str, deadline: float | None, action: Callable[[], None]) -> None:
        self._disarm(name)
        if deadline is not None:

            def fire() -> None:
                self._timers.pop(name, None)
                action()

            self._timers[name] = self._loop.call_at(deadline, fire)

    def _disarm(self, name: str) -> None:
        handle = self._timers.pop(name, None)
        if handle is not None:
            handle.cancel()

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
