"""The decisions of `Caller` and `Callee`: every call ends once, every request runs once."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metered_realtime.core.rpc import callee as rpc_serving
from metered_realtime.core.rpc import caller as rpc
from metered_realtime.core.rpc import chunks as rpc_chunks
from metered_realtime.core.rpc.callee import Answer, Callee, Refusal, Refuse, Run, Stop
from metered_realtime.core.rpc.caller import Caller, CancelCall, Loss, SettleCall, TooManyCallsError, TransmitCalls
from metered_realtime.core.rpc.chunks import ChunkError, MessageReassembly
from metered_realtime.core.rpc.messages import (
    MAX_BATCH,
    BadReply,
    BadRequest,
    ErrorObject,
    Failure,
    Inbound,
    Notification,
    Request,
    Success,
    is_request_id,
)

CHANNEL = 1
NEXT_CHANNEL = 2

# --- Caller


def sent_call(caller: Caller, deadline: float = 15.0, channel: int = CHANNEL) -> int:
    call = caller.start_call(deadline)
    caller.request_queued(call, channel)
    caller.request_sent(call)
    return call


def test_an_answer_settles_its_call_once() -> None:
    caller = Caller()
    one, other = sent_call(caller), sent_call(caller)
    assert caller.answer_received(Success(other, None), CHANNEL) == [SettleCall(other, Success(other, None))]
    assert caller.answer_received(Success(other, None), CHANNEL) == []
    error = ErrorObject(7, "x")
    assert caller.answer_received(Failure(one, error), CHANNEL) == [SettleCall(one, error)]
    assert (len(caller), caller.dropped_answers) == (0, 1)


@pytest.mark.parametrize("answer", [Success("1", 2), Success(9, 2), Failure("x", ErrorObject(1, "")), BadReply(9, "")])
def test_an_answer_without_a_call_is_counted_and_changes_nothing(answer: Any) -> None:
    caller = Caller()
    sent_call(caller)
    assert caller.answer_received(answer, CHANNEL) == []
    assert (len(caller), caller.dropped_answers) == (1, 1)


def test_an_error_without_an_id_settles_the_only_call_that_it_can_mean() -> None:
    caller = Caller()
    call = sent_call(caller)
    sent_call(caller, channel=NEXT_CHANNEL)
    unreadable = Failure(None, ErrorObject(-32700, "Parse error"))
    assert caller.answer_received(unreadable, CHANNEL) == [SettleCall(call, unreadable.error)]
    sent_call(caller, channel=NEXT_CHANNEL)
    assert caller.answer_received(unreadable, NEXT_CHANNEL) == []


@pytest.mark.parametrize("code", [-32601, -32602])
def test_an_error_without_an_id_that_answers_a_notification_settles_no_call(code: int) -> None:
    caller = Caller()
    sent_call(caller)
    assert caller.answer_received(Failure(None, ErrorObject(code, "of $/hello")), CHANNEL) == []
    assert (len(caller), caller.dropped_answers) == (1, 1)


def test_deadlines_settle_calls_in_order_and_cancel_them_at_the_remote() -> None:
    caller = Caller()
    late, early, answered = sent_call(caller, 9.0), sent_call(caller, 3.0), sent_call(caller, 1.0)
    assert caller.next_deadline == 1.0
    caller.answer_received(Success(answered, 1), CHANNEL)
    assert caller.next_deadline == 3.0
    assert caller.expire_calls(2.9) == []
    assert caller.expire_calls(3.0) == [CancelCall(early, CHANNEL), SettleCall(early, Loss.EXPIRED)]
    assert caller.expire_calls(99.0) == [CancelCall(late, CHANNEL), SettleCall(late, Loss.EXPIRED)]
    assert caller.next_deadline is None


def test_a_call_that_expires_before_it_has_a_channel_cancels_nothing() -> None:
    caller = Caller()
    call = caller.start_call(1.0)
    assert caller.expire_calls(1.0) == [SettleCall(call, Loss.EXPIRED)]


def test_cancelling_a_call_cancels_it_at_the_remote_once() -> None:
    caller = Caller()
    call = sent_call(caller)
    assert caller.cancel_call(call) == [CancelCall(call, CHANNEL)]
    assert caller.cancel_call(call) == []
    assert caller.answer_received(Success(call, 1), CHANNEL) == []


def test_a_notification_is_settled_when_it_was_sent_and_by_no_answer() -> None:
    caller = Caller()
    sent_call(caller)
    note, late = (caller.start_call(15.0, wants_answer=False) for _ in range(2))
    caller.request_queued(note, CHANNEL)
    assert caller.answer_received(Success(note, 1), CHANNEL) == []
    assert caller.request_sent(note) == [SettleCall(note, None)]
    assert caller.request_sent(note) == []
    caller.request_queued(late, CHANNEL)
    assert caller.channel_replaced(CHANNEL, deduplicates=False)[1:] == [TransmitCalls((late,))]
    assert caller.expire_calls(15.0)[-1] == SettleCall(late, Loss.EXPIRED)


def test_a_channel_that_ends_by_itself_settles_its_calls() -> None:
    caller = Caller()
    sent, queued, elsewhere = sent_call(caller), caller.start_call(15.0), sent_call(caller, channel=NEXT_CHANNEL)
    caller.request_queued(queued, CHANNEL)
    assert caller.channel_closed(CHANNEL) == [SettleCall(sent, Loss.LOST), SettleCall(queued, Loss.UNSENT)]
    assert caller.calls_on(NEXT_CHANNEL) == [elsewhere]


def test_a_replaced_channel_sends_what_has_no_answer_again_and_only_once() -> None:
    caller = Caller()
    one, other = sent_call(caller), sent_call(caller)
    queued = caller.start_call(15.0)
    caller.request_queued(queued, CHANNEL)
    assert caller.channel_replaced(CHANNEL, deduplicates=True) == [TransmitCalls((one, other, queued))]
    for call in (one, other, queued):
        caller.request_queued(call, NEXT_CHANNEL)
        caller.request_sent(call)
    assert caller.channel_replaced(NEXT_CHANNEL, deduplicates=True) == [
        SettleCall(one, Loss.LOST),
        SettleCall(other, Loss.LOST),
        TransmitCalls((queued,)),
    ]


def test_a_request_is_not_repeated_to_a_remote_that_does_not_deduplicate() -> None:
    caller = Caller()
    sent, queued = sent_call(caller), caller.start_call(15.0)
    caller.request_queued(queued, CHANNEL)
    assert caller.channel_replaced(CHANNEL, deduplicates=False) == [
        SettleCall(sent, Loss.LOST),
        TransmitCalls((queued,)),
    ]


def test_a_remote_that_leaves_settles_every_call() -> None:
    caller = Caller()
    calls = [sent_call(caller), caller.start_call(3.0)]
    assert caller.remote_left() == [SettleCall(call, Loss.LOST) for call in calls]
    assert caller.remote_left() == []
    assert caller.next_deadline is None


def test_a_runaway_program_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "MAX_PENDING", 2)
    caller = Caller()
    sent_call(caller)
    sent_call(caller)
    with pytest.raises(TooManyCallsError):
        caller.start_call(15.0)


def test_answered_calls_leave_nothing_behind() -> None:
    caller = Caller()
    for number in range(10_000):
        call = sent_call(caller, 1e9 + number)
        caller.answer_received(Success(call, None), CHANNEL)
    assert len(caller._deadlines) < 200


@given(st.integers(0, 2**32))
@settings(max_examples=200)
def test_every_call_is_settled_exactly_once(seed: int) -> None:
    chance = random.Random(seed)
    caller, now, channel = Caller(), 0.0, 1
    started: set[int] = set()
    ended: list[int] = []

    def take(effects: list[rpc.Effect]) -> None:
        for effect in effects:
            if isinstance(effect, SettleCall):
                ended.append(effect.id)
            elif isinstance(effect, TransmitCalls):
                for call in effect.ids:
                    caller.request_queued(call, channel)

    for _ in range(chance.randrange(80)):
        now += chance.random()
        some = chance.choice(sorted(started)) if started else 0
        match chance.randrange(8):
            case 0 | 1:
                started.add(call := caller.start_call(now + chance.random() * 9, wants_answer=chance.random() < 0.7))
                caller.request_queued(call, channel)
            case 2:
                take(caller.request_sent(some))
            case 3:
                take(caller.answer_received(Success(some, None), channel))
            case 4:
                take(caller.expire_calls(now))
            case 5:
                before = len(caller)
                take(caller.cancel_call(some))
                ended += [some] if len(caller) < before else []
            case 6:
                channel += 1
                take(caller.channel_replaced(channel - 1, deduplicates=chance.random() < 0.5))
            case 7 if chance.random() < 0.3:
                take(caller.channel_closed(channel))
    take(caller.remote_left())
    assert sorted(ended) == sorted(started)


# --- Callee


def callee(instance: str | None = "s") -> Callee:
    made = Callee()
    made.channel_opened(CHANNEL, "f")
    if instance is not None:
        assert made.caller_identified(CHANNEL, instance) == []
    return made


def single(item: Any) -> Inbound:
    return Inbound((item,))


def runs(effects: list[rpc_serving.Effect]) -> list[Run]:
    return [effect for effect in effects if isinstance(effect, Run)]


def run(it: Callee, request: Request | Notification, now: float = 0.0, channel: int = CHANNEL) -> Run:
    (effect,) = runs(it.receive_message(channel, single(request), now))
    return effect


def refuse_all(it: Callee, effects: list[rpc_serving.Effect]) -> list[rpc_serving.Effect]:
    """Answer the refused requests as the shell does, and return the effects that follow."""
    after: list[rpc_serving.Effect] = []
    for effect in effects:
        if isinstance(effect, Refuse):
            after += it.answered(effect.ticket, f"{effect.reason.name} {effect.id}".encode())
    return after


def test_a_request_runs_and_its_answer_goes_out() -> None:
    it = callee()
    started = run(it, Request(1, "m", [2]))
    assert started == Run(started.ticket, "f", CHANNEL, Request(1, "m", [2]), 15.0)
    assert it.answered(started.ticket, b"x") == [Answer(CHANNEL, (b"x",), started.ticket)]
    assert it.answered(started.ticket, b"y") == []
    assert it.handler_ended(started.ticket) == []
    assert it.running == 0


def test_a_notification_runs_and_has_no_answer() -> None:
    it = callee()
    started = run(it, Notification("m"))
    assert it.answered(started.ticket, b"x") == []
    it.handler_ended(started.ticket)
    assert it.running == 0


def test_the_65th_waits_and_the_321st_is_refused_at_once() -> None:
    it = callee()
    effects = [effect for n in range(400) for effect in it.receive_message(CHANNEL, single(Request(n, "m")), 0.0)]
    running = runs(effects)
    refused = [effect for effect in effects if isinstance(effect, Refuse)]
    assert (len(running), it.running, it.queued, len(refused)) == (64, 64, 256, 80)
    assert {effect.reason for effect in refused} == {Refusal.BUSY}
    assert len(refuse_all(it, list(refused))) == 80
    it.receive_message(CHANNEL, single(Notification("m")), 0.0)
    assert it.dropped_notifications == 1
    it.answered(running[0].ticket, b"")
    (following,) = runs(it.handler_ended(running[0].ticket))
    assert following.item == Request(64, "m")


def test_requests_that_are_held_have_a_bound_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc_serving, "MAX_HELD_BYTES", 100)
    it = callee()
    (large,) = it.receive_message(CHANNEL, single(Request(1, "m")), 0.0, size=1_000)
    (refused,) = it.receive_message(CHANNEL, single(Request(2, "m")), 0.0, size=1)
    assert isinstance(refused, Refuse)
    assert refused.reason is Refusal.BUSY
    refuse_all(it, [refused])
    assert isinstance(large, Run)
    it.answered(large.ticket, b"")
    it.handler_ended(large.ticket)
    for number in range(300):
        started = it.receive_message(CHANNEL, single(Request(number + 3, "m")), 0.0, size=60)[0]
        assert isinstance(started, Run)
        it.answered(started.ticket, b"")
        it.handler_ended(started.ticket)
    assert it._held_bytes == 0


def test_a_handler_keeps_its_place_until_it_has_ended() -> None:
    it = callee()
    tickets = [run(it, Request(n, "m")).ticket for n in range(64)]
    assert it.receive_message(CHANNEL, single(Request(64, "m")), 0.0) == []
    effects = it.receive_message(CHANNEL, single(Notification("$/cancelRequest", {"id": 0})), 0.0)
    assert effects[0] == Stop(tickets[0])
    assert runs(refuse_all(it, effects)) == []
    assert [effect.item for effect in runs(it.handler_ended(tickets[0]))] == [Request(64, "m")]


@pytest.mark.parametrize("params", [{"id": 1}, [1]])
def test_cancelling_answers_and_stops(params: Any) -> None:
    it = callee()
    started = run(it, Request(1, "m"))
    effects = it.receive_message(CHANNEL, single(Notification("$/cancelRequest", params)), 0.0)
    assert effects == [Stop(started.ticket), Refuse(started.ticket, "f", 1, Refusal.CANCELLED)]
    refuse_all(it, effects)
    assert it.answered(started.ticket, b"late") == []


class CountedId(str):
    """A request id that counts how often it is compared."""

    comparisons = 0

    def __eq__(self, other: object) -> bool:
        type(self).comparisons += 1
        return super().__eq__(other)

    __hash__ = str.__hash__


def test_a_flood_of_cancellations_looks_at_the_requests_that_it_names_only() -> None:
    it = callee()
    for number in range(300):
        it.receive_message(CHANNEL, single(Request(CountedId(number), "m")), 0.0)
    CountedId.comparisons = 0
    for number in range(300):
        it.receive_message(CHANNEL, single(Notification("$/cancelRequest", [CountedId(number)])), 0.0)
    assert 300 <= CountedId.comparisons < 3_000


@pytest.mark.parametrize("params", [None, [], {}, [None], [True], [1.5], {"id": 2}, {"id": [1]}])
def test_cancelling_something_else_does_nothing(params: Any) -> None:
    it = callee()
    run(it, Request(1, "m"))
    assert it.receive_message(CHANNEL, single(Notification("$/cancelRequest", params)), 0.0) == []


@pytest.mark.parametrize("params", [{"id": "x"}, ["x", True, True]])
def test_a_hello_cancels_no_request(params: Any) -> None:
    it = callee()
    run(it, Request("x", "m"))
    assert it.receive_message(CHANNEL, single(Notification("$/hello", params)), 0.0) == []


@pytest.mark.parametrize("params", [{"id": 1, "ms": 2_500}, [1, 2_500]])
def test_an_announced_timeout_holds_for_its_request(params: Any) -> None:
    it = callee()
    it.receive_message(CHANNEL, single(Notification("$/timeout", params)), 0.0)
    assert run(it, Request(1, "m"), now=1.0).timeout == 2.5
    assert run(it, Request(2, "m"), now=1.0).timeout == 15.0
    assert it.next_deadline == 3.5
    assert it.expire_requests(3.4) == []
    effects = it.expire_requests(3.5)
    assert [type(effect) for effect in effects] == [Stop, Refuse]
    assert isinstance(effects[1], Refuse)
    assert effects[1].reason is Refusal.EXPIRED


@pytest.mark.parametrize("ms", [None, 0, -1, "5", True, float("nan"), float("inf"), [], 10**40, 10**400])
def test_no_timeout_is_out_of_range(ms: Any) -> None:
    it = callee()
    it.receive_message(CHANNEL, single(Notification("$/timeout", [1, ms])), 0.0)
    assert 0 < run(it, Request(1, "m")).timeout <= rpc.MAX_TIMEOUT


def test_announced_timeouts_do_not_pile_up() -> None:
    it = callee()
    for number in range(5_000):
        it.receive_message(CHANNEL, single(Notification("$/timeout", [number, 1])), 0.0)
    assert len(it._channels[CHANNEL].announced) == rpc_serving.MAX_ANNOUNCED


def test_a_request_that_waits_until_its_deadline_never_runs() -> None:
    it = callee()
    for number in range(64):
        run(it, Request(number, "m"))
    it.receive_message(CHANNEL, single(Notification("$/timeout", [64, 10])), 0.0)
    it.receive_message(CHANNEL, single(Request(64, "m")), 0.0)
    (refused,) = it.expire_requests(0.01)
    assert isinstance(refused, Refuse)
    assert (refused.id, refused.reason, it.queued) == (64, Refusal.EXPIRED, 0)


def test_foreign_callers_have_a_longer_timeout_because_they_cannot_announce_one() -> None:
    assert run(callee(None), Request(1, "m")).timeout == 60.0


def test_a_batch_is_answered_whole_and_in_its_order() -> None:
    it = callee(None)
    items = (Request(1, "m"), Notification("n"), BadRequest(None, -32600), Request("x", "m"))
    effects = it.receive_message(CHANNEL, Inbound(items, is_batch=True), 0.0)
    first, silent, second = runs(effects)
    assert silent.item == Notification("n")
    assert refuse_all(it, effects) == []
    assert it.answered(second.ticket, b"2") == []
    answers = (b"1", b"BAD_REQUEST None", b"2")
    assert it.answered(first.ticket, b"1") == [Answer(CHANNEL, answers, is_batch=True)]


def test_a_batch_of_notifications_has_no_answer() -> None:
    it = callee(None)
    effects = it.receive_message(CHANNEL, Inbound((Notification("a"), Notification("b")), is_batch=True), 0.0)
    assert [type(effect) for effect in effects] == [Run, Run]


def test_a_batch_beyond_reason_is_refused_as_one() -> None:
    it = callee(None)
    items = tuple(Request(n, "m") for n in range(MAX_BATCH + 1))
    (refused,) = it.receive_message(CHANNEL, Inbound(items, is_batch=True), 0.0)
    assert isinstance(refused, Refuse)
    assert refuse_all(it, [refused]) == [Answer(CHANNEL, (b"BAD_REQUEST None",), refused.ticket)]


def test_foreign_callers_may_use_an_id_again_and_at_the_same_time() -> None:
    it = callee(None)
    first, second = run(it, Request(1, "m")), run(it, Request(1, "m"))
    for started in (second, first):
        assert it.answered(started.ticket, b"x") == [Answer(CHANNEL, (b"x",), started.ticket)]
    assert run(it, Request(1, "m"))


def replace(it: Callee, instance: str = "s") -> list[rpc_serving.Effect]:
    effects = it.channel_lost(CHANNEL)
    it.channel_opened(NEXT_CHANNEL, "f")
    return effects + it.caller_identified(NEXT_CHANNEL, instance)


def test_a_request_repeated_while_it_runs_is_answered_on_the_new_channel() -> None:
    it = callee()
    started = run(it, Request(1, "m"))
    assert replace(it) == []
    assert it.receive_message(NEXT_CHANNEL, single(Request(1, "m")), 1.0) == []
    assert it.answered(started.ticket, b"x") == [Answer(NEXT_CHANNEL, (b"x",), started.ticket)]
    assert it.repeated_requests == 1


def test_a_request_repeated_after_it_ran_gets_the_same_answer() -> None:
    it = callee()
    started = run(it, Request(1, "m"))
    it.answered(started.ticket, b"x")
    it.handler_ended(started.ticket)
    replace(it)
    assert it.receive_message(NEXT_CHANNEL, single(Request(1, "m")), 1.0) == [Answer(NEXT_CHANNEL, (b"x",))]


def test_an_answer_without_a_channel_waits_for_its_request_to_be_repeated() -> None:
    it = callee()
    started = run(it, Request(1, "m"))
    it.channel_lost(CHANNEL)
    assert it.answered(started.ticket, b"x") == []
    it.channel_opened(NEXT_CHANNEL, "f")
    it.caller_identified(NEXT_CHANNEL, "s")
    assert it.receive_message(NEXT_CHANNEL, single(Request(1, "m")), 1.0) == [Answer(NEXT_CHANNEL, (b"x",))]


def test_a_request_never_runs_twice_even_if_its_answer_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc_serving, "MAX_KEPT_BYTES", 10)
    it = callee()
    for number in (1, 2):
        started = run(it, Request(number, "m"))
        it.answered(started.ticket, b"6bytes")
        it.handler_ended(started.ticket)
    replace(it)
    (refused,) = it.receive_message(NEXT_CHANNEL, single(Request(1, "m")), 1.0)
    assert isinstance(refused, Refuse)
    assert refused.reason is Refusal.ANSWER_LOST
    assert it.receive_message(NEXT_CHANNEL, single(Request(2, "m")), 1.0) == [Answer(NEXT_CHANNEL, (b"6bytes",))]


def test_every_request_of_an_interrupted_batch_is_answered_alone() -> None:
    it = callee()
    effects = runs(it.receive_message(CHANNEL, Inbound((Request(1, "m"), Request(2, "m")), is_batch=True), 0.0))
    it.answered(effects[0].ticket, b"1")
    replace(it)
    assert it.receive_message(NEXT_CHANNEL, single(Request(1, "m")), 1.0) == [Answer(NEXT_CHANNEL, (b"1",))]
    assert it.receive_message(NEXT_CHANNEL, single(Request(2, "m")), 1.0) == []
    assert it.answered(effects[1].ticket, b"2") == [Answer(NEXT_CHANNEL, (b"2",), effects[1].ticket)]


def test_another_instance_and_another_format_are_other_callers() -> None:
    it = callee()
    run(it, Request(1, "m"))
    for channel, format, instance in ((2, "f", "other"), (3, "g", "s")):
        it.channel_opened(channel, format)
        it.caller_identified(channel, instance)
        assert run(it, Request(1, "m"), channel=channel)


def test_a_channel_cannot_join_an_instance_after_a_request() -> None:
    it = callee(None)
    run(it, Request(1, "m"))
    it.caller_identified(CHANNEL, "s")
    assert run(it, Request(1, "m")).timeout == rpc_serving.FOREIGN_TIMEOUT


def test_handlers_of_a_foreign_caller_stop_with_the_channel_and_waiting_requests_are_dropped() -> None:
    it = callee(None)
    tickets = [run(it, Request(n, "m")).ticket for n in range(64)]
    it.receive_message(CHANNEL, single(Request("waits", "m")), 0.0)
    assert it.channel_lost(CHANNEL) == [Stop(ticket) for ticket in tickets]
    assert it.queued == 0
    assert [it.handler_ended(ticket) for ticket in tickets] == [[]] * 64
    assert (it.running, it._live) == (0, {})


def test_instances_are_few_and_the_oldest_without_a_channel_goes() -> None:
    it = callee(None)
    for number in range(rpc_serving.MAX_INSTANCES):
        it.channel_opened(number + 10, "f")
        it.caller_identified(number + 10, f"s{number}")
    started = run(it, Request(1, "m"), channel=11)
    it.channel_lost(11)
    it.channel_opened(99, "f")
    assert it.caller_identified(99, "one more") == [Stop(started.ticket)]
    assert len(it._instances) == rpc_serving.MAX_INSTANCES


def test_a_remote_that_leaves_stops_every_handler_and_leaves_nothing() -> None:
    it = callee()
    done, started = run(it, Request(1, "m")), run(it, Request(2, "m"))
    it.answered(done.ticket, b"x")
    it.handler_ended(done.ticket)
    assert it.remote_left() == [Stop(started.ticket)]
    assert it.answered(started.ticket, b"x") == []
    assert it.handler_ended(started.ticket) == []
    assert it.next_deadline is None


def test_an_instance_of_many_calls_stays_small() -> None:
    it = callee()
    for number in range(30_000):
        it.receive_message(CHANNEL, single(Notification("$/timeout", [number, 86_400_000])), 0.0)
        started = run(it, Request(number, "m", ["x" * 100]))
        it.answered(started.ticket, b"answer")
        it.handler_ended(started.ticket)
    assert len(it._channels[CHANNEL].by_id) <= rpc_serving.MAX_REMEMBERED
    assert len(it._kept) <= rpc_serving.MAX_KEPT
    assert len(it._deadlines) < 4 * rpc_serving.MAX_KEPT
    assert (it._live, it.running, it.queued) == ({}, 0, 0)
    it.expire_requests(1e9)
    assert (it._kept_bytes, it._deadlines) == (0, [])


@given(st.integers(0, 2**32))
@settings(max_examples=200)
def test_whatever_happens_each_id_runs_at_most_once_and_places_come_free(seed: int) -> None:
    chance = random.Random(seed)
    it, now, channel = callee(), 0.0, CHANNEL
    ran: list[Any] = []
    open_places: set[int] = set()

    def take(effects: list[rpc_serving.Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Run):
                open_places.add(effect.ticket)
                if isinstance(effect.item, Request):
                    ran.append(effect.item.id)
            elif isinstance(effect, Refuse):
                take(it.answered(effect.ticket, b"no"))
            elif isinstance(effect, Answer):
                assert effect.channel == channel
        assert it.running <= rpc_serving.MAX_RUNNING
        assert it.queued <= rpc_serving.MAX_QUEUED

    for _ in range(chance.randrange(120)):
        now += chance.random()
        some = chance.choice(sorted(open_places)) if open_places else 0
        match chance.randrange(7):
            case 0 | 1:
                ids = [chance.randrange(40) for _ in range(chance.randrange(1, 40))]
                items = tuple(Request(n, "m") for n in dict.fromkeys(ids))
                take(it.receive_message(channel, Inbound(items, is_batch=chance.random() < 0.3), now))
            case 2:
                take(it.answered(some, b"yes"))
            case 3:
                open_places.discard(some)
                take(it.handler_ended(some))
            case 4:
                take(it.expire_requests(now))
            case 5:
                take(it.receive_message(channel, single(Notification("$/cancelRequest", [chance.randrange(40)])), now))
            case 6:
                take(it.channel_lost(channel))
                channel += 1
                it.channel_opened(channel, "f")
                take(it.caller_identified(channel, "s"))
    assert len(ran) == len(set(ran))
    for ticket in tuple(open_places):
        open_places.discard(ticket)
        take(it.handler_ended(ticket))
    while open_places:
        ticket = open_places.pop()
        take(it.handler_ended(ticket))
    assert (it.running, it.queued) == (0, 0)


# --- chunks


@given(st.integers(0, 200_000), st.integers(0, 2**40))
@settings(max_examples=60)
def test_chunks_are_reassembled_to_the_message(size: int, number: int) -> None:
    message = random.Random(size).randbytes(size)
    pieces = list(rpc_chunks.split(number, message))
    assert all(rpc_chunks.is_chunk(piece) and len(piece) <= 65_536 for piece in pieces)
    together = MessageReassembly()
    results = [together.add_chunk(piece) for piece in pieces]
    assert results[:-1] == [None] * (len(results) - 1)
    assert results[-1:] == ([message] if size else [])


def test_chunks_of_several_messages_may_alternate() -> None:
    one, other = b"a" * 150_000, b"b" * 150_000
    together, whole = MessageReassembly(), []
    for pair in zip(rpc_chunks.split(1, one), rpc_chunks.split(2, other), strict=True):
        whole += [together.add_chunk(piece) for piece in pair]
    assert whole[-2:] == [one, other]


def test_an_abandoned_message_is_dropped() -> None:
    together = MessageReassembly()
    first = next(rpc_chunks.split(1, b"a" * 150_000))
    together.add_chunk(first)
    assert together.add_chunk(rpc_chunks.abandoned(1)) is None
    assert (together._messages, together._partial.count) == ({}, 0)


def test_chunks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc_chunks, "MAX_MESSAGE_SIZE", 100_000)
    together = MessageReassembly()
    one, *_, last = rpc_chunks.split(1, b"a" * 150_000)
    together.add_chunk(one)
    with pytest.raises(ChunkError):
        together.add_chunk(one)
    assert together.add_chunk(last) == last[6:]
    assert together._partial.count == 0
    for number in range(rpc_chunks.MAX_PARTIAL):
        together.add_chunk(next(rpc_chunks.split(number, b"a" * 70_000))[:100])
    with pytest.raises(ChunkError):
        together.add_chunk(next(rpc_chunks.split(99, b"a" * 70_000)))


@given(st.lists(st.binary(max_size=30)))
def test_garbage_makes_no_message_and_no_other_error(chunks: list[bytes]) -> None:
    together = MessageReassembly()
    for chunk in chunks:
        with suppress(ChunkError):
            together.add_chunk(b"\xc1" + chunk)


@pytest.mark.parametrize("value", [0, -1, 2**64 - 1, -(2**63), "", "x", "x" * 256])
def test_ids_are_text_or_integers(value: Any) -> None:
    assert is_request_id(value)


@pytest.mark.parametrize("value", [None, True, False, 1.0, 2**64, -(2**63) - 1, "x" * 257, [], {}, b"x"])
def test_nothing_else_is_an_id(value: Any) -> None:
    assert not is_request_id(value)


def test_an_answer_without_an_id_looks_no_further_than_the_second_call_that_it_could_be_for() -> None:
    """A remote may send thousands of them while thousands of calls wait."""
    caller = Caller()
    for _ in range(1_000):
        caller.request_queued(call_id := caller.start_call(15.0), CHANNEL)
        caller.request_sent(call_id)
    looked_at = 0

    class Watched(dict):  # type: ignore[type-arg]
        def values(self) -> Any:
            nonlocal looked_at
            for value in super().values():
                looked_at += 1
                yield value

    caller._calls = Watched(caller._calls)
    assert caller.answer_received(Failure(None, ErrorObject(1, "x")), CHANNEL) == []
    assert looked_at == 2
