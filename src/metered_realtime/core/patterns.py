r"""The pattern language of keys and tokens: `*` any run without `/`, `**` any run, `\*` and `\\` the characters.

A pattern is matched against a whole name, case-sensitively. Everything here takes time bounded by the lengths
involved: patterns come from outside, and a backtracking matcher could be made to hang.
"""

from __future__ import annotations

from functools import lru_cache

COVER_STEPS = 50_000
"""States that `pattern_covers` visits before it gives up and says no: some 20 ms. Patterns that people write take a
few hundred; a client must not be able to keep the server busy with one that nobody would."""

ANYTHING_ELSE = "\0"
"""Stands for every character that neither pattern mentions: no channel name contains it."""


class _Star:
    __slots__ = ("crosses_slash",)

    def __init__(self, crosses_slash: bool) -> None:
        self.crosses_slash = crosses_slash

    def takes(self, character: str) -> bool:
        return self.crosses_slash or character != "/"


_STAR, _DOUBLE_STAR = _Star(False), _Star(True)
_Tokens = tuple[str | _Star, ...]


def is_pattern(name: str) -> bool:
    """Tell whether a channel name contains an unescaped `*`."""
    return "*" in name and any(isinstance(token, _Star) for token in _tokens(name))


def pattern_matches(pattern: str, channel: str) -> bool:
    """Tell whether a pattern matches a whole channel name."""
    tokens = _tokens(pattern)
    states = _closure({0}, tokens)
    for character in channel:
        states = _step(states, character, tokens)
        if not states:
            return False
    return len(tokens) in states


def pattern_covers(outer: str, inner: str) -> bool:
    """Tell whether `outer` matches every name that `inner` matches. Hopelessly intricate pairs count as no."""
    cover, tokens = _tokens(outer), _tokens(inner)
    alphabet = {"/", ANYTHING_ELSE, *(token for token in cover + tokens if isinstance(token, str))}
    start = frozenset(_closure({0}, cover))
    pending = [(state, start) for state in _closure({0}, tokens)]
    seen, steps = set(pending), 0
    while pending:
        state, covered = pending.pop()
        if state == len(tokens):
            if len(cover) not in covered:
                return False
            continue
        token = tokens[state]
        following = _closure({state + 1} if isinstance(token, str) else {state}, tokens)
        for character in _characters(token, alphabet):
            still_covered = frozenset(_step(covered, character, cover))
            if not still_covered:  # whatever inner begins, it can end
                return False
            fresh = {(each, still_covered) for each in following} - seen
            seen |= fresh
            pending.extend(fresh)
            steps += len(covered)
        if steps > COVER_STEPS:
            return False
    return True


def patterns_meet(one: str, other: str) -> bool:
    """Tell whether some name matches both patterns."""
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
        elif character == "*" and following == "*":
            tokens.append(_DOUBLE_STAR)
            index += 2
        else:
            tokens.append(_STAR if character == "*" else character)
            index += 1
    return tuple(tokens)


def _step(states: set[int] | frozenset[int], character: str, tokens: _Tokens) -> set[int]:
    following: set[int] = set()
    for state in states:
        if state == len(tokens):
            continue
        token = tokens[state]
        if isinstance(token, str):
            if token == character:
                following.add(state + 1)
        elif token.takes(character):
            following.add(state)
    return _closure(following, tokens)


def _closure(states: set[int], tokens: _Tokens) -> set[int]:
    """Add the states reached by letting stars stand for nothing."""
    reached = set(states)
    for state in states:
        while state < len(tokens) and isinstance(tokens[state], _Star):
            state += 1
            reached.add(state)
    return reached
