"""The tracks that every remote is sent."""

from __future__ import annotations

import pytest

from metered_realtime.core.negotiation.attachments import AlreadyAttachedError, Attachment, Attachments
from metered_realtime.core.negotiation.signals import MetadataSignal


class Track:
    def __init__(self, id: str = "t", kind: str = "video") -> None:
        self.id = id
        self.kind = kind

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Track)

    __hash__ = None  # type: ignore[assignment]


class Stream:
    def __init__(self, id: str) -> None:
        self.id = id


def attach(book: Attachments, track: Track, stream: Stream | None = None, metadata: object = None) -> Attachment:
    attachment = book.prepare(track, stream, metadata)  # type: ignore[arg-type]
    assert attachment is not None
    book.add(attachment)
    return attachment


def test_tracks_are_told_apart_by_identity_and_kept_in_order() -> None:
    book = Attachments()
    tracks = [Track("a"), Track("b"), Track("c")]
    for track in tracks:
        attach(book, track)
    assert [it.track.id for it in book] == ["a", "b", "c"]
    assert len(book) == 3
    assert book.get(Track("a")) is None


def test_preparing_an_attachment_changes_nothing() -> None:
    book = Attachments()
    book.prepare(Track(), None, None)
    assert len(book) == 0


def test_a_track_is_attached_once_and_with_one_stream() -> None:
    book, track, stream = Attachments(), Track(), Stream("s")
    attach(book, track, stream, {"n": 1})
    assert book.prepare(track, stream, {"n": 2}) is None
    for other in (None, Stream("s")):
        with pytest.raises(AlreadyAttachedError):
            book.prepare(track, other, None)


def test_metadata_is_copied_and_signalled_under_the_id_on_the_wire() -> None:
    book, given = Attachments(), {"n": 1}
    attachment = attach(book, Track("t"), Stream("s"), given)
    given["n"] = 2
    assert attachment.metadata_signal() == MetadataSignal("t", {"n": 1}, "video", "s")
    assert attachment.clear_signal() == MetadataSignal("t", None, "video", "s")
    assert attach(book, Track("u")).metadata_signal() is None


def test_the_tracks_of_one_stream_are_found() -> None:
    book, stream = Attachments(), Stream("s")
    first, _, second = attach(book, Track("a"), stream), attach(book, Track("b")), attach(book, Track("c"), stream)
    assert book.of_stream(stream) == [first, second]
    assert book.of_stream(Stream("s")) == []


def test_no_two_tracks_share_an_id_on_the_wire() -> None:
    book = Attachments()
    assert [attach(book, Track("t")).track_id for _ in range(3)] == ["t", "t-2", "t-3"]


def test_removing_a_track_returns_its_attachment_and_frees_its_id() -> None:
    book, track = Attachments(), Track("t")
    attachment = attach(book, track)
    assert book.remove(track) is attachment
    assert book.remove(track) is None
    assert attach(book, Track("t")).track_id == "t"


def test_a_replacement_track_has_its_own_id_and_the_old_id_stays_reserved() -> None:
    book, old, new, stream = Attachments(), Track("old"), Track("new"), Stream("s")
    present = attach(book, old, stream, {"n": 1})
    after = book.replacement(present, new)
    assert book.get(old) is present, "nothing has changed yet"
    book.swap(present, after)
    assert (book.get(old), book.get(new)) == (None, after)
    assert (after.track_id, after.stream_id, after.metadata, after.kind) == ("new", "s", {"n": 1}, "video")
    assert attach(book, old).track_id == "old-2"
