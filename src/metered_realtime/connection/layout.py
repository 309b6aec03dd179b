"""The order of the sections of a session, which later offers keep (RFC 8829 section 5.2.2)."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence

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
        is_new = now is None or now.mid not in mids or now.mid in in_doubt
        may_go = section.mid in in_doubt or (section.mid in declined and now is not None)
        if section.transceiver is None or not (is_new and may_go):
            told = tuple(f"{it.mid} {it.kind}" for it in offered)
            raise SdpError(f"the offer has sections {told!r}, in use are {tuple(map(str, order))!r}")
        reused.append(section)
    return reused
