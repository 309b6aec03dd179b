"""The fast SCTP association against itself and against aiortc's, on networks that do to packets what networks do."""

from __future__ import annotations

import asyncio
import random
import re
from itertools import pairwise
from pathlib import Path
from struct import unpack_from
from typing import Any

import pytest
from aiortc import RTCDataChannel, RTCDataChannelParameters
from aiortc.rtcsctptransport import RTCSctpTransport

from metered_realtime import Tuning
from metered_realtime.aiortc_compat import peer_connection
from metered_realtime.aiortc_compat import sctp as fast
from metered_realtime.aiortc_compat import sctp_channels as channels
from metered_realtime.core.sctp import acknowledging, congestion
from tests.aiortc_compat.support.sctp_wire import Ends, Network, in_virtual_time, until

TOUCHED = {
    "_addBufferedAmount": "test_what_is_buffered_is_told_and_bounded_by_events",
    "_association_state": "test_nothing_is_sent_before_the_association_is_established",
    "_data_channel_id": "test_a_channel_opens_in_band_and_closes_at_both_ends",
    "_data_channel_queue": "test_a_short_message_does_not_wait_behind_a_file",
    "_data_channel_receive": "test_a_listener_that_fails_harms_nobody",
    "_data_channels": "test_a_channel_opens_in_band_and_closes_at_both_ends",
    "_forward_tsn_streams": "test_what_is_given_up_is_skipped",
    "_handle_data": "test_an_init_that_comes_twice_resets_nothing",
    "_inbound_streams": "test_a_channel_opens_in_band_and_closes_at_both_ends",
    "_local_port": "test_packets_of_others_are_ignored",
    "_local_tsn": "test_a_channel_opens_in_band_and_closes_at_both_ends",
    "_local_verification_tag": "test_packets_of_others_are_ignored",
    "_outbound_stream_seq": "test_a_stream_that_was_reset_begins_anew",
    "_receive_chunk": "test_an_association_that_is_aborted_ends_its_channels",
    "_reconfig_deferred": "test_a_channel_opens_in_band_and_closes_at_both_ends",
    "_reconfig_queue": "test_a_channel_opens_in_band_and_closes_at_both_ends",
    "_reconfig_request": "test_a_channel_opens_in_band_and_closes_at_both_ends",
    "_remote_max_message_size": "test_a_message_that_the_other_end_does_not_take_is_refused",
    "_remote_port": "test_packets_of_others_are_ignored",
    "_remote_verification_tag": "test_packets_of_others_are_ignored",
    "_reset_deferred_streams": "test_a_channel_opens_in_band_and_closes_at_both_ends",
    "_rto": "test_a_lost_tail_costs_a_fifth_of_a_second",
    "_setId": "test_a_channel_opens_in_band_and_closes_at_both_ends",
    "_set_state": "test_an_association_that_is_aborted_ends_its_channels",
    "_ssthresh": "test_the_window_opens_and_a_loss_halves_it",
    "_t3_cancel": "test_nothing_is_left_of_an_association_that_was_stopped",
}
"""The private names of aiortc in aiortc_compat/sctp.py and aiortc_compat/sctp_channels.py that these do not define, and
the test that watches each."""


def test_every_private_name_is_watched() -> None:
    text = "".join(Path(module.__file__).read_text() for module in (fast, channels))
    source = re.sub(r'""".*?"""', "", text, flags=re.DOTALL)
    names = set(re.findall(r"(?:self|inside|channel|\(\))\.(_[a-zA-Z]\w*)", source))
    instance = vars(RTCSctpTransport)
    made: set[str] = set()

    async def note() -> None:
        made.update(vars(Ends(False, False).a))

    in_virtual_time(note())
    of_aiortc = {name for name in names if name in instance or name in made or hasattr(RTCDataChannel, name)}
    of_aiortc |= {name for name in names if name == "_ssthresh"}
    ours = {*vars(fast.FastSctpTransport), *vars(channels.SctpDataChannels)}
    replaced = ours - {"_data_channel_receive", "_handle_data", "_set_state"}
    assert of_aiortc - replaced | {"_t3_cancel", "_rto", "_ssthresh"} == set(TOUCHED)
    assert set(TOUCHED.values()) <= set(globals())


# --- integrity

NETWORKS = {
    "clean": Network(),
    "1 % loss": Network(loss=0.01),
    "5 % loss": Network(loss=0.05),
    "2 % reordering": Network(reordering=0.02),
    "duplication": Network(duplication=0.05, reordering=0.02, loss=0.01),
}
ENDS = {"fast, fast": (True, True), "fast, stock": (True, False), "stock, fast": (False, True)}
CHANNELS: dict[str, dict[str, Any]] = {
    "ordered": {},
    "unordered": {"ordered": False},
    "partially reliable": {"maxRetransmits": 1},
    "partially reliable, unordered, timed": {"ordered": False, "maxPacketLifeTime": 40},
}


def messages(seed: int) -> list[str | bytes]:
    """Return messages of all lengths, no two alike."""
    chance = random.Random(seed)
    lengths = [0, 0, 1, 2, 3, 4, 1159, 1160, 1161, 2320, 2321, 300_000]
    lengths += [chance.randrange(200) for _ in range(60)] + [chance.randrange(20_000) for _ in range(12)]
    chance.shuffle(lengths)
    made: list[str | bytes] = []
    for number, length in enumerate(lengths):
        data = number.to_bytes(2, "big")[:length] + chance.randbytes(max(0, length - 2))
        made.append(data if number % 3 else data.hex()[: max(0, length)])
    return made


@pytest.mark.parametrize("options", CHANNELS.values(), ids=CHANNELS)
@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("ends", ENDS.values(), ids=ENDS)
def test_what_arrives_is_what_was_sent(ends: tuple[bool, bool], network: Network, options: dict[str, Any]) -> None:
    seed = list(NETWORKS.values()).index(network) * 10 + len(options)
    reliable = set(options) <= {"ordered"}

    async def program() -> None:
        both = Ends(*ends, network, seed)
        await both.establish()
        channel, _, heard = await both.channel(**options)
        control, _, told = await both.channel(label="control")
        sent = messages(seed)
        for number, message in enumerate(sent):
            channel.send(message)
            if number % 10 == 0:
                await asyncio.sleep(0.01)
        await until(lambda: channel.bufferedAmount == 0)
        control.send("end")
        await until(lambda: told == ["end"] and (len(heard) == len(sent) or not reliable))
        await asyncio.sleep(5)
        if reliable:
            assert sorted(map(repr, heard)) == sorted(map(repr, sent))
        if options.get("ordered", True):
            positions = iter(sent)
            assert all(any(it == message for it in positions) for message in heard), "in their order"
        assert len(heard) >= len(sent) // 2
        pool = list(map(repr, sent))
        for message in heard:
            pool.remove(repr(message))  # nothing that was not sent, and nothing twice
        for end in (both.a, both.b):
            if isinstance(end, fast.FastSctpTransport):
                assert end._reassembly.held_bytes == end._reassembly.held_chunks == 0
                assert end._outbound.flight == len(end._outbound.chunks) == 0
            await end.stop()

    in_virtual_time(program())


# --- what aiortc's association does, too


def test_a_channel_opens_in_band_and_closes_at_both_ends() -> None:
    async def program(ends: tuple[bool, bool]) -> None:
        both = Ends(*ends)
        await both.establish()
        mine, theirs, heard = await both.channel(label="x", protocol="p")
        assert (theirs.label, theirs.protocol, theirs.id, mine.id) == ("x", "p", 0, 0)
        mine.send("x" * 50_000)
        mine.close()
        await until(lambda: mine.readyState == theirs.readyState == "closed")
        assert heard == ["x" * 50_000], "what was sent before the end arrives"
        assert both.a._data_channels == both.b._data_channels == {}
        again, there, _ = await both.channel()
        there.close()
        await until(lambda: again.readyState == there.readyState == "closed")

    for ends in ENDS.values():
        in_virtual_time(program(ends))


def test_a_stream_that_was_reset_begins_anew() -> None:
    async def program() -> None:
        both = Ends()
        await both.establish()
        for number in range(3):
            mine, _, heard = await both.channel()
            assert mine.id == 0
            mine.send(f"{number} one")
            mine.send(f"{number} two")
            await until(lambda heard=heard: len(heard) == 2)
            mine.close()
            await until(lambda mine=mine: mine.readyState == "closed")

    in_virtual_time(program())


def test_what_is_buffered_is_told_and_bounded_by_events() -> None:
    async def program() -> None:
        both = Ends()
        await both.establish()
        mine, _, heard = await both.channel()
        low: list[int] = []
        mine.bufferedAmountLowThreshold = 20_000
        mine.on("bufferedamountlow", lambda: low.append(mine.bufferedAmount))
        for _ in range(10):
            mine.send(bytes(10_000))
        assert mine.bufferedAmount == 100_000
        await until(lambda: len(heard) == 10)
        assert mine.bufferedAmount == 0
        assert len(low) == 1
        assert low[0] <= 20_000

    in_virtual_time(program())


def test_nothing_is_sent_before_the_association_is_established() -> None:
    async def program() -> None:
        both = Ends()
        mine = RTCDataChannel(both.a, RTCDataChannelParameters(negotiated=True, id=4))
        theirs = RTCDataChannel(both.b, RTCDataChannelParameters(negotiated=True, id=4))
        heard: list[Any] = []
        theirs.on("message", heard.append)
        early = RTCDataChannel(both.a, RTCDataChannelParameters(label="early"))
        await asyncio.sleep(0.01)
        assert both.to_b.sent == []
        await both.establish()
        await until(lambda: early.readyState == mine.readyState == "open")
        mine.send("x")
        await until(lambda: heard)

    in_virtual_time(program())


def test_a_message_that_the_other_end_does_not_take_is_refused() -> None:
    async def program() -> None:
        both = Ends()
        await both.establish()
        mine, _, _ = await both.channel()
        both.a._remote_max_message_size = 1_000
        with pytest.raises(ValueError, match="only supports messages up to 1000 bytes"):
            mine.send("x" * 1_001)
        assert mine.bufferedAmount == 0

    in_virtual_time(program())


def test_an_association_that_is_aborted_ends_its_channels() -> None:
    async def program() -> None:
        both = Ends()
        await both.establish()
        mine, theirs, _ = await both.channel()
        await both.b.stop()
        await until(lambda: mine.readyState == theirs.readyState == "closed")
        assert both.a.state == "closed"

    in_virtual_time(program())


def test_nothing_is_left_of_an_association_that_was_stopped() -> None:
    async def program() -> None:
        both = Ends()
        await both.establish()
        mine, _, _ = await both.channel()
        mine.send("x" * 1_000_000)
        await asyncio.sleep(0.02)
        await asyncio.gather(both.a.stop(), both.b.stop())
        await asyncio.sleep(0.1)
        loop: Any = asyncio.get_running_loop()
        assert [timer for timer in loop.timers() if timer.when() < 3600] == [], "but that of the test itself"

    in_virtual_time(program())


def test_an_init_that_comes_twice_resets_nothing() -> None:
    async def program() -> None:
        both = Ends()
        await both.establish()
        mine, _, heard = await both.channel()
        mine.send("one")
        await until(lambda: heard)
        init = next(packet for packet in both.to_b.sent if packet[12] == 1)
        both.to_a.arrive(init)
        mine.send("two")
        await until(lambda: len(heard) == 2)
        assert heard == ["one", "two"]

    in_virtual_time(program())


def test_packets_of_others_are_ignored() -> None:
    async def program() -> None:
        both = Ends()
        await both.establish()
        mine, _, heard = await both.channel()
        mine.send("one")
        await until(lambda: heard)
        packet = next(packet for packet in both.to_b.sent if b"one" in packet)
        wrong_tag = packet[:4] + bytes(4) + packet[8:]
        for fake in (packet[:-1] + b"!", wrong_tag, packet[:11], b"", packet[:14]):
            both.b.receive_packet(fake)
        both.b.end_batch()
        assert both.b.packets_corrupt == 2
        assert heard == ["one"]

    in_virtual_time(program())


def test_a_listener_that_fails_harms_nobody() -> None:
    async def program() -> None:
        both = Ends()
        await both.establish()
        mine, theirs, heard = await both.channel()
        errors: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context["exception"]))

        def fail(message: Any) -> None:
            raise KeyError(message)

        theirs.on("message", fail)
        for message in ("one", "two"):
            mine.send(message)
        await until(lambda: len(errors) == 2)
        assert heard == ["one", "two"]
        for _ in range(3):
            fast.FastSctpTransport._data_channel_receive(both.b, theirs.id or 0, channels.WEBRTC_STRING, b"\xff")
        assert (both.b.packets_malformed, len(errors)) == (3, 2), "what is no text is counted"

    in_virtual_time(program())


# --- what is different


def chunks_of(packet: bytes) -> list[tuple[int, int]]:
    """Return type and flags of the chunks in a packet."""
    found, position = [], 12
    while position + 4 <= len(packet):
        kind, flags, length = unpack_from("!BBH", packet, position)
        found.append((kind, flags))
        position += (length + 3) & ~3
    return found


def test_short_messages_share_packets() -> None:
    async def program() -> None:
        both = Ends()
        await both.establish()
        mine, _, heard = await both.channel()
        before = len(both.to_b.sent)
        for _ in range(40):
            mine.send(bytes(64))
        await until(lambda: len(heard) == 40)
        packets = both.to_b.sent[before:]
        counts = [sum(kind == 0 for kind, _ in chunks_of(packet)) for packet in packets]
        assert counts == [14, 14, 12]
        assert max(map(len, packets)) <= 1189

    in_virtual_time(program())


def test_in_a_steady_flow_four_packets_share_an_acknowledgement(monkeypatch: pytest.MonkeyPatch) -> None:
    async def program() -> None:
        both = Ends()
        await both.establish()
        mine, _, heard = await both.channel()
        mine.send(bytes(50_000))
        await until(lambda: heard)
        assert len(both.to_b.sent) <= len(both.to_a.sent) + 2, "one each at first"
        monkeypatch.setattr(acknowledging, "PAUSE", 1.0)
        mine.send(bytes(1_000_000))
        await until(lambda: len(heard) == 2)
        before = len(both.to_b.sent), len(both.to_a.sent)
        mine.send(bytes(1_000_000))
        await until(lambda: len(heard) == 3)
        packets, answers = len(both.to_b.sent) - before[0], len(both.to_a.sent) - before[1]
        assert 3 < packets / answers < 4.2

    in_virtual_time(program())


def test_an_answer_takes_the_acknowledgement_along() -> None:
    async def program() -> None:
        both = Ends()
        await both.establish()
        mine, theirs, heard = await both.channel()
        theirs.on("message", lambda message: theirs.send("answer"))
        before = len(both.to_a.sent)
        mine.send("question")
        await until(lambda: heard)
        assert [kind for kind, _ in chunks_of(both.to_a.sent[before])] == [3, 0]

    in_virtual_time(program())


def test_the_last_chunk_asks_for_an_acknowledgement_at_once() -> None:
    """Otherwise a remote that delays it could let the timer run out (RFC 7053)."""

    async def program() -> None:
        both = Ends()
        await both.establish()
        mine, _, heard = await both.channel()
        before = len(both.to_b.sent)
        mine.send(bytes(2_000))
        await until(lambda: heard)
        flags = [flags for packet in both.to_b.sent[before:] for kind, flags in chunks_of(packet) if kind == 0]
        assert flags == [2, 1 | 8]

    in_virtual_time(program())


def test_a_short_message_does_not_wait_behind_a_file() -> None:
    async def program() -> None:
        both = Ends()
        await both.establish()
        file, _, file_heard = await both.channel(label="file")
        chat, _, chat_heard = await both.channel(label="chat")
        for _ in range(100):
            file.send(bytes(16_384))
        chat.send("hello")
        await until(lambda: chat_heard)
        assert len(file_heard) <= 2
        await until(lambda: len(file_heard) == 100)

    in_virtual_time(program())


def lose(both: Ends, count: int) -> None:
    """Lose the next packets from a to b."""
    left = iter(range(count))
    both.to_b.passes = lambda packet: next(left, None) is None


def test_a_lost_packet_is_sent_again_at_once() -> None:
    async def program() -> None:
        both = Ends()
        await both.establish()
        mine, _, heard = await both.channel()
        mine.send(bytes(100_000))
        await until(lambda: heard)
        started = asyncio.get_running_loop().time()
        lose(both, 1)
        mine.send(bytes(100_000))
        await until(lambda: len(heard) == 2)
        assert asyncio.get_running_loop().time() - started < 0.15, "no timer ran out"

    in_virtual_time(program())


def test_a_lost_tail_costs_a_fifth_of_a_second() -> None:
    async def program() -> None:
        both = Ends()
        await both.establish()
        mine, _, heard = await both.channel()
        started = asyncio.get_running_loop().time()
        lose(both, 1)
        mine.send("x")
        await until(lambda: heard)
        assert 0.2 <= asyncio.get_running_loop().time() - started < 0.25
        assert both.a._rto <= 2 * congestion.RTO_MIN

    in_virtual_time(program())


def test_a_silent_path_is_tried_ever_more_slowly() -> None:
    async def program() -> None:
        loop = asyncio.get_running_loop()
        both = Ends()
        await both.establish()
        mine, _, heard = await both.channel()
        times: list[float] = []
        both.to_b.passes = lambda packet: times.append(loop.time())  # type: ignore[func-returns-value]
        mine.send("x")
        await asyncio.sleep(20)
        gaps = [round(later - earlier, 2) for earlier, later in pairwise(times)]
        assert gaps[:5] == [0.2, 0.4, 0.8, 1.6, 3.0]
        assert set(gaps[5:]) == {3.0}
        both.to_b.passes = lambda packet: True
        await until(lambda: heard)

    in_virtual_time(program())


def test_the_window_opens_and_a_loss_halves_it() -> None:
    async def program() -> None:
        both = Ends()
        await both.establish()
        mine, _, heard = await both.channel()
        assert both.a._congestion.window < 5_000
        mine.send(bytes(1_000_000))
        await until(lambda: heard)
        opened = both.a._congestion.window
        assert opened > 20_000
        lose(both, 1)
        mine.send(bytes(50_000))
        await until(lambda: len(heard) == 2)
        assert both.a._congestion.window <= opened // 2 + 20 * 1160

    in_virtual_time(program())


def test_no_more_is_in_flight_than_the_path_needs() -> None:
    async def program() -> None:
        both = Ends()
        await both.establish()
        mine, _, heard = await both.channel()
        most = 0

        def note(packet: bytes) -> bool:
            nonlocal most
            most = max(most, both.a._outbound.flight)
            return True

        both.to_b.passes = note
        for _ in range(40):
            mine.send(bytes(250_000))
        await until(lambda: len(heard) == 40)
        bound = congestion.MAX_RATE * both.a._congestion.least_round_trip
        assert bound == pytest.approx(congestion.MAX_RATE * 0.01, rel=0.1), "the round trip time of this network"
        assert congestion.MIN_FLIGHT < most <= bound + 1160

    in_virtual_time(program())


def test_what_is_given_up_is_skipped() -> None:
    async def program(ends: tuple[bool, bool]) -> None:
        both = Ends(*ends)
        await both.establish()
        mine, _, heard = await both.channel(maxRetransmits=0)
        lose(both, 1)
        for number in range(3):
            mine.send(f"{number}" + "x" * 1_100)
        await until(lambda: len(heard) == 2)
        assert [message[0] for message in heard] == ["1", "2"]
        mine.send("after")
        await until(lambda: len(heard) == 3)
        lose(both, 3)
        mine.send("gone")
        mine.send("x" * 3_000)
        await asyncio.sleep(5)
        mine.send("end")
        await until(lambda: heard[-1] == "end")
        assert "gone" not in heard

    for ends in ENDS.values():
        in_virtual_time(program(ends))


def test_the_window_of_the_other_end_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A receiver that takes no more is asked with one chunk at a time, and what it refuses comes again."""

    async def program() -> None:
        both = Ends()
        await both.establish()
        mine, _, heard = await both.channel()
        monkeypatch.setattr(fast, "RECEIVE_WINDOW", 30_000)
        chance = random.Random(5)
        flights: list[int] = []

        def passes(packet: bytes) -> bool:
            flights.append(both.a._outbound.flight)
            return chance.random() > 0.03

        both.to_b.passes = passes
        for number in range(60):
            mine.send(bytes([number]) * 9_000)
        await until(lambda: len(heard) == 60)
        assert heard == [bytes([number]) * 9_000 for number in range(60)]
        assert max(flights[20:]) <= 30_000
        assert both.b._reassembly.held_bytes == 0

    in_virtual_time(program())


def test_what_does_not_fit_the_receive_window_is_refused_and_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """aiortc does not look at the window: it sends more than is announced behind a lost chunk."""

    async def program() -> None:
        both = Ends(fast_a=False)
        await both.establish()
        mine, _, heard = await both.channel()
        mine.send(bytes(600_000))
        await until(lambda: heard)
        monkeypatch.setattr(fast, "RECEIVE_WINDOW", 5_000)
        lose(both, 1)
        most = 0

        def note(packet: bytes) -> bool:
            nonlocal most
            most = max(most, both.b._reassembly.held_bytes)
            return True

        both.to_a.passes = note
        for number in range(40):
            mine.send(bytes([number]) * 1_100)
        await until(lambda: len(heard) == 41)
        assert heard[1:] == [bytes([number]) * 1_100 for number in range(40)]
        assert both.b.chunks_refused > 0
        assert most <= 5_000

    in_virtual_time(program())


def test_a_message_without_an_end_ends_the_association(caplog: pytest.LogCaptureFixture) -> None:
    async def program() -> None:
        both = Ends()
        await both.establish()
        mine, theirs, heard = await both.channel()
        mine.send(bytes(3_000_000))  # this network's ends have announced that they take any
        await until(lambda: mine.readyState == theirs.readyState == "closed")
        assert heard == []

    in_virtual_time(program())
    assert "never end" in caplog.text


# --- the switch


async def test_it_can_be_switched_off() -> None:
    pc = peer_connection.create_peer_connection(tuning=Tuning(fast_data=False))
    assert type(pc.sctp) is RTCSctpTransport
    await pc.close()
