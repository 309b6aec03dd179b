"""The audit of the soak test: each fault that it is there for is told."""

from __future__ import annotations

from .audit import MessageAudit, PresenceAudit


def sent(audit: MessageAudit, count: int, scope: str = "room", sender: str = "ann", at: float = 0.0) -> None:
    for _ in range(count):
        audit.confirm(sender, scope, audit.number(sender, scope), at)


def audit_of_bob() -> MessageAudit:
    audit = MessageAudit()
    audit.expect("bob", "room")
    return audit


def test_messages_that_arrive_once_and_in_order_are_fine() -> None:
    audit = audit_of_bob()
    sent(audit, 3)
    for number in (1, 2, 3):
        audit.arrive("bob", "room", "ann", number)
    assert not audit.violations
    assert not audit.missing()
    assert (audit.seen, audit.confirmed) == (3, 3)


def test_a_message_that_comes_twice_is_told() -> None:
    audit = audit_of_bob()
    sent(audit, 1)
    audit.arrive("bob", "room", "ann", 1)
    audit.arrive("bob", "room", "ann", 1)
    assert audit.violations == ["bob got number 1 of ann in room twice"]


def test_a_message_that_comes_late_is_told() -> None:
    audit = audit_of_bob()
    sent(audit, 2)
    audit.arrive("bob", "room", "ann", 2)
    audit.arrive("bob", "room", "ann", 1)
    assert audit.violations == ["bob got number 1 of ann in room after a later one"]


def test_a_refused_message_may_come_late_but_only_once() -> None:
    audit = audit_of_bob()
    audit.number("ann", "room")
    sent(audit, 1)
    for number in (2, 1):
        audit.arrive("bob", "room", "ann", number)
    assert not audit.violations
    audit.arrive("bob", "room", "ann", 1)
    assert audit.violations == ["bob got number 1 of ann in room twice"]


def test_confirmed_messages_that_never_came_are_missing_whether_others_followed_or_not() -> None:
    audit = audit_of_bob()
    sent(audit, 4)
    audit.arrive("bob", "room", "ann", 2)
    assert audit.missing() == {("bob", "room"): ["ann/1", "ann/3", "ann/4"]}


def test_a_message_without_a_confirmation_may_be_missing() -> None:
    audit = audit_of_bob()
    audit.number("ann", "room")
    sent(audit, 1)
    audit.arrive("bob", "room", "ann", 2)
    assert not audit.missing()


def test_a_told_number_excuses_as_many_and_no_more() -> None:
    audit = audit_of_bob()
    sent(audit, 3)
    audit.lost("bob", "room", 2, at=1.0)
    assert audit.missing() == {("bob", "room"): ["ann/1", "ann/2", "ann/3"]}
    audit.arrive("bob", "room", "ann", 3)
    assert not audit.missing()


def test_a_loss_of_unknown_number_excuses_what_was_sent_before() -> None:
    audit = audit_of_bob()
    sent(audit, 3, at=1.0)
    audit.lost("bob", "room", None, at=2.0)
    assert not audit.missing()
    sent(audit, 1, at=3.0)
    assert audit.missing() == {("bob", "room"): ["ann/4"]}


def test_own_messages_and_those_before_a_receiver_came_are_not_expected() -> None:
    audit = MessageAudit()
    sent(audit, 2)
    audit.expect("bob", "room")
    sent(audit, 1, sender="bob")
    assert not audit.missing()


def observed() -> PresenceAudit:
    audit = PresenceAudit(return_time=10.0, margin=1.0)
    audit.keep("ann")
    audit.snapshot("bob", "room", {"ann"}, 0.0)
    return audit


def test_joining_twice_and_leaving_twice_are_told() -> None:
    audit = observed()
    audit.change("bob", "room", {"ann", "eve"}, set(), 1.0)
    audit.change("bob", "room", set(), {"eve"}, 2.0)
    audit.change("bob", "room", set(), {"eve"}, 3.0)
    assert audit.violations == [
        "bob heard that ann joined room twice",
        "bob heard that eve left room, where it was not",
    ]


def test_a_peer_that_is_there_or_only_just_away_must_not_leave() -> None:
    audit = observed()
    audit.change("bob", "room", set(), {"ann"}, 1.0)
    audit.change("bob", "room", {"ann"}, set(), 2.0)
    audit.away("ann", 10.0)
    audit.snapshot("bob", "room", set(), 15.0)
    assert audit.violations == [
        "ann left room for bob, but was there",
        "ann is not in the snapshot of room for bob, but was away for 5.0 s only",
    ]


def test_a_peer_that_was_away_for_long_may_leave_and_come_back() -> None:
    audit = observed()
    audit.away("ann", 10.0)
    audit.change("bob", "room", set(), {"ann"}, 20.0)
    audit.back("ann")
    audit.change("bob", "room", {"ann"}, set(), 21.0)
    assert not audit.violations
    assert not audit.differing("room", {"ann", "bob"})
    assert audit.differing("room", {"bob"}) == ["bob: without [], with ['ann']"]
