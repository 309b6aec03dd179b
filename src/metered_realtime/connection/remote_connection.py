"""The connection to one remote over all its generations: negotiation, recovery, and what is sent.

A worker performs the negotiator's effects one after the other; it exists only while there are any. Everything that
happens outside (a signal, a change, a timer, a state of the link) is fed to the negotiator at once and never waits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Container, Sequence
from typing import Any, Protocol

from aiortc import RTCDataChannel, RTCPeerConnection

from ..aiortc_compat.certificate import SharedCertificate, certificate_for_now
from ..aiortc_compat.gathering import is_usable
from ..aiortc_compat.transports import path_is_alive
from ..aiortc_compat.version import check_version
from ..core.negotiation import negotiator as n
from ..core.negotiation.candidates import MAX_REMOTE_CANDIDATES
from ..core.negotiation.delivery import DECLINED_SECTION_SIZE, concerns_everybody, is_final, last_sections, trimmed
from ..core.negotiation.ladder import CONNECT_TIMEOUT, Ladder
from ..core.negotiation.sdp import Description, DescriptionKind, SdpError, sections, with_answer_tag, with_offer_tag
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
from ..options import DEFAULT_TUNING, PeerConnectionState, Tuning
from .ice_servers import IceServers, choose
from .offer import OfferPlan
from .peer_connection import PeerConnection
from .remote_description import admit
from .sections import Incoming, Outgoing
from .set_ups import SET_UP_TIME, SetUps, Turn

LEAVING_GRACE = 1.0
"""Seconds to wait for the news that a remote which closed its connection has left, before a new one is made. A remote
that replaced its connection does not wait: it offers the new one."""

HELD_LONG = 0.5
"""Seconds after a change from which on its offer counts as held: what was said of it before may have been lost with a
client of the remote that was away in between. None comes back sooner."""

SendSignal = Callable[[Signal], Awaitable[None]]

CheckSignal = Callable[[Signal], None]
"""Raises MeteredPeerOversizedError for a signal that cannot be sent."""


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

    certificate_for_now = staticmethod(certificate_for_now)

    def __init__(
        self,
        *,
        polite: bool,
        send_signal: SendSignal,
        ice_servers: IceServers,
        observer: ConnectionObserver,
        logger: Logger,
        link_lost: Callable[[], None] = lambda: None,
        certificate: SharedCertificate | None = None,
        free_to_offer_at: float = 0.0,
        offer_held: Callable[[], None] = lambda: None,
        set_ups: SetUps | None = None,
        check_signal: CheckSignal = lambda signal: None,
        tuning: Tuning = DEFAULT_TUNING,
    ) -> None:
        check_version()
        self.state: PeerConnectionState = "idle"
        self.generation = 0
        self._send_signal = send_signal
        self._check_signal = check_signal
        self._ice_servers = ice_servers
        self._observer = observer
        self._logger = logger
        self._link_lost = link_lost
        self._offer_held = offer_held
        self._set_ups = set_ups if set_ups is not None else SetUps()
        self._turn: Turn | None = None
        self._when_free: list[Callable[[], None]] = []
        self._gathering: PeerConnection | None = None
        self._early_candidates = 0
        self._certificate = certificate
        self._tuning = tuning
        self._loop = asyncio.get_running_loop()
        self._negotiator = n.Negotiator(polite=polite, holds_back=free_to_offer_at > self._loop.time())
        self._ladder = Ladder()
        self._outgoing: dict[Any, Outgoing] = {}
        self._peer_connection: PeerConnection | None = None
        self._plan: OfferPlan | None = None
        self._offers = 0
        self._uncommitted_offers = 0
        self._changed_at: float | None = None
        self._answered_generation = 0
        self._delivered_offer = ""
        self._was_connected = False
        self._effects: deque[n.Effect] = deque()
        self._restart_reason: str | None = None
        self._is_foreign = False
        self._must_rebuild = False
        self._worker: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Future[Any]] = set()
        self._closing: set[asyncio.Future[None]] = set()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._arm("release", free_to_offer_at or None, self.release)

    @property
    def polite(self) -> bool:
        """Tell whether this end gives way in a collision."""
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
        """Do what needs a link: now if there is one, or room for another, and else when its turn has come."""
        if self._peer_connection is not None or (self._turn is not None and self._turn.is_granted):
            action()
        else:
            self._when_free.append(action)
            self._request_turn()

    async def _take_turn(self) -> None:
        """Wait until the link may open its sockets."""
        if self._peer_connection is not None and self._gathering is self._peer_connection:
            return
        if self._turn is None or not self._turn.is_granted:
            granted = asyncio.Event()
            self._when_free.append(granted.set)
            self._request_turn()
            await granted.wait()

    def _request_turn(self) -> None:
        if self._turn is None:
            self._turn = Turn(self._turn_granted)
            self._set_ups.request(self._turn)

    def _turn_granted(self) -> None:
        self._arm("turn", self._loop.time() + SET_UP_TIME, self._end_turn)
        actions, self._when_free = self._when_free, []
        for action in actions:
            action()

    def _end_turn(self) -> None:
        self._disarm("turn")
        turn, self._turn = self._turn, None
        if turn is not None:
            self._set_ups.end(turn)

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
        if not await path_is_alive(peer_connection.pc) and peer_connection is self._peer_connection:
            self._must_rebuild = True
            self._link_failed("the other end does not answer")

    def start_over(self, *, polite: bool) -> None:
        """Replace the connection: the remote knows this end under another id now and has dropped the old one."""
        self._negotiator.polite = polite
        self._ladder.reset()
        self._disarm("restart")
        if self.state != "idle":
            self._set_state("reconnecting" if self._was_connected else "connecting")
            self._restart("the own id changed", rebuild=True)

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
        if kind == "offer" and self._ladder.exhausted:
            self._ladder.reset()
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
        if (self._effects or self._restart_reason) and (self._worker is None or self._worker.done()):
            self._worker = asyncio.ensure_future(self._work())

    async def _work(self) -> None:
        while self.state != "closed":
            if self._effects:
                await self._perform(self._effects.popleft())
            elif self._restart_reason is not None:
                reason, self._restart_reason = self._restart_reason, None
                await self._begin_again(reason)
            else:
                return

    async def _begin_again(self, reason: str) -> None:
        """Look for another path, or where that cannot be done offer a fresh connection.

        Ends of this project begin anew: that is as fast, and their channels survive it.
        """
        peer_connection = self._peer_connection
        if peer_connection is None or not self._is_foreign or self._must_rebuild or not peer_connection.can_restart_ice:
            self._feed(self._negotiator.restart(self._loop.time(), reason))
            return
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
                self._must_rebuild = True
                self._link_failed(reason)

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
        self._set_state_at_least_connecting()
        await self._take_turn()
        peer_connection = self._ensure_peer_connection()
        await self._gather(peer_connection)
        self._negotiator.planning()
        offer = self._plan_offer(peer_connection)
        if offer is None:
            self._plan = None
            return self._negotiator.offer_undeliverable(self._loop.time())
        return self._negotiator.offer_created(offer, self._loop.time())

    def _plan_offer(self, peer_connection: PeerConnection) -> Description | None:
        """Plan an offer that can be delivered, if need be without the newest tracks. None if there is none."""
        text = self._planned(peer_connection)
        first_error = error = self._oversize("offer", text)
        if first_error is None:
            return Description.parse("offer", text)
        withheld: list[str] = []
        while error is not None:
            text = self._planned(peer_connection, frugal=True)
            error = self._oversize("offer", text)
            newest = self._withhold(peer_connection, text, error.size - error.cap) if error is not None else []
            withheld += newest
            if not newest:
                break
        if withheld or error is not None:
            self._logger.warning("offer too large", {"error": str(first_error), "left_out": len(withheld)})
            self._observer.tracks_withheld(first_error, withheld)
        return Description.parse("offer", text) if error is None else None

    def _planned(self, peer_connection: PeerConnection, *, frugal: bool = False) -> str:
        self._plan = peer_connection.plan(self._outgoing, frugal=frugal)
        self._offers += 1
        text = with_offer_tag(peer_connection.offer_text(self._plan), f"{peer_connection.local_ufrag}.{self._offers}")
        return self._fitting("offer", text)

    def _withhold(self, peer_connection: PeerConnection, offer: str, excess: int) -> list[str]:
        """Stop wanting to send the newest tracks of an offer that is too large. Return their ids."""
        keys = {outgoing.track_id: key for key, outgoing in self._outgoing.items()}
        new = {mid: track_id for mid, track_id in _new_tracks(offer, peer_connection.mids).items() if track_id in keys}
        withheld = [new[mid] for mid in last_sections(offer, new, excess)]
        for track_id in withheld:
            del self._outgoing[keys[track_id]]
        return withheld

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
        self._set_state_at_least_connecting()
        await self._take_turn()
        peer_connection = self._ensure_peer_connection()
        await self._gather(peer_connection)
        first_error: list[MeteredPeerOversizedError] = []

        def too_much(answer: str, eligible: Sequence[str]) -> list[str]:
            text = self._fitting("answer", with_answer_tag(answer, offer.tag))
            if (error := self._oversize("answer", text)) is None:
                return []
            first_error.append(error)
            return last_sections(text, eligible, error.size - error.cap, remains=DECLINED_SECTION_SIZE)

        answer, more = await peer_connection.answer(offer, self._outgoing, too_much)
        for error in first_error:
            self._observer.negotiation_failed(error)
        text = self._fitting("answer", with_answer_tag(answer, offer.tag))
        return self._negotiator.answered(text, self._loop.time(), more=more)

    # --- what the server takes

    def _oversize(self, kind: DescriptionKind, sdp: str) -> MeteredPeerOversizedError | None:
        try:
            self._check_signal(DescriptionSignal(kind, sdp))
        except MeteredPeerOversizedError as error:
            return error
        return None

    def _fitting(self, kind: DescriptionKind, sdp: str) -> str:
        return sdp if self._oversize(kind, sdp) is None else trimmed(sdp)

    async def _gather(self, peer_connection: PeerConnection) -> None:
        self._gathering = peer_connection
        await peer_connection.gather_host()
        if peer_connection.claim_server_gathering():
            self._spawn(self._trickle(peer_connection))

    async def _trickle(self, peer_connection: PeerConnection) -> None:
        """Send the candidates of STUN and TURN servers as they come, then the end marker."""
        # IPv6 literals, for instance, are not usable. Each attempt takes other servers than the last one did.
        servers = choose(await self._ice_servers.usable(is_usable), self._ladder.attempts)
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
            self._disarm("connect")  # nothing can come up, and an offer would be refused too
            if not concerns_everybody(error):
                self._observer.negotiation_failed(error)
        else:
            self._offer_not_delivered(signal.sdp, error)

    def _offer_not_delivered(self, sdp: str, error: Exception) -> None:
        has_arrived = sdp == self._delivered_offer
        self._feed(self._negotiator.offer_undeliverable(self._loop.time(), sdp, has_arrived=has_arrived))
        if concerns_everybody(error):
            return  # `set_reachable` and `retry` offer it again
        if self._oversize("offer", sdp) is not None:  # the server takes less than it did when this was planned
            self._feed(self._negotiator.changed(self._loop.time()))
        elif has_arrived:
            self._observer.negotiation_failed(error)
        else:
            known = self._peer_connection.mids if self._peer_connection is not None else ()
            self._observer.tracks_withheld(error, tuple(_new_tracks(sdp, known).values()))

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
            self._certificate = certificate_for_now(self._certificate)
        # Others take the same certificate with another user fragment for a restart of ICE, and wait for the DTLS that
        # they know.
        is_shared = not self._is_foreign or self.generation == 1
        return PeerConnection(
            self,
            self._logger,
            has_servers=self._ice_servers.may_have_any,
            relay_only=self._ice_servers.policy == "relay",
            certificate=self._certificate if is_shared else None,
            tuning=self._tuning,
        )

    def _replace_peer_connection(self, reason: str) -> None:
        self._logger.info("connection replaced", {"reason": reason})
        old, self._peer_connection = self._peer_connection, None
        for name in ("connect", "restart"):
            self._disarm(name)
        self._restart_reason = None
        self._must_rebuild = False
        self._plan = None
        self._changed_at = self._loop.time()
        peer_connection = self._ensure_peer_connection()
        if old is not None:
            peer_connection.inherit_candidates(old)
            closing = asyncio.ensure_future(old.close())
            self._set_ups.count(closing)
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
            if self.state == "connected":  # the remote noticed first that the old one is dead
                self._set_state("reconnecting")
            self._observer.connection_reset()

    def _await_connected(self, peer_connection: PeerConnection) -> None:
        """Give a negotiated link a limited time to come up."""
        if self._is_foreign:
            peer_connection.outlive_its_path()
        if peer_connection.pc.connectionState != "connected" and "connect" not in self._timers:
            self._arm(
                "connect",
                self._loop.time() + CONNECT_TIMEOUT,
                lambda: self._link_failed(f"not connected within {CONNECT_TIMEOUT:g} s"),
            )

    def peer_connection_state_changed(self, peer_connection: PeerConnection, state: str) -> None:
        """Follow aiortc's connection state."""
        if peer_connection is not self._peer_connection or self.state == "closed" or self._is_replacing():
            return
        if state == "connected":
            self._disarm("connect")
            self._disarm("restart")  # it came up after all, while its replacement waited for its time
            self._ladder.link_up(self._loop.time())
            self._was_connected = True
            self._end_turn()
            self._set_state("connected")
            self._feed(self._negotiator.link_up(self._loop.time()))
        elif state in ("failed", "closed"):
            # Expired consent and a DTLS close by the remote go straight to closed. The latter is also how a remote
            # leaves, and the server says so within moments.
            self._link_failed(f"the connection is {state}", LEAVING_GRACE if state == "closed" else 0.0)

    def _is_replacing(self) -> bool:
        """Tell whether the negotiator has begun anew already, and what the old link says is of no meaning to it."""
        return any(isinstance(effect, n.Rebuild) for effect in self._effects)

    def _link_failed(self, reason: str, least_delay: float = 0.0) -> None:
        """Schedule a replacement, or give up once the ladder is exhausted."""
        self._disarm("connect")
        self._end_turn()
        if "restart" in self._timers or self._restart_reason is not None:
            return
        self._set_state("reconnecting" if self._was_connected else "connecting")
        self._link_lost()  # the way to the server may be dead as well, and is needed now
        delay = self._ladder.next_delay(self._loop.time())
        self._logger.info("connection failed", {"reason": reason, "retry_in": delay})
        if delay is None:
            seconds = self._loop.time() - (self._ladder.started_at or self._loop.time())
            self._observer.negotiation_failed(IceRecoveryExhaustedError(self._ladder.attempts, seconds))
        else:
            self._arm("restart", self._loop.time() + max(delay, least_delay), lambda: self._restart(reason))

    def _restart(self, reason: str, *, rebuild: bool = False) -> None:
        """Begin again, on a fresh connection if another path will not do."""
        self._must_rebuild = self._must_rebuild or rebuild
        self._restart_reason = reason
        self._feed([])

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

    def _set_state_at_least_connecting(self) -> None:
        if self.state == "idle":
            self._set_state("connecting")

    def _set_state(self, state: PeerConnectionState) -> None:
        if state != self.state:
            self.state = state
            self._observer.state_changed(state)

    async def close(self) -> None:
        """End for good: nothing is sent or told any more. Takes `link.CLOSE_TIMEOUT` at the most."""
        self.state = "closed"
        self._negotiator.close()
        for name in tuple(self._timers):
            self._disarm(name)
        pending = [task for task in (self._worker, *self._tasks) if task is not None and not task.done()]
        for task in pending:
            task.cancel()
        self._when_free.clear()
        self._end_turn()
        if self._peer_connection is not None:
            closing = asyncio.ensure_future(self._peer_connection.close())
            self._set_ups.count(closing)
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


def _new_tracks(offer: str, known_mids: Container[str]) -> dict[str, str]:
    """Return the ids of the tracks in new sections of an offer by mid."""
    new = (section for section in sections(offer) if section.mid not in known_mids and section.sends)
    return {section.mid: section.track_id for section in new if section.track_id is not None}
