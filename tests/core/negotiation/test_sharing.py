"""What signals show of a remote, and which tracks share sections with its media."""

from __future__ import annotations

import pytest

from metered_realtime.core.negotiation.sharing import RemoteTraits, Sharing


def test_a_remote_of_which_nothing_is_known_may_send_in_the_sections_of_all_tracks() -> None:
    assert RemoteTraits().sharing is Sharing.ALL


@pytest.mark.parametrize("has_candidates", [True, False])
def test_native_ends_share_nothing(has_candidates: bool) -> None:
    traits = RemoteTraits()
    traits.note_description(is_tagged=True, has_candidates=has_candidates)
    assert traits.sharing is Sharing.NONE


def test_an_end_that_has_trickled_once_always_counts_as_one_that_does() -> None:
    traits = RemoteTraits()
    for has_candidates in (False, True):
        traits.note_description(is_tagged=False, has_candidates=has_candidates)
        assert traits.sharing is Sharing.WITHOUT_METADATA


def test_another_program_under_the_same_id_is_judged_by_its_own_descriptions() -> None:
    traits = RemoteTraits()
    for is_tagged, sharing in ((True, Sharing.NONE), (False, Sharing.ALL), (True, Sharing.NONE)):
        traits.note_description(is_tagged=is_tagged, has_candidates=True)
        assert traits.sharing is sharing


@pytest.mark.parametrize(
    ("sharing", "described", "undescribed"),
    [(Sharing.NONE, False, False), (Sharing.WITHOUT_METADATA, False, True), (Sharing.ALL, True, True)],
)
def test_which_tracks_share(sharing: Sharing, described: bool, undescribed: bool) -> None:
    assert (sharing.admits(has_metadata=True), sharing.admits(has_metadata=False)) == (described, undescribed)
