"""Hostile clients: each is answered or disconnected, without effect on others."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.frames import Frame, Opcode

from metered_realtime.server import Limits, SignallingServer
from tests.support.patience import PATIENCE

from ..support.probe import Probe, dialled, welcomed
from .test_tls import self_signed, trusting

NARROW = {"channels": ["a/*"]}


class TestFrames:
    @pytest.mark.parametrize(
        "text",
        [
            '{"type":"publish","channel":"c","data":NaN}',
            '{"type":"publish","channel":"c","data":[Infinity]}',
            '{"type":"publish","channel":"c","data":-Infinity,"requestId":"r"}',
            '{"type":"publish","channel":"c","data":01}',
            '{"type":"publish","channel":"c","data":{"a":1,}}',
            '{"type":"publish","channel":"c","data":1} {}',
            '{"type":"publish","channel":"c","data":"\n"}',
            '{"type":"publish","channel":"\\ud800","data":1}',
            '{"type":"publish","channel":"c","data":' + "[" * 20_000 + "]" * 20_000 + "}",
            '{"type":"publish","channel":"c","data":' + '{"a":' * 5_000 + "1" + "}" * 5_000 + "}",
            '{"type":"publish","channel":"c","data":1,"x":' + "[" * 20_000 + "]" * 20_000 + "}",
            "",
            "null",
            "\ufeff{}",
            '{"type":null}',
            '{"type":"publish","channel":"c","data":1,"requestId":7}',
            '{"type":"publish","channel":"c","data":1,"requestId":"' + "r" * 129 + '"}',
            '{"type":"subscribe","channel":"c","includeSenderMetadata":"yes"}',
        ],
        ids=lambda text: text[:44],
    )
    async def test_frames_that_are_malformed_get_an_error_and_reach_nobody(
        self, server: SignallingServer, text: str
    ) -> None:
        async with welcomed(server, "ann") as ann, welcomed(server, "bob") as bob:
            await bob.join("c")
            await ann.socket.send(text)
            error = await ann.get()
            assert (error["type"], error["code"]) == ("error", "malformed_message")
            assert (await ann.ask("publish", channel="c", data="after"))["type"] == "ack"
            assert (await bob.get())["data"] == "after"

    @pytest.mark.parametrize("data", ['{"a":1,"a":2}', "1e999", '"\\ud83d\\ude00"', "123456789012345678901234567890"])
    async def test_frames_with_any_json_as_data_are_forwarded_as_they_are(
        self, server: SignallingServer, data: str
    ) -> None:
        async with welcomed(server, "ann") as ann, welcomed(server, "bob") as bob:
            await bob.join("c")
            await ann.socket.send('{"type":"publish","channel":"c","data":' + data + "}")
            assert f'"data":{data}' in str(await bob.socket.recv())

    async def test_frames_with_duplicate_keys_are_judged_by_what_they_do(self, server: SignallingServer) -> None:
        async with welcomed(server, "ann", **NARROW) as ann, welcomed(server, "bob") as bob:
            await bob.join("b")
            await bob.join("a/1")
            text = '{"type":"ping","type":"publish","channel":"%s","channel":"%s","data":1,"data":2,"requestId":"r"}'
            await ann.socket.send(text % ("a/1", "b"))
            assert (await ann.get())["code"] == "channel_not_authorized"
            await ann.socket.send(text % ("b", "a/1"))
            assert await ann.get() == {"type": "ack", "requestId": "r"}
            frame = await bob.get()
            assert (frame["channel"], frame["data"]) == ("a/1", 2)

    @pytest.mark.parametrize(
        ("payload", "code"),
        [
            (b'{"type":"ping","x":"\xff"}', 1007),
            (b'{"type":"publish","channel":"c","data":"\xed\xa0\x80"}', 1007),
            (b'{"type":"publish","channel":"c","data":"\xc0\xaf"}', 1007),
            (b"\xfe\xff", 1007),
            (b" " * 66_561, 1009),
        ],
        ids=["stray byte", "surrogate", "overlong", "utf-16", "oversized"],
    )
    async def test_frames_that_are_no_text_or_too_long_end_the_connection(
        self, server: SignallingServer, payload: bytes, code: int
    ) -> None:
        async with welcomed(server, "ann") as ann, welcomed(server, "bob") as bob:
            await ann.socket.send(payload, text=True)
            assert (await ann.ending())[0] == code
            await bob.put("ping")
            assert (await bob.get())["type"] == "pong"

    async def test_frames_cut_into_thousands_of_pieces_count_as_one(self, server: SignallingServer) -> None:
        async with welcomed(server, "ann") as ann:
            text = '{"type":"ping","requestId":"r"}'
            await ann.socket.send(iter(text))
            assert await ann.get() == {"type": "pong", "requestId": "r"}
            await ann.socket.send(" " * 1_000 for _ in range(400))
            assert (await ann.ending())[0] == 1009

    @pytest.mark.parametrize(
        "frame",
        [
            Frame(Opcode.CONT, b"x"),
            Frame(Opcode.TEXT, b"{}", rsv1=True),
            Frame(Opcode(9), b"x" * 126),
        ],
        ids=["a continuation of nothing", "a reserved bit", "a long ping"],
    )
    async def test_frames_against_the_websocket_protocol_end_the_connection(
        self, server: SignallingServer, frame: Frame
    ) -> None:
        async with welcomed(server, "ann") as ann, welcomed(server, "bob") as bob:
            await bob.join("c")
            await ann.join("c")
            await bob.get()
            ann.socket.transport.write(_serialized(frame))
            assert (await ann.ending())[0] in (1002, 1006)
            assert (await bob.get())["left"] == [{"peerId": "ann"}]


def _serialized(frame: Frame) -> bytes:
    # Frame.serialize refuses control frames that are too long, so the header is written by hand.
    head = 0x80 | (0x40 if frame.rsv1 else 0) | frame.opcode
    size = len(frame.data)
    length = bytes([0x80 | size]) if size < 126 else bytes([0x80 | 126]) + size.to_bytes(2, "big")
    return bytes([head]) + length + b"\0\0\0\0" + bytes(frame.data)


class TestReadersWhoStop:
    @pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
    async def test_readers_that_stop_are_dropped_while_the_others_get_everything(
        self, tmp_path: Path, secure: bool
    ) -> None:
        files = self_signed(tmp_path) if secure else (None, None)
        limits = Limits(outbox_size=200_000, frame_burst=100_000, frames_per_second=100_000, return_time=0.01)
        server = SignallingServer(limits=limits, tls_cert=files[0], tls_key=files[1])
        trust = trusting(files[0]) if files[0] else None
        async with (
            server,
            entered(server, "ann", trust) as ann,
            entered(server, "bob", trust) as bob,
            stalled(server, trust, "mallory") as mallory,
            stalled(server, trust, "mal") as mal,
        ):
            await bob.join("c")
            reading = asyncio.create_task(take_messages(bob, "end"))
            sent = await publish_until_gone(ann, {"mallory", "mal"})
            await ann.ask("publish", channel="c", data="end")
            assert await asyncio.wait_for(reading, PATIENCE) == list(range(sent))
            for probe in (mallory, mal):
                probe.socket.transport.abort()

    async def test_readers_that_stop_are_dropped_when_they_do_not_even_answer_pings(self) -> None:
        limits = Limits(ping_interval=0.2, pong_timeout=0.1, return_time=0.01)
        async with SignallingServer(limits=limits) as server, welcomed(server, "bob") as bob:
            await bob.join("c")
            async with stalled(server, None, "mallory") as mallory:
                assert (await bob.get())["joined"] == [{"peerId": "mallory"}]
                assert (await bob.get())["left"] == [{"peerId": "mallory"}]
                mallory.socket.transport.abort()


class TestHandshakes:
    @pytest.mark.parametrize(
        "query",
        [
            "",
            "key=",
            "token=",
            "key=%00",
            "token=a.b.c",
            "key=a&key=b",
            "token=" + "x" * 60_000,
            "key=%ff",
            "token=%F0%9F",
        ],
        ids=lambda query: query[:20],
    )
    async def test_handshakes_with_nonsense_are_refused_with_4001(self, server: SignallingServer, query: str) -> None:
        async with dialled(server, query) as probe:
            assert (await probe.ending())[0] == 4001

    @pytest.mark.parametrize(
        "request_",
        [
            b"GET /v1?key=" + b"x" * 200_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET /v1 HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 200_000 + b"\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"GET /v1 HTTP/9.9\r\n\r\n",
            b"POST /v1/tokens HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        ],
        ids=["line", "header", "TLS", "version", "length"],
    )
    async def test_handshakes_that_are_no_http_are_refused_and_the_server_goes_on(
        self, server: SignallingServer, request_: bytes
    ) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request_)
        writer.write_eof()
        answer = await asyncio.wait_for(_rest_of(reader), PATIENCE)
        assert not answer or answer.split(b" ")[1].startswith(b"4")
        writer.close()
        async with welcomed(server):
            pass


async def _rest_of(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionError:
        return b""


@asynccontextmanager
async def entered(server: SignallingServer, peer_id: str, trust: ssl.SSLContext | None) -> AsyncIterator[Probe]:
    async with dialled(server, f"token={server.mint_token(peer_id)}", ssl=trust) as probe:
        await probe.get()
        yield probe


@asynccontextmanager
async def stalled(server: SignallingServer, trust: ssl.SSLContext | None, peer_id: str) -> AsyncIterator[Probe]:
    """Subscribe, then stop reading. The receive buffer is small, so that the kernel buffers little."""
    small = socket.socket()
    small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    small.connect(("127.0.0.1", server.port))
    options: dict[str, Any] = {"ssl": trust, "server_hostname": "127.0.0.1"} if trust else {}
    query = f"token={server.mint_token(peer_id)}"
    async with dialled(server, query, sock=small, max_queue=1, **options) as probe:
        await probe.get()
        await probe.join("c")
        probe.socket.transport.pause_reading()
        yield probe


async def take_messages(probe: Probe, last: Any) -> Sequence[int]:
    """Return the numbers of the messages until the last."""
    numbers = []
    while True:
        frame = await probe.get()
        if frame["type"] != "message":
            continue
        if frame["data"] == last:
            return numbers
        numbers.append(frame["data"]["n"])


async def publish_until_gone(probe: Probe, wanted: set[str]) -> int:
    """Join, and publish large messages until exactly those peers have left. Return the number of messages."""
    await probe.join("c")
    gone: set[str] = set()
    for number in range(2_000):
        await probe.put("publish", channel="c", data={"n": number, "fill": "x" * 20_000}, requestId="r")
        while (frame := await probe.get())["type"] != "ack":
            gone |= {entry["peerId"] for entry in frame["left"]}
        if wanted <= gone:
            assert gone == wanted
            return number + 1
    raise AssertionError(f"only {json.dumps(sorted(gone))} left")
