"""Files as a protocol: content in any pieces, resumption after any loss, names that cannot do harm."""

from __future__ import annotations

import unicodedata
from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metered_realtime.core.streams.file_transfer import (
    MAX_NAME_BYTES,
    Acceptance,
    Content,
    Offer,
    Start,
    TransferProtocolError,
    Verify,
    Write,
    attributes_of,
    content_head,
    numbered,
    parse_acceptance,
    parse_offer,
    part_name,
    safe_name,
    transfer_id,
)

ATTEMPT = "0123456789abcdef"


def digest(data: bytes) -> str:
    return blake2b(data).hexdigest()


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces, position = [], 0
    for size in sizes:
        pieces.append(data[position : position + size])
        position += size
    return [*pieces, data[position:]]


class Receiver:
    """A part that survives attempts, and what came of them."""

    def __init__(self) -> None:
        self.part = b""
        self.complete = False

    def attempt(self, file: bytes, sizes: list[int], lost_after: int | None) -> int:
        """Run an attempt that may be lost; return the bytes of content that were sent."""
        accepted = Acceptance(attempt=ATTEMPT, offset=len(self.part), digest=digest(self.part))
        start = accepted.start(len(file), digest(file[: accepted.offset]))
        stream = content_head(start) + file[start:] + bytes.fromhex(digest(file))
        content = Content(len(file), accepted.offset)
        for piece in cut(stream[:lost_after], sizes):
            for step in content.feed(piece):
                match step:
                    case Start(offset):
                        self.part = self.part[:offset]
                    case Write(data):
                        self.part += data
                    case Verify(expected):
                        self.complete = digest(self.part) == expected
        return len(file) - start


SIZES = st.lists(st.integers(0, 90), max_size=8)


@given(
    st.binary(max_size=300),
    st.lists(st.tuples(SIZES, st.integers(0, 400), st.booleans()), max_size=5),
    SIZES,
)
def test_a_file_is_complete_after_any_losses(
    file: bytes, attempts: list[tuple[list[int], int, bool]], sizes: list[int]
) -> None:
    receiver = Receiver()
    for pieces, lost_after, damaged in attempts:
        receiver.attempt(file, pieces, lost_after)
        if damaged and receiver.part:
            receiver.part = receiver.part[:-1] + bytes((receiver.part[-1] ^ 1,))
    receiver.complete = False
    had = receiver.part
    sent = receiver.attempt(file, sizes, None)
    assert receiver.complete
    assert receiver.part == file
    assert sent == (len(file) - len(had) if file.startswith(had) else len(file))


@given(st.binary(min_size=1, max_size=200), st.binary(max_size=200), st.integers(8, 300))
def test_a_changed_file_is_never_mixed_with_its_old_part(old: bytes, new: bytes, lost: int) -> None:
    receiver = Receiver()
    receiver.attempt(old, [], lost)
    receiver.complete = False
    receiver.attempt(new, [], None)
    assert (receiver.complete, receiver.part) == (True, new)


@pytest.mark.parametrize(
    ("size", "offset", "stream"),
    [
        (4, 2, content_head(1)),
        (4, 2, content_head(3)),
        (4, 0, content_head(0) + bytes(4 + 64 + 1)),
        (0, 0, content_head(0) + bytes(65)),
    ],
)
def test_content_that_was_not_accepted_is_refused(size: int, offset: int, stream: bytes) -> None:
    with pytest.raises(TransferProtocolError):
        Content(size, offset).feed(stream)


def test_nothing_may_follow_the_digest() -> None:
    content = Content(1, 0)
    assert content.feed(content_head(0) + bytes(65))[-1] == Verify("00" * 64)
    assert content.feed(b"") == []
    with pytest.raises(TransferProtocolError):
        content.feed(b"x")


OFFER = Offer(transfer="a" * 32, attempt=ATTEMPT, name="n", size=1, mtime=1.5)
ACCEPTANCE = Acceptance(attempt=ATTEMPT, offset=0, digest="b" * 128)


def test_offers_and_acceptances_survive_the_wire() -> None:
    assert parse_offer(attributes_of(OFFER)) == OFFER
    assert parse_acceptance(attributes_of(ACCEPTANCE)) == ACCEPTANCE


@pytest.mark.parametrize(
    "change",
    [
        {"transfer": "../" * 10},
        {"transfer": 1},
        {"attempt": ""},
        {"name": ""},
        {"size": -1},
        {"size": "1"},
        {"size": 2**60},
    ],
)
def test_an_invalid_offer_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(TransferProtocolError):
        parse_offer({**attributes_of(OFFER), **change})  # type: ignore[dict-item]


@pytest.mark.parametrize("change", [{"offset": -1}, {"digest": "x"}, {"attempt": None}])
def test_an_invalid_acceptance_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(TransferProtocolError):
        parse_acceptance({**attributes_of(ACCEPTANCE), **change})  # type: ignore[dict-item]


def test_a_part_longer_than_the_file_is_not_continued() -> None:
    assert Acceptance(attempt=ATTEMPT, offset=9, digest=digest(b"")).start(8, digest(b"")) == 0


@pytest.mark.parametrize(
    ("offered", "name"),
    [
        ("a.txt", "a.txt"),
        ("Übersicht 1.pdf", "Übersicht 1.pdf"),
        ("../../etc/passwd", "passwd"),
        ("..\\..\\boot.ini", "boot.ini"),
        ("/", "file"),
        ("..", "file"),
        (".bashrc", "bashrc"),
        ("a\0b\n\x1b[2J.txt", "ab[2J.txt"),
        ("gpj\u202ecod.exe", "gpjcod.exe"),
        ("CON", "_CON"),
        ("nul.tar.gz", "_nul.tar.gz"),
        ("com¹.txt", "_com¹.txt"),
        ("LPT³", "_LPT³"),
        ("conin$", "_conin$"),
        ("COM⁴.txt", "COM⁴.txt"),
        ("a<b>:c|?*.txt", "a_b__c___.txt"),
        ("name. . ", "name"),
        ("e\u0301.txt", "é.txt"),
        ("x" * 400 + ".jpeg", "x" * 175 + ".jpeg"),
    ],
)
def test_names_are_made_safe(offered: str, name: str) -> None:
    assert safe_name(offered) == name


@given(st.text(min_size=1, max_size=1024))
def test_any_offered_name_becomes_a_plain_name(offered: str) -> None:
    name = safe_name(offered)
    assert name
    assert name[0] not in ". "
    assert name[-1] not in ". "
    assert len(name.encode()) <= MAX_NAME_BYTES + 1
    assert not set(name) & set('/\\<>:"|?*')
    assert not any(unicodedata.category(letter).startswith("C") for letter in name)
    assert safe_name(name) == name
    assert len(part_name(name, "a" * 32).encode()) <= 255


def test_taken_names_are_numbered() -> None:
    assert [numbered("a.tar.gz", n) for n in (1, 2, 13)] == ["a.tar.gz", "a.tar (2).gz", "a.tar (13).gz"]
    assert numbered("README", 2) == "README (2)"


def test_different_files_have_different_transfer_ids() -> None:
    first = transfer_id("/a/b", "b", 1, 2)
    assert first == transfer_id("/a/b", "b", 1, 2)
    assert (
        len({first, transfer_id("/a/c", "b", 1, 2), transfer_id("/a/b", "b", 2, 2), transfer_id("/a/b", "b", 1, 3)})
        == 4
    )
