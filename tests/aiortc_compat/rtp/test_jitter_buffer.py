"""When pictures come out of the jitter buffer, and what becomes of those that miss a packet."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest
from aiortc.jitterbuffer import JitterBuffer
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from aiortc.rtp import RtpPacket

from metered_realtime.aiortc_compat import jitter_buffer as pictures_module
from metered_realtime.aiortc_compat.jitter_buffer import ASK_AGAIN, GIVE_UP, PromptPictures

KEY = b"\x00\x00\x00\x9d\x01\x2a"
"""What a key frame of VP8 begins with (RFC 6386 section 9.1)."""

TOUCHED = {
    "_data": "test_a_picture_is_complete_with_its_last_packet",
    "_origin": "test_a_picture_is_complete_with_its_last_packet",
    "_packets": "test_a_picture_is_complete_with_its_last_packet",
    "_remove_frame": "test_a_picture_is_complete_with_its_last_packet",
}
"""Every private name of aiortc in aiortc_compat/jitter_buffer.py, and the test that watches it."""


def test_every_private_name_is_watched() -> None:
    source = re.sub(r'""".*?"""', "", Path(pictures_module.__file__).read_text(), flags=re.DOTALL)
    assert set(re.findall(r"(?<!\bself)\.(_[a-zA-Z]\w*)", source)) == set(TOUCHED)
    assert set(TOUCHED.values()) <= set(globals())


class Pictures:
    """A jitter buffer and what it has released."""

    def __init__(self, *, prompt: bool = True) -> None:
        self.buffer = JitterBuffer(capacity=512, is_video=True)
        if prompt:
            PromptPictures(
                self.buffer,
                {96: RTCRtpCodecParameters("video/VP8", 90_000)},
                self.note_loss,
                lambda source, missing: self.asked.append(missing),
                lambda: self.now,
            )
        self.seen: list[bytes] = []
        self.asked: list[list[int]] = []
        self.losses = 0
        self.now = 0.0

    def note_loss(self) -> None:
        self.losses += 1

    def take(self, number: int, picture: int, data: bytes, mark: str = "") -> list[bytes]:
        """Take a packet of a picture and return all that came out so far."""
        packet: Any = RtpPacket(
            sequence_number=number % 65_536, payload_type=96, timestamp=picture * 3_000, marker=int(mark == "|")
        )
        packet._data = data
        _, frame = self.buffer.add(packet)
        if frame is not None:
            for each in (frame, *getattr(frame, "more", ())):
                assert each.timestamp % 3_000 == 0
                self.seen.append(each.data)
        return self.seen


def test_a_picture_is_complete_with_its_last_packet() -> None:
    pictures, late = Pictures(), Pictures(prompt=False)
    for number, picture, data, mark in ((65_534, 1, b"a", ""), (65_535, 1, b"b", ""), (0, 1, b"c", "|")):
        assert pictures.seen == []
        pictures.take(number, picture, data, mark)
        assert late.take(number, picture, data, mark) == [], "aiortc has no reason to wait any more"
    assert pictures.seen == [b"abc"]
    assert pictures.take(1, 2, b"d", "|") == [b"abc", b"d"]
    assert late.take(1, 2, b"d", "|") == [b"abc"]


def test_a_picture_waits_for_what_is_missing() -> None:
    pictures = Pictures()
    pictures.take(0, 1, b"a")
    pictures.take(2, 1, b"c", "|")
    pictures.take(3, 2, b"d", "|")
    assert pictures.seen == []
    assert pictures.take(1, 1, b"b") == [b"abc", b"d"], "and those behind it come with it"
    assert pictures.take(4, 3, b"e") == [b"abc", b"d"]
    assert pictures.take(5, 3, b"f", "|") == [b"abc", b"d", b"ef"]


def test_padding_behind_the_mark_is_no_picture() -> None:
    pictures = Pictures()
    pictures.take(0, 1, b"a", "|")
    pictures.take(1, 1, b"")
    pictures.take(2, 1, b"")
    pictures.take(3, 2, b"b")
    assert pictures.take(4, 2, b"c", "|") == [b"a", b"bc"]


def test_a_sender_that_marks_every_packet_is_taken_by_its_timestamps() -> None:
    pictures = Pictures()
    for number in range(8):
        pictures.take(number, number // 2, b"%d" % number, "|")
    assert pictures.seen == [b"0", b"23", b"45"], "one picture shows what it is"


def test_without_marks_pictures_come_as_ever() -> None:
    pictures = Pictures()
    for number in range(6):
        pictures.take(number, number // 2, b"%d" % number)
    assert pictures.seen == [b"01", b"23"]


@pytest.mark.parametrize("seed", range(20))
def test_the_same_pictures_come_in_the_same_order_whatever_the_order_of_packets(seed: int) -> None:
    chance = random.Random(seed)
    packets: list[tuple[int, int, bytes, str]] = []
    for picture in range(200):
        count = chance.randint(1, 6)
        for part in range(count):
            packets.append((len(packets), picture, b"%d.%d " % (picture, part), "|" if part == count - 1 else ""))
    first, rest = packets[0], packets[1:]
    arrived = [first, *(it for _, it in sorted(enumerate(rest), key=lambda it: it[0] + chance.uniform(0, 9)))]
    prompt, late = Pictures(), Pictures(prompt=False)
    for packet in arrived:
        prompt.take(*packet)
        late.take(*packet)
    for more in range(60):  # each lets one picture out that is complete
        for pictures in (prompt, late):
            pictures.take(len(packets) + more, 200 + more, b"end", "|")
    real = [data for data in late.seen if data != b"end"]
    assert len(real) == 200
    assert [data for data in prompt.seen if data != b"end"] == real
    assert len(prompt.seen) >= len(late.seen)


def test_what_is_missing_is_asked_for_again_and_then_given_up() -> None:
    pictures = Pictures()
    pictures.take(65_534, 1, b"a", "|")
    pictures.take(0, 3, b"c", "|")  # 65535 is missing
    assert pictures.asked == [], "aiortc asks the first time"
    for number in range(1, 20):
        pictures.now = number * 0.04
        pictures.take(number, 3 + number, b"%d" % number, "|")
        if pictures.losses:
            break
    assert pictures.now == pytest.approx(GIVE_UP, abs=0.05)
    assert pictures.asked == [[65_535]] * len(pictures.asked)
    assert len(pictures.asked) == pytest.approx(GIVE_UP / ASK_AGAIN - 1, abs=1)
    assert pictures.losses == 1
    assert pictures.seen == [b"a", *(b"%d" % it for it in range(1, number + 1))], "the one behind the gap may be a part"
    assert pictures.take(65_535, 2, b"b", "|") == pictures.seen, "too late"


def test_numbers_that_begin_elsewhere_leave_nothing_of_the_former_ones() -> None:
    pictures = Pictures()
    pictures.take(1_000, 1, b"a", "|")
    pictures.take(1_002, 3, b"c", "|")  # 1001 is missing
    pictures.take(700, 10, b"k", "|")  # so far back that the buffer begins anew
    pictures.now = ASK_AGAIN
    pictures.take(701, 11, b"l", "|")
    assert pictures.asked == []
    pictures.take(703, 13, b"n", "|")
    pictures.now += ASK_AGAIN
    pictures.take(704, 14, b"o", "|")
    assert pictures.asked == [[702]]
    assert pictures.seen == [b"a", b"k", b"l"]


def test_a_key_frame_behind_a_gap_is_kept() -> None:
    pictures = Pictures()
    pictures.take(0, 1, b"a", "|")
    pictures.take(2, 3, KEY)
    pictures.take(3, 3, b"rest", "|")
    pictures.now = GIVE_UP
    assert pictures.take(4, 4, b"d", "|") == [b"a", KEY + b"rest", b"d"]


def test_what_comes_in_time_is_not_given_up() -> None:
    pictures = Pictures()
    pictures.take(0, 1, b"a", "|")
    pictures.take(2, 3, b"c", "|")
    pictures.now = GIVE_UP - 0.01
    assert pictures.take(1, 2, b"b", "|") == [b"a", b"b", b"c"]
    pictures.take(4, 5, b"e", "|")  # another gap has a time of its own
    pictures.now += GIVE_UP - 0.01
    assert pictures.take(3, 4, b"d", "|")[-2:] == [b"d", b"e"]
    assert pictures.losses == 0


@pytest.mark.parametrize("seed", range(20))
def test_with_packets_lost_for_good_pictures_go_on_in_order_and_are_whole(seed: int) -> None:
    chance = random.Random(seed)
    whole: dict[int, bytes] = {}
    pictures, number = Pictures(), 65_000
    for picture in range(400):
        count = chance.randint(1, 5)
        parts = [b"%d.%d " % (picture, part) for part in range(count)]
        whole[picture] = b"".join(parts)
        for part, data in enumerate(parts):
            if not picture or chance.random() > 0.03:
                pictures.take(number, picture, data, "|" if part == count - 1 else "")
            number += 1
        pictures.now += 0.04
    order = [int(data.split(b".")[0]) for data in pictures.seen]
    assert order == sorted(set(order))
    assert all(data == whole[picture] for picture, data in zip(order, pictures.seen, strict=True))
    assert len(order) > 250
    assert order[-1] > 380, "nothing is held up for long"
