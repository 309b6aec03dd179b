"""Files between peers: whole, checked, resumed, and never anywhere else than in the directory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from metered_realtime import (
    ConnectionReset,
    FileFailed,
    FileOffered,
    FileReceived,
    FileTransferError,
    MeteredPeerStateError,
    PeerJoined,
    StreamEndedError,
    TransferProgress,
    TransferResult,
)
from metered_realtime.connection.recovering_connection import RecoveringConnection
from metered_realtime.core.streams.file_transfer import OFFER_TOPIC, attributes_of
from metered_realtime.files import part_file, receiving
from metered_realtime.files import sending as file_sending
from metered_realtime.files.receiving import WIDER_WINDOW
from metered_realtime.files.source import FileSource
from tests.support.files import SMALL_OFFER, digest, names, offer_of, offered, part_in, same, visible_names
from tests.support.inside import arriving_files, ignore_answers
from tests.support.patience import PATIENCE
from tests.support.peers import EventLog, Pair, Room, eventually

LOST = 2 * WIDER_WINDOW
"""Bytes that one interruption may make the sender send twice: what was on the way."""


def at(fraction: float, action: Callable[[], Any]) -> Callable[[TransferProgress], None]:
    """Return a progress function that does something once, when so much has been done."""
    done: list[asyncio.Future[Any]] = []

    def progress(step: TransferProgress) -> None:
        if step.done >= step.size * fraction and not done:
            done.append(asyncio.ensure_future(action()))

    return progress


def damage(directory: Path) -> None:
    """Change a byte of the one part there is."""
    part = part_in(directory)
    content = bytearray(part.read_bytes())
    content[1000] ^= 1
    part.write_bytes(content)


def sent_twice(result: Any) -> int:
    assert isinstance(result, TransferResult)
    return result.sent - result.size


async def test_a_file_arrives_complete_and_both_ends_get_its_digest(pair: Pair, path: Path, inbox: Path) -> None:
    log, steps = EventLog(pair.b), list[TransferProgress]()
    async with pair.b.receive_files(inbox, progress=steps.append) as files:
        mine: list[TransferProgress] = []
        result = await pair.to_b.send_file(path, progress=mine.append)
        received = await files.__anext__()
    assert received == FileReceived(pair.to_a, inbox / "holiday.jpeg", 3_000_000, digest(path))
    assert same(received.path, path)
    assert (result.peer_id, result.name, result.size, result.digest) == ("b", "holiday.jpeg", 3_000_000, digest(path))
    assert (result.sent, result.attempts) == (3_000_000, 1)
    assert (mine[-1].done, steps[-1].done) == (3_000_000, 3_000_000)
    assert log.of(FileOffered)[0].mtime == os.stat(path).st_mtime
    assert names(inbox) == ["holiday.jpeg"]


@pytest.mark.every_path
async def test_an_empty_file_is_a_file(pair: Pair, tmp_path: Path, inbox: Path) -> None:
    (tmp_path / "empty").touch()
    async with pair.b.receive_files(inbox):
        result = await pair.to_b.send_file(tmp_path / "empty")
    assert (result.size, (inbox / "empty").read_bytes()) == (0, b"")


async def test_names_stay_in_the_directory_and_never_overwrite(pair: Pair, path: Path, inbox: Path) -> None:
    os.truncate(path, 1_000)
    async with pair.b.receive_files(inbox):
        for name in ("../../evil.sh", "/etc/passwd", "..", ".hidden", "evil.sh", "C:\\evil.sh"):
            await pair.to_b.send_file(path, name=name)
    assert names(inbox) == ["evil (2).sh", "evil (3).sh", "evil.sh", "file", "hidden", "passwd"]
    assert names(inbox.parent) == ["holiday.jpeg", "inbox"]


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_accept_may_refuse_a_file(pair: Pair, path: Path, inbox: Path, kind: str) -> None:
    async def later(offered: FileOffered) -> bool:
        return False

    log = EventLog(pair.b)
    async with pair.b.receive_files(inbox, accept=later if kind == "async" else lambda offered: offered.size < 10):
        with pytest.raises(FileTransferError) as info:
            await pair.to_b.send_file(path)
    assert info.value.reason == "refused"
    assert str(log.of(FileFailed)[0].err) == "refused"
    assert names(inbox) == []


async def test_a_file_above_max_size_is_refused(pair: Pair, path: Path, inbox: Path) -> None:
    async with pair.b.receive_files(inbox, max_size=2_999_999):
        with pytest.raises(FileTransferError, match="too_large"):
            await pair.to_b.send_file(path)


async def test_a_full_disk_refuses_a_file_before_it_is_sent(
    pair: Pair, path: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving, "FREE_RESERVE", 2**60)
    async with pair.b.receive_files(inbox):
        with pytest.raises(FileTransferError, match="no_space"):
            await pair.to_b.send_file(path)


async def test_a_disk_that_fills_up_ends_the_transfer_and_keeps_the_part(
    pair: Pair, path: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = part_file.PartFile.write

    def full(part: part_file.PartFile, data: bytes) -> None:
        if part.offset > 1_000_000:
            raise OSError(28, "No space left on device")
        write(part, data)

    monkeypatch.setattr(part_file.PartFile, "write", full)
    async with pair.b.receive_files(inbox):
        with pytest.raises(FileTransferError, match="no_space"):
            await pair.to_b.send_file(path)
        monkeypatch.undo()
        result = await pair.to_b.send_file(path)
    assert result.sent < 2_000_000
    assert same(inbox / "holiday.jpeg", path)


async def test_a_peer_that_does_not_receive_files_refuses_them(
    pair: Pair, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_sending, "NOT_RECEIVING_GRACE", 0.1)
    with pytest.raises(FileTransferError, match="not_receiving"):
        await pair.to_b.send_file(path)


@pytest.mark.parametrize("end", ["a", "b"])
@pytest.mark.every_path
async def test_a_replaced_connection_costs_nothing(pair: Pair, path: Path, inbox: Path, end: str) -> None:
    remote = pair.to_b if end == "a" else pair.to_a
    async with pair.b.receive_files(inbox):
        result = await pair.to_b.send_file(path, progress=at(0.5, lambda: remote.pc.close()))
    assert pair.log_a.of(ConnectionReset)
    assert (result.attempts, result.sent) == (1, result.size)
    assert names(inbox) == ["holiday.jpeg"]
    assert same(inbox / "holiday.jpeg", path)


async def test_a_restarted_receiver_continues_its_part(room: Room, pair: Pair, path: Path, inbox: Path) -> None:
    async def restart() -> None:
        await pair.b.close()
        again = room.peer("b")
        again.receive_files(inbox)
        await again.join("room")

    pair.b.receive_files(inbox, progress=at(0.5, restart))
    result = await pair.to_b.send_file(path)
    assert result.attempts == 2
    assert 0 <= sent_twice(result) <= LOST
    assert same(inbox / "holiday.jpeg", path)


async def test_a_restarted_sender_continues_the_part(room: Room, pair: Pair, path: Path, inbox: Path) -> None:
    async def stop() -> None:
        sending.cancel()
        await pair.a.close()

    log = EventLog(pair.b)
    pair.b.receive_files(inbox, progress=at(0.5, stop))
    sending = asyncio.ensure_future(pair.to_b.send_file(path))
    with pytest.raises(asyncio.CancelledError):
        await sending
    again = room.peer("another id")
    seen = EventLog(again)
    await again.join("room")
    result = await (await seen.until(PeerJoined)).peer.send_file(path)
    assert result.sent <= 1_500_000
    await log.until(FileReceived)
    assert same(inbox / "holiday.jpeg", path)


async def test_a_damaged_part_is_detected_and_sent_again(
    pair: Pair, path: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = pair.b.receive_files(inbox, progress=at(0.5, lambda: files.close()))
    monkeypatch.setattr(file_sending, "NOT_RECEIVING_GRACE", 0.1)
    with pytest.raises(FileTransferError, match="not_receiving"):
        await pair.to_b.send_file(path)
    damage(inbox)
    async with pair.b.receive_files(inbox):
        result = await pair.to_b.send_file(path)
    assert result.sent == result.size
    assert same(inbox / "holiday.jpeg", path)


async def test_damaged_content_never_gets_its_name(
    pair: Pair, path: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = part_file.PartFile.write
    monkeypatch.setattr(part_file.PartFile, "write", lambda part, data: write(part, bytes(len(data))))
    async with pair.b.receive_files(inbox):
        with pytest.raises(FileTransferError, match="digest_mismatch"):
            await pair.to_b.send_file(path)
    assert names(inbox) == []


async def test_a_file_that_changes_while_it_is_sent_fails(pair: Pair, path: Path, inbox: Path) -> None:
    changed = asyncio.Event()

    async def change() -> None:
        await asyncio.to_thread(path.write_bytes, bytes(2_000_000))
        changed.set()

    async with pair.b.receive_files(inbox):
        with pytest.raises(FileTransferError, match="source_changed"):
            await pair.to_b.send_file(path, progress=at(0.3, change))
        await changed.wait()
        assert visible_names(inbox) == []
        await pair.to_b.send_file(path)
    assert (inbox / "holiday.jpeg").read_bytes() == bytes(2_000_000)


async def test_a_remote_that_stays_away_is_given_up(pair: Pair, path: Path, inbox: Path) -> None:
    pair.b.receive_files(inbox, progress=at(0.3, lambda: pair.b.close()))
    with pytest.raises(FileTransferError, match="timed_out"):
        await pair.to_b.send_file(path, patience=0.5)


async def test_a_remote_whose_connection_stays_lost_is_given_up(
    pair: Pair, path: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cut() -> None:
        monkeypatch.setattr(RecoveringConnection, "is_repair_due", False)
        await pair.to_b.pc.close()

    async with pair.b.receive_files(inbox):
        with pytest.raises(FileTransferError, match="timed_out"):
            await pair.to_b.send_file(path, progress=at(0.3, cut), patience=2.0)
    assert pair.to_b.state == "reconnecting"


async def test_a_connection_that_comes_back_the_moment_the_patience_ends_breaks_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watchers: list[Callable[[bool], None]] = []

    @contextlib.contextmanager
    def watch(writer: object, watcher: Callable[[bool], None]) -> Iterator[None]:
        watchers.append(watcher)
        yield

    monkeypatch.setattr(file_sending, "watch_connection", watch)
    told: list[bool] = []
    nothing: Any = SimpleNamespace(id="b")
    sending = file_sending.FileSending(nothing, nothing, nothing, "x", None, 0.0)

    async def lose() -> None:
        async with sending._patience_with(nothing):
            watchers[0](False)
            asyncio.get_running_loop().call_soon(lambda: (watchers[0](True), told.append(True)))
            await asyncio.sleep(PATIENCE)

    with pytest.raises(TimeoutError):
        await lose()
    assert told


async def test_closing_the_sender_cancels_the_transfer(pair: Pair, path: Path, inbox: Path) -> None:
    pair.b.receive_files(inbox, progress=at(0.3, lambda: pair.a.close()))
    with pytest.raises(FileTransferError, match="cancelled"):
        await pair.to_b.send_file(path)


async def test_a_lost_final_message_does_not_send_the_file_again(
    pair: Pair, path: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(reader: Any) -> None:
        raise StreamEndedError("connection_lost")

    monkeypatch.setattr(receiving, "_until_end", never)
    async with pair.b.receive_files(inbox):
        first = await pair.to_b.send_file(path)
        second = await pair.to_b.send_file(path)
    assert (first.sent, second.sent) == (3_000_000, 0)
    assert visible_names(inbox) == ["holiday.jpeg"]


async def test_sending_to_all_reads_once_and_a_failure_affects_no_other(
    room: Room, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []
    read = file_sending.FileSource._read_block
    monkeypatch.setattr(file_sending.FileSource, "_read_block", lambda it, n: (reads.append(n), read(it, n))[1])
    sender, *others = (room.peer(name) for name in ("a", "b", "c", "d", "e"))
    await room.join(*others, sender)
    seen = {it.id for it in sender.remote_peers}
    while seen != set("bcde"):
        await asyncio.sleep(0.01)
        seen = {it.id for it in sender.remote_peers}
    for other in others:
        other.receive_files(tmp_path / str(other.peer_id), accept=lambda it, other=other: other.peer_id != "d")
    results = await sender.send_file(path)
    assert set(results) == set("bcde")
    refused = results.pop("d")
    assert isinstance(refused, FileTransferError)
    assert refused.reason == "refused"
    for peer_id, result in results.items():
        assert isinstance(result, TransferResult)
        assert same(tmp_path / peer_id / "holiday.jpeg", path)
    assert sorted(reads) == list(range(12))


async def test_a_receiver_closed_during_an_offer_refuses_it(
    pair: Pair, path: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = receiving.FileReceiver.receive_offer
    closing: list[asyncio.Future[None]] = []

    def take_and_close(receiver: receiving.FileReceiver, remote: Any, reader: Any) -> None:
        take(receiver, remote, reader)
        for incoming in arriving_files(receiver).values():
            incoming.task.cancel()  # before its first step
        closing.append(asyncio.ensure_future(receiver.close()))

    monkeypatch.setattr(receiving.FileReceiver, "receive_offer", take_and_close)
    monkeypatch.setattr(file_sending, "NOT_RECEIVING_GRACE", 0.1)
    receiver = pair.b.receive_files(inbox)
    with pytest.raises(FileTransferError, match="not_receiving"):
        await pair.to_b.send_file(path)
    await asyncio.gather(*closing)
    assert arriving_files(receiver) == {}


async def test_hashing_a_large_part_does_not_delay_closing(
    pair: Pair, path: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hashing what there is goes on in a thread, which is told to stop: nothing is left open or locked."""
    hashing = threading.Event()
    opened: list[part_file.PartFile] = []

    def hash_endlessly(part: part_file.PartFile, _: Path) -> None:
        opened.append(part)
        hashing.set()
        while True:
            part._check_open()

    monkeypatch.setattr(part_file.PartFile, "_hash_prefix", hash_endlessly)
    receiver = pair.b.receive_files(inbox)
    sending = asyncio.ensure_future(pair.to_b.send_file(path))
    await asyncio.to_thread(hashing.wait, PATIENCE)
    await receiver.close()
    assert opened[0]._file is None
    assert not opened[0]._lock.locked()
    sending.cancel()
    await asyncio.wait([sending])


async def test_a_second_receiver_is_refused_and_the_first_can_be_replaced(pair: Pair, inbox: Path) -> None:
    first = pair.b.receive_files(inbox)
    with pytest.raises(MeteredPeerStateError):
        pair.b.receive_files(inbox)
    await first.close()
    await first.close()
    assert [it async for it in first] == []
    async with pair.b.receive_files(inbox):
        pass


@pytest.mark.parametrize("missing", ["nowhere", "."])
async def test_a_path_that_is_not_a_file_is_refused(pair: Pair, tmp_path: Path, missing: str) -> None:
    with pytest.raises(OSError, match=r"not a file|nowhere"):
        await pair.to_b.send_file(tmp_path / missing)


async def test_invalid_bytes_in_a_name_are_replaced(pair: Pair, tmp_path: Path, inbox: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.txt")
    path.write_bytes(b"x")
    async with pair.b.receive_files(inbox):
        await pair.to_b.send_file(path)
    assert names(inbox) == ["caf_.txt"]


async def test_misuse_is_refused(pair: Pair, path: Path, inbox: Path) -> None:
    with pytest.raises(ValueError, match="characters, not 0"):
        await pair.to_b.send_file(path, name="")
    with pytest.raises(ValueError, match=r"patience .* -1"):
        await pair.to_b.send_file(path, patience=-1)
    with pytest.raises(ValueError, match=r"max_size .* -1"):
        pair.b.receive_files(inbox, max_size=-1)


async def test_concurrent_files_share_the_free_space(
    pair: Pair, path: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that would fit one by one: the second is refused while the first is coming."""
    free = SimpleNamespace(free=receiving.FREE_RESERVE + 5_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda directory: free)
    write, turn = part_file.PartFile.write, threading.Event()

    def hold(part: part_file.PartFile, data: bytes) -> None:
        turn.wait(PATIENCE)
        write(part, data)

    monkeypatch.setattr(part_file.PartFile, "write", hold)
    async with pair.b.receive_files(inbox) as files:
        first = asyncio.ensure_future(pair.to_b.send_file(path))
        await eventually(lambda: any(it.missing == 3_000_000 for it in arriving_files(files).values()))
        with pytest.raises(FileTransferError, match="no_space"):
            await pair.to_b.send_file(path, name="second")
        turn.set()
        await first
    assert visible_names(inbox) == ["holiday.jpeg"]


async def test_opening_a_file_can_be_cancelled_and_leaves_nothing_open(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[FileSource] = []
    begun, turn = threading.Event(), threading.Event()
    resolve = Path.resolve

    def slow(path: Path, strict: bool = False) -> Path:
        begun.set()
        turn.wait(PATIENCE)
        return resolve(path, strict)

    close = FileSource._close
    monkeypatch.setattr(Path, "resolve", slow)
    monkeypatch.setattr(FileSource, "_close", lambda it: (opened.append(it), close(it))[1])
    opening = asyncio.ensure_future(FileSource.open(path))
    await asyncio.to_thread(begun.wait, PATIENCE)
    opening.cancel()
    await asyncio.wait([opening])
    turn.set()
    await eventually(lambda: opened)
    assert opening.cancelled()
    assert opened[0]._file.closed


# --- a remote that breaks the rules


@pytest.mark.parametrize("change", [{"transfer": "../x"}, {"size": -1}, {"name": ""}, {"attempt": "b"}])
async def test_an_invalid_offer_is_refused(pair: Pair, inbox: Path, change: dict[str, Any]) -> None:
    async with pair.b.receive_files(inbox):
        writer = await pair.to_b.open_stream(OFFER_TOPIC, {**attributes_of(SMALL_OFFER), **change}).__aenter__()
        assert await writer.wait_ended() == "cancelled"
        assert names(inbox) == []


@pytest.mark.parametrize("content", [b"", bytes(7) + b"\1", bytes(8) + b"1234" + bytes(65), bytes(8) + b"12"])
async def test_content_that_was_not_offered_is_refused(
    pair: Pair, inbox: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = EventLog(pair.b)
    async with pair.b.receive_files(inbox):
        ignore_answers(monkeypatch, pair.a)
        writer = await offered(pair.to_b, SMALL_OFFER)
        await writer.write(content)
        with contextlib.suppress(StreamEndedError):
            await writer.finish()
        failure = (await log.until(FileFailed)).err
    assert isinstance(failure, FileTransferError)
    assert failure.reason in ("protocol_error", "digest_mismatch")
    assert not visible_names(inbox)


async def test_unexpected_answers_are_refused(pair: Pair) -> None:
    for topic in ("metered.file.1.answer", "metered.file.1", "metered.else"):
        writer = await pair.to_b.open_stream(
            topic, {"attempt": "b" * 16, "offset": 0, "digest": "0" * 128}
        ).__aenter__()
        assert await writer.wait_ended() == "cancelled"


# --- parts that nobody comes back for


def test_only_abandoned_parts_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [f"{n:032x}" for n in range(5)]
    for n, transfer in enumerate(ids):
        for suffix in ("part", "json"):
            (tmp_path / f".a.{transfer}.{suffix}").touch()
            os.utime(tmp_path / f".a.{transfer}.{suffix}", (1e9, 1e9) if n < 2 else (2e9 - n, 2e9 - n))
    for other in (".a.part", "a.json", f"b.{ids[0]}.part", ".settings.json"):
        (tmp_path / other).touch()
        os.utime(tmp_path / other, (1e9, 1e9))
    monkeypatch.setattr(part_file, "MAX_PARTS", 2)
    part_file.prune_parts(tmp_path, {ids[0]})
    left = {path.name for path in tmp_path.iterdir()}
    kept = {f".a.{ids[n]}.{suffix}" for n in (0, 2, 3) for suffix in ("part", "json")}
    assert left == kept | {".a.part", "a.json", f"b.{ids[0]}.part", ".settings.json"}


async def test_files_above_the_bound_of_one_remote_wait(
    pair: Pair, path: Path, tmp_path: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving, "MAX_INCOMING_OF_ONE", 1)
    os.truncate(path, 300_000)
    patience, turn = 2.0, asyncio.Event()

    async def hold(offered: FileOffered) -> bool:
        await turn.wait()
        return True

    async with pair.b.receive_files(inbox, accept=hold) as files:
        sends = [asyncio.ensure_future(pair.to_b.send_file(path, name=f"{n}", patience=patience)) for n in range(3)]
        await eventually(lambda: files.refused >= 2)
        await asyncio.sleep(patience)  # waiting for a place does not count
        refused = files.refused
        await eventually(lambda: files.refused >= refused + 2)
        turn.set()
        await asyncio.gather(*sends)
    assert names(inbox) == ["0", "1", "2"]


async def test_a_symbolic_link_is_sent_under_its_own_name(pair: Pair, path: Path, tmp_path: Path, inbox: Path) -> None:
    os.symlink(path, tmp_path / "latest.jpeg")
    async with pair.b.receive_files(inbox):
        await pair.to_b.send_file(tmp_path / "latest.jpeg")
    assert names(inbox) == ["latest.jpeg"]


async def test_a_stalled_attempt_is_replaced_by_the_next(
    pair: Pair, path: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving, "STALLED", 0.0)
    async with pair.b.receive_files(inbox):
        stuck = await offered(pair.to_b, await offer_of(path))
        result = await pair.to_b.send_file(path)
        assert await stuck.wait_ended() == "cancelled"
    assert result.sent == result.size
    assert names(inbox) == ["holiday.jpeg"]
