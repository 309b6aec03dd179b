"""What a remote opens is bounded, and names are counted in bytes: the insides of aiortc that this needs, watched."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from aiortc import RTCDataChannel, RTCDataChannelParameters

from metered_realtime import DataChannel, DataChannelOpened, DCError, DCMessage
from metered_realtime.aiortc_compat import dcep as dcep
from metered_realtime.aiortc_compat.dcep import ChannelAdmission, open_message
from metered_realtime.channels import unread
from metered_realtime.channels.unread import UnreadCounter, message_size, unread_on
from tests.aiortc_compat.support.sctp_wire import Ends, in_virtual_time, until
from tests.support.peers import Room, eventually

TOUCHED = {
    "_data_channel_closed": "test_a_channel_that_ends_makes_room_for_another",
    "_data_channel_outbound_reset": "test_a_stream_that_was_refused_can_be_opened_later",
    "_data_channel_receive": "test_more_channels_than_the_bound_are_closed_and_told_once",
    "_data_channels": "test_a_channel_is_opened_once",
    "_reconfig_queue": "test_more_channels_than_the_bound_are_closed_and_told_once",
    "_transmit_reconfig": "test_more_channels_than_the_bound_are_closed_and_told_once",
}
"""Every private name of aiortc in aiortc_compat/dcep.py, and the test that watches it."""


def test_every_private_name_is_watched() -> None:
    source = re.sub(r'""".*?"""', "", Path(dcep.__file__).read_text(), flags=re.DOTALL)
    assert set(re.findall(r"sctp\.(_[a-zA-Z]\w*)", source)) == set(TOUCHED)
    assert set(TOUCHED.values()) <= set(globals())


def admission(both: Ends) -> tuple[ChannelAdmission, list[str]]:
    """Bound what the second end takes."""
    told: list[str] = []
    pc: Any = type("Connection", (), {"sctp": both.b})
    return ChannelAdmission(pc, told.append), told


def open_one(both: Ends, **options: Any) -> RTCDataChannel:
    return RTCDataChannel(both.a, RTCDataChannelParameters(**options))


@pytest.mark.parametrize("fast", [True, False])
def test_more_channels_than_the_bound_are_closed_and_told_once(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dcep, "MAX_CHANNELS", 20)

    async def program() -> None:
        both = Ends(True, fast)
        bound, told = admission(both)
        await both.establish()
        mine = [open_one(both, label=f"{number}") for number in range(50)]
        await until(lambda: sum(it.readyState == "closed" for it in mine) == 30)
        assert [it.readyState for it in mine] == ["open"] * 20 + ["closed"] * 30
        assert len(both.opened) == len(both.b._data_channels) == 20
        assert (bound.refused, told) == (30, ["more than 20"])

    in_virtual_time(program())


def test_names_are_bounded_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dcep, "MAX_NAME_BYTES", 100_000)

    async def program() -> None:
        both = Ends()
        bound, told = admission(both)
        await both.establish()
        mine = [open_one(both, label="x" * 30_000, protocol="y" * 10_000) for _ in range(4)]
        await until(lambda: mine[3].readyState == "closed" and mine[1].readyState == "open")
        assert [it.readyState for it in mine] == ["open", "open", "closed", "closed"]
        assert (bound.refused, len(told)) == (2, 1)

    in_virtual_time(program())


def test_a_channel_that_ends_makes_room_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dcep, "MAX_CHANNELS", 2)

    async def program() -> None:
        both = Ends()
        bound, _ = admission(both)
        await both.establish()
        for _ in range(5):
            mine = [open_one(both, label="x" * 100) for _ in range(2)]
            await until(lambda mine=mine: all(it.readyState == "open" for it in mine))  # type: ignore[misc]
            for channel in mine:
                channel.close()
            await until(lambda mine=mine: all(it.readyState == "closed" for it in mine))  # type: ignore[misc]
            await asyncio.sleep(1)
        assert (bound.refused, bound._bytes, bound._names) == (0, 0, {})

    in_virtual_time(program())


def test_a_stream_that_was_refused_can_be_opened_later(monkeypatch: pytest.MonkeyPatch) -> None:
    async def program() -> None:
        both = Ends()
        bound, _ = admission(both)
        await both.establish()
        monkeypatch.setattr(dcep, "MAX_CHANNELS", 0)
        refused = open_one(both, label="a")
        await until(lambda: refused.readyState == "closed")
        monkeypatch.setattr(dcep, "MAX_CHANNELS", 1)
        taken, opened, heard = await both.channel(label="b")
        assert taken.id == refused.id == opened.id
        taken.send("now")
        await until(lambda: heard == ["now"])
        taken.close()
        await until(lambda: taken.readyState == opened.readyState == "closed")
        assert bound.refused == 1

    in_virtual_time(program())


def test_a_channel_is_opened_once() -> None:
    async def program() -> None:
        both = Ends()
        bound, _ = admission(both)
        await both.establish()
        mine, theirs, heard = await both.channel(label="a")
        again = b"\3" + bytes(11)
        for message in (again, again[:5], b"\2", b"\7", b""):
            both.a._outbound_stream_seq.setdefault(mine.id, 0)
            for stream in (mine.id, 4_000):
                if message != again or stream == mine.id:
                    both.a._queue_chunks(stream, 50, message or b"\0")
        both.a._send_all()
        mine.send("still there")
        await until(lambda: heard == ["still there"])
        assert both.opened == [theirs]
        assert both.b.packets_malformed == bound.refused == 0

    in_virtual_time(program())


@pytest.mark.parametrize("label", ["grüß dich", "東京 🗼", "x" * 65_535, "ü" * 32_767])
def test_names_arrive_as_they_were_given(label: str) -> None:
    async def program() -> None:
        both = Ends()
        admission(both)
        await both.establish()
        _, theirs, _ = await both.channel(label=label, protocol="prötocol", ordered=False, maxRetransmits=3)
        assert (theirs.label, theirs.protocol) == (label, "prötocol")
        assert (theirs.ordered, theirs.maxRetransmits) == (False, 3)

    in_virtual_time(program())


def test_an_ascii_name_is_announced_as_by_aiortc() -> None:
    async def program() -> None:
        for options in ({}, {"ordered": False}, {"maxPacketLifeTime": 7}, {"maxRetransmits": 0, "ordered": False}):
            both = Ends(False, False)
            channel = RTCDataChannel(both.a, RTCDataChannelParameters(label="l", protocol="pp", **options))  # type: ignore[arg-type]
            ((_, _, expected),) = both.a._data_channel_queue
            assert open_message(channel) == expected
            await both.a.stop()

    in_virtual_time(program())


# --- what waits


def test_what_has_gone_without_a_word_counts_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unread, "MAX_UNREAD_OF_REMOTE", 100)
    monkeypatch.setattr(unread, "MAX_UNREAD_MESSAGES", 5)

    class Holds:
        def __init__(self, size: int, count: int) -> None:
            self.bytes, self.count = size, count

        def __len__(self) -> int:
            return self.count

    waiting, first, second = UnreadCounter(), Holds(90, 1), Holds(20, 1)
    waiting.join(first)
    assert waiting.note(90, 1)
    waiting.join(second)
    assert not waiting.note(20, 1)
    del first
    assert waiting.note(0, 0)
    second.count = 6
    assert not waiting.note(0, 5)


def test_the_size_of_text_is_that_of_utf_8() -> None:
    assert [message_size(it) for it in ("abc", "äöü", "🗼", b"\xff\xff", "")] == [3, 6, 4, 2, 0]


async def test_all_channels_of_a_remote_share_what_may_wait(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """Channels that nobody has looked at, and wrapped ones that nobody reads."""
    monkeypatch.setattr(unread, "MAX_UNREAD_OF_REMOTE", 100_000)
    pair = await room.pair()
    mine = [DataChannel(pair.to_b.create_data_channel(f"{number}")) for number in range(6)]
    heard: list[str | bytes] = []
    first = DataChannel((await pair.log_b.until(DataChannelOpened)).channel)
    first.on(DCMessage, lambda event: heard.append(event.data))
    opened = [(await pair.log_b.until(DataChannelOpened, number + 2)).channel for number in range(5)]
    errors: list[Exception] = []
    wrapped = DataChannel(opened[4])
    wrapped.on(DCError, lambda event: errors.append(event.err))
    await asyncio.gather(*(it.wait_open() for it in mine))
    for channel in mine[1:5]:
        await channel.send("ä" * 15_000)  # 30,000 bytes
    await eventually(lambda: [it.readyState for it in opened[:4]].count("open") == 3)
    await mine[5].send(b"x" * 30_000)
    await eventually(lambda: errors)
    assert getattr(errors[0], "unit", None) == "bytes"
    await mine[0].send("read")
    await eventually(lambda: heard == ["read"])
    data = pair.to_a.stats().data
    assert data is not None
    assert data.channels_refused == 2
    assert unread_on(pair.to_a.pc.sctp).bytes <= 100_000


async def test_what_is_read_makes_room(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unread, "MAX_UNREAD_OF_REMOTE", 100_000)
    pair = await room.pair()
    mine = DataChannel(pair.to_b.create_data_channel("x"))
    raw = (await pair.log_b.until(DataChannelOpened)).channel
    await mine.wait_open()
    waiting, theirs = unread_on(pair.to_a.pc.sctp), DataChannel(raw)
    for _ in range(4):
        await mine.send(b"x" * 60_000)
        await eventually(lambda: waiting.bytes == 60_000)
        assert await anext(theirs) == b"x" * 60_000
        assert waiting.bytes == 0


@pytest.mark.parametrize(
    ("names", "what"),
    [
        ({"label": "x" * 65_536}, "label must have at most 65535 UTF-8 bytes, not 65536"),
        ({"label": "ä" * 40_000}, "label must have at most 65535 UTF-8 bytes, not 80000"),
        ({"label": "x", "protocol": "x" * 70_000}, "protocol must have at most 65535 UTF-8 bytes, not 70000"),
    ],
)
async def test_a_name_that_does_not_fit_is_a_value_error(room: Room, names: dict[str, str], what: str) -> None:
    pair = await room.pair()
    with pytest.raises(ValueError, match=f"^{what}"):
        pair.to_b.create_data_channel(**names)
    with pytest.raises(ValueError, match=r"^label must have at most 1024 characters, not 65536"):
        pair.to_b.open_channel("x" * 65_536)
    assert pair.to_b.state == "idle", "nothing was begun"
    with pytest.raises(TypeError, match=r"^label must be a str, not int"):
        pair.to_b.create_data_channel(7)  # type: ignore[arg-type]
