"""The connection to one remote, over all connections that there are one after the other: what is sent, and negotiation.

A worker performs the negotiator's effects one after the other; it exists only while there are any. Everything that
happens outside (a signal, a change, a timer, a state of the connection) is fed to the negotiator at once and never
waits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from aiortc import RTCDataChannel, RTCPeerConnection

from ..aiortc_compat.certificate import SharedCertificate, certificate_for_now
from ..aiortc_compat.version import check_version
from ..core.negotiation.connection_recovery import ReplaceConnection, RestartIce
from ..core.negotiation.delivery import DECLINED_SECTION_SIZE, concerns_everybody, is_final, last_sections
from ..core.negotiation.effects import (
    ApplyOffer,
    CommitOffer,
    CreateOffer,
    Effect,
    FollowLater,
    ForgetOffer,
    GiveUp,
    Rebuild,
    ReplacementsExhausted,
    SendAnswer,
    SendOffer,
    Unanswered,
)
from ..core.negotiation.negotiator import Negotiator
from ..core.negotiation.sdp import Description, DescriptionKind, SdpError, sections, with_answer_tag
from ..core.negotiation.sharing import RemoteTraits, Sharing
from ..core.negotiation.signals import CandidateSignal, DescriptionSignal, Signal
from ..errors import IceRecoveryExhaustedError, MeteredPeerOversizedError, NegotiationFailedError
from ..log import Logger
from ..options import DEFAULT_TUNING, PeerConnectionState, Tuning
from .ice_servers import IceServers
from .interfaces import AnyPeerConnection, ConnectionObserver, PeerConnectionObserver, PlannedOffer, Signaller
from .offering import DescriptionLimit, OfferWriter, new_tracks
from .peer_connection import PeerConnection
from .recovering_connection import RecoveringConnection
from .remote_description import admit
from .sections import Outgoing
from .set_ups import SetUps
from .signal_delivery import SignalDelivery
from .stats import HasStats
from .timers import Timers

HELD_LONG = 0.5
"""Seconds after a change from which on its offer counts as held: what was said of it before may have been lost with a
client of the remote that was away in between. None comes back sooner."""


class RemoteConnection:
    """One end of the connection to a remote. Idle until either end has something to send.

    `polite` ends give way when both offer at once. Nothing is offered before `free_to_offer_at`, a time of the event
    loop, unless `release` is called. `is_native`: the remote is known to be this implementation.
    """

    certificate_for_now = staticmethod(certificate_for_now)

    def __init__(
        self,
        *,
        polite: bool,
        signaller: Signaller,
        ice_servers: IceServers,
        observer: ConnectionObserver,
        logger: Logger,
        certificate: SharedCertificate | None = None,
        free_to_offer_at: float = 0.0,
        is_native: bool = False,
        set_ups: SetUps | None = None,
        tuning: Tuning = DEFAULT_TUNING,
    ) -> None:
        check_version()
        self._loop = asyncio.get_running_loop()
        self._observer = observer
        self._logger = logger
        self._certificate = certificate
        self._tuning = tuning
        self._limit = DescriptionLimit(signaller)
        self._writer = OfferWriter(self._limit)
        self._connection = RecoveringConnection(
            observer,
            self,
            self._make_peer_connection,
            signaller=signaller,
            ice_servers=ice_servers,
            set_ups=set_ups if set_ups is not None else SetUps(),
            logger=logger,
        )
        self._delivery = SignalDelivery(signaller, self, self._connection.spawn, logger)
        self._negotiator = Negotiator(polite=polite, holds_back_offer=free_to_offer_at > self._loop.time())
        self._traits = RemoteTraits()
        self._outgoing: dict[Any, Outgoing] = {}
        self._plan: PlannedOffer | None = None
        self._uncommitted_offers = 0
        self._changed_at: float | None = None
        self._answered_generation = 0
        self._effects: deque[Effect] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._timers = Timers()
        if is_native:
            self._traits.is_native = True
        self._timers.set("release", free_to_offer_at or None, self.release)

    @property
    def state(self) -> PeerConnectionState:
        """`idle`, `connecting`, `connected`, `reconnecting` or `closed`."""
        return self._connection.state

    @property
    def is_connected(self) -> bool:
        """Whether media and data flow, whatever the server is doing."""
        return self._connection.is_connected

    @property
    def polite(self) -> bool:
        """Whether this end gives way in a collision."""
        return self._negotiator.polite

    @property
    def generation(self) -> int:
        """How many connections there were."""
        return self._connection.generation

    @property
    def peer_connection(self) -> AnyPeerConnection | None:
        """The connection in use, None until it is first needed."""
        return self._connection.current

    @property
    def pc(self) -> RTCPeerConnection:
        """aiortc's connection, created when first needed."""
        return self._connection.ensure().pc  # type: ignore[no-any-return]

    def when_free(self, action: Callable[[], None]) -> None:
        """Call a function that needs a connection: now if there is one, or room for another, else in its turn."""
        self._connection.when_free(action)

    @property
    def measured(self) -> HasStats | None:
        """The current connection, for its statistics. None before there is one."""
        return self.peer_connection

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
        if self.peer_connection is not None:
            self.peer_connection.release(self._outgoing)
            if negotiate:
                self._change()
        return True

    def replace(self, key: Any, new_key: Any, outgoing: Outgoing) -> bool:
        """Send another track in the place of one, without a negotiation. False if it was not being sent."""
        old = self._outgoing.pop(key, None)
        if old is None:
            return False
        self._outgoing[new_key] = outgoing
        if self.peer_connection is not None:
            self.peer_connection.replace(old, outgoing)
        return True

    def carries(self, key: Any) -> bool:
        """Return whether a track is being sent, or is to be."""
        return key in self._outgoing

    def create_data_channel(self, label: str, **options: Any) -> RTCDataChannel:
        """Open a data channel. It opens in-band once the connection is up."""
        peer_connection = self._connection.ensure()
        channel: RTCDataChannel = peer_connection.create_data_channel(label, options)
        if not peer_connection.data_negotiated:
            self._change()
        return channel

    # --- the way to the remote

    def release(self) -> None:
        """Stop holding back the first offer. Happens by itself at `free_to_offer_at`."""
        self._timers.cancel("release")
        self._feed(self._negotiator.release_offer(self._loop.time()))

    def greeted(self) -> None:
        """Handle the greeting of a native remote, for which no offer is held back."""
        self._traits.is_native = True
        self.release()

    def retry(self) -> None:
        """Send what the server refused for good: its rules for this end may have changed."""
        self._feed(self._negotiator.retry(self._loop.time()))

    def set_reachable(self, reachable: bool) -> None:
        """Set whether signals can be sent. While they cannot, nothing is negotiated and no offer counts as lost."""
        if reachable:
            self._feed(self._negotiator.resume(self._loop.time()))
        else:
            self._negotiator.pause()
            self._timers.cancel("offer")

    def verify(self) -> None:
        """Check that the remote is still the one at the other end, and replace the connection if not."""
        self._connection.verify()

    def start_over(self, *, polite: bool) -> None:
        """Replace the connection: the remote knows this end under another id now and has dropped the old one."""
        self._negotiator.polite = polite
        self._connection.start_over("the own id changed")

    # --- signals in

    def receive(self, signal: Signal) -> None:
        """Handle a signal of the remote. Never raises: what is wrong with it is reported to the observer."""
        if self.state == "closed":
            return
        match signal:
            case DescriptionSignal(kind, sdp):
                self._receive_description(kind, sdp)
            case CandidateSignal():
                self._traits.trickles = self._traits.trickles or signal.candidate is not None
                self._connection.spawn(self._connection.add_candidate(signal))

    def _receive_description(self, kind: Any, sdp: str) -> None:
        try:
            description = admit(kind, sdp, self._known_mids(kind))
        except SdpError as error:
            self._fail_negotiation(f"the remote's {kind} is not usable", error)
            return
        if kind == "offer":
            self._connection.offered()
        self._connection.is_foreign = description.tag is None
        has_candidates = bool(description.candidates) or description.candidates_refused > 0
        self._traits.note_description(is_tagged=description.tag is not None, has_candidates=has_candidates)
        self._negotiator.restartable = self._connection.can_restart_ice
        self._feed(self._negotiator.received(description, self._loop.time()))

    def _known_mids(self, kind: str) -> Sequence[str]:
        if kind == "answer" and self._plan is not None:
            return self._plan.mids
        return self.peer_connection.mids if self.peer_connection is not None else ()

    # --- negotiation

    @property
    def _sharing(self) -> Sharing:
        """Which local tracks share sections with media of the remote."""
        return self._traits.sharing

    def _change(self) -> None:
        if self._changed_at is None:
            self._changed_at = self._loop.time()
        if self._negotiator.holds_back_offer:
            self._observer.offer_held()
        self._feed(self._negotiator.changed(self._loop.time()))

    def _feed(self, effects: Sequence[Effect]) -> None:
        self._effects.extend(effects)
        self._timers.set("offer", self._negotiator.deadline, self._on_offer_timer)
        is_needed = self._effects or self._connection.is_repair_due
        if is_needed and (self._worker is None or self._worker.done()):
            self._worker = asyncio.ensure_future(self._work())

    async def _work(self) -> None:
        while self.state != "closed":
            if self._effects:
                await self._perform(self._effects.popleft())
            elif self._connection.is_repair_due:
                await self._repair()
            else:
                return

    async def _repair(self) -> None:
        match self._connection.begin_repair():
            case ReplaceConnection(reason):
                self._feed(self._negotiator.restart(self._loop.time(), reason))
            case RestartIce(reason):
                self._logger.info("ICE restarted", {"reason": reason})
                await self._connection.ensure().restart_ice()
                self._feed(self._negotiator.restart_ice(self._loop.time()))

    async def _perform(self, effect: Effect) -> None:
        match effect:
            case CreateOffer():
                await self._attempt("creating an offer", self._create_offer())
            case SendOffer(sdp):
                self._connection.ensure().offer_sent()
                self._tell_metadata_again(is_due=self._uncommitted_offers > 0 or self._was_held())
                self._uncommitted_offers += 1
                self._describe("offer", sdp)
            case ForgetOffer():
                self._plan = None
                self._connection.ensure().offer_forgotten()
            case CommitOffer(offer, answer):
                await self._attempt("applying the answer", self._commit(offer, answer))
            case ApplyOffer(offer):
                await self._attempt("answering an offer", self._answer(offer))
            case SendAnswer(sdp):
                self._tell_metadata_again(is_due=self._answered_generation != self.generation)
                self._answered_generation = self.generation
                self._connection.negotiated()
                self._describe("answer", sdp)
            case Rebuild(reason):
                self._plan = None
                self._changed_at = self._loop.time()
                self._connection.replace(reason)
            case FollowLater(seconds):
                self._logger.info("the other end was replaced again, or restarts ICE again", {"follow_in": seconds})
            case ReplacementsExhausted(attempts, seconds):
                self._logger.warning("the other end is replaced all the time", {"times": attempts, "within": seconds})
                self._observer.negotiation_failed(IceRecoveryExhaustedError(attempts, seconds))
            case Unanswered(reason):
                self._logger.warning("offer not answered", {"reason": reason})
                self._observer.negotiation_failed(NegotiationFailedError(reason))
            case GiveUp(reason):
                self._connection.rebuild(reason)

    async def _attempt(self, what: str, operation: Awaitable[list[Effect]]) -> None:
        try:
            effects = await operation
        except Exception as error:  # whatever aiortc raises here leaves the connection unusable
            if self.state == "closed":
                return
            self._fail_negotiation(f"{what} failed", error)
            effects = self._negotiator.failed(f"{what} failed", self._loop.time())
        if self.state != "closed":
            self._feed(effects)

    async def _create_offer(self) -> list[Effect]:
        peer_connection = await self._connection.prepare()
        self._negotiator.planning()
        offer = self._writer.write(peer_connection, self._outgoing, self._sharing)
        if offer.withheld or not offer.fits:
            assert offer.error is not None
            self._logger.warning("offer too large", {"error": str(offer.error), "left_out": len(offer.withheld)})
            self._observer.tracks_withheld(offer.error, offer.withheld)
        if not offer.fits:
            self._plan = None
            return self._negotiator.offer_undeliverable(self._loop.time())
        self._plan = offer.plan
        return self._negotiator.offer_created(Description.parse("offer", offer.text), self._loop.time())

    async def _commit(self, offer: str, answer: Description) -> list[Effect]:
        plan, self._plan = self._plan, None
        assert plan is not None
        more = await self._connection.ensure().commit(plan, offer, answer, self._outgoing)
        # Browsers trickle. Others, such as aiortc, name a track in every section, and have none to send.
        more = more or (self._traits.trickles and plan.keeps_waiting(sections(answer.sdp)))
        self._uncommitted_offers = 0
        self._changed_at = None
        self._connection.negotiated()
        return self._negotiator.committed(self._loop.time(), more=more)

    async def _answer(self, offer: Description) -> list[Effect]:
        peer_connection = await self._connection.prepare()
        first_error: list[MeteredPeerOversizedError] = []

        def too_much(answer: str, eligible: Sequence[str]) -> list[str]:
            text = self._limit.fitting("answer", with_answer_tag(answer, offer.tag))
            if (error := self._limit.excess("answer", text)) is None:
                return []
            first_error.append(error)
            return last_sections(text, eligible, error.size - error.cap, remains=DECLINED_SECTION_SIZE)

        answer, more = await peer_connection.answer(offer, self._outgoing, too_much, self._sharing)
        for error in first_error:
            self._observer.negotiation_failed(error)
        text = self._limit.fitting("answer", with_answer_tag(answer, offer.tag))
        return self._negotiator.answered(text, self._loop.time(), more=more, is_complete=offer.tag is None)

    # --- signals out

    def send_candidate(self, candidate: CandidateSignal) -> None:
        """Send a candidate, or the end marker."""
        self._delivery.send(candidate)

    def _describe(self, kind: DescriptionKind, sdp: str) -> None:
        """Send a description, and behind it the candidates for which it had no room."""
        self._delivery.send(DescriptionSignal(kind, sdp))
        if "a=candidate:" not in sdp:
            self._connection.send_candidates(self._connection.ensure().host_candidates)

    def not_delivered(self, signal: DescriptionSignal, error: Exception) -> None:
        """Leave it at that if a description can never be delivered: what flows goes on. Others are sent again."""
        if self.state == "closed":
            return
        if not is_final(error):
            self._observer.negotiation_failed(error)
        elif signal.kind == "answer":
            self._negotiator.answer_undeliverable(signal.sdp)
            self._answered_generation = 0  # the metadata before it may have been refused as well
            self._connection.not_negotiated()
            if not concerns_everybody(error):
                self._observer.negotiation_failed(error)
        else:
            self._offer_not_delivered(signal.sdp, error)

    def _offer_not_delivered(self, sdp: str, error: Exception) -> None:
        has_arrived = sdp == self._delivery.delivered_offer
        self._feed(self._negotiator.offer_undeliverable(self._loop.time(), sdp, has_arrived=has_arrived))
        if concerns_everybody(error):
            return  # `set_reachable` and `retry` offer it again
        if self._limit.excess("offer", sdp) is not None:  # the server takes less than it did when this was planned
            self._feed(self._negotiator.changed(self._loop.time()))
        elif has_arrived:
            self._observer.negotiation_failed(error)
        else:
            known = self.peer_connection.mids if self.peer_connection is not None else ()
            self._observer.tracks_withheld(error, tuple(new_tracks(sdp, known).values()))

    def _on_offer_timer(self) -> None:
        self._feed(self._negotiator.timer(self._loop.time()))

    def _tell_metadata_again(self, *, is_due: bool) -> None:
        """Send the metadata before a description that may find another end than the one that got it before.

        That is an offer after one without an answer, one that was held for long, and the first answer of a connection.
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

    # --- what the connection underneath reports

    @property
    def is_replacing(self) -> bool:
        """Whether a new connection is decided on, so that what happens to the old one is of no consequence."""
        return any(isinstance(effect, Rebuild) for effect in self._effects)

    def came_up(self) -> None:
        """Offer what waited for the connection."""
        self._feed(self._negotiator.connected(self._loop.time()))

    def repair_due(self) -> None:
        """Begin the repair when no operation is under way."""
        self._feed([])

    def _make_peer_connection(
        self, observer: PeerConnectionObserver, *, has_servers: bool, relay_only: bool, is_shared: bool
    ) -> AnyPeerConnection:
        if self._certificate is not None:
            self._certificate = certificate_for_now(self._certificate)
        return PeerConnection(
            observer,
            self._logger,
            has_servers=has_servers,
            relay_only=relay_only,
            certificate=self._certificate if is_shared else None,
            tuning=self._tuning,
        )

    async def close(self) -> None:
        """End for good: nothing is sent or reported any more. Takes `peer_connection.CLOSE_TIMEOUT` at the most."""
        self._negotiator.close()
        self._timers.close()
        await self._connection.close([self._worker] if self._worker is not None else [])
