"""The RTCPeerConnection of a `OneShotConnection`: its offers have exactly the sections that the program wants."""

from __future__ import annotations

from collections.abc import Sequence

from aiortc import RTCRtpTransceiver

from ...aiortc_compat.transceivers import new_transceiver
from ...core.negotiation.ice_fragment import IceFragment
from ...core.negotiation.sdp import with_trickle
from ...log import Logger
from ...media.sending.forward_track import ForwardTrack
from ...options import Tuning
from ..interfaces import PeerConnectionObserver
from ..offer import DIRECTIONS, OfferPlan
from ..peer_connection import PeerConnection

MAX_RECEIVED = 64
"""Tracks of one kind that an offer may ask for. Each costs a section of about 1 KB."""


class OneShotPeerConnection(PeerConnection):
    """One RTCPeerConnection that offers a section for each track that is sent, and for each that is to be received.

    `receive` has the kind of each track to be received. It shares the section of a track of its kind that is sent, as
    long as there is one; the others get sections of their own. `offers_data` adds a data section.
    """

    def __init__(
        self,
        observer: PeerConnectionObserver,
        logger: Logger,
        *,
        receive: Sequence[str],
        offers_data: bool,
        has_servers: bool,
        relay_only: bool,
        tuning: Tuning,
    ) -> None:
        super().__init__(observer, logger, has_servers=has_servers, relay_only=relay_only, tuning=tuning)
        self.offers_data = offers_data
        self._receive = list(receive)
        self._receives_in: list[RTCRtpTransceiver] = []

    def _new_transceivers(self) -> list[RTCRtpTransceiver]:
        sending = super()._new_transceivers()
        free = [it for it in sending if it not in self._receives_in]
        for kind in self._receive:
            shared = next((it for it in free if it.kind == kind), None)
            if shared is not None:
                free.remove(shared)
            self._receives_in.append(shared or new_transceiver(self.pc, ForwardTrack(kind)))
        self._receive.clear()
        new = [it for it in self._receives_in if it.mid is None and it not in sending]
        return [*sending, *new]

    def _offer_directions(self) -> dict[RTCRtpTransceiver, str]:
        opened = {section.transceiver for section in self._sending}
        sending = {section.transceiver for section in self._sending if section.outgoing is not None}
        directions = {}
        for transceiver in {*self.pc.getTransceivers(), *sending, *self._receives_in}:
            is_receiving = transceiver.currentDirection in ("sendrecv", "recvonly")
            receives = transceiver in self._receives_in or transceiver not in opened or is_receiving
            directions[transceiver] = DIRECTIONS[transceiver in sending, receives]
        return directions

    def _as_sent(self, text: str) -> str:
        return with_trickle(super()._as_sent(text))

    async def add_candidates_of(self, fragment: IceFragment) -> None:
        """Add the candidates of a fragment.

        Raises:
            ValueError: one is refused; the others are added.
        """
        refused: list[ValueError] = []
        for candidate in fragment.candidates:
            try:
                await self.add_candidate(candidate, fragment.ufrag)
            except ValueError as error:
                refused.append(error)
        if fragment.is_complete:
            await self.add_candidate(None, fragment.ufrag)
        if refused:
            raise refused[0]

    def kinds_of(self, plan: OfferPlan) -> tuple[str, ...]:
        """Return the kind of each section of a planned offer."""
        return tuple("application" if it.transceiver is None else it.transceiver.kind for it in plan.sections)


def check_receive(receive: Sequence[str]) -> None:
    """Raise ValueError if an offer cannot ask for tracks of these kinds."""
    if isinstance(receive, str) or any(kind not in ("audio", "video") for kind in receive):
        raise ValueError(f"receive must hold 'audio' and 'video', not {receive!r}")
    if any(list(receive).count(kind) > MAX_RECEIVED for kind in ("audio", "video")):
        raise ValueError(f"receive asks for more than {MAX_RECEIVED} tracks of one kind")
