"""Offers that the signalling server takes: without the newest tracks, if with them they are too large."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Any

from ..core.negotiation.delivery import last_sections, trimmed
from ..core.negotiation.sdp import DescriptionKind, sections, with_offer_tag
from ..core.negotiation.sharing import Sharing
from ..core.negotiation.signals import DescriptionSignal
from ..errors import MeteredPeerOversizedError
from .interfaces import AnyPeerConnection, PlannedOffer, Signaller
from .sections import Outgoing


class DescriptionLimit:
    """How large a description may be."""

    def __init__(self, signaller: Signaller) -> None:
        self._signaller = signaller

    def excess(self, kind: DescriptionKind, sdp: str) -> MeteredPeerOversizedError | None:
        """Return why a description cannot be sent, None if it can."""
        try:
            self._signaller.check_signal(DescriptionSignal(kind, sdp))
        except MeteredPeerOversizedError as error:
            return error
        return None

    def fitting(self, kind: DescriptionKind, sdp: str) -> str:
        """Return a description, without candidates if it is too large with them."""
        return sdp if self.excess(kind, sdp) is None else trimmed(sdp)


@dataclass(frozen=True, slots=True)
class WrittenOffer:
    """A planned offer with its text.

    `withheld` are the ids of tracks that it leaves out because of `error`, which is None if nothing was too large.
    `fits` is False if it cannot be sent all the same.
    """

    plan: PlannedOffer
    text: str
    withheld: tuple[str, ...] = ()
    error: MeteredPeerOversizedError | None = None
    fits: bool = True


class OfferWriter:
    """Writes the offers of one connection, each with a tag that its answer repeats."""

    def __init__(self, limit: DescriptionLimit) -> None:
        self._limit = limit
        self._count = 0

    def write(
        self, peer_connection: AnyPeerConnection, outgoing: dict[Any, Outgoing], sharing: Sharing = Sharing.NONE
    ) -> WrittenOffer:
        """Plan an offer of tracks. Those that have to be left out are removed from `outgoing`, the newest
        first."""
        plan, text = self._plan(peer_connection, outgoing, sharing)
        first_error = error = self._limit.excess("offer", text)
        withheld: list[str] = []
        while error is not None:
            plan, text = self._plan(peer_connection, outgoing, sharing, frugal=True)
            error = self._limit.excess("offer", text)
            newest = _withhold(peer_connection, outgoing, text, error.size - error.cap) if error is not None else []
            withheld += newest
            if not newest:
                break
        return WrittenOffer(plan, text, tuple(withheld), first_error, fits=error is None)

    def _plan(
        self,
        peer_connection: AnyPeerConnection,
        outgoing: dict[Any, Outgoing],
        sharing: Sharing,
        *,
        frugal: bool = False,
    ) -> tuple[PlannedOffer, str]:
        plan = peer_connection.plan(outgoing, frugal=frugal, sharing=sharing)
        self._count += 1
        text = with_offer_tag(peer_connection.offer_text(plan), f"{peer_connection.local_ufrag}.{self._count}")
        return plan, self._limit.fitting("offer", text)


def new_tracks(offer: str, known_mids: Container[str]) -> dict[str, str]:
    """Return the ids of the tracks in new sections of an offer by mid."""
    new = (section for section in sections(offer) if section.mid not in known_mids and section.sends)
    return {section.mid: section.track_id for section in new if section.track_id is not None}


def _withhold(peer_connection: AnyPeerConnection, outgoing: dict[Any, Outgoing], offer: str, excess: int) -> list[str]:
    """Remove the newest tracks of an offer that is too large. Return their ids."""
    keys = {it.track_id: key for key, it in outgoing.items()}
    new = {mid: track_id for mid, track_id in new_tracks(offer, peer_connection.mids).items() if track_id in keys}
    withheld = [new[mid] for mid in last_sections(offer, new, excess)]
    for track_id in withheld:
        del outgoing[keys[track_id]]
    return withheld
