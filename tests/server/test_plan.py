"""The limits of a plan: the meter alone, and their effect on clients."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from metered_realtime.server import App, SecretKey, SignallingServer
from metered_realtime.server.auth import mint_token
from metered_realtime.server.config.file import parse_config
from metered_realtime.server.plan import Meter, Plan

from ..support.probe import Probe, dialled
from ..support.rest_client import backend
from .config.test_reload import PATH

SECRET = "sk_secret_" + "s" * 40


class Clock:
    def __init__(self, *when: int) -> None:
        self.now = self.at(*when)

    @staticmethod
    def at(*when: int) -> float:
        year, month, day, *rest = when
        return datetime(year, month, day, *rest, tzinfo=UTC).timestamp()

    def __call__(self) -> float:
        return self.now


class TestPlan:
    @pytest.mark.parametrize(
        ("options", "named"),
        [
            ({"max_concurrent_connections": 0}, "max_concurrent_connections"),
            ({"max_messages_per_period": 1.5}, "1.5"),
            ({"max_messages_per_period": True}, "True"),
            ({"period": "year"}, "'year'"),
            ({"overages": "yes"}, "'yes'"),
        ],
    )
    def test_a_plan_refuses_what_makes_no_sense_and_names_it(self, options: dict[str, Any], named: str) -> None:
        with pytest.raises(ValueError, match=named):
            Plan(**options)


class TestMeter:
    def test_a_meter_bounds_nothing_without_a_plan(self) -> None:
        meter = Meter()
        for _ in range(1_000):
            meter.connect()
            assert meter.admits()
            assert meter.count_message()
        assert meter.usage()["plan"]["maxConcurrentConnections"] is None

    def test_a_meter_counts_attempts_even_when_they_are_refused(self) -> None:
        meter = Meter(Plan(max_messages_per_period=2))
        assert [meter.count_message() for _ in range(4)] == [True, True, False, False]
        assert (meter.usage()["messagesUsed"], meter.usage()["overageMessages"]) == (4, 0)

    def test_a_meter_refuses_nothing_with_overages_but_counts_them(self) -> None:
        meter = Meter(Plan(max_messages_per_period=1, max_concurrent_connections=1, overages=True))
        for _ in range(3):
            assert meter.admits()
            meter.connect()
            assert meter.count_message()
        usage = meter.usage()
        assert (usage["overageMessages"], usage["overageConnections"], usage["concurrentNow"]) == (2, 2, 3)
        assert (usage["plan"]["overagesAllowed"], usage["plan"]["overagesEnabled"]) == (True, True)

    @pytest.mark.parametrize(
        ("period", "start", "end"),
        [
            ("hour", (2027, 12, 31, 23), (2028, 1, 1)),
            ("day", (2027, 12, 31), (2028, 1, 1)),
            ("month", (2027, 12, 1), (2028, 1, 1)),
        ],
    )
    def test_a_meter_knows_the_period_of_the_calendar(self, period: Any, start: Any, end: Any) -> None:
        clock = Clock(2027, 12, 31, 23, 59)
        usage = Meter(Plan(period=period), clock).usage()
        assert (usage["periodStartUnix"], usage["periodEndUnix"]) == (Clock.at(*start), Clock.at(*end))

    def test_a_meter_begins_anew_with_each_period(self) -> None:
        clock = Clock(2027, 1, 31, 23, 59, 59)
        meter = Meter(Plan(max_messages_per_period=1), clock)
        meter.connect()
        meter.connect()
        meter.disconnect()
        assert [meter.count_message(), meter.count_message()] == [True, False]
        assert meter.period_left() == 1
        clock.now += 1
        assert meter.count_message()
        usage = meter.usage()
        assert (usage["messagesUsed"], usage["peakConcurrent"], usage["concurrentNow"]) == (1, 1, 1)
        assert usage["periodStartUnix"] == Clock.at(2027, 2, 1)

    def test_a_meter_goes_on_counting_under_another_plan(self) -> None:
        meter = Meter(Plan(max_messages_per_period=1))
        assert [meter.count_message(), meter.count_message()] == [True, False]
        meter.replace_plan(Plan(max_messages_per_period=4))
        assert [meter.count_message(), meter.count_message(), meter.count_message()] == [True, True, False]


def planned(plan: Plan) -> SignallingServer:
    return SignallingServer(apps=[App("app", (), (SecretKey(id="sk_id_a", secret=SECRET),), plan)])


def as_peer(peer_id: str) -> str:
    return "token=" + mint_token(secret_id="sk_id_a", secret=SECRET, peer_id=peer_id)


async def message_codes(probe: Probe, count: int) -> list[str]:
    frames = [await probe.ask("publish", channel="c", data=1) for _ in range(count)]
    return [frame.get("code", frame["type"]) for frame in frames]


class TestClients:
    async def test_clients_beyond_the_connections_of_the_plan_are_closed_with_4010(self) -> None:
        async with planned(Plan(max_concurrent_connections=1)) as server:
            async with dialled(server, as_peer("ann")) as ann:
                await ann.get()
                async with dialled(server, as_peer("bob")) as bob:
                    assert (await bob.ending())[0] == 4010
                async with dialled(server) as other_app:
                    assert (await other_app.get())["type"] == "welcome"
                async with dialled(server, "token=nonsense") as stranger:
                    assert (await stranger.ending())[0] == 4001
            async with dialled(server, as_peer("bob")) as bob:
                assert (await bob.get())["type"] == "welcome"

    async def test_clients_beyond_the_messages_of_the_plan_get_an_error_and_still_hear(self) -> None:
        async with planned(Plan(max_messages_per_period=2)) as server:
            async with dialled(server, as_peer("ann")) as ann, dialled(server, as_peer("bob")) as bob:
                await ann.get()
                await bob.get()
                await bob.join("c")
                assert await message_codes(ann, 3) == ["ack", "ack", "over_message_quota"]
                assert (await ann.ask("send", to="bob", data=1))["code"] == "over_message_quota"
                assert [(await bob.get())["type"] for _ in range(2)] == ["message", "message"]
                snapshot = await ann.join("c")
                assert snapshot["joined"] == [{"peerId": "bob"}]
                assert (await bob.get())["type"] == "presence"
            async with backend(server, f"sk_id_a:{SECRET}") as ours:
                answer = await ours.ask("POST", "/channels/c/publish", {"data": 1})
                assert answer.error == (429, "over_message_quota")
                assert int(answer.headers["Retry-After"]) >= 1

    async def test_clients_are_not_counted_for_frames_that_are_refused_before(self) -> None:
        async with planned(Plan(max_messages_per_period=1)) as server, dialled(server, as_peer("ann")) as ann:
            await ann.get()
            assert (await ann.ask("publish", channel="_system/x", data=1))["code"] == "channel_reserved"
            assert await message_codes(ann, 1) == ["ack"]

    async def test_clients_get_more_by_a_reload(self) -> None:
        keys = f'[[secret_keys]]\nid = "sk_id_a"\nsecret = "{SECRET}"\n'
        plan = "[apps.default]\nmax_messages_per_period = "
        server = SignallingServer.from_config(parse_config(f"{plan}1\n{keys}", PATH), port=0)
        async with server, dialled(server, as_peer("ann")) as ann:
            await ann.get()
            assert await message_codes(ann, 2) == ["ack", "over_message_quota"]
            server.reload(parse_config(f"{plan}3\n{keys}", PATH))
            assert await message_codes(ann, 2) == ["ack", "over_message_quota"]
