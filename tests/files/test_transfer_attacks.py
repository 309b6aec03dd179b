"""File transfers beside remotes that know foreign transfers, send single bytes, or occupy places."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from metered_realtime import FileReceived, FileTransferError, PeerJoined, RemotePeer, TransferProgress
from metered_realtime.core.streams.file_transfer import Offer
from metered_realtime.files import part_file, receiving
from metered_realtime.files import sending as file_sending
from tests.support.files import SIZE, SMALL_OFFER, begin, offer_of, part_in, same, visible_names
from tests.support.inside import arriving_files, ignore_answers, unread_chunks
from tests.support.patience import PATIENCE
from tests.support.peers import EventLog, Pair, Room, eventually


@pytest.fixture
async def attacker(room: Room, pair: Pair) -> RemotePeer:
    """Return the receiver as seen by a third peer."""
    third = room.peer("c")
    seen = EventLog(third)
    await third.join("room")
    await seen.until(PeerJoined, count=2)
    return next(event.peer for event in seen.of(PeerJoined) if event.peer.id == "b")


async def test_a_remote_that_was_sent_a_file_cannot_delay_its_sender(
    pair: Pair, attacker: RemotePeer, path: Path, inbox: Path
) -> None:
    offer = await offer_of(path)
    async with pair.b.receive_files(inbox) as files:
        trickle = await begin(attacker, offer, b"x")
        await eventually(lambda: any(it.is_open for it in arriving_files(files).values()))
        result = await pair.to_b.send_file(path)
        assert (result.sent, result.attempts) == (SIZE, 1)
        await eventually(
            lambda: [*arriving_files(files)] == [("c", offer.transfer)]
        )  # it continues, and affects no other
        trickle.abort()
    assert visible_names(inbox) == ["holiday.jpeg"]
    assert same(inbox / "holiday.jpeg", path)


async def test_only_its_own_sender_writes_to_a_part(
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
        await eventually(lambda: any(it.position == 100_000 for it in arriving_files(again).values()))
        garbage.abort()
        await eventually(lambda: not arriving_files(again))
        assert part.read_bytes() == before
        result = await pair.to_b.send_file(path)
    assert result.sent <= SIZE - len(before)
    assert same(inbox / "holiday.jpeg", path)


async def test_a_remote_that_knows_a_complete_transfer_stores_a_file_of_its_own(
    pair: Pair, attacker: RemotePeer, path: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part_file.PartFile, "forget", lambda part: None)  # as if the last message were lost
    log = EventLog(pair.b)
    async with pair.b.receive_files(inbox):
        await pair.to_b.send_file(path)
        await attacker.send_file(path)
        paths = [it.path.name for it in log.of(FileReceived)]
    assert paths == ["holiday.jpeg", "holiday (2).jpeg"]


async def test_a_stalled_file_loses_its_place_to_a_waiting_one(
    pair: Pair, attacker: RemotePeer, path: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving, "MAX_INCOMING", 1)
    monkeypatch.setattr(receiving, "STALLED", 0.0)
    async with pair.b.receive_files(inbox) as files:
        held = await begin(attacker, SMALL_OFFER, b"1")
        await eventually(lambda: any(it.is_open for it in arriving_files(files).values()))
        await pair.to_b.send_file(path)
        assert await held.wait_ended() == "cancelled"
        assert files.refused >= 1
    assert visible_names(inbox) == ["holiday.jpeg"]


async def test_a_file_keeps_its_place_while_accept_is_pending(
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
        await eventually(lambda: any(it.has_begun for it in arriving_files(files).values()))
        await begin(attacker, SMALL_OFFER)
        await eventually(lambda: files.refused)
        asked.set()
        await sending
    assert visible_names(inbox) == ["holiday.jpeg"]


async def test_single_bytes_are_stored_together(pair: Pair, inbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each write costs a thread call and a progress call: a remote must not cause millions of them."""
    monkeypatch.setattr(receiving, "SMALL_PAUSE", 3_600.0)
    steps: list[int] = []
    async with pair.b.receive_files(inbox, progress=lambda step: steps.append(step.done)) as files:
        ignore_answers(monkeypatch, pair.a)
        writer = await begin(pair.to_b, Offer(transfer="a" * 32, attempt="b" * 16, name="x", size=500), b"0")
        await eventually(lambda: steps)
        for _ in range(100):
            await writer.write(b"1")
            await asyncio.sleep(0)
        (incoming,) = arriving_files(files).values()
        await eventually(lambda: sum(unread_chunks(incoming.reader)) + sum(steps) >= 100)
        assert len(steps) == 1
        writer.abort()


async def test_the_number_of_parts_hashed_at_once_is_bounded(
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
        await eventually(
            lambda: len(arriving_files(files)) == 6 and all(it.has_begun for it in arriving_files(files).values())
        )
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


async def test_abandoned_parts_are_searched_at_intervals(
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
