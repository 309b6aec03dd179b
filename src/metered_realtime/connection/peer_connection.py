"""One RTCPeerConnection from its creation to its close.

It knows which sections carry what this end sends, and which carry what the remote sends. It plans, commits and answers;
when to do so is the negotiator's business. One such operation runs at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from aiortc import RTCDataChannel, RTCRtpTransceiver, RTCSessionDescription
from aiortc.sdp import SessionDescription, candidate_to_sdp

from ..aiortc_compat import peer_connection as compat
from ..aiortc_compat.closing import close_by_force
from ..aiortc_compat.dcep import ChannelAdmission
from ..aiortc_compat.ice_restart import IceRestarts
from ..aiortc_compat.rtcp_feedback import route_full_intra_requests
from ..aiortc_compat.rtp_sources import bound_sources
from ..core.negotiation.candidates import MAX_CANDIDATE_NAMES, MAX_REMOTE_CANDIDATES, Candidate, parse_candidate
from ..core.negotiation.rejected_sections import first_lines, stand_in, with_port_zero
from ..core.negotiation.sdp import Description, SdpError, Section, with_origin, without_end_of_candidates
from ..core.negotiation.sdp_sections import Form, in_form
from ..log import Logger
from ..options import IceServerConfig
from .ice_servers import resolve
from .interfaces import HeldCandidate, PeerConnectionObserver, TooMuchFn, keep_every_section
from .offer import OfferPlan, PlannedSection, plan_offer
from .remote_description import RemoteDescription, admitted, ice_candidate, usable_ice
from .sections import Outgoing, ReceivingSection, SendingSection
from .stats import DataCounters, PeerConnectionStats
from .transport_stats import transport_stats, transport_totals

FRESH_SECTIONS = 8
"""Sections of one kind that are opened before idle ones are used again. A track in a section of its own reaches a
browser under its own id; the bound keeps descriptions from growing while tracks come and go."""

CANCEL_AGAIN = 0.05
"""Seconds after which a connect that is still running is cancelled again."""

POLITE_CLOSE = 0.5
"""Seconds in which aiortc may close its parts one by one. Then the sockets are closed, whatever it waits for."""

CLOSE_TIMEOUT = 2.0
"""Seconds that closing a connection may take. Anything left then is abandoned to the event loop (aiortc#283)."""


class PeerConnection:
    """One RTCPeerConnection with its sections, candidates and state."""

    def __init__(
        self,
        observer: PeerConnectionObserver,
        logger: Logger,
        *,
        has_servers: bool = False,
        relay_only: bool = False,
        certificate: compat.SharedCertificate | None = None,
    ) -> None:
        self._logger = logger
        self.pc = compat.create_peer_connection(relay_only=relay_only, certificate=certificate)
        transport = compat.dtls_transport(self.pc)
        route_full_intra_requests(transport)
        self.sources = bound_sources(transport)
        self.admission = ChannelAdmission(self.pc, self._channels_refused)
        self._ice = IceRestarts(self.pc)
        self._session = secrets.randbits(62), itertools.count(1)
        self._has_servers = self._server_gathering_due = has_servers
        self.local_candidates_complete = not has_servers
        self._observer = observer
        self._sending: list[SendingSection] = []
        self._order: tuple[PlannedSection, ...] = ()
        self._declined: dict[str, str] = {}
        self._unusable: Mapping[str, str] = {}
        self._forms: dict[str, Form] = {}
        self._former_mids: set[str] = set()
        self._receiving: dict[str, ReceivingSection] = {}
        self._remote_ufrag: str | None = None
        self._parsed_remote: SessionDescription | None = None
        self._held_candidates: list[tuple[str | None, Candidate]] = []
        self._known_candidates: set[tuple[str | None, str, str, int]] = set()
        self._candidate_names = 0
        self.candidates_refused = 0
        self.odd_lines = 0
        self._candidate_tasks: set[asyncio.Task[None]] = set()
        self._channels: weakref.WeakSet[RTCDataChannel] = weakref.WeakSet()
        self._gathering: asyncio.Task[None] | None = None
        self._connect_task: asyncio.Task[None] | None = None
        self._connect_again = False
        self._closing: asyncio.Task[None] | None = None
        self.pc.on("connectionstatechange", self._on_state)
        self.pc.on("datachannel", observer.channel_opened)
        self.pc.on("track", self._on_raw_track)

    @property
    def data_negotiated(self) -> bool:
        """Whether data channels open in-band (RFC 8832), without negotiation."""
        return compat.sctp_mid(self.pc) is not None

    def create_data_channel(self, label: str, options: Mapping[str, Any]) -> RTCDataChannel:
        """Create a data channel. It opens once the connection is up, and ends with the connection at the latest."""
        channel = self.pc.createDataChannel(label, **options)
        self._channels.add(channel)
        return channel

    def _channels_refused(self, reason: str) -> None:
        self._logger.warning("data channels of the remote refused", {"reason": reason})

    # --- statistics

    def stats(self) -> PeerConnectionStats:
        """Return the current values. Each call is a sample for the rates."""
        now = time.monotonic()
        sent = [section.stats(now) for section in self._sending]
        received = [section.stats(now) for section in self._receiving.values()]
        outbound = tuple(it for it in sent if it is not None)
        return {
            **transport_stats(self.pc, outbound, now),
            **self._refused(),
            "outbound": outbound,
            "inbound": tuple(it for it in received if it is not None),
        }

    def totals(self) -> PeerConnectionStats:
        """Return the counters that keep their meaning after the connection has closed."""
        return {**transport_totals(self.pc), **self._refused()}

    def data_counters(self) -> DataCounters:
        """Return the message counters of the data channels."""
        return DataCounters(
            self.pc.sctp, compat.message_total(self.pc), compat.message_counters(self.pc), self.admission.refused
        )

    def _refused(self) -> PeerConnectionStats:
        return {
            "packets_refused": compat.packets_refused(self.pc) + self.sources.refused,
            "description_lines_skipped": self.odd_lines,
            "candidates_refused": self.candidates_refused,
        }

    # --- restarts of ICE

    @property
    def can_restart_ice(self) -> bool:
        """Whether ICE can be restarted under DTLS and SCTP as they are."""
        return self._remote_ufrag is not None and self._ice.is_possible

    async def is_alive(self) -> bool:
        """Ask the other end, by a STUN check on the pair in use, whether it is still there. Takes 1.5 s at the most."""
        return await compat.path_is_alive(self.pc)

    def outlive_its_path(self) -> None:
        """Keep DTLS and SCTP alive when ICE fails. Needs a remote that supports ICE restart (RFC 8445 section 2.4)."""
        self._ice.survive_losses()

    async def restart_ice(self) -> None:
        """Take new ICE credentials. Once the next descriptions have exchanged them, another path is looked for."""
        await self._ice.renew()
        self._server_gathering_due = self._has_servers
        self.local_candidates_complete = not self._has_servers
        self._count_held()

    # --- candidates

    async def gather_host(self) -> None:
        """Gather host candidates. Later calls return at once."""
        if self._gathering is None:
            self._gathering = asyncio.ensure_future(compat.gather_host_candidates(self.pc))
        # Cancelled half-way, aioice would forget the sockets that it has opened.
        await asyncio.shield(self._gathering)

    def claim_server_gathering(self) -> bool:
        """Return True once, if the STUN and TURN servers are to be asked."""
        claimed = self._server_gathering_due
        self._server_gathering_due = False
        return claimed

    async def gather_rest(self, servers: Sequence[IceServerConfig]) -> list[str]:
        """Ask STUN and TURN servers, one URL each, and return the candidates as `candidate:...` lines."""
        found = await compat.gather_from_servers(self.pc, servers, resolve)
        self.local_candidates_complete = True
        if found and self._remote_ufrag is not None:
            self._connect()  # without any candidate it could not begin
        return [f"candidate:{candidate_to_sdp(candidate)}" for candidate in found]

    @property
    def host_candidates(self) -> list[str]:
        """The candidates of this end so far, as `candidate:...` lines."""
        known = compat.ice_transport(self.pc).iceGatherer.getLocalCandidates()
        return [f"candidate:{candidate_to_sdp(candidate)}" for candidate in known]

    @property
    def transport_mid(self) -> str:
        """The mid of the section that carries the transport (RFC 8843 section 7.1): the first one that is not
        declined."""
        return next((mid for mid in self.mids if mid not in self._declined), "0")

    @property
    def mids(self) -> tuple[str, ...]:
        """The mids of the negotiated sections, in order."""
        return tuple(section.mid for section in self._order)

    @property
    def local_ufrag(self) -> str:
        """The ICE user fragment of this end."""
        ufrag = compat.ice_transport(self.pc).iceGatherer.getLocalParameters().usernameFragment
        assert ufrag is not None
        return ufrag

    async def add_candidate(self, candidate: str | None, ufrag: str | None) -> None:
        """Add a candidate of the remote, or None for the end. Candidates are held until their description is applied.

        Raises:
            ValueError: the candidate cannot be parsed, is refused, or is one too many.
        """
        if candidate is None:
            await self._end_candidates(ufrag)
            return
        parsed = self._new_candidate(candidate, ufrag)
        if parsed is None:
            return
        if self._remote_ufrag is None or (ufrag is not None and ufrag != self._remote_ufrag):
            self._held_candidates.append((ufrag, parsed))
        else:
            await compat.ice_transport(self.pc).addRemoteCandidate(ice_candidate(parsed))

    def _new_candidate(self, text: str, ufrag: str | None) -> Candidate | None:
        """Parse a candidate. Return None if it is known already, or of no use with RTP and RTCP on one port.

        Raises:
            ValueError: the candidate cannot be parsed, is refused, or is one too many.
        """
        try:
            candidate = parse_candidate(text)
            if candidate.component != 1:
                return None
            return candidate if self._count_candidate(candidate, ufrag) else None
        except ValueError:
            self.candidates_refused += 1
            raise

    def _count_candidate(self, candidate: Candidate, ufrag: str | None) -> bool:
        """Return whether a candidate is a new one. Those of descriptions count like those that came alone.

        Raises:
            ValueError: it is one too many.
        """
        key = (ufrag or self._remote_ufrag, *candidate.transport_address)
        if key in self._known_candidates:
            return False
        if len(self._known_candidates) == MAX_REMOTE_CANDIDATES:
            raise ValueError(f"more than {MAX_REMOTE_CANDIDATES} candidates for one connection")
        if candidate.is_name:
            if self._candidate_names == MAX_CANDIDATE_NAMES:
                raise ValueError(f"more than {MAX_CANDIDATE_NAMES} candidates with a name for one connection")
            self._candidate_names += 1
        self._known_candidates.add(key)
        return True

    @property
    def held_candidates(self) -> list[HeldCandidate]:
        """Candidates that came for a description which is not here yet."""
        return list(self._held_candidates)

    def inherit_candidates(self, held: list[HeldCandidate]) -> None:
        """Hold candidates that came for a description which the previous connection did not see."""
        self._held_candidates = held
        self._count_held()

    def _count_held(self) -> None:
        """Count only the candidates that are held."""
        self._known_candidates = {(ufrag, *it.transport_address) for ufrag, it in self._held_candidates}
        self._candidate_names = sum(candidate.is_name for _, candidate in self._held_candidates)

    # --- offers

    def plan(self, wanted: Mapping[Any, Outgoing], *, frugal: bool = False) -> OfferPlan:
        """Plan an offer in which every wanted track has a section. The connection stays unchanged.

        A `frugal` offer uses every idle section again before it opens another.
        """
        self.release({key: it for key, it in wanted.items() if not frugal or self._is_negotiated(it)})
        assigned = {sending.outgoing for sending in self._sending}
        for outgoing in wanted.values():
            if outgoing not in assigned:
                self._free_section(outgoing.kind, frugal=frugal).assign(outgoing)
        for sending in self._sending:
            sending.planned = sending.outgoing
        new = [
            sending.transceiver for sending in self._sending if sending.outgoing is not None and not sending.negotiated
        ]
        encoded = {
            sending.transceiver: sending.outgoing.fanout.codec
            for sending in self._sending
            if sending.outgoing is not None and sending.outgoing.fanout.codec is not None
        }
        return plan_offer(
            self.pc, self._order, new, self._directions(), self._parsed_remote, encoded, self._former_mids
        )

    def release(self, wanted: Mapping[Any, Outgoing]) -> None:
        """Stop sending, at once, tracks that are not wanted any more."""
        keep = set(wanted.values())
        for sending in self._sending:
            if sending.outgoing is not None and sending.outgoing not in keep:
                sending.assign(None)

    def replace(self, old: Outgoing, new: Outgoing) -> bool:
        """Replace a track, without negotiation. Returns False if the old one is not being sent."""
        for sending in self._sending:
            if sending.outgoing == old:
                sending.replace(new)
                return True
        return False

    def offer_sent(self) -> None:
        """Take the role of the offerer."""
        compat.claim_controlling_role(self.pc)

    def offer_forgotten(self) -> None:
        """Give the role back."""
        compat.release_controlling_role(self.pc)

    def offer_text(self, plan: OfferPlan) -> str:
        """Return the description to send for a plan."""
        return self._as_sent(plan.sdp)

    async def commit(self, plan: OfferPlan, offer: str, answer: Description, wanted: Mapping[Any, Outgoing]) -> bool:
        """Commit an offer with its answer. Return whether a wanted track is still without a section."""
        for index, section in enumerate(plan.sections):
            if section.transceiver is not None:
                compat.adopt_transceiver(self.pc, section.transceiver)
            compat.set_section_index(self.pc, section.transceiver, index)
        if self._ice.is_renewed:
            self._ice.take_role(controlling=True)
        shown = stand_in(plan.sdp, self._declined) if self._declined else offer
        await self.pc.setLocalDescription(RTCSessionDescription(sdp=shown, type="offer"))
        remote = admitted(answer)
        await self._set_remote(remote)
        self._order = plan.sections
        for sending in self._sending:
            sending.told = sending.planned if sending.planned == sending.outgoing else None
        self._applied(remote)
        return self._unsent(wanted)

    async def answer(
        self, offer: Description, wanted: Mapping[Any, Outgoing], too_much: TooMuchFn = keep_every_section
    ) -> tuple[str, bool]:
        """Answer an offer. Return the answer and whether a wanted track is still without a section.

        `too_much` returns which of the new sections, by mid, have to be declined so that the answer can be sent.

        Raises:
            SdpError: it drops or reorders sections (RFC 8829 section 5.2.2), which would leave media without one.
        """
        remote = admitted(offer)
        await self._give_up_reused(offer)
        if self._remote_ufrag not in (None, offer.ufrag) and not self._ice.is_renewed:
            await self.restart_ice()
        if self._ice.is_renewed:
            self._ice.take_role(controlling=False)
        await self._set_remote(remote)
        directions = self._directions()
        for transceiver in self.pc.getTransceivers():
            transceiver.direction = "sendrecv" if directions[transceiver].startswith("send") else "recvonly"
        answer = await self.pc.createAnswer()
        await self.pc.setLocalDescription(answer)
        by_mid = {transceiver.mid: transceiver for transceiver in self.pc.getTransceivers()}
        new = [mid for mid in offer.mids[1:] if mid in by_mid and mid not in self.mids and mid not in self._declined]
        if declined := too_much(with_port_zero(self.pc.localDescription.sdp, self._declined), new):
            lines = first_lines(offer.sdp)
            self._declined |= {mid: lines[mid] for mid in declined}
        self._order = tuple(PlannedSection(mid, by_mid.get(mid)) for mid in offer.mids)
        for sending in self._sending:
            if sending.transceiver.currentDirection in ("sendrecv", "sendonly"):
                sending.told = sending.outgoing
        self._applied(remote)
        return self._as_sent(self.pc.localDescription.sdp), self._unsent(wanted)

    async def close(self) -> None:
        """Close the connection and end its tracks. Idempotent; takes `CLOSE_TIMEOUT` at the most."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.wait([self._closing], timeout=CLOSE_TIMEOUT)

    async def _close(self) -> None:
        self.pc.remove_all_listeners()
        for sending in self._sending:
            sending.forward.stop()
        for receiving in self._receiving.values():
            receiving.end()
        for task in self._candidate_tasks:
            task.cancel()
        politely = asyncio.ensure_future(self._close_politely())
        await asyncio.wait([politely], timeout=POLITE_CLOSE)
        if not politely.done():
            self._logger.warning("connection closed by force", {"after": POLITE_CLOSE})
            politely.cancel()
            if self._gathering is not None:
                await asyncio.wait([self._gathering])  # its sockets are known only when it is done
            await close_by_force(self.pc)
            if self._connect_task is not None and not self._connect_task.done():
                await self._stop_connecting()
                await close_by_force(self.pc)  # for what it has started meanwhile
        for channel in tuple(self._channels):
            channel.close()  # aiortc forgets those that never opened

    async def _close_politely(self) -> None:
        await self._stop_connecting()
        with contextlib.suppress(Exception):  # it is being thrown away
            if self._gathering is not None:
                await asyncio.shield(self._gathering)
            await self.pc.close()

    async def _stop_connecting(self) -> None:
        """End the connect before the connection is closed: aiortc does not stop what the connect starts afterwards.

        Cancelling once is not enough: `asyncio.wait_for` of Python 3.11, in which the TLS handshake waits, swallows the
        cancellation when the awaited result has just arrived (python/cpython#86296).
        """
        while self._connect_task is not None and not self._connect_task.done():
            self._connect_task.cancel()
            await asyncio.wait([self._connect_task], timeout=CANCEL_AGAIN)

    # --- inside

    async def _set_remote(self, description: RemoteDescription) -> None:
        await self.gather_host()
        self._note_odd_lines(description)
        # With BUNDLE only one section carries candidates, and aiortc would take those of the last one.
        ice = compat.ice_transport(self.pc)
        candidates = map(ice_candidate, self._new_candidates(description))
        await asyncio.gather(*map(ice.addRemoteCandidate, candidates))  # names (mDNS) take up to a second each
        await self.pc.setRemoteDescription(RTCSessionDescription(sdp=description.shown, type=description.kind))
        self._parsed_remote = compat.remote_description(self.pc)
        compat.route_sources(self.pc, self._parsed_remote)
        self._forms |= description.forms
        self._decline(description)

    def _note_odd_lines(self, description: RemoteDescription) -> None:
        self.odd_lines += description.odd_lines
        if description.odd_lines:
            lines = {"count": description.odd_lines, "lines": list(description.noted)}
            self._logger.warning("lines of a description left out", lines)

    def _new_candidates(self, description: RemoteDescription) -> list[Candidate]:
        """Return the new candidates of a description. Those that are refused are reported together."""
        new = []
        refused, error = description.candidates_refused, ValueError(description.refusal)
        for candidate in description.candidates:
            try:
                if self._count_candidate(candidate, description.ufrag):
                    new.append(candidate)
            except ValueError as one_too_many:
                refused, error = refused + 1, one_too_many
        self.candidates_refused += refused
        if refused:
            self._observer.candidate_refused(error)
        return new

    def _decline(self, description: RemoteDescription) -> None:
        """Stop sending in sections that the remote declined, and report those that this end declines."""
        self._declined = dict(description.declined)
        for sending in self._sending:
            if sending.transceiver.mid in self._declined:
                sending.is_usable = False
                sending.forward.switch(None)
        known, self._unusable = self._unusable, description.unusable
        for mid, reason in description.unusable.items():
            if mid not in known:
                self._observer.section_declined(mid, reason)

    async def _give_up_reused(self, offer: Description) -> None:
        """Give up declined sections whose place the offer uses under another mid.

        Raises:
            SdpError: it drops or reorders others (RFC 8829 section 5.2.2), which would leave media without one.
        """
        for section, mid in itertools.zip_longest(self._order, offer.mids[: len(self._order)]):
            if section.mid == mid:
                continue
            if section.mid not in self._declined or section.transceiver is None or mid is None or mid in self.mids:
                raise SdpError(f"the offer has sections {offer.mids!r}, in use are {self.mids!r}")
            self._former_mids.add(section.mid)
            await compat.give_up_section(self.pc, section.transceiver)

    def _as_sent(self, text: str) -> str:
        """Return a description of this end in the form in which it is sent."""
        session, versions = self._session
        text = in_form(with_port_zero(text, self._declined), self._forms)
        text = with_origin(text, session, next(versions))
        return text if self.local_candidates_complete else without_end_of_candidates(text)

    def _applied(self, remote: RemoteDescription) -> None:
        """Start what was negotiated, and report added and removed tracks."""
        self._remote_ufrag = remote.ufrag
        for sending in self._sending:
            if sending.negotiated:
                sending.choose_codec()
        self._connect()
        self._flush_candidates()
        self._update_incoming(remote.sections)

    async def _end_candidates(self, ufrag: str | None) -> None:
        """Pass the end marker on if it certainly belongs to this description.

        A bare end marker may belong to a connection that the remote has just given up, and ICE fails at once if there
        are no candidates to come. Without a marker the connect timeout ends the wait. Candidates that were held are
        added first: aiortc accepts none after the end.
        """
        if self._candidate_tasks:
            await asyncio.wait(self._candidate_tasks)
        ice = compat.ice_transport(self.pc)
        if self._remote_ufrag is not None and ufrag in (None, self._remote_ufrag) and ice.getRemoteCandidates():
            await ice.addRemoteCandidate(None)

    def _flush_candidates(self) -> None:
        ours = (None, self._remote_ufrag)
        held = self._held_candidates
        self._held_candidates = [(ufrag, candidate) for ufrag, candidate in held if ufrag not in ours]
        for ufrag, candidate in held:
            if ufrag in ours:
                ice = compat.ice_transport(self.pc)
                task = asyncio.ensure_future(ice.addRemoteCandidate(ice_candidate(candidate)))
                self._candidate_tasks.add(task)
                task.add_done_callback(self._candidate_done)

    def _candidate_done(self, task: asyncio.Task[None]) -> None:
        self._candidate_tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.candidates_refused += 1
            self._observer.candidate_refused(error if isinstance(error, Exception) else RuntimeError(str(error)))

    def _update_incoming(self, sections: Sequence[Section]) -> None:
        changes = []
        for section in sections:
            receiving = self._receiving.get(section.mid)
            if receiving is not None:
                sends = section.sends and section.mid not in self._declined
                ids = (section.stream_ids, section.track_id or section.mid) if sends else None
                changes.append(receiving.update(ids))
        removed = [before for before, _ in changes if before is not None]
        added = [after for _, after in changes if after is not None]
        if removed or added:
            self._observer.tracks_changed(removed, added)

    def _directions(self) -> dict[RTCRtpTransceiver, str]:
        """Return the direction of each transceiver in the next offer."""
        sending = {sending.transceiver for sending in self._sending if sending.outgoing is not None}
        directions = {}
        for transceiver in {*self.pc.getTransceivers(), *sending}:
            # A section that this end adds is sendonly once. From then on both may send in it: a browser uses it for a
            # track of its own, and if that was lost in a collision it does not negotiate again unless it was offered
            # to send there (W3C WebRTC, check if negotiation is needed).
            receives = transceiver.mid is not None
            directions[transceiver] = _DIRECTIONS[transceiver in sending, receives]
        return directions

    def _is_negotiated(self, outgoing: Outgoing) -> bool:
        return any(sending.outgoing == outgoing and sending.negotiated for sending in self._sending)

    def _free_section(self, kind: str, *, frugal: bool) -> SendingSection:
        same_kind = [sending for sending in self._sending if sending.forward.kind == kind]
        idle = [sending for sending in same_kind if sending.outgoing is None and sending.is_usable]
        used, unused = ([sending for sending in idle if sending.negotiated is it] for it in (True, False))
        if used and frugal:
            return used[0]
        if unused:
            return unused[0]
        if used and len(same_kind) >= FRESH_SECTIONS:
            return used[0]
        sending = SendingSection(self.pc, kind)
        self._sending.append(sending)
        return sending

    def _unsent(self, wanted: Mapping[Any, Outgoing]) -> bool:
        """Return whether the remote does not know of a wanted track. One that it knows and declined is not offered
        again."""
        told = {sending.told for sending in self._sending}
        return any(outgoing not in told for outgoing in wanted.values())

    def _connect(self) -> None:
        """Run aiortc's connect, one at a time, and again if something was negotiated meanwhile."""
        self._connect_again = True
        if self._connect_task is None or self._connect_task.done():
            self._connect_task = asyncio.ensure_future(self._run_connect())

    async def _run_connect(self) -> None:
        while self._connect_again and self._closing is None:
            self._connect_again = False
            try:
                if self._ice.is_renewed and self._parsed_remote is not None:
                    await self._ice.run(usable_ice(self._parsed_remote, self._declined))
                await compat.connect(self.pc)
            except Exception as error:
                # A failed transport shows in the connection state, which starts the recovery.
                self._logger.warning("connecting failed", {"error": f"{type(error).__name__}: {error}"})
                return
            if self._parsed_remote is not None:
                compat.route_sources(self.pc, self._parsed_remote)

    def _on_state(self) -> None:
        self._observer.peer_connection_state_changed(self, self.pc.connectionState)

    def _on_raw_track(self, track: Any) -> None:
        receiver = compat.receiver_of(self.pc, track)
        transceiver = next(it for it in self.pc.getTransceivers() if it.receiver is receiver)
        assert receiver is not None
        receiving = ReceivingSection(transceiver.mid or "", receiver)
        self._receiving[receiving.mid] = receiving


_DIRECTIONS = {
    (True, True): "sendrecv",
    (True, False): "sendonly",
    (False, True): "recvonly",
}
