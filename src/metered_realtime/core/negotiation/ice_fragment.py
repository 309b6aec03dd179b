"""Fragments of descriptions with the ICE credentials and candidates of one end (RFC 8840 section 9).

WHIP and WHEP send them as `application/trickle-ice-sdpfrag`, to add candidates and to restart ICE (RFC 9725 section
4.3). Here all sections share one transport, so that one section speaks for all of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from .candidates import MAX_REMOTE_CANDIDATES
from .sdp import SdpError, section_texts

MAX_FRAGMENT_LENGTH = 65_536
"""Characters of a fragment: several hundred candidates."""

_UFRAG, _PASSWORD, _CANDIDATE, _END = "a=ice-ufrag:", "a=ice-pwd:", "a=candidate:", "a=end-of-candidates"
_ICE_OF_SESSION = ("a=group:BUNDLE", "a=ice-options", "a=ice-pacing", "a=ice-lite")
_CREDENTIAL = re.compile(r"[!-~]{1,256}", re.ASCII)


@dataclass(frozen=True, slots=True)
class IceFragment:
    """The ICE credentials of one end, its candidates as `candidate:...` lines, and whether these are all.

    Without `ufrag` and `password` the candidates belong to the credentials that are in use.
    """

    ufrag: str | None
    password: str | None = field(repr=False)
    candidates: tuple[str, ...] = ()
    is_complete: bool = False

    @staticmethod
    def parse(text: str) -> IceFragment:
        """Read a fragment of the remote. Of several transports the first one counts.

        Raises:
            SdpError: it is too long, has too many sections or candidates, or credentials that are incomplete.
        """
        if len(text) > MAX_FRAGMENT_LENGTH:
            raise SdpError(f"a fragment of {len(text)} characters, more than {MAX_FRAGMENT_LENGTH}")
        return IceFragment.of(text)

    @staticmethod
    def of(sdp: str) -> IceFragment:
        """Return the fragment of a description of any length. Raises like `parse`."""
        session, sections = section_texts(sdp)
        levels = [session, *sections]
        ufrag, password = _first(levels, _UFRAG), _first(levels, _PASSWORD)
        if (ufrag is None) is not (password is None):
            raise SdpError("a fragment with one of the ICE user fragment and password")
        of_transport = [level for level in levels if _first([level], _UFRAG) in (None, ufrag)]
        lines = [line for level in of_transport for line in level]
        candidates = dict.fromkeys(line.removeprefix("a=") for line in lines if line.startswith(_CANDIDATE))
        if len(candidates) > MAX_REMOTE_CANDIDATES:
            raise SdpError(f"more than {MAX_REMOTE_CANDIDATES} candidates in one fragment")
        return IceFragment(ufrag, password, tuple(candidates), _END in lines)

    def apply_to(self, sdp: str) -> str:
        """Return a description with these credentials and candidates in the place of its own.

        Raises:
            SdpError: the fragment has no credentials.
        """
        if self.ufrag is None or self.password is None:
            raise SdpError("a fragment without ICE user fragment and password")
        lines = [line for line in sdp.splitlines() if not line.startswith((_CANDIDATE, _END))]
        own = [f"a={candidate}" for candidate in self.candidates] + [_END] * self.is_complete
        replaced = [self._with_credentials(line) for line in lines]
        place = next((index for index, line in enumerate(replaced) if line.startswith("a=mid:")), len(replaced) - 1)
        return "".join(f"{line}\r\n" for line in [*replaced[: place + 1], *own, *replaced[place + 1 :]])

    def _with_credentials(self, line: str) -> str:
        if line.startswith(_UFRAG):
            return f"{_UFRAG}{self.ufrag}"
        return f"{_PASSWORD}{self.password}" if line.startswith(_PASSWORD) else line


def fragment_of(sdp: str, candidates: Sequence[str] | None = None, *, is_complete: bool | None = None) -> str:
    """Return the fragment of a description of this end, with its own candidates or these.

    `is_complete` says whether no candidates follow; by default as the description says.
    """
    session, sections = section_texts(sdp)
    own = IceFragment.of(sdp)
    first = next((it for it in sections if it[0].split(" ")[1:2] != ["0"]), sections[0])
    shown = own.candidates if candidates is None else candidates
    lines = [line for line in session if line.startswith(_ICE_OF_SESSION)]
    lines += [first[0], *(line for line in first if line.startswith("a=mid:"))]
    lines += [f"{_UFRAG}{own.ufrag}", f"{_PASSWORD}{own.password}", *(f"a={candidate}" for candidate in shown)]
    lines += [_END] * (own.is_complete if is_complete is None else is_complete)
    return "".join(f"{line}\r\n" for line in lines)


def _first(levels: Sequence[Sequence[str]], prefix: str) -> str | None:
    line = next((line for level in levels for line in level if line.startswith(prefix)), None)
    if line is None:
        return None
    value = line.removeprefix(prefix).strip()
    if _CREDENTIAL.fullmatch(value) is None:
        raise SdpError("ICE credentials that cannot be used", line)
    return value
