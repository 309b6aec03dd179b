"""The negotiation input by input: the table at the top of the module, and its invariants."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metered_realtime.core.negotiation import negotiator as n
from metered_realtime.core.negotiation.effects import ReplacementsExhausted
from metered_realtime.core.negotiation.following import MAX_ICE_RESTART_WAIT
from metered_realtime.core.negotiation.ladder import LADDER, STABLE_AFTER
from metered_realtime.core.negotiation.sdp import Description, DescriptionKind


def offer(tag: str | None = "1", ufrag: str = "them", mids: tuple[str, ...] = ("0",)) -> Description:
    return Description("offer", f"offer {ufrag} {tag} {mids}", ufrag, mids, tag)


def answer(tag: str | None = "1", ufrag: str = "them", mids: tuple[str, ...] = ("0",)) -> Description:
    return Description("answer", f"answer {ufrag} {tag} {mids}", ufrag, mids, tag)


OURS = offer("mine", "me")


def offered(*, polite: bool = True) -> n.Negotiator:
    """Return an end that waits for the answer to its first offer."""
    end = n.Negotiator(polite=polite)
    assert end.changed(0) == [n.CreateOffer()]
    assert end.offer_created(OURS, 0) == [n.SendOffer(OURS.sdp)]
    return end


def settled(*, polite: bool = True) -> n.Negotiator:
    """Return an end that has negotiated and is connected."""
    end = offered(polite=polite)
    assert end.received(answer("mine"), 1) == [n.CommitOffer(OURS.sdp, answer("mine"))]
    assert end.committed(1) == []
    assert end.connected(1) == []
    assert end.settled
    return end


def answering() -> n.Negotiator:
    end = n.Negotiator(polite=True)
    assert end.received(offer(), 0) == [n.ApplyOffer(offer())]
    return end


def committing() -> n.Negotiator:
    end = offered()
    end.received(answer("mine"), 0)
    return end


def offering() -> n.Negotiator:
    end = n.Negotiator(polite=True)
    end.changed(0)
    return end


def test_a_change_is_offered_committed_and_done() -> None:
    end = settled()
    assert (end.phase, end.dirty, end.deadline) == (n.Phase.STABLE, False, None)


@pytest.mark.parametrize(("more", "effects"), [(False, []), (True, [n.CreateOffer()])])
def test_after_a_complete_answer_only_what_it_leaves_out_is_offered(more: bool, effects: list[n.Effect]) -> None:
    end = offered(polite=True)
    assert end.received(offer(tag=None), 0) == [n.ForgetOffer(), n.ApplyOffer(offer(tag=None))]
    end.connected(0)
    assert end.answered("x", 0, more=more, is_complete=True) == [n.SendAnswer("x"), *effects]
    assert end.settled is not more


def test_an_offer_is_answered() -> None:
    end = answering()
    assert end.answered("answer", 0) == [n.SendAnswer("answer")]
    assert end.settled


def test_a_change_during_an_operation_is_offered_afterwards() -> None:
    for make, finish in ((offering, None), (offered, None), (committing, "committed"), (answering, "answered")):
        end = make()
        assert end.changed(0) == []
        assert end.dirty
        if finish == "committed":
            assert end.committed(0) == []
            assert end.connected(1) == [n.CreateOffer()]
        elif finish == "answered":
            assert end.answered("x", 0) == [n.SendAnswer("x")]
            assert end.connected(1) == [n.CreateOffer()]


def test_changes_before_an_offer_is_planned_are_in_it_and_not_offered_again() -> None:
    end = offering()
    end.changed(0)
    end.planning()
    assert not end.dirty
    end.changed(0)
    assert end.dirty, "the change came too late for this offer"
    with pytest.raises(n.NegotiationStateError):
        settled().planning()


def test_an_answer_is_sent_again_before_an_offer_until_it_is_known_to_have_arrived() -> None:
    end = answering()
    assert end.answered("x", 0) == [n.SendAnswer("x")]
    end.connected(1)
    assert end.changed(1) == [n.CreateOffer()]
    assert end.offer_created(OURS, 1) == [n.SendAnswer("x"), n.SendOffer(OURS.sdp)]
    assert end.timer(1 + n.OFFER_TIMEOUT) == [n.SendAnswer("x"), n.SendOffer(OURS.sdp)]
    end.received(answer("mine"), 9)
    end.committed(9)
    assert end.changed(10) == [n.CreateOffer()]
    assert end.offer_created(OURS, 10) == [n.SendOffer(OURS.sdp)]


def test_an_answer_is_not_repeated_to_a_foreign_end() -> None:
    end = n.Negotiator(polite=True)
    end.received(offer(tag=None), 0)
    end.answered("x", 0)
    end.connected(1)
    end.changed(1)
    assert end.offer_created(OURS, 1) == [n.SendOffer(OURS.sdp)]


def test_a_follow_up_waits_until_the_connection_is_up() -> None:
    end = answering()
    assert end.answered("x", 0, more=True) == [n.SendAnswer("x")]
    assert end.changed(1) == []
    assert end.connected(2) == [n.CreateOffer()]


def test_the_polite_end_gives_way_and_offers_again() -> None:
    end = offered(polite=True)
    assert end.received(offer(), 0) == [n.ForgetOffer(), n.ApplyOffer(offer())]
    assert end.dirty
    assert end.deadline is None
    assert end.received(answer("mine"), 0) == []
    end.answered("x", 0)
    assert end.dropped_answers == 1, "the answer to the forgotten offer comes too late"


def test_the_impolite_end_ignores_a_colliding_offer() -> None:
    end = offered(polite=False)
    assert end.received(offer(), 0) == []
    assert end.ignored_offers == 1
    assert end.received(answer("mine"), 0) == [n.CommitOffer(OURS.sdp, answer("mine"))]


@pytest.mark.parametrize("make", [offering, committing, answering])
def test_descriptions_during_an_operation_wait_in_order(make: Callable[[], n.Negotiator]) -> None:
    end = make()
    assert end.received(offer("2"), 0) == []
    assert end.received(answer("2"), 0) == []
    if make is offering:
        assert end.offer_created(OURS, 0) == [n.SendOffer(OURS.sdp), n.ForgetOffer(), n.ApplyOffer(offer("2"))]
    elif make is committing:
        assert end.committed(0) == [n.ApplyOffer(offer("2"))]
    else:
        assert end.answered("x", 0) == [n.SendAnswer("x"), n.ApplyOffer(offer("2"))]


def test_the_inbox_is_bounded_and_keeps_the_newest() -> None:
    end = answering()
    for number in range(n.MAX_INBOX + 3):
        end.received(answer(str(number)), 0)
    end.answered("x", 0)
    assert end.dropped_answers == n.MAX_INBOX


@pytest.mark.parametrize("late", [answer("other"), answer(None, mids=("0", "1"))])
def test_an_answer_to_something_else_is_dropped(late: Description) -> None:
    end = offered()
    assert end.received(late, 0) == []
    assert (end.dropped_answers, end.phase) == (1, n.Phase.OFFERED)


def test_an_answer_without_a_tag_is_matched_by_its_sections() -> None:
    end = offered()
    assert end.received(answer(None), 0) == [n.CommitOffer(OURS.sdp, answer(None))]


def test_an_answer_without_a_pending_offer_is_dropped() -> None:
    end = settled()
    assert end.received(answer("mine"), 0) == []
    assert end.dropped_answers == 1


def test_the_same_offer_again_is_answered_again_and_not_applied() -> None:
    end = answering()
    end.answered("first answer", 0)
    assert end.received(offer(), 1) == [n.SendAnswer("first answer")]


def test_the_same_offer_again_while_ours_waits_sends_both() -> None:
    end = answering()
    end.answered("first answer", 0)
    end.connected(0)
    end.changed(1)
    end.offer_created(OURS, 1)
    assert end.received(offer(), 2) == [n.SendAnswer("first answer"), n.SendOffer(OURS.sdp)]


def test_an_unanswered_offer_is_sent_again_then_given_up() -> None:
    end = offered()
    now = 0.0
    for _ in range(n.MAX_OFFER_RESENDS):
        assert end.timer(now + n.OFFER_TIMEOUT - 0.1) == []
        now += n.OFFER_TIMEOUT
        assert end.deadline == now
        assert end.timer(now) == [n.SendOffer(OURS.sdp)]
    (effect,) = end.timer(now + n.OFFER_TIMEOUT)
    assert isinstance(effect, n.GiveUp)
    assert (end.phase, end.dirty, end.deadline) == (n.Phase.STABLE, True, None)
    assert end.changed(now) == [], "nothing is offered before a restart, or an offer of the other end"


def test_a_late_timer_is_no_error() -> None:
    for make in (settled, answering, offering, committing):
        assert make().timer(1_000) == []


@pytest.mark.parametrize("make", [offering, committing, answering])
def test_a_failed_operation_gives_up(make: Callable[[], n.Negotiator]) -> None:
    end = make()
    assert end.failed("why", 0) == [n.GiveUp("why")]
    assert end.restart(1, "why") == [n.Rebuild("why"), n.CreateOffer()]


def test_descriptions_that_waited_are_applied_to_the_fresh_connection() -> None:
    end = answering()
    end.received(offer("2"), 0)
    assert end.failed("why", 0) == [n.GiveUp("why")]
    assert end.restart(1, "why") == [n.Rebuild("why"), n.ApplyOffer(offer("2"))]


def test_after_giving_up_an_offer_of_the_other_end_is_answered() -> None:
    end = offered()
    for _ in range(n.MAX_OFFER_RESENDS + 1):
        end.timer(end.deadline or 0)
    assert end.received(offer(), 99) == [n.ApplyOffer(offer())]
    end.answered("x", 99)
    assert end.connected(100) == [n.CreateOffer()]


def test_an_offer_of_a_replaced_end_replaces_this_end() -> None:
    for polite in (True, False):
        end = settled(polite=polite)
        new = offer("1", "new")
        effects = end.received(new, 0)
        assert [type(effect) for effect in effects] == [n.Rebuild, n.ApplyOffer]
        assert end.answered("x", 0, more=True) == [n.SendAnswer("x")], "the connection is not up yet"


def test_an_offer_of_a_replaced_end_wins_over_a_pending_offer_of_the_impolite_end() -> None:
    end = settled(polite=False)
    end.changed(0)
    end.offer_created(OURS, 0)
    effects = end.received(offer("1", "new"), 0)
    assert [type(effect) for effect in effects] == [n.ForgetOffer, n.Rebuild, n.ApplyOffer]
    assert end.dirty, "the changes of the dropped offer have to be offered again"


def test_an_answer_of_a_replaced_end_replaces_this_end_which_offers_again() -> None:
    end = settled()
    end.changed(0)
    end.offer_created(OURS, 0)
    effects = end.received(answer("mine", "new"), 0)
    assert [type(effect) for effect in effects] == [n.ForgetOffer, n.Rebuild, n.CreateOffer]


def test_the_timer_of_an_offer_stops_while_paused() -> None:
    end = offered()
    end.pause()
    assert end.deadline is None
    assert end.timer(1_000) == []
    assert end.resume(1_000) == [n.SendOffer(OURS.sdp)]
    assert end.deadline == 1_000 + n.OFFER_TIMEOUT
    assert end.resume(1_001) == [], "resuming twice does nothing"


def test_nothing_is_offered_while_paused() -> None:
    end = n.Negotiator(polite=True)
    end.pause()
    assert end.changed(0) == []
    assert end.restart(1, "why") == [n.Rebuild("why")]
    assert end.resume(2) == [n.CreateOffer()]


def test_an_offer_that_was_being_made_when_paused_waits() -> None:
    end = offering()
    end.pause()
    end.offer_created(OURS, 0)
    assert end.deadline is None
    assert end.resume(5) == [n.SendOffer(OURS.sdp)]


def test_a_restart_forgets_the_pending_offer() -> None:
    end = offered()
    assert end.restart(1, "why") == [n.Rebuild("why"), n.CreateOffer()]
    end.offer_created(offer("next", "me2"), 1)
    assert end.received(answer("mine"), 1) == []


def foreign(kind: DescriptionKind, ufrag: str, fingerprint: str = "AA:BB") -> Description:
    """Return a description of a foreign end, whose fingerprint shows that it is the same end."""
    return Description(kind, f"{kind} {ufrag} {fingerprint}", ufrag, ("0",), None, fingerprint)


def restartable(*, polite: bool = True) -> n.Negotiator:
    """Return an end that is connected to a foreign one and can restart ICE."""
    end = n.Negotiator(polite=polite)
    assert end.received(foreign("offer", "them"), 0) == [n.ApplyOffer(foreign("offer", "them"))]
    end.answered("x", 0)
    end.connected(0)
    end.restartable = True
    return end


def test_an_ice_restart_of_the_other_end_is_answered_on_the_same_connection() -> None:
    end = restartable()
    again = foreign("offer", "again")
    assert end.received(again, 1) == [n.ApplyOffer(again)]
    assert end.answered("y", 1) == [n.SendAnswer("y")]


@pytest.mark.parametrize(
    "other",
    [
        foreign("offer", "new", fingerprint="CC:DD"),
        foreign("offer", "new", fingerprint=""),
        offer("1", "new"),
    ],
)
def test_another_certificate_or_a_native_end_is_no_ice_restart(other: Description) -> None:
    end = restartable()
    assert [type(effect) for effect in end.received(other, 1)] == [n.Rebuild, n.ApplyOffer]


def test_another_fragment_replaces_the_connection_where_ice_cannot_be_restarted() -> None:
    end = restartable()
    end.restartable = False
    assert [type(effect) for effect in end.received(foreign("offer", "again"), 1)] == [n.Rebuild, n.ApplyOffer]


def test_an_ice_restart_is_offered_and_commits_only_the_answer_to_that_offer() -> None:
    end = restartable()
    end.changed(1)
    assert end.offer_created(OURS, 1) == [n.SendOffer(OURS.sdp)]
    assert end.restart_ice(2) == [n.ForgetOffer(), n.CreateOffer()]
    end.offer_created(OURS, 2)
    assert end.received(foreign("answer", "them"), 2) == [], "it is the answer to the forgotten offer"
    fresh = foreign("answer", "fresh")
    assert end.received(fresh, 3) == [n.CommitOffer(OURS.sdp, fresh)]
    end.committed(3)
    end.changed(4)
    end.offer_created(OURS, 4)
    assert end.received(fresh, 4) == [n.CommitOffer(OURS.sdp, fresh)], "the ICE restart is over"


def test_an_ice_restart_that_gives_way_to_an_offer_is_part_of_the_answer() -> None:
    end = restartable()
    end.restart_ice(1)
    end.offer_created(OURS, 1)
    crossing = foreign("offer", "theirs")
    assert end.received(crossing, 1) == [n.ForgetOffer(), n.ApplyOffer(crossing)]
    assert end.answered("y", 1) == [n.SendAnswer("y"), n.CreateOffer()]
    end.offer_created(OURS, 1)
    late = foreign("answer", "theirs")
    assert end.received(late, 1) == [n.CommitOffer(OURS.sdp, late)]


def test_an_end_that_is_held_back_offers_when_it_is_released() -> None:
    end = n.Negotiator(polite=False, holds_back_offer=True)
    assert end.changed(0) == []
    assert end.release_offer(0) == [n.CreateOffer()]
    assert end.release_offer(0) == []


def test_an_end_that_is_held_back_answers_at_once_and_then_offers() -> None:
    end = n.Negotiator(polite=False, holds_back_offer=True)
    end.changed(0)
    assert end.received(offer(), 0) == [n.ApplyOffer(offer())]
    end.answered("x", 0, more=True)
    assert end.connected(0) == [n.CreateOffer()]


def test_after_closing_no_input_has_an_effect() -> None:
    end = settled()
    end.close()
    assert end.received(offer(), 0) == end.changed(0) == end.connected(0) == end.timer(0) == end.resume(0) == []
    with pytest.raises(n.NegotiationStateError):
        end.restart(0, "why")


ILLEGAL: list[tuple[Callable[[], n.Negotiator], Callable[[n.Negotiator], object]]] = [
    (make, call)
    for make, calls in {
        settled: ("offer_created", "committed", "answered", "failed"),
        offering: ("committed", "answered", "restart", "restart_ice"),
        offered: ("offer_created", "committed", "answered", "failed"),
        committing: ("offer_created", "answered", "restart", "restart_ice"),
        answering: ("offer_created", "committed", "restart", "restart_ice"),
    }.items()
    for call in (
        {
            "offer_created": lambda end: end.offer_created(OURS, 0),
            "committed": lambda end: end.committed(0),
            "answered": lambda end: end.answered("x", 0),
            "failed": lambda end: end.failed("x", 0),
            "restart": lambda end: end.restart(0, "x"),
            "restart_ice": lambda end: end.restart_ice(0),
        }[name]
        for name in calls
    )
]


@pytest.mark.parametrize(("make", "call"), ILLEGAL)
def test_an_illegal_input_changes_nothing_and_raises(
    make: Callable[[], n.Negotiator], call: Callable[[n.Negotiator], object]
) -> None:
    end = make()
    before = (end.phase, end.dirty, end.deadline)
    with pytest.raises(n.NegotiationStateError):
        call(end)
    assert (end.phase, end.dirty, end.deadline) == before


# --- descriptions that can never be delivered


def test_an_offer_that_is_undeliverable_is_forgotten_and_not_repeated() -> None:
    end = settled()
    end.changed(2)
    end.offer_created(OURS, 2)
    assert end.offer_undeliverable(2, OURS.sdp) == [n.ForgetOffer()]
    assert end.settled
    assert end.deadline is None
    assert end.timer(100) == []


def test_an_offer_that_cannot_even_be_created_changes_nothing() -> None:
    end = settled()
    assert end.changed(2) == [n.CreateOffer()]
    end.planning()
    assert end.offer_undeliverable(2) == []
    assert end.settled
    with pytest.raises(n.NegotiationStateError):
        end.offer_undeliverable(2)


@pytest.mark.parametrize("again", ["changed", "resume", "retry"])
def test_refused_changes_are_offered_again_when_there_is_a_reason(again: str) -> None:
    end = settled()
    end.changed(2)
    end.offer_created(OURS, 2)
    end.offer_undeliverable(2, OURS.sdp)
    if again == "resume":
        end.pause()
    assert getattr(end, again)(3) == [n.CreateOffer()]


def test_refused_changes_are_not_offered_again_because_the_other_end_offers() -> None:
    end = settled()
    end.changed(2)
    end.offer_created(OURS, 2)
    end.offer_undeliverable(2, OURS.sdp)
    end.received(offer("2"), 3)
    assert end.answered("x", 3, more=True) == [n.SendAnswer("x")]
    assert end.settled


def test_a_change_while_an_offer_is_refused_is_offered_next() -> None:
    end = settled()
    end.changed(2)
    end.offer_created(OURS, 2)
    end.changed(2)
    assert end.offer_undeliverable(2, OURS.sdp) == [n.ForgetOffer(), n.CreateOffer()]


def test_a_late_report_of_an_undeliverable_offer_is_ignored() -> None:
    end = committing()
    assert end.offer_undeliverable(1, OURS.sdp) == []
    assert end.phase is n.Phase.COMMITTING
    end = offered()
    assert end.offer_undeliverable(1, "another one") == []
    assert end.phase is n.Phase.OFFERED


def test_an_offer_that_arrived_and_cannot_be_repeated_waits_for_its_answer() -> None:
    end = offered()
    assert end.offer_undeliverable(1, OURS.sdp, has_arrived=True) == []
    assert end.deadline is None
    assert end.received(answer("mine"), 99) == [n.CommitOffer(OURS.sdp, answer("mine"))]


def test_an_answer_that_is_undeliverable_is_not_sent_again_before_there_is_a_reason() -> None:
    end = answering()
    end.answered("x", 0)
    end.answer_undeliverable("another one")
    assert end.received(offer(), 5) == [n.SendAnswer("x")]
    end.answer_undeliverable("x")
    assert end.received(offer(), 10) == []
    end.connected(11)
    end.changed(11)
    assert end.offer_created(OURS, 11) == [n.SendOffer(OURS.sdp)]
    end.pause()
    assert end.resume(12) == [n.SendAnswer("x"), n.SendOffer(OURS.sdp)]


def test_an_unanswered_offer_does_not_end_a_connection_that_is_up() -> None:
    end = settled()
    end.changed(2)
    end.offer_created(OURS, 2)
    effects, waits, now = [], [], 2.0
    for _ in range(n.MAX_OFFER_RESENDS + 12):
        assert end.deadline is not None
        waits.append(end.deadline - now)
        now = end.deadline
        effects += end.timer(now)
    assert [type(it) for it in effects if not isinstance(it, n.SendOffer)] == [n.Unanswered]
    assert waits[: n.MAX_OFFER_RESENDS + 2] == [n.OFFER_TIMEOUT] * (n.MAX_OFFER_RESENDS + 1) + [2 * n.OFFER_TIMEOUT]
    assert waits[-1] == n.MAX_OFFER_WAIT
    assert end.received(answer("mine"), now) == [n.CommitOffer(OURS.sdp, answer("mine"))]


# --- what the other end can cause


def test_an_end_that_is_replaced_all_the_time_is_followed_at_the_pace_of_the_ladder() -> None:
    """Twenty replacements a second for an hour, each with another certificate."""
    end, rebuilds, reports = settled(), [], 0
    for step in range(20 * 3600):
        now = 2 + step / 20
        effects = end.received(foreign("offer", f"u{step}", str(step)), now) + end.timer(now)
        for effect in effects:
            if isinstance(effect, n.Rebuild):
                rebuilds.append(now)
            reports += isinstance(effect, ReplacementsExhausted)
        if end.phase is n.Phase.ANSWERING:
            end.answered("x", now)
            end.connected(now)
    waits = [later - earlier for earlier, later in itertools.pairwise(rebuilds)]
    assert waits[: len(LADDER) - 1] == pytest.approx(LADDER[1:], abs=0.06)
    assert min(waits[len(LADDER) :]) == pytest.approx(LADDER[-1], abs=0.06)
    assert reports == 1


def test_an_end_whose_answers_are_always_of_another_one_is_not_offered_to_for_ever() -> None:
    end, rebuilds, now = n.Negotiator(polite=True), 0, 2.0
    end.changed(now)
    reported = []
    for step in range(1_000):
        now += 0.05 if end.phase is n.Phase.OFFERING else 5.0
        if end.phase is n.Phase.OFFERING:
            end.planning()
            end.offer_created(offer(f"mine{step}", f"me{step}"), now)
            end.received(answer(f"mine{step}", f"first{step}"), now)
            end.committed(now)
            end.connected(now)
            end.changed(now)
            end.offer_created(offer(f"again{step}", f"me{step}"), now)
            effects = end.received(answer(f"again{step}", f"second{step}"), now)
        else:
            effects = end.timer(now)
        rebuilds += sum(isinstance(it, n.Rebuild) for it in effects)
        reported += [it for it in effects if isinstance(it, ReplacementsExhausted)]
    assert rebuilds == len(LADDER)
    assert [it.attempts for it in reported] == [len(LADDER)]
    assert end.changed(now) == []
    assert [type(it) for it in end.received(offer("9", "ninth"), now)] == [n.Rebuild, n.ApplyOffer]


class Storm:
    """An end whose operations succeed at once, with all descriptions that a hostile other end may send."""

    def __init__(self, *, polite: bool) -> None:
        self.end = n.Negotiator(polite=polite)
        self.now = 0.0
        self.rebuilds: list[float] = []
        self.applied = 0
        self._offers = itertools.count()

    def send(self, kind: DescriptionKind, ufrag: str, fingerprint: str, wait: float) -> None:
        self.now += wait
        self.end.restartable = bool(self.applied)
        self._perform(self.end.timer(self.now))
        text = f"{kind} {self.now} {ufrag} {fingerprint}"
        self._perform(self.end.received(Description(kind, text, ufrag, ("0",), None, fingerprint), self.now))

    def change(self) -> None:
        self._perform(self.end.changed(self.now))

    def _perform(self, effects: list[n.Effect]) -> None:
        for effect in effects:
            match effect:
                case n.CreateOffer():
                    self.end.planning()
                    number = next(self._offers)
                    self._perform(self.end.offer_created(offer(str(number), "me"), self.now))
                case n.ApplyOffer():
                    self.applied += 1
                    self._perform(self.end.answered(f"answer {self.now}", self.now))
                    self._perform(self.end.connected(self.now))
                case n.CommitOffer():
                    self._perform(self.end.committed(self.now))
                    self._perform(self.end.connected(self.now))
                case n.Rebuild():
                    self.rebuilds.append(self.now)


@given(
    st.booleans(),
    st.lists(
        st.tuples(
            st.sampled_from(["offer", "answer", "change"]),
            st.sampled_from("abc"),
            st.sampled_from("xy"),
            st.sampled_from([0.0, 0.05, 1.0, 4.0, 10.0]),
        ),
        max_size=120,
    ),
)
def test_whatever_the_other_end_sends_this_end_is_replaced_at_the_pace_of_the_ladder(
    polite: bool, story: list[tuple[str, str, str, float]]
) -> None:
    storm = Storm(polite=polite)
    for kind, ufrag, fingerprint, wait in story:
        if kind == "change":
            storm.change()
        else:
            storm.send("offer" if kind == "offer" else "answer", ufrag, fingerprint, wait)
    for first in storm.rebuilds:
        assert len([it for it in storm.rebuilds if first <= it < first + STABLE_AFTER]) <= 4
    # Nothing hangs: what this end waits for has a deadline, or is up to the other end.
    assert storm.end.phase in (n.Phase.STABLE, n.Phase.OFFERED, n.Phase.FOLLOWING)
    assert (storm.end.phase is n.Phase.STABLE) == (storm.end.deadline is None)


def test_a_replaced_end_is_followed_at_once_when_the_connection_had_held() -> None:
    end, now = settled(), 2.0
    for step in range(50):
        now += STABLE_AFTER
        effects = end.received(offer(str(step), f"u{step}"), now)
        assert [type(it) for it in effects] == [n.Rebuild, n.ApplyOffer]
        end.answered("x", now)
        end.connected(now)


def following() -> n.Negotiator:
    """Return an end that follows a replaced one a second after it did so the last time, at 2."""
    end = settled()
    end.received(offer("1", "new"), 2)
    end.answered("x", 2)
    end.connected(2)
    assert end.received(offer("2", "newer"), 2) == [n.FollowLater(1.0)]
    return end


def test_the_newest_offer_of_a_replaced_end_is_answered_and_its_answers_are_dropped() -> None:
    end = following()
    assert end.received(offer("3", "newest"), 2.5) == []
    assert end.received(answer("3", "newest"), 2.5) == []
    assert end.changed(2.5) == []
    assert end.timer(2.9) == []
    assert end.timer(3) == [n.Rebuild("the other end was replaced"), n.ApplyOffer(offer("3", "newest"))]


def test_a_repair_of_this_end_answers_the_offer_that_was_kept() -> None:
    for repair in ("restart", "restart_ice"):
        end = following()
        effects = end.restart(2.5, "why") if repair == "restart" else end.restart_ice(2.5)
        assert [type(it) for it in effects] == [n.Rebuild, n.ApplyOffer]
        assert end.timer(3) == []


def test_a_replaced_end_that_is_out_of_reach_is_followed_when_it_is_back() -> None:
    end = following()
    end.pause()
    assert end.timer(10) == []
    assert end.resume(10) == []
    assert [type(it) for it in end.timer(10)] == [n.Rebuild, n.ApplyOffer]


def test_an_end_that_restarts_ice_in_each_offer_is_followed_now_and_then_on_the_same_connection() -> None:
    end, answers = restartable(), []
    for step in range(20 * 600):
        now = 2 + step / 20
        effects = end.received(foreign("offer", f"u{step}"), now) + end.timer(now)
        assert not any(isinstance(it, n.Rebuild) for it in effects)
        if end.phase is n.Phase.ANSWERING:
            answers.append(now)
            end.answered("x", now)
            end.connected(now)
    assert answers[0] == 2
    assert min(it - earlier for earlier, it in itertools.pairwise(answers[4:])) == pytest.approx(
        MAX_ICE_RESTART_WAIT, abs=0.06
    )


# --- a foreign end that cannot roll back


def collided() -> n.Negotiator:
    """Return an impolite end, connected, whose offer at 2 collided with one of a foreign end."""
    end = restartable(polite=False)
    end.changed(2)
    end.offer_created(OURS, 2)
    assert end.received(STUCK, 2.1) == []
    return end


STUCK = foreign("offer", "them", fingerprint="AA:BB ")


def test_an_offer_passed_over_is_answered_when_our_own_has_no_answer_after_a_resend() -> None:
    end = collided()
    assert end.timer(7) == [n.SendOffer(OURS.sdp)]
    assert end.timer(12) == [n.ForgetOffer(), n.ApplyOffer(STUCK)]
    assert end.answered("y", 12) == [n.SendAnswer("y"), n.CreateOffer()], "ours is offered again"


def test_an_offer_passed_over_is_forgotten_when_our_own_is_answered() -> None:
    end = collided()
    end.timer(7)
    ours = foreign("answer", "them")
    assert end.received(ours, 8) == [n.CommitOffer(OURS.sdp, ours)]
    end.committed(8)
    end.changed(20)
    end.offer_created(OURS, 20)
    assert end.timer(25) == end.timer(30) == [n.SendOffer(OURS.sdp)]


def test_the_newest_offer_that_was_passed_over_is_answered() -> None:
    end = collided()
    newest = foreign("offer", "them", fingerprint=" AA:BB")
    assert end.received(newest, 3) == []
    end.timer(7)
    assert end.timer(12) == [n.ForgetOffer(), n.ApplyOffer(newest)]


def test_an_offer_of_a_native_end_is_passed_over_for_good_because_it_rolls_back() -> None:
    end = offered(polite=False)
    assert end.received(offer(), 0) == []
    for _ in range(n.MAX_OFFER_RESENDS):
        assert end.timer(end.deadline or 0) == [n.SendOffer(OURS.sdp)]
    (effect,) = end.timer(end.deadline or 0)
    assert isinstance(effect, n.GiveUp)
