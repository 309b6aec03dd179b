"""The ICE candidates of a remote: bounded, held until their description is applied, and passed on to aiortc."""

from __future__ import annotations

import asyncio

from aiortc.rtcicetransport import RTCIceTransport

from ..core.negotiation.candidates import MAX_CANDIDATE_NAMES, MAX_REMOTE_CANDIDATES, Candidate, parse_candidate
from .interfaces import HeldCandidate, PeerConnectionObserver
from .remote_description import RemoteDescription, ice_candidate


class RemoteCandidates:
    """The candidates of one connection.

    Attributes:
        ufrag: The ICE user fragment of the description that is applied, None before the first.
        held: Candidates for a description that is not applied yet, each with its user fragment.
        refused: How many were refused.
    """

    def __init__(self, ice: RTCIceTransport, observer: PeerConnectionObserver) -> None:
        self.ufrag: str | None = None
        self.held: list[HeldCandidate] = []
        self.refused = 0
        self._ice = ice
        self._observer = observer
        self._known: set[tuple[str | None, str, str, int]] = set()
        self._names = 0
        self._adding: set[asyncio.Task[None]] = set()

    async def add(self, text: str | None, ufrag: str | None) -> None:
        """Add a candidate, or None for the end. It is held until its description is applied.

        Raises:
            ValueError: the candidate cannot be parsed, is refused, or is one too many.
        """
        if text is None:
            await self._end(ufrag)
            return
        candidate = self._parse(text, ufrag)
        if candidate is None:
            return
        if self.ufrag is None or (ufrag is not None and ufrag != self.ufrag):
            self.held.append((ufrag, candidate))
        else:
            await self._ice.addRemoteCandidate(ice_candidate(candidate))

    async def add_described(self, description: RemoteDescription) -> None:
        """Add the candidates of a description, and those that came before it. Those refused are reported together.

        All are added when this returns: the description may end with `a=end-of-candidates`, and aiortc accepts none
        after that.
        """
        refused, error = description.candidates_refused, ValueError(description.refusal)
        new = []
        for candidate in description.candidates:
            try:
                if self._count(candidate, description.ufrag):
                    new.append(candidate)
            except ValueError as one_too_many:
                refused, error = refused + 1, one_too_many
        self.refused += refused
        if refused:
            self._observer.candidate_refused(error)
        self._add_held(description.ufrag)
        # Names (mDNS) take up to a second each.
        await asyncio.gather(*(self._ice.addRemoteCandidate(ice_candidate(it)) for it in new))
        if self._adding:
            await asyncio.wait(self._adding)

    def applied(self, ufrag: str) -> None:
        """Handle a description being applied: add the candidates that have come for it meanwhile."""
        self.ufrag = ufrag
        self._add_held(ufrag)

    def _add_held(self, ufrag: str) -> None:
        held = self.held
        self.held = [(of, candidate) for of, candidate in held if of not in (None, ufrag)]
        for of, candidate in held:
            if of in (None, ufrag):
                task = asyncio.ensure_future(self._ice.addRemoteCandidate(ice_candidate(candidate)))
                self._adding.add(task)
                task.add_done_callback(self._added)

    def inherit(self, held: list[HeldCandidate]) -> None:
        """Hold candidates that came for a description which the previous connection did not see."""
        self.held = held
        self.forget_known()

    def forget_known(self) -> None:
        """Count only the candidates that are held."""
        self._known = {(of, *it.transport_address) for of, it in self.held}
        self._names = sum(candidate.is_name for _, candidate in self.held)

    def close(self) -> None:
        """Stop adding candidates."""
        for task in self._adding:
            task.cancel()

    async def _end(self, ufrag: str | None) -> None:
        """Pass the end marker on if it certainly belongs to this description.

        A bare end marker may belong to a connection that the remote has just given up, and ICE fails at once if there
        are no candidates to come. Without a marker the connect timeout ends the wait. Candidates that were held are
        added first: aiortc accepts none after the end.
        """
        if self._adding:
            await asyncio.wait(self._adding)
        if self.ufrag is not None and ufrag in (None, self.ufrag) and self._ice.getRemoteCandidates():
            await self._ice.addRemoteCandidate(None)

    def _parse(self, text: str, ufrag: str | None) -> Candidate | None:
        """Parse a candidate. Return None if it is known already, or of no use with RTP and RTCP on one port.

        Raises:
            ValueError: the candidate cannot be parsed, is refused, or is one too many.
        """
        try:
            candidate = parse_candidate(text)
            if candidate.component != 1:
                return None
            return candidate if self._count(candidate, ufrag) else None
        except ValueError:
            self.refused += 1
            raise

    def _count(self, candidate: Candidate, ufrag: str | None) -> bool:
        """Return whether a candidate is a new one. Those of descriptions count like those that came alone.

        Raises:
            ValueError: it is one too many.
        """
        key = (ufrag or self.ufrag, *candidate.transport_address)
        if key in self._known:
            return False
        if len(self._known) == MAX_REMOTE_CANDIDATES:
            raise ValueError(f"more than {MAX_REMOTE_CANDIDATES} candidates for one connection")
        if candidate.is_name:
            if self._names == MAX_CANDIDATE_NAMES:
                raise ValueError(f"more than {MAX_CANDIDATE_NAMES} candidates with a name for one connection")
            self._names += 1
        self._known.add(key)
        return True

    def _added(self, task: asyncio.Task[None]) -> None:
        self._adding.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.refused += 1
            self._observer.candidate_refused(error if isinstance(error, Exception) else RuntimeError(str(error)))
