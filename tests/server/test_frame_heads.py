"""The checks of WebSocket frame headers: mask and rate."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metered_realtime.server import Limits, SignallingServer
from metered_realtime.server.frame_heads import HEAD_BURST, BadFrameError, FrameHeads
from tests.support.patience import PATIENCE

from ..support.probe import dialled, welcomed
from .test_hostile import entered
from .test_tls import self_signed, trusting


def frame(size: int, *, opcode: int = 0x81, is_masked: bool = True, payload: bytes | None = None) -> bytes:
    """Return a frame with the shortest length (RFC 6455, 5.2) and a mask of zeros."""
    mask_bit = 0x80 if is_masked else 0
    if size < 126:
        head = bytes([opcode, mask_bit | size])
    elif size < 65_536:
        head = bytes([opcode, mask_bit | 126]) + size.to_bytes(2)
    else:
        head = bytes([opcode, mask_bit | 127]) + size.to_bytes(8)
    return head + (bytes(4) if is_masked else b"") + (payload if payload is not None else os.urandom(size))


PING = b'{"type":"ping"}'


class TestHeads:
    @given(
        sizes=st.lists(st.sampled_from([0, 1, 125, 126, 127, 65_535, 65_536, 70_000]), max_size=6),
        cuts=st.lists(st.integers(1, 40), min_size=1),
    )
    def test_frame_heads_are_found_however_the_bytes_come(self, sizes: list[int], cuts: list[int]) -> None:
        data, heads, count = b"".join(frame(size) for size in sizes), FrameHeads(), 0
        at, step = 0, 0
        while at < len(data):
            # Small pieces around the heads, large ones elsewhere.
            size = cuts[step % len(cuts)] if step % 2 else cuts[step % len(cuts)] * 1_000
            count += heads.count(data[at : at + size], 10)
            at, step = at + size, step + 1
        assert count == len(sizes)

    @pytest.mark.parametrize("size", [0, 1, 126, 70_000])
    @pytest.mark.parametrize("piece", [1, 3, 100_000])
    def test_frame_heads_without_a_mask_are_refused(self, size: int, piece: int) -> None:
        data, heads = frame(20) + frame(size, is_masked=False), FrameHeads()
        pieces = (data[at : at + piece] for at in range(0, len(data), piece))
        with pytest.raises(BadFrameError) as caught:
            sum(heads.count(each, 10) for each in pieces)
        assert caught.value.code == 1002

    def test_frame_heads_beyond_the_number_allowed_are_not_counted_to_the_end(self) -> None:
        with pytest.raises(BadFrameError) as caught:
            FrameHeads().count(frame(0) * 11, 10)
        assert caught.value.code == 1008
        assert FrameHeads().count(frame(0) * 10, 10) == 10


class TestUnmaskedFrames:
    @pytest.mark.parametrize("opcode", [0x81, 0x82, 0x89, 0x8A, 0x88])
    async def test_unmasked_frames_close_with_1002_whatever_they_are(
        self, server: SignallingServer, opcode: int
    ) -> None:
        async with welcomed(server, "ann") as ann, welcomed(server, "bob") as bob:
            await bob.join("c")
            await ann.join("c")
            await bob.get()
            ann.socket.transport.write(frame(2, opcode=opcode, is_masked=False, payload=b"\x03\xe8"))
            assert (await ann.ending())[0] == 1002
            assert (await bob.get())["left"] == [{"peerId": "ann"}]

    async def test_unmasked_frames_are_not_heard_and_neither_is_what_follows(self, server: SignallingServer) -> None:
        async with welcomed(server, "ann") as ann, welcomed(server, "bob") as bob:
            good, bad = b'{"type":"send","to":"bob","data":1}', b'{"type":"send","to":"bob","data":2}'
            ann.socket.transport.write(frame(len(good), payload=good))
            assert (await bob.get())["data"] == 1
            ann.socket.transport.write(frame(len(bad), is_masked=False, payload=bad) + frame(len(good), payload=good))
            assert (await ann.ending())[0] == 1002
            assert await bob.ask("ping") == {"type": "pong", "requestId": "r"}

    async def test_unmasked_frames_are_found_behind_others_and_in_pieces(self, server: SignallingServer) -> None:
        async with welcomed(server, "ann") as ann:
            for byte in frame(len(PING), payload=PING) + frame(len(PING), is_masked=False, payload=PING):
                ann.socket.transport.write(bytes([byte]))
                await asyncio.sleep(0)
            assert (await ann.get())["type"] == "pong"
            assert (await ann.ending())[0] == 1002

    async def test_unmasked_frames_are_refused_under_tls_too(self, tmp_path: Path) -> None:
        cert, key = self_signed(tmp_path)
        async with (
            SignallingServer(tls_cert=cert, tls_key=key) as server,
            entered(server, "ann", trusting(cert)) as ann,
        ):
            assert (await ann.ask("ping"))["type"] == "pong"
            ann.socket.transport.write(frame(len(PING), is_masked=False, payload=PING))
            assert (await ann.ending())[0] == 1002

    async def test_unmasked_frames_count_as_an_ending(self, server: SignallingServer) -> None:
        async with welcomed(server, "ann") as ann:
            ann.socket.transport.write(frame(0, is_masked=False))
            await ann.ending()
        async with asyncio.timeout(PATIENCE):
            while not server.endings.get("frames of clients are masked"):  # noqa: ASYNC110 - there is nothing to wait on
                await asyncio.sleep(0.01)


class TestFloods:
    async def test_floods_of_pieces_without_a_byte_close_with_1008(self, server: SignallingServer) -> None:
        async with welcomed(server, "ann") as ann, welcomed(server, "bob") as bob:
            ann.socket.transport.write(frame(0, opcode=0x01) + frame(0, opcode=0x00) * (HEAD_BURST + 10_000))
            assert (await ann.ending())[0] == 1008
            assert (await bob.ask("ping"))["type"] == "pong"

    @pytest.mark.parametrize("opcode", [0x89, 0x8A], ids=["pings", "pongs"])
    async def test_floods_of_control_frames_close_with_4011(self, server: SignallingServer, opcode: int) -> None:
        async with welcomed(server, "ann") as ann, welcomed(server, "bob") as bob:
            ann.socket.transport.write(frame(0, opcode=opcode) * 2_000)
            assert await ann.ending() == (4011, "ping rate exceeded")
            assert (await bob.ask("ping"))["type"] == "pong"

    async def test_floods_of_pings_close_with_4011(self, server: SignallingServer) -> None:
        async with welcomed(server, "ann") as ann:
            ann.socket.transport.write(frame(len(PING), payload=PING) * 2_000)
            assert await ann.ending() == (4011, "ping rate exceeded")

    async def test_floods_of_large_frames_close_with_4011(self) -> None:
        text = b'{"type":"ping","channel":[' + b",".join([b"[]"] * 21_000) + b"]}"
        limits = Limits(frames_per_second=1)  # a busy machine reads no slower than the bucket fills
        async with SignallingServer(limits=limits) as server, welcomed(server, "ann") as ann:
            ann.socket.transport.write(frame(len(text), payload=text) * 199)
            assert await ann.ending() == (4011, "byte rate exceeded")

    async def test_floods_of_refused_handshakes_are_frames_that_nobody_reads(self, server: SignallingServer) -> None:
        async with dialled(server, "key=pk_live_wrong") as probe:
            assert (await probe.ending())[0] == 4001
