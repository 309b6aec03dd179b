"""How far a client has read, what it hears again after a loss, and what it is told to have missed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metered_realtime.core.session.positions import MAX_FORMER_IDS, Positions, ReadPosition
from metered_realtime.events import Direct, Event, Message, MessagesLost, Resubscribed

from .driver import SessionDriver


def keeping(epoch: str = "e", offset: int = 0, **fields: Any) -> dict[str, Any]:
    """Return the fields of a welcome by a server that keeps messages."""
    return {"epoch": epoch, "offset": offset, **fields}


def ack(driver: SessionDriver, request_id: str, epoch: str, offset: int) -> None:
    driver.receive({"type": "ack", "requestId": request_id, "epoch": epoch, "offset": offset})


def message(driver: SessionDriver, offset: int | None, channel: str = "a", sender: str = "bob") -> None:
    fields = {} if offset is None else {"offset": offset}
    driver.receive({"type": "message", "channel": channel, "from": sender, "data": offset, **fields})


def direct(driver: SessionDriver, offset: int | None) -> None:
    fields = {} if offset is None else {"offset": offset}
    driver.receive({"type": "direct", "from": "bob", "data": offset, **fields})


def lost(driver: SessionDriver, epoch: str, offset: int, **fields: Any) -> None:
    driver.receive({"type": "lost", "epoch": epoch, "offset": offset, **fields})


def news(driver: SessionDriver) -> list[Any]:
    """Return the data of messages and directs, and the losses, in order."""
    shown: list[Any] = []
    for event in driver.events:
        if isinstance(event, Message | Direct):
            shown.append(event.data)
        elif isinstance(event, MessagesLost):
            shown.append(event)
    return shown


def reader(epoch: str = "e", offset: int = 5) -> SessionDriver:
    """Return a client that has read a channel and its directs up to an offset."""
    driver = SessionDriver().connected(**keeping(epoch, offset))
    ack(driver, driver.subscribe("a"), epoch, offset)
    driver.effects.clear()
    return driver


def returned(driver: SessionDriver, epoch: str = "e", offset: int = 5, **welcome: Any) -> None:
    """Reconnect, and have the replay of the only subscription acknowledged with this position."""
    driver.reconnect(**(keeping(epoch, 5) | welcome))
    ack(driver, driver.written[-1]["requestId"], epoch, offset)


# --- asking


def test_every_first_subscribe_asks_for_positions_but_patterns_have_none() -> None:
    driver = SessionDriver().connected(**keeping())
    driver.subscribe("a")
    driver.subscribe("b/*")
    driver.subscribe(r"c\*")
    assert [frame.get("recover") for frame in driver.written] == [True, None, True]
    assert not any("epoch" in frame for frame in driver.written)


def test_after_a_loss_the_client_says_how_far_it_was() -> None:
    driver = reader()
    message(driver, 7)
    direct(driver, 9)
    driver.ended()
    assert driver.session.recovery == "e:9"
    driver.advance(1)
    driver.opened()
    driver.welcome(**keeping("e", 9))
    [asked] = [frame for frame in driver.written if frame["type"] == "subscribe"][-1:]
    assert (asked["recover"], asked["epoch"], asked["offset"]) == (True, "e", 7)


def test_a_client_without_a_position_asks_for_one() -> None:
    driver = SessionDriver()
    assert driver.session.recovery == "1"
    driver.connected().subscribed("a").reconnect()
    assert driver.session.recovery == "1"
    assert driver.written == [{"type": "subscribe", "channel": "a", "requestId": "2", "recover": True}]


@pytest.mark.parametrize("end", ["unsubscribe", "close"])
def test_what_the_program_ends_is_forgotten(end: str) -> None:
    driver = reader()
    if end == "unsubscribe":
        driver.ack(driver.unsubscribe("a"))
    else:
        driver.close()
        assert driver.session.recovery == "1"
        driver.connected(**keeping("e", 5))
    driver.effects.clear()
    driver.subscribe("a")
    assert driver.written[0] == {"type": "subscribe", "channel": "a", "recover": True} | {
        "requestId": driver.written[0]["requestId"]
    }


def test_a_subscribe_without_auto_resubscribe_goes_on_where_the_client_was() -> None:
    driver = SessionDriver(auto_resubscribe=False).connected(**keeping())
    ack(driver, driver.subscribe("a"), "e", 3)
    driver.reconnect(**keeping())
    driver.subscribe("a")
    assert (driver.written[0]["epoch"], driver.written[0]["offset"]) == ("e", 3)


# --- what was missed


def test_missed_messages_come_once_and_in_order_and_nothing_is_told_as_lost() -> None:
    driver = reader()
    message(driver, 6)
    returned(driver, offset=9)
    for offset in (6, 7, 9, 9, 8, 10):
        message(driver, offset)
    assert driver.events[1] == Resubscribed("a")
    assert news(driver) == [7, 9, 10]
    assert driver.session.dropped_frames == 3


def test_missed_directs_follow_the_welcome_once_and_in_order() -> None:
    driver = reader()
    driver.reconnect(**keeping("e", 8))
    for offset in (5, 6, 8, 8, 7, 9):
        direct(driver, offset)
    assert news(driver) == [6, 8, 9]


def test_a_replay_that_was_cut_short_goes_on_where_it_stopped() -> None:
    driver = reader()
    returned(driver, offset=9)
    message(driver, 6)
    returned(driver, offset=9)
    assert driver.written[-1]["offset"] == 6


def test_messages_without_an_offset_are_delivered_as_they_come() -> None:
    driver = reader()
    message(driver, None)
    message(driver, None, channel="other")
    direct(driver, None)
    assert news(driver) == [None, None, None]
    assert driver.session.recovery == "e:5"


def test_gaps_are_normal_since_own_messages_are_not_delivered() -> None:
    driver = reader()
    message(driver, 6)
    message(driver, 60)
    assert news(driver) == [6, 60]


def test_own_messages_under_a_former_id_are_not_news() -> None:
    driver = reader()
    driver.reconnect(**keeping("e", 0), peerId="ann-2")
    ack(driver, driver.written[-1]["requestId"], "e", 8)
    message(driver, 6, sender="ann")
    message(driver, 7)
    message(driver, 9, sender="ann")  # live: somebody else has the id now
    assert news(driver) == [MessagesLost(None, None), 7, 9]


def test_former_ids_are_bounded() -> None:
    positions = Positions()
    for number in range(3 * MAX_FORMER_IDS):
        positions.welcomed(f"ann-{number}", ReadPosition("e", 0))
    assert len(positions._former_ids) == MAX_FORMER_IDS


# --- what is lost


def test_a_window_exceeded_is_told_with_its_count_before_what_follows() -> None:
    driver = reader()
    returned(driver, offset=20)
    lost(driver, "e", 12, channel="a", count=7)
    message(driver, 12)
    message(driver, 13)
    assert news(driver) == [MessagesLost("a", 7), 13]


def test_lost_directs_are_told_with_their_count() -> None:
    driver = reader()
    driver.reconnect(**keeping("e", 20))
    lost(driver, "e", 12, count=7)
    direct(driver, 13)
    assert news(driver) == [MessagesLost(None, 7), 13]
    assert driver.session.recovery == "e:13"


@pytest.mark.parametrize("tells", [True, False], ids=["lost frame", "no lost frame"])
def test_another_epoch_is_told_once_before_what_follows(tells: bool) -> None:
    driver = reader()
    driver.reconnect(**keeping("f", 3))
    if tells:
        lost(driver, "f", 1)
    direct(driver, 2)
    ack(driver, driver.written[-1]["requestId"], "f", 3)
    if tells:
        lost(driver, "f", 1, channel="a")
    message(driver, 2)
    assert news(driver) == [MessagesLost(None, None), 2, MessagesLost("a", None), 2]


def test_a_count_that_went_backwards_is_a_loss_although_its_name_is_the_same() -> None:
    driver = reader()
    returned(driver, offset=2)
    message(driver, 3)
    assert news(driver) == [MessagesLost("a", None), 3]


@pytest.mark.parametrize("count", [None, 4])
def test_losses_while_connected_are_told(count: int | None) -> None:
    driver = reader()
    fields = {} if count is None else {"count": count}
    lost(driver, "e", 9, channel="a", **fields)
    lost(driver, "f", 2, **fields)
    message(driver, 9)
    direct(driver, 2)
    direct(driver, 3)
    assert news(driver) == [MessagesLost("a", count), MessagesLost(None, count), 3]
    assert driver.session.recovery == "f:3"


def test_a_later_loss_is_told_although_another_epoch_was() -> None:
    driver = reader()
    returned(driver, "f", 3)
    lost(driver, "f", 4, channel="a")
    assert news(driver)[-2:] == [MessagesLost("a", None), MessagesLost("a", None)]


def test_a_loss_in_a_channel_that_was_left_is_of_no_interest() -> None:
    driver = reader()
    driver.unsubscribe("a")
    lost(driver, "e", 9, channel="a", count=3)
    lost(driver, "e", 9, channel="never", count=3)
    assert news(driver) == []


@pytest.mark.parametrize("fields", [{"offset": 3}, {"epoch": "e"}, {"epoch": "e", "offset": 3, "channel": 7}])
def test_a_lost_frame_without_a_position_is_malformed(fields: dict[str, Any]) -> None:
    driver = reader()
    driver.receive({"type": "lost", "channel": "a"} | fields)
    assert (driver.events, driver.session.dropped_frames) == ([], 1)


def test_another_peer_id_loses_the_directs_to_the_former_one() -> None:
    driver = reader()
    driver.reconnect(**keeping("e", 40), peerId="eve")
    lost(driver, "e", 40)
    direct(driver, 41)
    assert news(driver) == [MessagesLost(None, None), 41]
    assert driver.session.recovery == "e:41"


def test_a_server_that_keeps_nothing_any_more_is_a_loss_told_once() -> None:
    driver = reader()
    driver.reconnect()
    driver.ack(driver.written[-1]["requestId"])
    assert news(driver) == [MessagesLost(None, None), MessagesLost("a", None)]
    driver.reconnect()
    driver.ack(driver.written[-1]["requestId"])
    assert news(driver) == []


def test_a_pattern_has_a_gap_after_each_reconnect() -> None:
    driver = SessionDriver().connected(**keeping())
    driver.ack(driver.subscribe("a/*"))
    driver.ack(driver.subscribe("a/*"))
    assert news(driver) == []
    driver.reconnect(**keeping())
    driver.ack(driver.written[-1]["requestId"])
    assert driver.events[1:] == [Resubscribed("a/*"), MessagesLost("a/*", None)]


def test_servers_that_keep_nothing_cause_no_event() -> None:
    driver = SessionDriver().connected().subscribed("a", "b/*").reconnect(peerId="eve")
    for frame in driver.written:
        driver.ack(frame["requestId"])
    message(driver, None)
    direct(driver, None)
    assert [event for event in driver.events if isinstance(event, MessagesLost)] == []
    assert news(driver) == [None, None]


def test_messages_between_a_subscribe_and_its_ack_are_not_repeated() -> None:
    driver = reader()
    request_id = driver.subscribe("a", include=True)
    message(driver, 6)
    ack(driver, request_id, "e", 7)
    message(driver, 6)
    message(driver, 7)
    assert news(driver) == [6, 7]


# --- any order of things


class KeepingServer:
    """A server that keeps the last messages of a channel, and a client that reads it over connections that break."""

    WINDOW = 4

    def __init__(self, *, tells_epochs: bool) -> None:
        self.driver = SessionDriver()
        self.tells_epochs = tells_epochs
        self.epoch = 0
        self.log: list[tuple[int, str, int]] = []
        self.offset = 0
        self.serial = 0
        self.is_up = False
        self.driver.connect()
        self.come_back()

    def publish(self, sender: str) -> None:
        self.serial += 1
        self.offset += 1
        stored = (self.offset, sender, self.serial)
        self.log = [*self.log, stored][-self.WINDOW :]
        if self.is_up:
            self._deliver(stored)

    def restart(self) -> None:
        self.lose()
        self.epoch += 1
        self.log, self.offset = [], 0

    def lose(self) -> None:
        if self.is_up:
            self.is_up = False
            self.driver.ended()
            self.driver.advance(1)

    def come_back(self, frames: int = 1_000) -> None:
        """Let the client return. The connection breaks again after some of the frames that it missed."""
        if self.is_up:
            return
        self.driver.opened()
        self.driver.welcome(**keeping())
        if not self.driver.session.subscriptions:
            self.driver.subscribe("a")
        asked = self.driver.written[-1]
        replies, lost = self._missed(asked)
        ack(self.driver, asked["requestId"], str(self.epoch), self.offset)
        self.is_up = True
        if lost is not None and frames > 0:
            self.driver.receive({"type": "lost", "channel": "a", "epoch": str(self.epoch)} | lost)
        for stored in replies[:frames]:
            self._deliver(stored)
        if frames < len(replies):
            self.lose()

    def _missed(self, asked: dict[str, Any]) -> tuple[list[tuple[int, str, int]], dict[str, int] | None]:
        if "epoch" not in asked:
            return [], None
        oldest = self.log[0][0] if self.log else self.offset + 1
        if asked["epoch"] != str(self.epoch):
            return self.log, {"offset": oldest - 1} if self.tells_epochs else None
        gone = oldest - 1 - asked["offset"]
        missed = [stored for stored in self.log if stored[0] >= asked["offset"]]  # the last one again
        return missed, {"offset": oldest - 1, "count": gone} if gone > 0 else None

    def _deliver(self, stored: tuple[int, str, int]) -> None:
        offset, sender, serial = stored
        if sender != "ann":
            fields = {"channel": "a", "from": sender, "data": serial, "offset": offset}
            self.driver.receive({"type": "message"} | fields)


THINGS = st.lists(
    st.one_of(
        st.just(("publish", "bob")),
        st.just(("publish", "bob")),
        st.just(("publish", "ann")),
        st.just(("lose",)),
        st.just(("restart",)),
        st.just(("come_back",)),
        st.tuples(st.just("come_back"), st.integers(0, 3)),
    ),
    max_size=40,
)


@settings(max_examples=300)
@given(THINGS, st.booleans())
def test_every_message_is_delivered_once_and_in_order_or_told_as_lost(
    things: list[tuple[Any, ...]], tells_epochs: bool
) -> None:
    server = KeepingServer(tells_epochs=tells_epochs)
    theirs = []
    for name, *arguments in things:
        getattr(server, name)(*arguments)
        if (name, *arguments) == ("publish", "bob"):
            theirs.append(server.serial)
    server.come_back()
    server.publish("bob")  # the end of any gap
    theirs.append(server.serial)
    _check_gaps(server.driver.events, theirs, server.serial)


def _check_gaps(events: list[Event], theirs: list[int], last: int) -> None:
    """Check that messages come in order, each once, and that losses told fill the gaps."""
    previous, excused, is_unknown = 0, 0, False
    for event in events:
        if isinstance(event, MessagesLost) and event.channel == "a":
            is_unknown = is_unknown or event.count is None
            excused += event.count or 0
        elif isinstance(event, Message):
            assert event.data > previous
            missing = [serial for serial in theirs if previous < serial < event.data]
            assert len(missing) <= excused or is_unknown
            previous, excused, is_unknown = event.data, 0, False
    assert previous == last
