"""What a remote sends, and what the mesh tells of it, never shows the credentials of a connection."""

from __future__ import annotations

from typing import Any

from metered_realtime import IceCandidateError, NegotiationError
from metered_realtime.core.negotiation.signals import CandidateSignal, DescriptionSignal
from tests.support.inside import receive_signal
from tests.support.peers import Room

SECRET = "0123456789abcdef012345"


class Notes:
    """A logger that keeps everything."""

    def __init__(self) -> None:
        self.text = ""

    def _note(self, message: str, context: dict[str, Any] | None = None) -> None:
        self.text += f"{message} {context}\n"

    debug = info = warning = error = _note


async def test_errors_and_logs_of_a_negotiation_mask_credentials(room: Room) -> None:
    notes = Notes()
    pair = await room.meet(room.peer("a", logger=notes), room.peer("b"))
    odd = f"a=ice-pwd:{SECRET} {SECRET}\r\na=setup:ice-pwd:{SECRET}\r\n"
    offer = f"v=0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:0\r\na=ice-ufrag:abcd\r\na=ice-pwd:{SECRET}\r\n{odd}"
    receive_signal(pair.to_b, DescriptionSignal("offer", offer))
    error = (await pair.log_a.until(NegotiationError)).err
    assert "a=setup:ice-pwd" in str(error)
    assert SECRET not in f"{error!r} {error.__cause__!r}"
    assert "negotiation failed" in notes.text
    assert SECRET not in notes.text

    receive_signal(pair.to_b, CandidateSignal(f"candidate:1 1 udp ice-pwd={SECRET} 10.0.0.1 9 typ host"))
    refused = (await pair.log_a.until(IceCandidateError)).err
    assert SECRET not in f"{refused!r} {refused.__cause__!r}"
