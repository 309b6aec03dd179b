"""The fields by which a client says how far it has read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from metered_realtime.core.wire.frames import (
    MAX_EPOCH,
    MAX_OFFSET,
    FrameError,
    Subscribe,
    decode_client_frame,
    is_epoch,
)


def decoded(**fields: Any) -> Any:
    return decode_client_frame(json.dumps({"type": "subscribe", "channel": "c", "requestId": "r", **fields}))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, (False, None, None)),
        ({"recover": False}, (False, None, None)),
        ({"recover": True}, (True, None, None)),
        ({"recover": True, "epoch": "e-1_A", "offset": 0}, (True, "e-1_A", 0)),
        ({"recover": True, "epoch": "e" * MAX_EPOCH, "offset": MAX_OFFSET}, (True, "e" * MAX_EPOCH, MAX_OFFSET)),
    ],
)
def test_a_subscribe_may_ask_to_recover(fields: dict[str, Any], expected: tuple[Any, ...]) -> None:
    frame = decoded(**fields)
    assert isinstance(frame, Subscribe)
    assert (frame.recover, frame.epoch, frame.offset) == expected


@pytest.mark.parametrize(
    "fields",
    [
        {"recover": 1},
        {"recover": None},
        {"recover": "true"},
        {"recover": True, "epoch": "e"},
        {"recover": True, "offset": 1},
        {"recover": True, "epoch": "e", "offset": -1},
        {"recover": True, "epoch": "e", "offset": 1.5},
        {"recover": True, "epoch": "e", "offset": "1"},
        {"recover": True, "epoch": "e", "offset": True},
        {"recover": True, "epoch": "e", "offset": MAX_OFFSET + 1},
        {"recover": True, "epoch": "e", "offset": 10**400},
        {"recover": True, "epoch": "", "offset": 1},
        {"recover": True, "epoch": 7, "offset": 1},
        {"recover": True, "epoch": "e" * (MAX_EPOCH + 1), "offset": 1},
        {"recover": True, "epoch": "a:b", "offset": 1},
        {"recover": True, "epoch": "é", "offset": 1},
        {"recover": True, "epoch": "e\n", "offset": 1},
        {"recover": False, "epoch": "e", "offset": 1},
        {"epoch": "e", "offset": 1},
    ],
)
def test_what_cannot_be_a_position_is_malformed(fields: dict[str, Any]) -> None:
    with pytest.raises(FrameError) as caught:
        decoded(**fields)
    assert (caught.value.code, caught.value.request_id) == ("malformed_message", "r")


def test_other_frames_may_have_any_such_fields_as_unknown_ones() -> None:
    assert decode_client_frame('{"type":"ping","recover":7,"epoch":[],"offset":{}}').request_id is None


def test_an_epoch_is_a_short_name() -> None:
    assert is_epoch("aZ9_-")
    assert not any(map(is_epoch, ("", "a b", "a:b", "é", None, 7, "e" * 33)))
