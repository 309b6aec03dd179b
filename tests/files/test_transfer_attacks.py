"""Files beside remotes that know the transfers of others, send by the byte, or hold places that others wait for."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from metered_realtime import FileReceived, FileTransferError, PeerJoined, RemotePeer, TransferProgress
from metered_realtime.core.streams.file_transfer import OFFER_TOPIC, Offer, attributes_of, content_head
from metered_realtime.files import part_file, receiving
from metered_realtime.files import sending as file_sending
from metered_realtime.files.source import FileSource
from metered_realtime.streams.writer import StreamWriter
from tests.support.patience import PATIENCE
from tests.support.peers import EventLog, Pair, Room, eventually

SIZE = 3_000_000


@pytest.fixture(autouse=True)
async def patience() -> AsyncIterator[None]:
    """Fail instead of hanging."""
    async with asyncio.timeout(PATIENCE):
        yield


@pytest.fixture
async def pair(room: Room) -> Pair:
    return await room.pair()


@pytest.fixture
async def attacker(room: Room, pair: Pair) -> RemotePeer:
    """Give a test what a third peer has of the receiver."""
    third = room.peer("c")
    seen = EventLog(third)
    await third.join("room")
    await seen.until(PeerJoined, count=2)
    return next(event.peer for event in seen.of(PeerJoined) if event.peer.id == "b")


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    return tmp_path / "inbox"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "holiday.jpeg"
    path.write_bytes(os.urandom(SIZE))
    return path


async def offer_of(path: Path) -> Offer:
    """Return what the sender of a file offers, which everybody knows who was sent it."""
    source = await FileSource.open(path)
    await source.close()
    return Offer(transfer=source.transfer_id(source.name), attempt="b" * 16, name=source.name, size=source.size)


async def begin(remote: RemotePeer, offer: Offer, content: bytes = b"") -> StreamWriter:
    """Offer a file and send the beginning of what is not in it, without waiting for an answer."""
    writer = await remote.open_stream(OFFER_TOPIC, attributes_of(offer)).__aenter__()
    await writer.write(content_head(0) + content)
    return writer


def same(one: Path, other: Path) -> bool:
    return one.read_bytes() == other.read_bytes()


def part_in(directory: Path) -> Path:
    (part,) = directory.glob(".*.part")
    return part


def files_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if not path.name.startswith("."))


async def test_who_was_sent_a_file_does_not_hold_up_its_sender(
    pair: Pair, attacker: RemotePeer, path: Path, inbox: Path
) -> None:
    offer = await offer_of(path)
    async with pair.b.receive_files(inbox) as files:
        trickle = await begin(attacker, offer, b"x")
        await eventually(lambda: any(it.is_open for it in files._active.values()))
        result = await pair.to_b.send_file(path)
        assert (result.sent, result.attempts) == (SIZE, 1)
        await eventually(lambda: [*files._active] == [("c", offer.transfer)])  # it goes on, and is nobody's business
        trickle.abort()
    assert files_in(inbox) == ["holiday.jpeg"]
    assert same(inbox / "holiday.jpeg", path)


async def test_a_part_is_written_to_by_its_sender_alone(
    pair: Pair, attacker: RemotePeer, path: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_sending, "NOT_RECEIVING_GRACE", 0.1)

    def stop(step: TransferProgress) -> None:
        if step.done >= SIZE // 2 and not closing:
            closing.append(asyncio.ensure_future(files.close()))

    closing: list[asyncio.Future[None]] = []
    files = pair.b.receive_files(inbox, progress=stop)
    with pytest.raises(FileTransferError, match="not_receiving"):
        await pair.to_b.send_file(path)
    await asyncio.gather(*closing)
    part = part_in(inbox)
    before = part.read_bytes()
    assert len(before) >= SIZE // 2
    async with pair.b.receive_files(inbox) as again:
        garbage = await begin(attacker, await offer_of(path), bytes(100_000))
        await eventually(lambda: any(it.position == 100_000 for it in again._active.values()))
        garbage.abort()
        await eventually(lambda: not again._active)
        assert part.read_bytes() == before
        result = await pair.to_b.send_file(path)
    assert result.sent <= SIZE - len(before)
    assert same(inbox / "holiday.jpeg", path)


async def test_what_another_has_sent_whole_is_not_given_to_who_only_knows_of_it(
    pair: Pair, attacker: RemotePeer, path: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part_file.PartFile, "forget", lambda part: None)  # the last word to the sender was lost
    log = EventLog(pair.b)
    async with pair.b.receive_files(inbox):
        await pair.to_b.send_file(path)
        await attacker.send_file(path)
        paths = [it.path.name for it in log.of(FileReceived)]
    assert paths == ["holiday.jpeg", "holiday (2).jpeg"]


async def test_a_place_that_others_wait_for_is_not_held_by_standing_still(
    pair: Pair, attacker: RemotePeer, path: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving, "MAX_INCOMING", 1)
    monkeypatch.setattr(receiving, "STALLED", 0.0)
    async with pair.b.receive_files(inbox) as files:
        held = await begin(attacker, Offer(transfer="a" * 32, attempt="b" * 16, name="x", size=4), b"1")
        await eventually(lambda: any(it.is_open for it in files._active.values()))
        await pair.to_b.send_file(path)
        assert await held.wait_ended() == "cancelled"
        assert files.refused >= 1
    assert files_in(inbox) == ["holiday.jpeg"]


async def test_a_place_is_kept_while_the_program_makes_up_its_mind(
    pair: Pair, attacker: RemotePeer, path: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving, "MAX_INCOMING", 1)
    monkeypatch.setattr(receiving, "STALLED", 0.0)
    asked = asyncio.Event()

    async def ask(offered: Any) -> bool:
        await asked.wait()
        return True

    async with pair.b.receive_files(inbox, accept=ask) as files:
        sending = asyncio.ensure_future(pair.to_b.send_file(path))
        await eventually(lambda: any(it.has_begun for it in files._active.values()))
        await begin(attacker, Offer(transfer="a" * 32, attempt="b" * 16, name="x", size=4))
        await eventually(lambda: files.refused)
        asked.set()
        await sending
    assert files_in(inbox) == ["holiday.jpeg"]


async def test_single_bytes_wait_for_each_other(pair: Pair, inbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step costs a turn of a thread and a call of the program: a remote must not ask for millions of them."""
    monkeypatch.setattr(receiving, "SMALL_PAUSE", 3_600.0)
    steps: list[int] = []
    async with pair.b.receive_files(inbox, progress=lambda step: steps.append(step.done)) as files:
        pair.a._files._take_answer = lambda remote, reader: None  # type: ignore[method-assign]
        writer = await begin(pair.to_b, Offer(transfer="a" * 32, attempt="b" * 16, name="x", size=500), b"0")
        await eventually(lambda: steps)
        for _ in range(100):
            await writer.write(b"1")
            await asyncio.sleep(0)
        (incoming,) = files._active.values()
        await eventually(lambda: sum(map(len, incoming.reader._chunks)) + sum(steps) >= 100)
        assert len(steps) == 1
        writer.abort()


async def test_few_parts_are_hashed_at_once_for_threads_are_few(
    pair: Pair, path: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, turn = part_file.PartFile.open, threading.Event()
    now: list[int] = []
    most: list[int] = []

    def slow(part: part_file.PartFile) -> None:
        now.append(1)
        most.append(len(now))
        turn.wait(PATIENCE)
        opened(part)
        now.pop()

    monkeypatch.setattr(part_file.PartFile, "open", slow)
    os.truncate(path, 1_000)
    async with pair.b.receive_files(inbox) as files:
        sending = [asyncio.ensure_future(pair.to_b.send_file(path, name=str(number))) for number in range(6)]
        await eventually(lambda: len(files._active) == 6 and all(it.has_begun for it in files._active.values()))
        await eventually(lambda: len(now) == receiving.MAX_OPENING)
        turn.set()
        await asyncio.gather(*sending)
    assert max(most) == receiving.MAX_OPENING


@pytest.mark.parametrize("taken", [0, 1, 2, 3, 500, 999])
def test_a_free_name_is_found_in_few_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: int) -> None:
    for number in range(1, taken + 1):
        (tmp_path / ("x.txt" if number == 1 else f"x ({number}).txt")).touch()
    looked: list[Any] = []
    lexists = os.path.lexists
    monkeypatch.setattr(os.path, "lexists", lambda path: (looked.append(path), lexists(path))[1])
    path = part_file._free_path(tmp_path, "x.txt")
    assert path.name == ("x.txt" if not taken else f"x ({taken + 1}).txt")
    assert len(looked) <= 22


async def test_old_parts_are_looked_for_now_and_then(
    pair: Pair, path: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Any] = []
    monkeypatch.setattr(receiving, "prune_parts", lambda *arguments: looked.append(arguments))
    monkeypatch.setattr(receiving, "PRUNE_EVERY", 3)
    os.truncate(path, 10)
    async with pair.b.receive_files(inbox):
        for number in range(5):
            await pair.to_b.send_file(path, name=str(number))
    assert len(looked) == 2
