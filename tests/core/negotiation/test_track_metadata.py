"""Metadata that names only a track id, and not the one in the description."""

from __future__ import annotations

import pytest

from metered_realtime.core.negotiation.signals import MAX_METADATA_ENTRIES, DescribedTrack, MetadataBook, MetadataSignal


def bare(track_id: str, n: int) -> MetadataSignal:
    return MetadataSignal(track_id, {"n": n})


def described(book: MetadataBook, *tracks: DescribedTrack, beside: tuple[str, ...] = ()) -> list[int | None]:
    """Return the metadata found for the new tracks of a description that has others `beside` them."""
    signalled = [*(it.track_id for it in tracks), *beside]
    book.describe(tracks, signalled)
    found = [book.find(it.track_id, it.kind, it.stream_id, signalled) for it in tracks]
    return [None if it is None else it["n"] for it in found]


def video(track_id: str, stream_id: str = "s") -> DescribedTrack:
    return DescribedTrack(track_id, "video", stream_id)


def audio(track_id: str, stream_id: str = "s") -> DescribedTrack:
    return DescribedTrack(track_id, "audio", stream_id)


def test_metadata_without_a_match_belongs_to_the_new_track_of_the_next_description() -> None:
    book = MetadataBook()
    book.apply_signal(bare("theirs", 1))
    assert described(book, video("ours")) == [1]
    assert described(book, video("later"), beside=("ours",)) == [None], "it belongs to one track alone"
    assert book.find("ours", "video", "s", ["ours", "later"]) == {"n": 1}


def test_several_entries_without_a_match_belong_to_the_new_tracks_in_order() -> None:
    book = MetadataBook()
    for n in (1, 2):
        book.apply_signal(bare(f"theirs{n}", n))
    assert described(book, audio("x"), video("y")) == [1, 2]


def test_equal_metadata_of_a_stream_belongs_to_all_of_its_tracks() -> None:
    book = MetadataBook()
    book.apply_signal(bare("a", 7))
    book.apply_signal(bare("v", 7))
    assert described(book, video("y"), audio("x")) == [7, 7]


def test_a_description_without_new_tracks_leaves_entries_waiting() -> None:
    book = MetadataBook()
    book.apply_signal(bare("theirs", 1))
    assert described(book, beside=("old",)) == []
    assert described(book, video("ours"), beside=("old",)) == [1]


def test_an_entry_with_a_match_is_never_used_for_another_track() -> None:
    book = MetadataBook()
    book.apply_signal(bare("audio", 1))
    book.apply_signal(bare("video", 2))
    assert described(book, video("other"), audio("audio")) == [2, 1]
    assert described(book, video("third"), beside=("other", "audio")) == [None]


def test_an_entry_with_a_stream_or_kind_does_not_wait() -> None:
    book = MetadataBook()
    book.apply_signal(MetadataSignal("t", {"n": 1}, "video", None))
    book.apply_signal(MetadataSignal("u", {"n": 2}, "video", "elsewhere"))
    assert described(book, video("ours")) == [None]


def test_tracks_with_metadata_use_no_waiting_entry() -> None:
    book = MetadataBook()
    book.apply_signal(bare("theirs", 1))
    book.apply_signal(MetadataSignal("t", {"n": 2}, "video", "s"))
    assert described(book, video("t")) == [2]
    assert described(book, video("ours", "other"), beside=("t",)) == [1]


def test_the_last_entry_belongs_to_the_description_that_follows() -> None:
    """The metadata of a track that replaced another one in its section waits for no description."""
    book = MetadataBook()
    book.apply_signal(bare("replaced", 1))
    book.apply_signal(bare("theirs", 2))
    assert described(book, video("ours")) == [2]
    assert described(book, video("later"), beside=("ours",)) == [None]


def test_fewer_entries_than_new_tracks_belong_to_none() -> None:
    book = MetadataBook()
    book.apply_signal(bare("theirs", 1))
    assert described(book, video("x"), video("y", "other")) == [None, None]


def test_metadata_found_by_order_follows_its_entry_and_is_found_on_another_connection() -> None:
    book = MetadataBook()
    book.apply_signal(bare("theirs", 1))
    assert described(book, video("ours")) == [1]
    book.apply_signal(bare("theirs", 2))
    assert described(book, video("ours")) == [2]
    assert described(book, video("other"), beside=("ours",)) == [None], "a changed entry does not wait again"
    book.apply_signal(MetadataSignal("theirs", None))
    assert described(book, video("ours")) == [None]


@pytest.mark.parametrize("waits", [True, False])
def test_the_metadata_of_a_remote_is_bounded(waits: bool) -> None:
    book = MetadataBook()
    for n in range(MAX_METADATA_ENTRIES * 3):
        book.apply_signal(bare(f"t{n}", n))
        if not waits:
            described(book, video(f"d{n}"))
    assert len(book._entries) == MAX_METADATA_ENTRIES
    assert len(book._waiting) == (MAX_METADATA_ENTRIES if waits else 0)
    assert len(book._described_as) == (0 if waits else MAX_METADATA_ENTRIES)
