"""The life of a peer in its channel, without a client and without remotes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metered_realtime import WsCloseCode
from metered_realtime.core.session.peer_lifecycle import (
    AnnounceJoined,
    AnnounceLeft,
    AskForSnapshot,
    Effect,
    End,
    ExpectSnapshot,
    Leave,
    PeerLifecycle,
    Phase,
    ReportFatal,
    ServerBack,
    ServerLost,
    ShowState,
    StartOver,
)


def joined(peer_id: str = "ann") -> PeerLifecycle:
    """Return the life of a peer that has joined a channel."""
    life = PeerLifecycle()
    life.join("room")
    assert life.joined(peer_id) is not None
    return life


def reconnecting() -> PeerLifecycle:
    """Return the life of a peer that has lost the server."""
    life = joined()
    life.connection_lost()
    return life


def test_a_join_is_announced_after_the_state_and_before_anything_else() -> None:
    life = PeerLifecycle()
    assert life.join("room") == [ShowState("idle", "joining")]
    assert (life.channel, life.joining) == ("room", "room")
    assert life.joined("ann") == [
        ExpectSnapshot("ann"),
        ShowState("joining", "joined"),
        AnnounceJoined("ann", "room"),
    ]
    assert (life.peer_id, life.joining, life.is_in_channel) == ("ann", None, True)


def test_a_join_that_fails_leaves_the_peer_idle_and_without_a_channel() -> None:
    life = PeerLifecycle()
    life.join("room")
    assert life.forget_channel()
    assert life.join_failed() == [ShowState("joining", "idle")]
    assert (life.channel, life.allows("join")) == (None, True)


def test_a_join_of_a_peer_that_was_closed_meanwhile_does_not_count() -> None:
    life = PeerLifecycle()
    life.join("room")
    assert life.close("enough") == [End(), ShowState("joining", "leaving")]
    assert life.joined("ann") is None
    assert not life.forget_channel()
    assert life.join_failed() == []
    assert life.ended() == [ShowState("leaving", "closed"), AnnounceLeft(None, "room", "enough")]


def test_a_lost_server_is_back_with_the_snapshot() -> None:
    life = joined()
    assert life.connection_lost() == [ServerLost(), ShowState("joined", "reconnecting")]
    assert life.connection_lost() == [ServerLost()]
    assert life.connected("ann", is_alone=False) == [ExpectSnapshot("ann"), AskForSnapshot()]
    assert life.state == "reconnecting"
    assert life.snapshot() == [ServerBack(), ShowState("reconnecting", "joined")]
    assert life.snapshot() == []


def test_who_was_alone_needs_no_snapshot() -> None:
    effects = reconnecting().connected("ann", is_alone=True)
    assert effects == [ExpectSnapshot("ann"), ServerBack(), ShowState("reconnecting", "joined")]


def test_another_id_starts_every_connection_over() -> None:
    life = reconnecting()
    assert life.connected("bob", is_alone=False) == [ExpectSnapshot("bob"), StartOver(), AskForSnapshot()]
    assert life.peer_id == "bob"


@pytest.mark.parametrize("code", [WsCloseCode.ADMIN_DISCONNECT, 1006])
def test_the_end_of_the_connection_ends_a_peer_that_has_joined(code: int) -> None:
    life = joined()
    fatal, end = life.disconnected(code, "", lacks_token=False, is_dialling=False)
    assert isinstance(fatal, ReportFatal)
    assert fatal.code == ("admin_disconnect" if code == WsCloseCode.ADMIN_DISCONNECT else "reconnect_exhausted")
    assert end == End()
    assert (life.state, life.allows("change")) == ("joined", False)
    assert life.ended() == [
        ShowState("joined", "closed"),
        AnnounceLeft("ann", "room", f"disconnected (code {code})"),
    ]


def test_the_end_of_a_connection_while_joining_is_reported_only_if_it_is_fatal() -> None:
    life = PeerLifecycle()
    life.join("room")
    told = {"lacks_token": False, "is_dialling": False}
    assert life.disconnected(1006, "gone", **told) == []
    assert life.disconnected(WsCloseCode.INVALID_TOKEN, "no", **told | {"is_dialling": True}) == []
    fatal = ReportFatal(WsCloseCode.INVALID_TOKEN, "no", "invalid_token")
    assert life.disconnected(WsCloseCode.INVALID_TOKEN, "no", **told) == [fatal]
    assert life.phase is Phase.JOINING


def test_a_token_that_cannot_be_had_has_a_code_of_its_own() -> None:
    effects = joined().disconnected(1006, "why", lacks_token=True, is_dialling=False)
    assert effects[0] == ReportFatal(1006, "why", "token_provider_failed")


def test_leaving_makes_the_peer_idle_and_announces_it_once() -> None:
    life = joined()
    assert life.leave("bye") == [ShowState("joined", "leaving"), Leave()]
    assert not life.allows("leave")
    assert life.left() == [ShowState("leaving", "idle"), AnnounceLeft("ann", "room", "bye")]
    assert (life.channel, life.allows("join"), life.left()) == (None, True, [])


def test_closing_while_leaving_announces_one_left_with_the_first_reason() -> None:
    life = joined()
    life.leave("bye")
    assert life.close("enough") == [End()]
    assert life.left() == [ShowState("leaving", "idle"), AnnounceLeft("ann", "room", "bye")]
    assert life.ended() == [ShowState("idle", "closed")]


def test_closing_an_idle_peer_announces_nothing() -> None:
    life = PeerLifecycle()
    assert life.close(None) == [End()]
    assert life.ended() == [ShowState("idle", "closed")]
    assert life.close(None) == life.ended() == []


@pytest.mark.parametrize(
    ("life", "allowed"),
    [
        (PeerLifecycle, {"join", "change", "replace"}),
        (joined, {"leave", "change", "replace"}),
        (reconnecting, {"leave", "change"}),
    ],
)
def test_what_a_program_may_do_depends_on_the_phase(life: Callable[[], PeerLifecycle], allowed: set[str]) -> None:
    assert {it for it in ("join", "leave", "change", "replace") if life().allows(it)} == allowed  # type: ignore[arg-type]


Input = Callable[[PeerLifecycle], list[Effect]]


def _join(life: PeerLifecycle) -> list[Effect]:
    return life.join("room") if life.allows("join") else []


def _fail(life: PeerLifecycle) -> list[Effect]:
    return life.join_failed() if life.forget_channel() else []


def _leave(life: PeerLifecycle) -> list[Effect]:
    return life.leave("bye") if life.allows("leave") else []


INPUTS: dict[str, Input] = {
    "join": _join,
    "fail": _fail,
    "joined": lambda life: life.joined("ann") or [],
    "connected": lambda life: life.connected("ann", is_alone=False),
    "other": lambda life: life.connected("bob", is_alone=True),
    "snapshot": lambda life: life.snapshot(),
    "lost": lambda life: life.connection_lost(),
    "fatal": lambda life: life.disconnected(4001, "no", lacks_token=False, is_dialling=False),
    "client_closed": lambda life: life.client_closed(),
    "leave": _leave,
    "left": lambda life: life.left(),
    "close": lambda life: life.close(None),
    "ended": lambda life: life.ended(),
}


@given(st.lists(st.sampled_from(sorted(INPUTS)), max_size=60))
def test_whatever_happens_the_invariants_hold(story: list[str]) -> None:
    life, shown, is_joined = PeerLifecycle(), "idle", False
    ends = 0
    for name in story:
        for effect in INPUTS[name](life):
            match effect:
                case ShowState(previous, state):
                    assert previous == shown != state
                    shown = state
                case AnnounceJoined():
                    assert not is_joined
                    is_joined = True
                case AnnounceLeft(_, channel):
                    assert channel == "room"
                    is_joined = False
                case End():
                    ends += 1
        assert life.state == shown
        assert ends <= 1
        assert (ends == 1) == (life.phase in (Phase.ENDING, Phase.CLOSED))
        assert not is_joined or life.channel == "room"
        assert life.phase is not Phase.CLOSED or (shown == "closed" and not is_joined and life.channel is None)
        assert not life.is_in_channel or is_joined
