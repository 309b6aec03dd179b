"""The order of the sections of a session, which later offers keep (RFC 8829 section 5.2.2)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from aiortc import RTCRtpTransceiver
from aiortc.sdp import SessionDescription

from ..core.negotiation.sdp import SdpError, Section
from .offer import PlannedSection


def reused_sections(
    order: Sequence[PlannedSection], offered: Sequence[Section], declined: Collection[str], in_doubt: Collection[str]
) -> list[PlannedSection]:
    """Return the sections in use whose place an offer gives to others.

    They are declined ones, or ones `in_doubt`, those of the last offer that was answered: the remote takes that offer
    back if it gives way to one of this end that arrives before the answer, or arrives again.

    Raises:
        SdpError: the offer drops or reorders others, which would leave media without a section.
    """
    mids = {section.mid for section in order}
    reused = []
    for section, now in itertools.zip_longest(order, offered[: len(order)]):
        if now is not None and now.mid == section.mid and (section.mid in declined or now.kind == section.kind):
            continue
        is_new = now is not None and (now.mid not in mids or now.mid in in_doubt)
        may_go = section.mid in in_doubt or section.mid in declined
        if section.transceiver is None or not (is_new and may_go):
            told = tuple(f"{it.mid} {it.kind}" for it in offered)
            raise SdpError(f"the offer has sections {told!r}, in use are {tuple(map(str, order))!r}")
        reused.append(section)
    return reused


@dataclass(frozen=True, slots=True)
class Layout:
    """The sections of a session as the remote knows them: their kinds by mid in order, and the declined ones.

    `numbers` is the description of the remote whose payload types and extension ids are kept.
    """

    kinds: Mapping[str, str] = field(default_factory=dict)
    declined: Mapping[str, str] = field(default_factory=dict)
    former_mids: frozenset[str] = frozenset()
    numbers: SessionDescription | None = None

    def sections(self, reserve: Callable[[str], RTCRtpTransceiver]) -> tuple[PlannedSection, ...]:
        """Return its sections on a new connection. `reserve` returns a transceiver for a kind of media.

        There is one data section. Others are declined ones, and aiortc is shown video in their place, as in `stand_in`.
        """
        data = [mid for mid, kind in self.kinds.items() if kind == "application"]
        used = next((mid for mid in data if mid not in self.declined), data[0] if data else None)
        return tuple(
            PlannedSection(mid, None if mid == used else reserve("video" if kind == "application" else kind))
            for mid, kind in self.kinds.items()
        )


def layout_of(
    sections: Sequence[PlannedSection],
    declined: Mapping[str, str],
    former_mids: Collection[str],
    numbers: SessionDescription | None,
) -> Layout:
    """Return the layout of sections. `declined` has the first lines of declined ones by mid, which tell their kinds."""
    kinds = {section.mid: section.kind for section in sections}
    kinds |= {mid: first_line[2:].partition(" ")[0] for mid, first_line in declined.items() if mid in kinds}
    return Layout(kinds, dict(declined), frozenset(former_mids), numbers)
