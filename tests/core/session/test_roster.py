"""The roster of a channel."""

from __future__ import annotations

from metered_realtime.core.session import roster as module
from metered_realtime.core.session.roster import Roster, RosterChange
from metered_realtime.events import PresencePeer

A, B, C = (PresencePeer(name) for name in "abc")


def roster(own_id: str = "me") -> Roster:
    made = Roster()
    made.expect_snapshot(own_id)
    return made


def test_the_first_presence_is_everybody() -> None:
    people = roster()
    assert people.awaits_snapshot
    assert people.update([A, B], []) == RosterChange(joined=(A, B))
    assert not people.awaits_snapshot
    assert len(people) == 2


def test_then_come_changes() -> None:
    people = roster()
    people.update([A], [])
    assert people.update([B], []) == RosterChange(joined=(B,))
    assert people.update([], [A]) == RosterChange(left=("a",))
    assert people.update([C], [B]) == RosterChange(joined=(C,), left=("b",))


def test_oneself_is_not_there() -> None:
    people = roster("a")
    assert people.update([A, B], []) == RosterChange(joined=(B,))
    assert people.update([A], [A]) == RosterChange()


def test_who_leaves_unseen_is_no_change() -> None:
    people = roster()
    people.update([], [])
    assert people.update([], [A]) == RosterChange()


def test_who_is_announced_again_stays_with_what_is_known_now() -> None:
    people = roster()
    people.update([A], [])
    renamed = PresencePeer("a", {"n": 1})
    assert people.update([renamed], []) == RosterChange(stayed=(renamed,))


def test_who_leaves_and_comes_in_one_frame_is_new() -> None:
    people = roster()
    people.update([A], [])
    assert people.update([A], [A]) == RosterChange(joined=(A,), left=("a",))


def test_who_is_listed_twice_is_there_once() -> None:
    renamed = PresencePeer("a", {"n": 1})
    people = roster()
    assert people.update([A, renamed], []) == RosterChange(joined=(renamed,))
    people = roster()
    people.update([], [])
    assert people.update([A, renamed], []) == RosterChange(joined=(renamed,))
    assert people.update([], [A, A]) == RosterChange(left=("a",))


def test_a_new_snapshot_settles_who_came_left_and_stayed() -> None:
    people = roster()
    people.update([A, B], [])
    people.expect_snapshot("me")
    renamed = PresencePeer("b", {"n": 1})
    assert people.update([renamed, C], []) == RosterChange(joined=(C,), left=("a",), stayed=(renamed,))


def test_a_new_snapshot_under_another_id_leaves_that_one_out() -> None:
    people = roster("old")
    people.update([A, B], [])
    people.expect_snapshot("a")
    assert people.update([A, B], []) == RosterChange(left=("a",), stayed=(B,))


def test_forgetting_everybody_begins_anew() -> None:
    people = roster()
    people.update([A, B], [])
    assert people.clear() == ("a", "b")
    assert people.awaits_snapshot
    assert people.update([A], []) == RosterChange(joined=(A,))


def test_more_than_a_mesh_can_bear_are_counted_and_left_out() -> None:
    people = roster()
    crowd = [PresencePeer(f"p{n}") for n in range(module.MAX_REMOTE_PEERS + 2)]
    change = people.update(crowd, [])
    assert len(change.joined) == len(people) == module.MAX_REMOTE_PEERS
    assert people.refused == 2
    assert people.update([], [crowd[0]]) == RosterChange(left=("p0",))
    assert people.update([crowd[-1]], []) == RosterChange(joined=(crowd[-1],))


def test_ids_that_nothing_can_be_sent_to_are_counted_and_left_out() -> None:
    people = roster()
    odd = [PresencePeer(""), PresencePeer("x" * 129), PresencePeer("a\n")]
    assert people.update([A, *odd], []) == RosterChange(joined=(A,))
    assert people.refused == len(odd)
    assert people.update([], odd) == RosterChange()


def test_the_ghost_of_a_former_self_is_not_there() -> None:
    people = roster("me")
    people.update([A], [])
    people.expect_snapshot("me again")
    ghost = PresencePeer("me")
    assert people.update([A, ghost], []) == RosterChange(stayed=(A,))
    assert people.update([ghost], []) == RosterChange()
    assert people.update([], [ghost]) == RosterChange()
    assert people.update([ghost], []) == RosterChange(joined=(ghost,)), "the ghost is gone: that is somebody else"


def test_a_former_self_that_a_snapshot_does_not_list_is_forgotten() -> None:
    people = roster("me")
    people.update([], [])
    people.expect_snapshot("me again")
    people.update([A], [])
    somebody = PresencePeer("me")
    assert people.update([somebody], []) == RosterChange(joined=(somebody,))


def test_what_is_said_of_the_present_self_changes_nothing() -> None:
    people = roster("me")
    me = PresencePeer("me")
    people.update([me], [])
    assert people.update([], [me]) == RosterChange()
    assert people.update([me], []) == RosterChange()
