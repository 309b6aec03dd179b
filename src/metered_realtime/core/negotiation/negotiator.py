"""Offer and answer without rollback: commit on answer.

An offer is created and sent while the connection underneath stays `stable`; it is committed, that is set as local
description, only when its answer is here. An end that has to give way in a collision simply forgets its offer.
Nobody waits for the other's first move, and a collision (glare, RFC 8829 section 4.1.8.2) never replaces a connection.

Phases, and what each input does in them:

    input \\ phase    STABLE               OFFERING            OFFERED                  COMMITTING   ANSWERING
    changed          offer, or hold       remember            remember                 remember     remember
    planning         -                    forget changes      -                        -            -
    offer arrives    answer it            queue               polite: forget, answer   queue        queue
                                                              impolite: ignore
    answer arrives   drop                 queue               matching: commit         queue        queue
                                                              other: drop
    restart_ice      offer                -                   forget, offer            -            -
    created          -                    send -> OFFERED     -                        -            -
    committed        -                    -                   -                        -> STABLE    -
    answered         -                    -                   -                        -            send -> STABLE
    failed           -                    give up             -                        give up      give up
    undeliverable    -                    forget changes      forget offer, changes    -            -
    timer            -                    -                   resend, then give up,    -            -
                                                              or tell if the link is up

An input marked `-` is illegal there: it changes nothing and raises `NegotiationStateError`. A timer that is late, and
the news that a description is undeliverable, are no errors.

Invariants:
- At most one operation is under way at the connection, at most one offer is pending.
- What arrives during an operation waits in a bounded inbox, in order.
- A change is remembered (`dirty`) until an offer that was created after it has been committed or sent.
- Nothing is offered, sent again or given up while paused, that is while the other end cannot be reached.
- A follow-up offer is held until the link is up: aiortc loses media when it negotiates while DTLS is connecting.
- A remote description whose ICE user fragment is not the one in use means that the other end was replaced: this end is
  replaced too. Messages of one sender arrive in order, so another fragment is always a newer one. Only where ICE can be
  restarted (`restartable`), and the description shows the same end as before, the connection goes on.
- After `restart_ice` only an answer with another fragment fits: one without belongs to an earlier offer.
- The same offer again means that its answer was lost: the answer is sent again, nothing is applied twice.
- A description that is refused for good is not sent again, neither by a timer nor because the other end repeats itself,
  and the connection stays as it is. `changed`, `resume` and `retry` offer everything that is not agreed on.
- An offer that follows an answer is preceded by that answer, until the other end has shown that it is past it: one that
  never got it would take our offer for a collision, forget its own, and have the sections of that taken for ours.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum, auto

from .sdp import Description

OFFER_TIMEOUT = 5.0
"""Seconds until an unanswered offer is sent again: several round trips of a bad mobile link."""

MAX_OFFER_RESENDS = 4
"""After that the other end is taken to be unable to answer this offer. A connection that is not up is given up. One
that is up goes on: the other end may be unable to send at all, and could not answer the offer of another one either."""

MAX_OFFER_WAIT = 300.0
"""Seconds that the wait for an answer grows to, doubling, while the link is up. A message of some kilobytes costs
little, and the other end may be able to answer again at any time."""

MAX_INBOX = 32
"""Descriptions that wait for an operation. Peers send one or two; when full, the oldest goes."""


class Phase(Enum):
    """What the negotiation is doing."""

    STABLE = auto()
    OFFERING = auto()
    OFFERED = auto()
    COMMITTING = auto()
    ANSWERING = auto()
    CLOSED = auto()


_BUSY = frozenset({Phase.OFFERING, Phase.COMMITTING, Phase.ANSWERING})


class NegotiationStateError(Exception):
    """An input that is illegal in the current phase. A fault of the caller."""


@dataclass(frozen=True, slots=True)
class CreateOffer:
    """Create an offer, leave the connection stable, and report `offer_created` or `failed`."""


@dataclass(frozen=True, slots=True)
class SendOffer:
    """Send the offer to the other end."""

    sdp: str


@dataclass(frozen=True, slots=True)
class ForgetOffer:
    """Undo what creating the pending offer left behind in the connection."""


@dataclass(frozen=True, slots=True)
class CommitOffer:
    """Set the offer as local and the answer as remote description; report `committed` or `failed`."""

    offer: str
    answer: Description


@dataclass(frozen=True, slots=True)
class ApplyOffer:
    """Set the offer as remote description, answer it, and report `answered` or `failed`."""

    offer: Description


@dataclass(frozen=True, slots=True)
class SendAnswer:
    """Send the answer to the other end."""

    sdp: str


@dataclass(frozen=True, slots=True)
class Rebuild:
    """Replace the connection by a fresh one. Nothing is to be reported."""

    reason: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Negotiation cannot repair this connection: decide when to `restart`."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unanswered:
    """Report that the other end does not answer an offer. The connection goes on as it is."""

    reason: str


Effect = Unanswered | CreateOffer | SendOffer | ForgetOffer | CommitOffer | ApplyOffer | SendAnswer | Rebuild | GiveUp


@dataclass(slots=True)
class _Pending:
    offer: Description
    resends: int = 0


class Negotiator:
    """One end of the negotiation of one pair.

    Every method returns the effects to perform, in order. Feed results back as they come; inputs may arrive at any
    time. `deadline` is when `timer` wants to be called, or None. One that `holds_back` offers nothing before `release`,
    or an offer of the other end.
    """

    def __init__(self, *, polite: bool, holds_back: bool = False) -> None:
        self.polite = polite
        self.phase = Phase.STABLE
        self.dirty = False
        self.deadline: float | None = None
        self.restartable = False
        self.ignored_offers = 0
        self.dropped_answers = 0
        self._paused = False
        self._holds_back = holds_back
        self._inbox: deque[Description] = deque(maxlen=MAX_INBOX)
        self._begin()

    def _begin(self) -> None:
        """Start a generation: a fresh connection that has negotiated nothing."""
        self._negotiated = False
        self._link_up = False
        self._gave_up = False
        self._pending: _Pending | None = None
        self._remote: Description | None = None
        self._restarting_ice = False
        self._applying: Description | None = None
        self._answered: Description | None = None
        self._last_answer = ""
        self._answer_in_doubt = False
        self._offer_refused = False
        self._answer_refused = False
        self.deadline = None

    @property
    def settled(self) -> bool:
        """Tell whether nothing is under way and nothing is left to offer."""
        return self.phase is Phase.STABLE and not self.dirty

    @property
    def holds_back(self) -> bool:
        """Tell whether the first offer waits for one of the other end."""
        return self._holds_back

    def changed(self, now: float) -> list[Effect]:
        """Note that something at this end has to be offered."""
        self.dirty = True
        self._offer_refused = False
        return self._proceed(now)

    def link_up(self, now: float) -> list[Effect]:
        """Note that media and data flow: held offers may go."""
        self._link_up = True
        return self._proceed(now)

    def release(self, now: float) -> list[Effect]:
        """Hold the first offer back no more."""
        self._holds_back = False
        return self._proceed(now)

    def pause(self) -> None:
        """Note that nothing can be sent: time stands still for the pending offer."""
        self._paused = True
        self.deadline = None

    def resume(self, now: float) -> list[Effect]:
        """Note that the other end can be reached again: a pending offer is sent again, changes are offered."""
        if not self._paused:
            return []
        self._paused = False
        return self._repeat(now) if self._pending is not None else self.retry(now)

    def retry(self, now: float) -> list[Effect]:
        """Send what was refused for good: the server may have other rules for this end now."""
        if self._pending is not None and self.deadline is None:
            return self._repeat(now)
        effects = self._refused_answer()
        self.dirty = self.dirty or self._offer_refused
        self._offer_refused = False
        return effects + self._proceed(now)

    def _repeat(self, now: float) -> list[Effect]:
        """Send a pending offer as if it had never been sent."""
        assert self._pending is not None
        if self._paused:
            return []
        self._pending.resends = 0
        self.deadline = now + OFFER_TIMEOUT
        answer = self._refused_answer()
        return [*answer, *(it for it in self._send_offer(self._pending) if it not in answer)]

    def _refused_answer(self) -> list[Effect]:
        """Send an answer once more that was refused."""
        was_refused, self._answer_refused = self._answer_refused, False
        return [SendAnswer(self._last_answer)] if was_refused else []

    def restart(self, now: float, reason: str) -> list[Effect]:
        """Begin again on a fresh connection and offer it.

        Raises:
            NegotiationStateError: an operation is under way, or the negotiation is closed.
        """
        self._require(Phase.STABLE, Phase.OFFERED)
        self.phase = Phase.STABLE
        self._begin()
        self.dirty = True
        return [Rebuild(reason), *self._proceed(now)]

    def restart_ice(self, now: float) -> list[Effect]:
        """Offer the new ICE credentials that the connection has taken.

        Raises:
            NegotiationStateError: an operation is under way, or the negotiation is closed.
        """
        self._require(Phase.STABLE, Phase.OFFERED)
        effects: list[Effect] = [ForgetOffer()] if self._pending is not None else []
        self._drop_pending()
        self.phase = Phase.STABLE
        self._restarting_ice = self.dirty = True
        self._gave_up = self._offer_refused = False
        return [*effects, *self._proceed(now)]

    def close(self) -> None:
        """End the negotiation. Later inputs have no effects."""
        self.phase = Phase.CLOSED
        self.dirty = False
        self._inbox.clear()
        self._begin()

    def received(self, description: Description, now: float) -> list[Effect]:
        """Take a description from the other end."""
        if self.phase in _BUSY:
            self._inbox.append(description)
            return []
        if self.phase is Phase.CLOSED:
            return []
        effects = self._offer(description) if description.kind == "offer" else self._answer(description)
        return effects + self._proceed(now)

    def planning(self) -> None:
        """Note that the offer under way takes in everything that has changed so far: none of it is offered again."""
        self._require(Phase.OFFERING)
        self.dirty = False

    def offer_created(self, offer: Description, now: float) -> list[Effect]:
        """Take the offer that `CreateOffer` asked for."""
        self._require(Phase.OFFERING)
        self.phase = Phase.OFFERED
        self._pending = _Pending(offer)
        self.deadline = None if self._paused else now + OFFER_TIMEOUT
        return [*self._send_offer(self._pending), *self._proceed(now)]

    def committed(self, now: float, *, more: bool = False) -> list[Effect]:
        """Note that `CommitOffer` succeeded. `more` if something at this end is still to be offered."""
        self._require(Phase.COMMITTING)
        return self._completed(now, more)

    def answered(self, answer: str, now: float, *, more: bool = False) -> list[Effect]:
        """Take the answer that `ApplyOffer` asked for. `more` if something of ours found no place in it."""
        self._require(Phase.ANSWERING)
        self._answered, self._last_answer = self._applying, answer
        self._answer_refused = False
        self._restarting_ice = False  # the answer has the new credentials
        # Only ends like this one, which tag their offers, are sure to drop an answer that they have.
        self._answer_in_doubt = self._applying is not None and self._applying.tag is not None
        return [SendAnswer(answer), *self._completed(now, more)]

    def failed(self, reason: str, now: float) -> list[Effect]:
        """Note that the operation under way failed."""
        self._require(*_BUSY)
        return self._give_up(reason)

    def offer_undeliverable(self, now: float, sdp: str | None = None, *, has_arrived: bool = False) -> list[Effect]:
        """Handle an offer that can never reach the other end: the one that was to be created, or one that was sent.

        `has_arrived` if it was delivered before and only cannot be repeated: then its answer is waited for.
        """
        if sdp is None:
            self._require(Phase.OFFERING)
        elif self.phase is not Phase.OFFERED or self._pending is None or self._pending.offer.sdp != sdp:
            return []
        if has_arrived:
            self.deadline = None
            return []
        effects: list[Effect] = [ForgetOffer()] if self._pending is not None else []
        self._drop_pending()
        self.phase = Phase.STABLE
        self._offer_refused = True
        return [*effects, *self._proceed(now)]

    def answer_undeliverable(self, sdp: str) -> None:
        """Handle an answer that can never reach the other end: it is not repeated when the offer is."""
        if sdp == self._last_answer:
            self._answer_refused = True

    def timer(self, now: float) -> list[Effect]:
        """Send an unanswered offer again, or give up."""
        pending = self._pending
        if self.deadline is None or now < self.deadline or pending is None or self.phase is not Phase.OFFERED:
            return []
        told: list[Effect] = []
        if pending.resends == MAX_OFFER_RESENDS:
            reason = f"no answer to an offer sent {pending.resends + 1} times"
            if not self._link_up or self._restarting_ice:
                return self._give_up(reason)
            told.append(Unanswered(reason))
        pending.resends += 1
        doublings = max(0, pending.resends - MAX_OFFER_RESENDS)
        self.deadline = now + min(OFFER_TIMEOUT * 2.0 ** min(doublings, 10), MAX_OFFER_WAIT)
        return [*told, *self._send_offer(pending)]

    def _send_offer(self, pending: _Pending) -> list[Effect]:
        again = self._answer_in_doubt and not self._answer_refused
        answer: list[Effect] = [SendAnswer(self._last_answer)] if again else []
        return [*answer, SendOffer(pending.offer.sdp)]

    def _require(self, *phases: Phase) -> None:
        if self.phase not in phases:
            raise NegotiationStateError(f"illegal in phase {self.phase.name}")

    def _offer(self, offer: Description) -> list[Effect]:
        if self._answered is not None and offer.sdp == self._answered.sdp:
            return self._answer_again()
        self._answer_in_doubt = self._holds_back = False
        effects: list[Effect] = []
        replaced = self._is_replaced(offer)
        if self._pending is not None and not replaced:
            if not self.polite:
                self.ignored_offers += 1
                return []
            effects.append(ForgetOffer())
        if self._pending is not None:
            self._drop_pending()
            self.dirty = True
        if replaced:
            self._begin()
            effects.append(Rebuild("the other end was replaced"))
        self.phase = Phase.ANSWERING
        self._gave_up = False
        self._applying = offer
        return [*effects, ApplyOffer(offer)]

    def _answer_again(self) -> list[Effect]:
        """The other end waits for this answer and ignored what we offered meanwhile: send both."""
        effects: list[Effect] = [] if self._answer_refused else [SendAnswer(self._last_answer)]
        if self._pending is not None:
            effects.append(SendOffer(self._pending.offer.sdp))
        return effects

    def _answer(self, answer: Description) -> list[Effect]:
        if self._is_replaced(answer):
            self._begin()
            self.phase = Phase.STABLE
            self.dirty = True
            return [Rebuild("the other end was replaced")]
        is_stale = self._restarting_ice and self._remote is not None and answer.ufrag == self._remote.ufrag
        if self._pending is None or is_stale or not _matches(self._pending.offer, answer):
            self.dropped_answers += 1
            return []
        self._answer_in_doubt = False
        effect = CommitOffer(self._pending.offer.sdp, answer)
        self._drop_pending()
        self.phase = Phase.COMMITTING
        self._applying = answer
        return [effect]

    def _is_replaced(self, description: Description) -> bool:
        if self._remote is None or description.ufrag == self._remote.ufrag:
            return False
        return not (self.restartable and description.restarts(self._remote))

    def _drop_pending(self) -> None:
        self._pending = None
        self.deadline = None

    def _completed(self, now: float, more: bool) -> list[Effect]:
        assert self._applying is not None
        if self._remote is None or self._applying.ufrag != self._remote.ufrag:
            self._restarting_ice = False
        self._remote, self._applying = self._applying, None
        self._negotiated = True
        self.phase = Phase.STABLE
        self.dirty = self.dirty or (more and not self._offer_refused)
        return self._proceed(now)

    def _give_up(self, reason: str) -> list[Effect]:
        self._drop_pending()
        self._applying = None
        self._gave_up = True
        self.dirty = True
        self.phase = Phase.STABLE
        return [GiveUp(reason)]

    def _proceed(self, now: float) -> list[Effect]:
        """Do what waits: first what the other end sent, then what this end has to offer."""
        effects: list[Effect] = []
        while self._inbox and self.phase in (Phase.STABLE, Phase.OFFERED):
            effects += self.received(self._inbox.popleft(), now)
        held = self._paused or self._holds_back or self._gave_up or (self._negotiated and not self._link_up)
        if self.phase is Phase.STABLE and self.dirty and not held:
            self.dirty = False
            self.phase = Phase.OFFERING
            effects.append(CreateOffer())
        return effects


def _matches(offer: Description, answer: Description) -> bool:
    if answer.tag is not None:
        return answer.tag == offer.tag
    return answer.mids == offer.mids
