"""Offer and answer without rollback: commit on answer.

An offer is created and sent while the underlying connection stays `stable`. It is committed, that is set as local
description, only when its answer has arrived. An end that gives way in a collision simply forgets its offer. Neither
end has to wait for the other's first move, and a collision (glare, RFC 8829 section 4.1.8.2) never replaces a
connection.

Phases, and what each input does in them:

    input \\ phase    STABLE           OFFERING          OFFERED                  COMMITTING  ANSWERING       FOLLOWING
    changed          offer, or hold   remember          remember                 remember    remember        remember
    planning         -                forget changes    -                        -           -               -
    offer arrives    answer it        queue             polite: forget, answer   queue       queue           keep it
                                                        impolite: pass it over
    answer arrives   drop             queue             matching: commit         queue       queue           drop
                                                        other: drop
    restart          rebuild, offer   -                 rebuild, offer           -           -               follow
    restart_ice      offer            -                 forget, offer            -           -               follow
    created          -                send -> OFFERED   -                        -           -               -
    committed        -                -                 -                        -> STABLE   -               -
    answered         -                -                 -                        -           send -> STABLE  -
    failed           -                give up           -                        give up     give up         -
    undeliverable    -                forget changes    forget offer, changes    -           -               -
    timer            -                -                 resend; then answer an   -           -               follow
                                                        offer passed over, give
                                                        up, or report

FOLLOWING: the other end was replaced or restarts ICE, and this end will do the same in a moment. To follow is to
rebuild, unless ICE is restarted, and then to answer the offer that was kept, or else to offer.

An input marked `-` is illegal there: it changes nothing and raises `NegotiationStateError`. Exceptions are a late timer
and the report of an undeliverable description, which are ignored. `connected`, `release_offer`, `pause`, `resume`,
`retry` and `close` are legal in every phase.

Invariants:
- At most one operation runs on the connection, and at most one offer is pending.
- Descriptions that arrive during an operation wait in a bounded inbox, in order.
- A change is remembered (`dirty`) until an offer that was created after it has been committed or sent.
- While paused, that is while the other end cannot be reached, no offer is begun, and no timer repeats one or gives up.
- A follow-up offer is held until the connection is up: aiortc loses media when it negotiates while DTLS is connecting.
- A remote description with an ICE user fragment other than the one in use means that the other end was replaced: this
  end is replaced too. Messages of one sender arrive in order, so a different fragment is always a newer one. The
  connection goes on only where ICE can be restarted (`restartable`) and the description shows the same end as before.
- The other end does not decide how often this end is replaced or restarts ICE: see `following`. If that happens all the
  time, this end is replaced only for offers.
- An offer that the impolite end passed over is answered when its own one, sent twice, has no answer: a foreign end that
  cannot roll back waits for ever. A native one rolls back.
- After `restart_ice` only an answer with a different fragment fits: one with the old fragment belongs to an earlier
  offer.
- The same offer again means that its answer was lost: the answer is sent again, and nothing is applied twice.
- A description that is refused for good is not sent again, neither by a timer nor because the other end repeats itself,
  and the connection stays as it is. `changed`, `resume` and `retry` offer everything that is not agreed on.
- An offer that follows an answer is preceded by that answer, until the other end has shown that it received it. An end
  that did not would take the new offer for a collision, forget its own, and treat the sections of its own offer as
  opened by this end.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from .effects import (
    ApplyOffer,
    CommitOffer,
    CreateOffer,
    Effect,
    FollowLater,
    ForgetOffer,
    GiveUp,
    Rebuild,
    SendAnswer,
    SendOffer,
    Unanswered,
)
from .following import REPLACED, Following
from .phases import BUSY, NegotiationStateError, Phase
from .sdp import Description

OFFER_TIMEOUT = 5.0
"""Seconds until an unanswered offer is sent again: several round trips of a bad mobile link."""

MAX_OFFER_RESENDS = 4
"""How often an offer is sent again before the other end counts as unable to answer it. A connection that is not up is
then given up. One that is up goes on: the other end may be unable to send at all, and could not answer an offer on a
new connection either."""

RESENDS_BEFORE_YIELDING = 1
"""How often an offer is sent again before a foreign offer that collided with it is answered. An end that can roll back
answers within a round trip, and one of the two sendings may have been lost."""

MAX_OFFER_WAIT = 300.0
"""Longest wait for an answer while the connection is up, in seconds; the wait doubles up to this. A message of some
kilobytes costs little, and the other end may be able to answer again at any time."""

MAX_INBOX = 32
"""Descriptions that wait for an operation to end. Peers send one or two; when full, the oldest is dropped."""


@dataclass(slots=True)
class _Pending:
    offer: Description
    resends: int = 0


class Negotiator:
    """One end of the negotiation between two peers.

    Inputs return the effects to perform, in order. Feed results back as they come; inputs may arrive at any time. With
    `holds_back_offer` the first offer waits for `release_offer`, or for an offer of the other end. Times are seconds of
    one clock.

    Attributes:
        polite: Whether this end gives way in a collision.
        phase: The current phase.
        dirty: Whether a change at this end has still to be offered.
        deadline: When to call `timer`, None for never. It may have changed after each call.
        restartable: Whether ICE can be restarted on the connection. Set by the caller.
        ignored_offers: The number of colliding offers that this end passed over.
        dropped_answers: The number of answers that did not fit the pending offer.
    """

    def __init__(self, *, polite: bool, holds_back_offer: bool = False) -> None:
        self.polite = polite
        self.phase = Phase.STABLE
        self.dirty = False
        self.deadline: float | None = None
        self.restartable = False
        self.ignored_offers = 0
        self.dropped_answers = 0
        self._paused = False
        self._holds_back_offer = holds_back_offer
        self._inbox: deque[Description] = deque(maxlen=MAX_INBOX)
        self._following = Following()
        self._begin()

    def _begin(self) -> None:
        """Start on a fresh connection that has negotiated nothing."""
        self._negotiated = False
        self._is_connected = False
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
        self._passed_over: Description | None = None
        self._following.offer = None
        self.deadline = None

    @property
    def settled(self) -> bool:
        """Whether nothing is under way and nothing is left to offer."""
        return self.phase is Phase.STABLE and not self.dirty

    @property
    def holds_back_offer(self) -> bool:
        """Whether the first offer waits for `release_offer`, or for an offer of the other end."""
        return self._holds_back_offer

    def changed(self, now: float) -> list[Effect]:
        """Handle a change at this end that has to be offered."""
        self.dirty = True
        self._offer_refused = False
        return self._proceed(now)

    def connected(self, now: float) -> list[Effect]:
        """Handle the connection coming up: a held follow-up is offered."""
        self._is_connected = True
        self._following.connected(now)
        return self._proceed(now)

    def release_offer(self, now: float) -> list[Effect]:
        """Stop holding the first offer back."""
        self._holds_back_offer = False
        return self._proceed(now)

    def pause(self) -> None:
        """Handle the other end becoming unreachable: the timer of a pending offer stops."""
        self._paused = True
        self.deadline = None

    def resume(self, now: float) -> list[Effect]:
        """Handle the other end becoming reachable: repeat a pending offer, or `retry`. No effect unless paused."""
        if not self._paused:
            return []
        self._paused = False
        if self.phase is Phase.FOLLOWING:
            self.deadline = self._following.at
        return self._repeat(now) if self._pending is not None else self.retry(now)

    def retry(self, now: float) -> list[Effect]:
        """Send again what was refused for good: the rules of the server may have changed for this end."""
        if self._pending is not None and self.deadline is None:
            return self._repeat(now)
        effects = self._refused_answer()
        self.dirty = self.dirty or self._offer_refused
        self._offer_refused = False
        return effects + self._proceed(now)

    def _repeat(self, now: float) -> list[Effect]:
        """Send the pending offer as if it had never been sent."""
        assert self._pending is not None
        if self._paused:
            return []
        self._pending.resends = 0
        self.deadline = now + OFFER_TIMEOUT
        answer = self._refused_answer()
        return [*answer, *(it for it in self._send_offer(self._pending) if it not in answer)]

    def _refused_answer(self) -> list[Effect]:
        """Return the effect that sends a refused answer once more, if there is one."""
        was_refused, self._answer_refused = self._answer_refused, False
        return [SendAnswer(self._last_answer)] if was_refused else []

    def restart(self, now: float, reason: str) -> list[Effect]:
        """Begin again on a fresh connection and offer it.

        Raises:
            NegotiationStateError: an operation is under way, or the negotiation is closed.
        """
        self._require(Phase.STABLE, Phase.OFFERED, Phase.FOLLOWING)
        offer = self._following.offer
        self.phase = Phase.STABLE
        self._begin()
        if offer is not None:
            return [Rebuild(reason), self._answer(offer)]
        self.dirty = True
        return [Rebuild(reason), *self._proceed(now)]

    def restart_ice(self, now: float) -> list[Effect]:
        """Offer new ICE credentials, which the connection already uses.

        Raises:
            NegotiationStateError: an operation is under way, or the negotiation is closed.
        """
        self._require(Phase.STABLE, Phase.OFFERED, Phase.FOLLOWING)
        if self.phase is Phase.FOLLOWING:
            return self._follow(now)
        effects = self._forget_pending()
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
        """Handle a description from the other end. During an operation it waits for the end of that."""
        if self.phase in BUSY:
            self._inbox.append(description)
            return []
        if self.phase is Phase.CLOSED:
            return []
        is_offer = description.kind == "offer"
        received = self._offer_received if is_offer else self._answer_received
        effects = received(description, now)
        return effects + self._proceed(now)

    def planning(self) -> None:
        """Handle the offer under way being planned: it covers all changes so far, which are not offered again.

        Raises:
            NegotiationStateError: no offer is being created.
        """
        self._require(Phase.OFFERING)
        self.dirty = False

    def offer_created(self, offer: Description, now: float) -> list[Effect]:
        """Handle the result of `CreateOffer`: send the offer.

        Raises:
            NegotiationStateError: no offer is being created.
        """
        self._require(Phase.OFFERING)
        self.phase = Phase.OFFERED
        self._pending = _Pending(offer)
        self.deadline = None if self._paused else now + OFFER_TIMEOUT
        return [*self._send_offer(self._pending), *self._proceed(now)]

    def committed(self, now: float, *, more: bool = False) -> list[Effect]:
        """Handle the success of `CommitOffer`. `more`: something at this end has still to be offered.

        Raises:
            NegotiationStateError: no offer is being committed.
        """
        self._require(Phase.COMMITTING)
        return self._completed(now, more)

    def answered(self, answer: str, now: float, *, more: bool = False, is_complete: bool = False) -> list[Effect]:
        """Handle the result of `ApplyOffer`: send the answer. `more`: something of this end found no place in it.
        `is_complete`: whether the answer has all changes so far. They are not offered again then.

        Raises:
            NegotiationStateError: no offer is being answered.
        """
        self._require(Phase.ANSWERING)
        self._answered, self._last_answer = self._applying, answer
        self._answer_refused = False
        self._restarting_ice = False  # the answer has the new credentials
        self.dirty = self.dirty and not is_complete
        # Only native ends, which tag their offers, are sure to drop an answer that they already have.
        self._answer_in_doubt = self._applying is not None and self._applying.tag is not None
        return [SendAnswer(answer), *self._completed(now, more)]

    def failed(self, reason: str, now: float) -> list[Effect]:
        """Handle the failure of the operation under way.

        Raises:
            NegotiationStateError: no operation is under way.
        """
        self._require(*BUSY)
        return self._give_up(reason)

    def offer_undeliverable(self, now: float, sdp: str | None = None, *, has_arrived: bool = False) -> list[Effect]:
        """Handle an offer that can never reach the other end.

        `sdp` is the offer that was sent, or None for the one that is being created. `has_arrived`: it was delivered
        before and only its repetition fails, so its answer is still awaited.

        Raises:
            NegotiationStateError: `sdp` is None and no offer is being created.
        """
        if sdp is None:
            self._require(Phase.OFFERING)
        elif self.phase is not Phase.OFFERED or self._pending is None or self._pending.offer.sdp != sdp:
            return []
        if has_arrived:
            self.deadline = None
            return []
        effects = self._forget_pending()
        self._offer_refused = True
        return [*effects, *self._proceed(now)]

    def answer_undeliverable(self, sdp: str) -> None:
        """Handle an answer that can never reach the other end: it is not repeated when the offer is."""
        if sdp == self._last_answer:
            self._answer_refused = True

    def timer(self, now: float) -> list[Effect]:
        """Send an unanswered offer again, or give up, or follow a replaced end. No effect before the deadline."""
        pending = self._pending
        if self.deadline is None or now < self.deadline:
            return []
        if self.phase is Phase.FOLLOWING:
            return self._follow(now)
        if pending is None or self.phase is not Phase.OFFERED:
            return []
        if self._passed_over is not None and pending.resends >= RESENDS_BEFORE_YIELDING:
            return self._yield_to(self._passed_over)
        reports: list[Effect] = []
        if pending.resends == MAX_OFFER_RESENDS:
            reason = f"no answer to an offer sent {pending.resends + 1} times"
            if not self._is_connected or self._restarting_ice:
                return self._give_up(reason)
            reports.append(Unanswered(reason))
        pending.resends += 1
        doublings = max(0, pending.resends - MAX_OFFER_RESENDS)
        self.deadline = now + min(OFFER_TIMEOUT * 2.0 ** min(doublings, 10), MAX_OFFER_WAIT)
        return [*reports, *self._send_offer(pending)]

    def _send_offer(self, pending: _Pending) -> list[Effect]:
        again = self._answer_in_doubt and not self._answer_refused
        answer: list[Effect] = [SendAnswer(self._last_answer)] if again else []
        return [*answer, SendOffer(pending.offer.sdp)]

    def _require(self, *phases: Phase) -> None:
        if self.phase not in phases:
            raise NegotiationStateError(f"illegal in phase {self.phase.name}")

    def _offer_received(self, offer: Description, now: float) -> list[Effect]:
        if self.phase is Phase.FOLLOWING:
            self._following.offer = offer
            return []
        if self._answered is not None and offer.sdp == self._answered.sdp:
            return self._answer_again()
        self._answer_in_doubt = self._holds_back_offer = False
        if self._is_replaced(offer):
            return self._be_replaced(offer, now)
        if self._pending is not None and not self.polite:
            self.ignored_offers += 1
            self._passed_over = offer if offer.tag is None else None
            return []
        if self._remote is not None and offer.ufrag != self._remote.ufrag:
            self._following.ice_restart(offer, now)
            return self._follow_soon(now)
        return [self._answer(offer)] if self._pending is None else self._yield_to(offer)

    def _yield_to(self, offer: Description) -> list[Effect]:
        """Forget the pending offer and answer that of the other end. What was in it is offered again."""
        self.dirty = True
        return [*self._forget_pending(), self._answer(offer)]

    def _answer(self, offer: Description) -> Effect:
        self.phase = Phase.ANSWERING
        self._gave_up = False
        self._applying = offer
        return ApplyOffer(offer)

    def _be_replaced(self, description: Description, now: float) -> list[Effect]:
        """Follow an end that was replaced, as soon as its pace allows it."""
        reports = self._following.replacement(description, now)
        if description.kind == "offer" or not self._following.is_over:
            self.dirty = self.dirty or description.kind == "answer"
            return [*reports, *self._follow_soon(now)]
        self._gave_up = self.dirty = True
        return [*reports, *self._forget_pending()]

    def _follow_soon(self, now: float) -> list[Effect]:
        self.dirty = self.dirty or self._pending is not None
        effects = self._forget_pending()
        self.phase = Phase.FOLLOWING
        if (wait := self._following.at - now) <= 0:
            return [*effects, *self._follow(now)]
        self.deadline = None if self._paused else self._following.at
        return [*effects, FollowLater(wait)]

    def _follow(self, now: float) -> list[Effect]:
        if (offer := self._following.offer) is None or self._is_replaced(offer):
            return self.restart(now, REPLACED)
        self._following.offer = self.deadline = None
        return [self._answer(offer)]

    def _answer_again(self) -> list[Effect]:
        """Send the answer to an end that waits for it, and the offer that it ignored meanwhile."""
        effects: list[Effect] = [] if self._answer_refused else [SendAnswer(self._last_answer)]
        if self._pending is not None:
            effects.append(SendOffer(self._pending.offer.sdp))
        return effects

    def _answer_received(self, answer: Description, now: float) -> list[Effect]:
        if self.phase is Phase.FOLLOWING:
            self.dropped_answers += 1
            return []
        if self._is_replaced(answer):
            return self._be_replaced(answer, now)
        is_stale = self._restarting_ice and self._remote is not None and answer.ufrag == self._remote.ufrag
        if self._pending is None or is_stale or not answer.answers(self._pending.offer):
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

    def _forget_pending(self) -> list[Effect]:
        """Become stable. Return the effect that forgets the pending offer, if there is one."""
        effects: list[Effect] = [ForgetOffer()] if self._pending is not None else []
        self._drop_pending()
        self.phase = Phase.STABLE
        return effects

    def _drop_pending(self) -> None:
        self._pending = self._passed_over = None
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
        """Process what waits: descriptions of the other end first, then changes at this end."""
        effects: list[Effect] = []
        while self._inbox and self.phase in (Phase.STABLE, Phase.OFFERED):
            effects += self.received(self._inbox.popleft(), now)
        held = self._paused or self._holds_back_offer or self._gave_up or (self._negotiated and not self._is_connected)
        if self.phase is Phase.STABLE and self.dirty and not held:
            self.dirty = False
            self.phase = Phase.OFFERING
            effects.append(CreateOffer())
        return effects
