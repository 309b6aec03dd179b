"""The encoding of frames, and the handling of invalid ones."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from metered_realtime.core.wire.frames import (
    MAX_RESUME_TOKEN,
    Ack,
    ClientFrame,
    DirectFrame,
    ErrorFrame,
    FrameError,
    GoingAwayFrame,
    LostFrame,
    MalformedServerFrameError,
    MessageFrame,
    Ping,
    Pong,
    PresenceEntry,
    PresenceFrame,
    Publish,
    Refresh,
    Resume,
    Send,
    ServerFrame,
    Subscribe,
    UnknownServerFrameError,
    Unsubscribe,
    Welcome,
    decode_client_frame,
    encode,
    encode_payload,
)
from metered_realtime.core.wire.server_frames import decode_server_frame

CLIENT_FRAMES: list[tuple[ClientFrame, str]] = [
    (Subscribe("c"), '{"type":"subscribe","channel":"c"}'),
    (Subscribe("c", True, "r"), '{"type":"subscribe","channel":"c","includeSenderMetadata":true,"requestId":"r"}'),
    (Unsubscribe("c", "r"), '{"type":"unsubscribe","channel":"c","requestId":"r"}'),
    (Publish("c", Raw(b"null")), '{"type":"publish","channel":"c","data":null}'),
    (Publish("é", Raw(b'{"a":[1]}'), "r"), '{"type":"publish","channel":"é","data":{"a":[1]},"requestId":"r"}'),
    (Send("ann", Raw(b"0"), "r"), '{"type":"send","to":"ann","data":0,"requestId":"r"}'),
    (Ping(), '{"type":"ping"}'),
    (Ping("r"), '{"type":"ping","requestId":"r"}'),
    (Refresh("t", "r"), '{"type":"refresh","token":"t","requestId":"r"}'),
]

SERVER_FRAMES: list[tuple[ServerFrame, str]] = [
    (
        Welcome("ann", None, 1, 65536),
        '{"type":"welcome","peerId":"ann","expiresAt":null,"serverTime":1,"maxMessageSize":65536}',
    ),
    (
        Welcome("ann", 9, 1, 5, {"m": 1}),
        '{"type":"welcome","peerId":"ann","expiresAt":9,"serverTime":1,"maxMessageSize":5,"metadata":{"m":1}}',
    ),
    (
        Welcome("ann", None, 1, 5, None, "t"),
        '{"type":"welcome","peerId":"ann","expiresAt":null,"serverTime":1,"maxMessageSize":5,"resumeToken":"t"}',
    ),
    (
        Welcome("ann", None, 1, 5, epoch="e-1_X", offset=0),
        '{"type":"welcome","peerId":"ann","expiresAt":null,"serverTime":1,"maxMessageSize":5,"epoch":"e-1_X","offset":0}',
    ),
    (Resume("t"), '{"type":"resume","resumeToken":"t"}'),
    (Ack("r", epoch="e", offset=2**53), '{"type":"ack","requestId":"r","epoch":"e","offset":9007199254740992}'),
    (LostFrame("e", 7), '{"type":"lost","epoch":"e","offset":7}'),
    (LostFrame("e", 7, "c", 3), '{"type":"lost","epoch":"e","offset":7,"channel":"c","count":3}'),
    (
        MessageFrame(channel="c", from_="ann", data=None, offset=4),
        '{"type":"message","channel":"c","from":"ann","data":null,"offset":4}',
    ),
    (DirectFrame(from_="ann", data=1, offset=4), '{"type":"direct","from":"ann","data":1,"offset":4}'),
    (Ack("r"), '{"type":"ack","requestId":"r"}'),
    (Ack("r", 9, {"m": 1}), '{"type":"ack","requestId":"r","expiresAt":9,"metadata":{"m":1}}'),
    (ErrorFrame("oops"), '{"type":"error","code":"oops"}'),
    (ErrorFrame("oops", "text", "r"), '{"type":"error","code":"oops","message":"text","requestId":"r"}'),
    (
        MessageFrame(channel="c", from_="ann", data=None),
        '{"type":"message","channel":"c","from":"ann","data":null}',
    ),
    (
        DirectFrame(from_="ann", data=[1], from_metadata={"n": 1}),
        '{"type":"direct","from":"ann","data":[1],"fromMetadata":{"n":1}}',
    ),
    (PresenceFrame("c", (), ()), '{"type":"presence","channel":"c","joined":[],"left":[]}'),
    (
        PresenceFrame("c", (PresenceEntry("ann", {"n": 1}),), (PresenceEntry("bob"),)),
        '{"type":"presence","channel":"c","joined":[{"peerId":"ann","metadata":{"n":1}}],"left":[{"peerId":"bob"}]}',
    ),
    (GoingAwayFrame(1000), '{"type":"going_away","retryAfterMs":1000}'),
    (Pong(), '{"type":"pong"}'),
    (Pong("r"), '{"type":"pong","requestId":"r"}'),
]

UNUSABLE_OFFSETS = ("null", "-1", "1.5", '"1"', "true", str(2**53 + 1), "1e30", "[1]")
UNUSABLE_POSITIONS = (
    *(('"e"', offset) for offset in UNUSABLE_OFFSETS),
    *((epoch, "7") for epoch in ("null", "7", '""', '"a b"', '"é"', '"e\\n"', f'"{"x" * 33}"', '["e"]')),
)


class TestClientFrames:
    @pytest.mark.parametrize(("frame", "text"), CLIENT_FRAMES, ids=lambda value: type(value).__name__)
    def test_client_frames_go_out_and_come_in(self, frame: ClientFrame, text: str) -> None:
        assert encode(frame).decode() == text
        assert decode_client_frame(text) == decode_client_frame(text.encode()) == frame

    def test_client_frames_may_have_fields_that_nobody_knows(self) -> None:
        assert decode_client_frame('{"x":{},"type":"ping","y":[1]}') == Ping()

    def test_client_frames_keep_the_payload_as_it_came(self) -> None:
        frame = decode_client_frame('{"type":"publish","channel":"c","data": { "a" : 1.0e2 } }')
        assert isinstance(frame, Publish)
        assert bytes(frame.data) == b'{ "a" : 1.0e2 }'

    def test_client_frames_may_have_text_that_was_cut_within_a_character(self) -> None:
        frame = decode_client_frame(
            r'{"type":"send","to":"ann","data":"\ud83d \\ud83d \ud83d\ude00 \ude00","requestId":"r"}'
        )
        assert isinstance(frame, Send)
        assert bytes(frame.data) == rb'"\ufffd \\ud83d \ud83d\ude00 \ufffd"'

    @pytest.mark.parametrize(
        ("text", "code", "request_id"),
        [
            ("", "malformed_message", None),
            ("{", "malformed_message", None),
            ("null", "malformed_message", None),
            ("[]", "malformed_message", None),
            ("{} {}", "malformed_message", None),
            ("\ud800", "malformed_message", None),
            ("[" * 100_000, "malformed_message", None),
            ('{"type":"publish","channel":"c","data":' + "[" * 100_000, "malformed_message", None),
            ('{"type":"publish","channel":"c","data":NaN}', "malformed_message", None),
            ('{"type":"publish","channel":"c","data":tru}', "malformed_message", None),
            *(
                (f'{{"type":"send","to":"a","data":1,"requestId":"r","{name}":"\\ud83d"}}', "malformed_message", None)
                for name in ("type", "channel", "to", "requestId", "token")
            ),
            ("{}", "malformed_message", None),
            ('{"type":null}', "malformed_message", None),
            ('{"type":["ping"]}', "malformed_message", None),
            ('{"type":"ping","requestId":null}', "malformed_message", None),
            ('{"type":"ping","requestId":7}', "malformed_message", None),
            ('{"type":"ping","requestId":""}', "malformed_message", None),
            ('{"type":"ping","requestId":"' + "x" * 129 + '"}', "malformed_message", None),
            ('{"type":"subscribe","channel":"c","includeSenderMetadata":1,"requestId":"r"}', "malformed_message", "r"),
            ('{"type":"","requestId":"r"}', "unknown_type", "r"),
            ('{"type":"Ping","requestId":"r"}', "unknown_type", "r"),
            ('{"type":"subscribe","requestId":"r"}', "invalid_channel", "r"),
            ('{"type":"unsubscribe","channel":1}', "invalid_channel", None),
            ('{"type":"publish","channel":"","data":1}', "invalid_channel", None),
            ('{"type":"publish","channel":"a\\u0000","data":1}', "invalid_channel", None),
            ('{"type":"publish","channel":"c","requestId":"r"}', "missing_data", "r"),
            ('{"type":"send","to":"ann"}', "missing_data", None),
            ('{"type":"send","data":1}', "invalid_peer_id", None),
            ('{"type":"send","to":"","data":1}', "invalid_peer_id", None),
        ],
        ids=lambda value: value[:50] if isinstance(value, str) else None,
    )
    def test_client_frames_with_a_fault_are_refused_with_its_code(
        self, text: str, code: str, request_id: str | None
    ) -> None:
        with pytest.raises(FrameError) as caught:
            decode_client_frame(text)
        assert (caught.value.code, caught.value.request_id) == (code, request_id)
        assert caught.value.message

    @given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
    def test_client_frames_are_decoded_or_refused_whatever_they_are(self, noise: bytes) -> None:
        with pytest.raises(FrameError):
            decode_client_frame(noise)


class TestServerFrames:
    @pytest.mark.parametrize(("frame", "text"), SERVER_FRAMES, ids=lambda value: type(value).__name__)
    def test_server_frames_go_out_and_come_in(self, frame: ServerFrame, text: str) -> None:
        assert encode(frame).decode() == text
        assert decode_server_frame(text) == decode_server_frame(text.encode()) == frame

    def test_server_frames_carry_raw_payloads_without_a_second_encoding(self) -> None:
        frame = MessageFrame(channel="c", from_="ann", data=Raw(b'{"a": 1}'), from_metadata=Raw(b"{}"))
        assert encode(frame) == b'{"type":"message","channel":"c","from":"ann","data":{"a": 1},"fromMetadata":{}}'

    @pytest.mark.parametrize(
        ("text", "frame"),
        [
            (
                '{"type":"welcome","peerId":"a","serverTime":1.9,"maxMessageSize":5.5,"metadata":7}',
                Welcome("a", None, 1, 5),
            ),
            *(
                (
                    f'{{"type":"welcome","peerId":"a","serverTime":1,"maxMessageSize":5,"resumeToken":{token}}}',
                    Welcome("a", None, 1, 5),
                )
                for token in ("null", "7", '""', '["t"]', '"é"', '"\\n"', f'"{"x" * (MAX_RESUME_TOKEN + 1)}"')
            ),
            *(
                (f'{{"type":"ack","requestId":"r","epoch":{epoch},"offset":{offset}}}', Ack("r"))
                for epoch, offset in UNUSABLE_POSITIONS
            ),
            *(
                (
                    '{"type":"welcome","peerId":"a","serverTime":1,"maxMessageSize":5,'
                    f'"epoch":{epoch},"offset":{offset}}}',
                    Welcome("a", None, 1, 5),
                )
                for epoch, offset in UNUSABLE_POSITIONS
            ),
            *(
                (f'{{"type":"direct","from":"a","data":1,"offset":{offset}}}', DirectFrame(from_="a", data=1))
                for offset in UNUSABLE_OFFSETS
            ),
            *(
                (f'{{"type":"lost","epoch":"e","offset":7,"count":{count}}}', LostFrame("e", 7))
                for count in (*UNUSABLE_OFFSETS, "0")
            ),
            ('{"type":"error","code":"new_code","message":7,"requestId":7}', ErrorFrame("new_code")),
            ('{"type":"direct","from":"a","data":1,"fromMetadata":"x"}', DirectFrame(from_="a", data=1)),
            ('{"type":"going_away"}', GoingAwayFrame(1_000)),
            ('{"type":"going_away","retryAfterMs":-1}', GoingAwayFrame(1_000)),
            ('{"type":"going_away","retryAfterMs":true}', GoingAwayFrame(1_000)),
            ('{"type":"going_away","retryAfterMs":0.5}', GoingAwayFrame(1)),
            ('{"type":"going_away","retryAfterMs":1e9}', GoingAwayFrame(300_000)),
            ('{"type":"pong","requestId":7}', Pong()),
        ],
    )
    def test_server_frames_are_read_leniently_where_nothing_is_lost(self, text: str, frame: ServerFrame) -> None:
        assert decode_server_frame(text) == frame

    @pytest.mark.parametrize("text", [r"\ud83d", r"\uDE00", r"\ude00\ud83d", r"\\\ud83d", r"\n\ud83dx"])
    def test_server_frames_may_have_text_that_was_cut_within_a_character(self, text: str) -> None:
        frame = decode_server_frame('{"type":"direct","from":"a","data":"' + text + '"}')
        assert isinstance(frame, DirectFrame)
        assert frame.data == re.sub("[\ud800-\udfff]", "\ufffd", json.loads('"' + text + '"'))

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "[]",
            "{}",
            '{"type":7}',
            '{"type":"ack"}',
            '{"type":"error","code":""}',
            *(f'{{"type":"lost","epoch":{epoch},"offset":{offset}}}' for epoch, offset in UNUSABLE_POSITIONS),
            '{"type":"lost","epoch":"e","offset":7,"channel":null}',
            '{"type":"message","channel":"c","from":"a"}',
            '{"type":"message","channel":"c","data":1}',
            '{"type":"direct","data":1}',
            '{"type":"presence","channel":"c","joined":[]}',
            '{"type":"presence","channel":"c","left":[]}',
            '{"type":"presence","channel":"c","joined":[{}],"left":[]}',
            '{"type":"presence","channel":"c","joined":["ann"],"left":[]}',
            '{"type":"welcome","peerId":"a","serverTime":1,"maxMessageSize":0}',
            '{"type":"welcome","peerId":"a","serverTime":true,"maxMessageSize":1}',
            '{"type":"welcome","peerId":"a","serverTime":1,"maxMessageSize":1,"expiresAt":"soon"}',
        ],
    )
    def test_server_frames_that_lack_something_are_malformed(self, text: str) -> None:
        with pytest.raises(MalformedServerFrameError):
            decode_server_frame(text)

    def test_server_frames_of_an_unknown_type_are_told_apart(self) -> None:
        with pytest.raises(UnknownServerFrameError, match="'news'"):
            decode_server_frame('{"type":"news"}')

    @given(st.binary(max_size=60))
    def test_server_frames_of_noise_are_malformed(self, noise: bytes) -> None:
        with pytest.raises(MalformedServerFrameError):
            decode_server_frame(noise)


class TestPayloads:
    def test_payloads_are_compact_utf8_without_escapes(self) -> None:
        assert bytes(encode_payload({"a": ["日本", None, 1.5]})) == '{"a":["日本",null,1.5]}'.encode()

    @given(
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.text('aé\n"'),
            lambda inner: st.lists(inner) | st.dictionaries(st.text("ab"), inner),
            max_leaves=10,
        )
    )
    def test_payloads_come_back_as_they_were(self, data: Any) -> None:
        assert json.loads(bytes(encode_payload(data))) == data

    @pytest.mark.parametrize("data", [float("nan"), float("inf"), "\ud800", {"x": [float("-inf")]}])
    def test_payloads_that_json_cannot_say_are_value_errors(self, data: Any) -> None:
        with pytest.raises(ValueError):  # noqa: PT011 - the text is the library's
            encode_payload(data)

    def test_payloads_that_contain_themselves_or_nest_too_deeply_are_value_errors(self) -> None:
        loop: list[Any] = []
        loop.append(loop)
        deep: list[Any] = []
        for _ in range(100_000):
            deep = [deep]
        for data in (loop, deep):
            with pytest.raises(ValueError, match=r"[Cc]ircular|deeply"):
                encode_payload(data)

    def test_payloads_of_other_types_are_type_errors(self) -> None:
        with pytest.raises(TypeError):
            encode_payload(object())
