"""Names and patterns."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from metered_realtime.core.wire.names import (
    channel_fault,
    identity_fault,
    is_request_id,
    is_reserved_channel,
    peer_id_fault,
)
from metered_realtime.core.wire.patterns import is_pattern, pattern_covers, pattern_matches, patterns_meet


class TestNames:
    @pytest.mark.parametrize(
        ("name", "fault"),
        [
            ("a", None),
            ("room/7 *é", None),
            ("x" * 256, None),
            ("é" * 128, None),
            ("", "empty"),
            (7, "type"),
            (None, "type"),
            ("x" * 257, "too_long"),
            ("é" * 129, "too_long"),
            ("a\x00", "control_character"),
            ("a\x7f", "control_character"),
            ("a\x85", "control_character"),
            ("a\ud800", "encoding"),
        ],
    )
    def test_names_of_channels_are_1_to_256_bytes_without_control_characters(
        self, name: object, fault: str | None
    ) -> None:
        assert channel_fault(name) == fault

    @pytest.mark.parametrize(
        ("name", "reserved"),
        [("_metered/x", True), ("_InTeRnAl/", True), ("_system/a/b", True), ("_metered", False), ("x/_system/", False)],
    )
    def test_names_of_the_service_are_reserved_in_any_case(self, name: str, reserved: bool) -> None:
        assert is_reserved_channel(name) is reserved

    @pytest.mark.parametrize(
        ("peer_id", "as_target", "as_identity"),
        [
            ("ann", None, None),
            ("x" * 128, None, None),
            ("ann smith", None, None),
            ("é", None, "not_printable_ascii"),
            ("", "empty", "empty"),
            ("x" * 129, "too_long", "too_long"),
            ("a\n", "control_character", "control_character"),
            (1, "type", "type"),
        ],
    )
    def test_names_of_peers_are_stricter_in_tokens_than_as_targets(
        self, peer_id: object, as_target: str | None, as_identity: str | None
    ) -> None:
        assert peer_id_fault(peer_id) == as_target
        assert identity_fault(peer_id) == as_identity

    @pytest.mark.parametrize(
        ("value", "valid"), [("r", True), ("x" * 128, True), ("x" * 129, False), ("", False), (1, False)]
    )
    def test_names_of_requests_are_1_to_128_characters(self, value: object, valid: bool) -> None:
        assert is_request_id(value) is valid


class TestPatterns:
    @pytest.mark.parametrize(
        ("pattern", "channel", "matches"),
        [
            ("a/*", "a/x", True),
            ("a/*", "a/", True),
            ("a/*", "a/x/y", False),
            ("a/**", "a/x", True),
            ("a/**", "a/x/y", True),
            ("**", "anything/at all", True),
            ("a/r-*", "a/r-1", True),
            ("a/r-*", "a/R-1", False),
            ("*/end", "x/end", True),
            ("a", "ab", False),
            (r"a\*", "a*", True),
            (r"a\*", "ab", False),
            (r"a\\", "a\\", True),
            (r"a\b", r"a\b", True),
            ("a.c", "abc", False),
            ("[a]", "a", False),
            ("***", "x/y", True),
        ],
    )
    def test_patterns_match_whole_names(self, pattern: str, channel: str, matches: bool) -> None:
        assert pattern_matches(pattern, channel) is matches

    @pytest.mark.parametrize(
        ("name", "pattern"), [("a", False), ("a*", True), (r"a\*", False), (r"a\\*", True), ("**", True)]
    )
    def test_patterns_are_names_with_an_unescaped_star(self, name: str, pattern: bool) -> None:
        assert is_pattern(name) is pattern

    @pytest.mark.timeout(5)
    def test_patterns_match_in_bounded_time(self) -> None:
        assert not pattern_matches("*a" * 128, "a" * 255 + "b")
        for n in range(1_000):  # a publication to a new name is matched with all patterns of the app
            pattern_matches("*a" * 120, "a" * 250 + str(n))

    @pytest.mark.parametrize(
        ("outer", "inner", "covers"),
        [
            ("**", "*", True),
            ("a/**", "a/*", True),
            ("a/*", "a/**", False),
            ("a/*", "a/x", True),
            ("a/*", "*/b", False),
            ("*", "*/b", False),
            ("*b*", "*ab", True),
            ("*a*", "*ab", True),
            ("*ab", "*a*b", False),
            ("**a**", "*/a", True),
            (r"a\*", "a*", False),
        ],
    )
    def test_patterns_cover_what_matches_no_more_than_they_do(self, outer: str, inner: str, covers: bool) -> None:
        assert pattern_covers(outer, inner) is covers

    @pytest.mark.timeout(5)
    def test_patterns_cover_in_bounded_time(self) -> None:
        pattern_covers("*a**b" * 50, "**a*b" * 50)
        patterns_meet("*a**b" * 50, "**a*c" * 50)
        for n in range(2_000):  # the number of subscriptions of a client in its first seconds
            assert pattern_covers("**", "*".join(map(chr, range(33, 42))) * 12 + f"*{n}")

    @pytest.mark.parametrize(
        ("one", "other", "meet"),
        [
            ("a/*", "*/b", True),
            ("a/*", "b/*", False),
            ("a/**", "**/c", True),
            ("a*", "*b", True),
            ("a", "a/*", False),
            ("*", "a/b", False),
        ],
    )
    def test_patterns_meet_where_some_name_matches_both(self, one: str, other: str, meet: bool) -> None:
        assert patterns_meet(one, other) is patterns_meet(other, one) is meet


patterns = st.text(alphabet="ab/*\\", min_size=1, max_size=6)
names = st.text(alphabet="ab/*\\c", min_size=1, max_size=6)


@given(patterns, names)
def test_matching_agrees_with_a_regular_expression(pattern: str, name: str) -> None:
    assert pattern_matches(pattern, name) == (_regex(pattern).fullmatch(name) is not None)


@given(patterns, patterns, names)
@example("*a*", "*ab", "/")
def test_covering_and_meeting_agree_with_matching(outer: str, inner: str, name: str) -> None:
    in_outer, in_inner = pattern_matches(outer, name), pattern_matches(inner, name)
    if in_inner and not in_outer:
        assert not pattern_covers(outer, inner)
    if in_inner and in_outer:
        assert patterns_meet(outer, inner)


@given(patterns)
def test_a_pattern_covers_itself_and_everything_covers_it(pattern: str) -> None:
    assert pattern_covers(pattern, pattern)
    assert pattern_covers("**", pattern)


def _regex(pattern: str) -> re.Pattern[str]:
    parts = re.findall(r"\\[*\\]|\*\*|.", pattern, re.DOTALL)
    stars = {"**": ".*", "*": "[^/]*"}
    return re.compile("".join(stars.get(part) or re.escape(part[-1]) for part in parts), re.DOTALL)
