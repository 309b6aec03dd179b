r"""The pattern language of keys and tokens: `*` is any run without `/`, `**` any run, `\*` and `\\` the characters.

A pattern is matched against a whole name, case-sensitively. All functions take time bounded by the lengths of their
arguments: patterns are untrusted, and a backtracking matcher could be made to hang. Sets of positions, in a name or in
a pattern, are the bits of one integer, so that a step costs the same for any number of positions.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

MAX_WILDCARDS = 8
"""Maximum number of wildcards in a subscribed pattern: each is a step in the matching of every new name. Patterns that
people write have one to three."""

MANY_PLACES = 8
"""Maximum number of positions of a literal in a name that are searched one by one."""

COVER_STEPS = 10_000
"""Maximum number of states that `pattern_covers` visits before it answers no: about 10 ms. Patterns that people write
take a few hundred; a contrived one must not keep the server busy."""

ANYTHING_ELSE = "\0"
"""Represents every character that the outer pattern does not contain. No channel name contains it."""


class _Star:
    __slots__ = ("crosses_slash",)

    def __init__(self, crosses_slash: bool) -> None:
        self.crosses_slash = crosses_slash

    def takes(self, character: str) -> bool:
        return self.crosses_slash or character != "/"


_STAR, _DOUBLE_STAR = _Star(False), _Star(True)
_Tokens = tuple[str | _Star, ...]
"""The tokens of a pattern: characters and stars. No star follows another one."""


class _Masks(NamedTuple):
    """Bit masks of tokens: of each character, of all stars, of those that cross a slash, and of the end."""

    characters: dict[str, int]
    stars: int
    double_stars: int
    end: int


def is_pattern(name: str) -> bool:
    """Return whether a channel name contains an unescaped `*`."""
    return "*" in name and any(isinstance(token, _Star) for token in _tokens(name))


def count_wildcards(name: str) -> int:
    """Return the number of wildcards in a channel name. Adjacent stars count as one."""
    return sum(isinstance(token, _Star) for token in _tokens(name)) if "*" in name else 0


def literal_prefix(pattern: str) -> str:
    """Return the literal prefix that every name matching a pattern has."""
    first = next(iter(_pieces(pattern)), "")
    return first if isinstance(first, str) else ""


def pattern_matches(pattern: str, channel: str) -> bool:
    """Return whether a pattern matches a whole channel name."""
    return Name(channel).matches(pattern)


class Name:
    """A channel name to match against many patterns. Caches what the patterns have in common."""

    __slots__ = ("_all", "_starts", "_steps", "_text")

    def __init__(self, text: str) -> None:
        self._text = text
        self._all = (1 << len(text) + 1) - 1
        self._starts: dict[str, int] = {}
        self._steps: int | None = None  # the positions whose character `*` matches

    def matches(self, pattern: str) -> bool:
        """Return whether a pattern matches the whole name."""
        pieces = _pieces(pattern)
        first, last = pieces[0], pieces[-1]
        if isinstance(first, str) and not self._text.startswith(first):
            return False
        if isinstance(last, str) and not self._text.endswith(last):
            return False
        places = 1  # positions in the name where the rest of the pattern may begin
        for piece in pieces:
            if isinstance(piece, str):
                places = (places & self._starts_of(piece)) << len(piece)
            elif piece.crosses_slash:
                places = self._all & -(places & -places)
            else:
                places = self._within_segments(places)
            if not places:
                return False
        return bool(places >> len(self._text))

    def _starts_of(self, literal: str) -> int:
        starts = self._starts.get(literal)
        if starts is None:
            starts = self._starts[literal] = self._find(literal)
        return starts

    def _find(self, literal: str) -> int:
        starts, count, at = 0, 0, self._text.find(literal)
        while at >= 0:
            if count == MANY_PLACES and len(literal) > 1:
                # A literal that overlaps itself: so do its halves, which many such literals share.
                half = len(literal) // 2
                return self._starts_of(literal[:half]) & self._starts_of(literal[half:]) >> half
            starts |= 1 << at
            count += 1
            at = self._text.find(literal, at + 1)
        return starts

    def _within_segments(self, places: int) -> int:
        if self._steps is None:
            self._steps = sum(1 << at for at, character in enumerate(self._text) if character != "/")
        # The addition carries each position through its run of steps, to the position behind the run.
        return ((places & self._steps) + self._steps ^ self._steps) | places


def pattern_covers(outer: str, inner: str) -> bool:
    """Return whether `outer` matches every name that `inner` matches. False if that is too intricate to decide."""
    if outer == inner or _tokens(outer) == (_DOUBLE_STAR,):
        return True
    if not literal_prefix(inner).startswith(literal_prefix(outer)):  # a literal does not match all that a star does
        return False
    cover, tokens = _masks(outer), _tokens(inner)
    alphabet = {"/", ANYTHING_ELSE, *cover.characters}
    pending = [(state, _closure(1, cover)) for state in _from(0, tokens)]
    seen, steps = set(pending), 0
    while pending:
        state, covered = pending.pop()
        if state == len(tokens):
            if not covered & cover.end:
                return False
            continue
        token = tokens[state]
        following = _from(state + isinstance(token, str), tokens)
        for character in _characters(token, alphabet):
            still_covered = _step(covered, character, cover)
            if not still_covered:  # every beginning of a match of inner can be completed
                return False
            fresh = {(each, still_covered) for each in following} - seen
            seen |= fresh
            pending.extend(fresh)
            steps += 1
        if steps > COVER_STEPS:
            return False
    return True


def patterns_meet(one: str, other: str) -> bool:
    """Return whether some name matches both patterns."""
    left, right = _tokens(one), _tokens(other)
    pending, seen = [(0, 0)], {(0, 0)}
    while pending:
        i, j = pending.pop()
        if i == len(left) and j == len(right):
            return True
        fresh = _meeting_steps(left, i, right, j) - seen
        seen |= fresh
        pending.extend(fresh)
    return False


def _meeting_steps(left: _Tokens, i: int, right: _Tokens, j: int) -> set[tuple[int, int]]:
    a = left[i] if i < len(left) else None
    b = right[j] if j < len(right) else None
    steps = set()
    if isinstance(a, _Star):
        steps.add((i + 1, j))
        if isinstance(b, str) and a.takes(b):
            steps.add((i, j + 1))
    if isinstance(b, _Star):
        steps.add((i, j + 1))
        if isinstance(a, str) and b.takes(a):
            steps.add((i + 1, j))
    if isinstance(a, str) and a == b:
        steps.add((i + 1, j + 1))
    return steps


def _characters(token: str | _Star, alphabet: set[str]) -> set[str]:
    if isinstance(token, str):
        return {token}
    return alphabet if token.crosses_slash else alphabet - {"/"}


@lru_cache(maxsize=4096)
def _tokens(pattern: str) -> _Tokens:
    tokens: list[str | _Star] = []
    index = 0
    while index < len(pattern):
        character = pattern[index]
        following = pattern[index + 1 : index + 2]
        if character == "\\" and following in ("*", "\\"):
            tokens.append(following)
            index += 2
        elif character == "*":
            stars = len(pattern) - index - len(pattern[index:].lstrip("*"))
            tokens.append(_STAR if stars == 1 else _DOUBLE_STAR)  # three stars are two and one: any run
            index += stars
        else:
            tokens.append(character)
            index += 1
    return tuple(tokens)


@lru_cache(maxsize=4096)
def _pieces(pattern: str) -> _Tokens:
    """Return the tokens with the characters between stars joined. A pattern is never empty."""
    pieces: list[str | _Star] = []
    for is_literal, run in groupby(_tokens(pattern), lambda token: isinstance(token, str)):
        tokens = list(run)
        pieces.extend(["".join(map(str, tokens))] if is_literal else tokens)
    return tuple(pieces) or ("",)


@lru_cache(maxsize=4096)
def _masks(pattern: str) -> _Masks:
    tokens = _tokens(pattern)
    characters: dict[str, int] = {}
    stars = double_stars = 0
    for index, token in enumerate(tokens):
        if isinstance(token, str):
            characters[token] = characters.get(token, 0) | 1 << index
        else:
            stars |= 1 << index
            double_stars |= token.crosses_slash << index
    return _Masks(characters, stars, double_stars, 1 << len(tokens))


def _from(state: int, tokens: _Tokens) -> tuple[int, ...]:
    """Return a position, and the one behind its star, which may match nothing."""
    return (state, state + 1) if state < len(tokens) and isinstance(tokens[state], _Star) else (state,)


def _step(places: int, character: str, masks: _Masks) -> int:
    stay = places & (masks.double_stars if character == "/" else masks.stars)
    return _closure(stay | (places & masks.characters.get(character, 0)) << 1, masks)


def _closure(places: int, masks: _Masks) -> int:
    """Add the positions behind stars, which may match nothing."""
    return places | (places & masks.stars) << 1
