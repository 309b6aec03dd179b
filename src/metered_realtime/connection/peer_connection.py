"""One RTCPeerConnection from its creation to its close.

It knows which sections carry what this end sends, and which carry what the remote sends. It plans, commits and answers;
when to do so is the negotiator's business. One such operation runs at a time.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from aiortc import RTCDataChannel, RTCRtpTransceiver, RTCSessionDescription
from aiortc.sdp import SessionDescription

from ..aiortc_compat.certificate import HandshakeWatch, SharedCertificate
from ..aiortc_compat.closing import tear_down
from ..aiortc_compat.dcep import ChannelAdmission
from ..aiortc_compat.ice_restart import IceRestarts
from ..aiortc_compat.peer_connection import connect, create_peer_connection
from ..aiortc_compat.rtcp_feedback import route_full_intra_requests
from ..aiortc_compat.rtp_sources import bound_sources, route_sources
from ..aiortc_compat.stats import message_counters, message_total, packets_refused
from ..aiortc_compat.transceivers import (
    adopt_transceiver,
    give_up_section,
    receiver_of,
    remote_description,
    set_section_index,
)
from ..aiortc_compat.transports import (
    claim_controlling_role,
    dtls_transport,
    ice_transport,
    path_is_alive,
    release_controlling_role,
    sctp_mid,
)
from ..core.negotiation.rejected_sections import first_lines, stand_in, with_port_zero
from ..core.negotiation.sdp import Description, with_origin, without_end_of_candidates, without_idle_sources
from ..core.negotiation.sdp_sections import Form, in_form
from ..core.negotiation.sharing import Sharing
from ..log import Logger
from ..options import DEFAULT_TUNING, IceServerConfig, Tuning
from .interfaces import HeldCandidate, PeerConnectionObserver, TooMuchFn, keep_every_section
from .layout import Layout, layout_of, reused_sections
from .local_candidates import LocalCandidates
from .offer import DIRECTIONS, OfferPlan, PlannedSection, plan_offer
from .remote_candidates import RemoteCandidates
from .remote_description import RemoteDescription, admitted, usable_ice
from .repeated_task import RepeatedTask
from .sections import Outgoing, ReceivingSections, SendingSections
from .simulcast import ReceivedLayers
from .stats import DataCounters, PeerConnectionStats
from .transport_stats import transport_stats, transport_totals

CLOSE_TIMEOUT = 2.0
"""Seconds that closing a connection may take. Anything left then is abandoned to the event loop (aiortc#283)."""


class PeerConnection:
    """One RTCPeerConnection with its sections, candidates and state."""

    offers_data = True
    """Whether each offer has a data section."""

    def __init__(
        self,
        observer: PeerConnectionObserver,
        logger: Logger,
        *,
        has_servers: bool = False,
        relay_only: bool = False,
        certificate: SharedCertificate | None = None,
        tuning: Tuning = DEFAULT_TUNING,
    ) -> None:
        self._tuning = tuning
        self._logger = logger
        self.pc = create_peer_connection(relay_only=relay_only, certificate=certificate, tuning=tuning)
        transport = dtls_transport(self.pc)
        self._handshake = HandshakeWatch(transport)
        route_full_intra_requests(transport)
        self.sources = bound_sources(transport)
        self._layers = ReceivedLayers(self.pc, self.sources, logger)
        self.admission = ChannelAdmission(self.pc, self._channels_refused)
        self._ice = IceRestarts(self.pc)
        self._session = secrets.randbits(62), itertools.count(1)
        self._local_candidates = LocalCandidates(self.pc, has_servers=has_servers)
        self._observer = observer
        self._sending = SendingSections(self.pc, tuning)
        self._order: tuple[PlannedSection, ...] = ()
        self._declined: dict[str, str] = {}
        self._unusable: Mapping[str, str] = {}
        self._forms: dict[str, Form] = {}
        self._former_mids: set[str] = set()
        self._in_doubt: frozenset[str] = frozenset()
        self._offered: tuple[PlannedSection, ...] = ()
        self._inherited: tuple[PlannedSection, ...] = ()
        self._former = Layout()
        self._receiving = ReceivingSections(tuning)
        self._candidates = RemoteCandidates(ice_transport(self.pc), observer)
        self._parsed_remote: SessionDescription | None = None
        self.odd_lines = 0
        self._channels: weakref.WeakSet[RTCDataChannel] = weakref.WeakSet()
        self._connecting = RepeatedTask(self._connect)
        self._closing: asyncio.Task[None] | None = None
        self.pc.on("connectionstatechange", self._on_state)
        self.pc.on("datachannel", observer.channel_opened)
        self.pc.on("track", self._on_raw_track)

    @property
    def data_negotiated(self) -> bool:
        """Whether data channels open in-band (RFC 8832), without negotiation."""
        return sctp_mid(self.pc) is not None

    def create_data_channel(self, label: str, options: Mapping[str, Any]) -> RTCDataChannel:
        """Create a data channel. It opens once the connection is up, and ends with the connection at the latest."""
        channel = self.pc.createDataChannel(label, **options)
        self._channels.add(channel)
        return channel

    def _channels_refused(self, reason: str) -> None:
        self._logger.warning("data channels of the remote refused", {"reason": reason})

    @property
    def failure(self) -> str | None:
        """Why the DTLS handshake failed, None if it has not, or if that is not known."""
        return self._handshake.failure

    # --- statistics

    def stats(self) -> PeerConnectionStats:
        """Return the current values. Each call is a sample for the rates."""
        now = time.monotonic()
        sent = [section.stats(now) for section in self._sending]
        received = [section.stats(now) for section in self._receiving]
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
        return DataCounters(self.pc.sctp, message_total(self.pc), message_counters(self.pc), self.admission.refused)

    def _refused(self) -> PeerConnectionStats:
        return {
            "packets_refused": packets_refused(self.pc) + self.sources.refused,
            "description_lines_skipped": self.odd_lines,
            "candidates_refused": self._candidates.refused,
        }

    # --- restarts of ICE

    @property
    def can_restart_ice(self) -> bool:
        """Whether ICE can be restarted under DTLS and SCTP as they are."""
        return self._candidates.ufrag is not None and self._ice.is_possible

    async def is_alive(self) -> bool:
        """Ask the other end, by a STUN check on the pair in use, whether it is still there. Takes 1.5 s at the most."""
        return await path_is_alive(self.pc)

    def outlive_its_path(self) -> None:
        """Keep DTLS and SCTP alive when ICE fails. Needs a remote that supports ICE restart (RFC 8445 section 2.4)."""
        self._ice.survive_losses()

    async def restart_ice(self) -> None:
        """Take new ICE credentials. Once the next descriptions have exchanged them, another path is looked for."""
        await self._ice.renew()
        self._local_candidates.renew()
        self._candidates.forget_known()

    # --- candidates

    @property
    def local_candidates_complete(self) -> bool:
        """Whether every candidate of this end is known."""
        return self._local_candidates.is_complete

    async def gather_host(self) -> None:
        """Gather host candidates. Later calls return at once."""
        await self._local_candidates.gather_hosts()

    def claim_server_gathering(self) -> bool:
        """Return True once, if the STUN and TURN servers are to be asked."""
        return self._local_candidates.claim_servers()

    async def gather_rest(self, servers: Sequence[IceServerConfig]) -> list[str]:
        """Ask STUN and TURN servers, one URL each, and return the candidates as `candidate:...` lines."""
        found = await self._local_candidates.ask_servers(servers)
        if found and self._candidates.ufrag is not None:
            self._connecting.request()  # without any candidate it could not begin
        return found

    @property
    def host_candidates(self) -> list[str]:
        """The candidates of this end so far, as `candidate:...` lines."""
        return self._local_candidates.lines

    @property
    def transport_mid(self) -> str:
        """The mid of the section that carries the transport (RFC 8843 section 7.1): the first one that is not
        declined."""
        return next((it.mid for it in self._kept if it.mid not in self._declined), "0")

    @property
    def _kept(self) -> tuple[PlannedSection, ...]:
        """The sections with which every offer begins: the negotiated ones, or those of the former connection."""
        return self._order or self._inherited

    @property
    def layout(self) -> Layout:
        """The sections that the remote may know of: those of the last offer to it, whether or not it was answered."""
        numbers = self._parsed_remote or self._former.numbers
        return layout_of(self._offered or self._kept, self._declined, self._former_mids, numbers)

    def inherit_layout(self, layout: Layout) -> None:
        """Begin the first offer with the sections of the former connection: the remote may have kept its own."""
        self._former = layout
        self._inherited = layout.sections(self._sending.reserve)
        self._declined = dict(layout.declined)
        self._former_mids |= layout.former_mids

    @property
    def mids(self) -> tuple[str, ...]:
        """The mids of the negotiated sections, in order."""
        return tuple(section.mid for section in self._order)

    @property
    def local_ufrag(self) -> str:
        """The ICE user fragment of this end."""
        ufrag = ice_transport(self.pc).iceGatherer.getLocalParameters().usernameFragment
        assert ufrag is not None
        return ufrag

    async def add_candidate(self, candidate: str | None, ufrag: str | None) -> None:
        """Add a candidate of the remote, or None for the end. Candidates are held until their description is applied.

        Raises:
            ValueError: the candidate cannot be parsed, is refused, or is one too many.
        """
        await self._candidates.add(candidate, ufrag)

    @property
    def held_candidates(self) -> list[HeldCandidate]:
        """Candidates that came for a description which is not here yet."""
        return list(self._candidates.held)

    def inherit_candidates(self, held: list[HeldCandidate]) -> None:
        """Hold candidates that came for a description which the previous connection did not see."""
        self._candidates.inherit(held)

    # --- offers

    def plan(
        self, wanted: Mapping[Any, Outgoing], *, frugal: bool = False, sharing: Sharing = Sharing.NONE
    ) -> OfferPlan:
        """Plan an offer in which every wanted track has a section. The connection stays unchanged.

        A `frugal` offer uses every idle section again before it opens another. In the first offer, the remote may send
        in the sections of tracks that share theirs.
        """
        self._sending.assign(wanted, frugal=frugal)
        self._sending.open_new(sharing if not self._kept else Sharing.NONE)
        encoded = {
            sending.transceiver: sending.outgoing.fanout.codec
            for sending in self._sending
            if sending.outgoing is not None and sending.outgoing.fanout.codec is not None
        }
        new, directions = self._new_transceivers(), self._offer_directions()
        known, former = self._parsed_remote or self._former.numbers, self._former_mids
        plan = plan_offer(self.pc, self._kept, new, directions, known, encoded, former, has_data=self.offers_data)
        self._offered = plan.sections
        return plan

    def release(self, wanted: Mapping[Any, Outgoing]) -> None:
        """Stop sending, at once, tracks that are not wanted any more."""
        self._sending.release(wanted)

    def replace(self, old: Outgoing, new: Outgoing) -> bool:
        """Replace a track, without negotiation. Returns False if the old one is not being sent."""
        return self._sending.replace(old, new)

    def offer_sent(self) -> None:
        """Take the role of the offerer."""
        claim_controlling_role(self.pc)

    def offer_forgotten(self) -> None:
        """Give the role back."""
        release_controlling_role(self.pc)

    def offer_text(self, plan: OfferPlan) -> str:
        """Return the description to send for a plan."""
        return self._as_sent(plan.sdp)

    async def commit(self, plan: OfferPlan, offer: str, answer: Description, wanted: Mapping[Any, Outgoing]) -> bool:
        """Commit an offer with its answer. Return whether a wanted track is still without a section."""
        for index, section in enumerate(plan.sections):
            if section.transceiver is not None:
                adopt_transceiver(self.pc, section.transceiver)
            set_section_index(self.pc, section.transceiver, index)
        if self._ice.is_renewed:
            self._ice.take_role(controlling=True)
        shown = stand_in(plan.sdp, self._declined) if self._declined else offer
        await self.pc.setLocalDescription(RTCSessionDescription(sdp=shown, type="offer"))
        remote = admitted(answer)
        await self._set_remote(remote)
        self._order = plan.sections
        self._in_doubt, self._offered = frozenset(), ()
        for sending in self._sending:
            sending.told = sending.planned if sending.planned == sending.outgoing else None
        self._applied(remote)
        return self._sending.lacks(wanted)

    async def answer(
        self,
        offer: Description,
        wanted: Mapping[Any, Outgoing],
        too_much: TooMuchFn = keep_every_section,
        sharing: Sharing = Sharing.NONE,
    ) -> tuple[str, bool]:
        """Answer an offer. Return the answer and whether anything has still to be offered.

        `too_much` returns which of the new sections, by mid, have to be declined so that the answer can be sent. Tracks
        without a section that share those of the remote are sent in the ones that it offers, in the order of both.

        Raises:
            SdpError: it drops or reorders sections (RFC 8829 section 5.2.2), which would leave media without one.
        """
        remote = admitted(offer)
        self._inherited = self._offered = ()
        await self._give_up_reused(remote)
        if self._candidates.ufrag not in (None, offer.ufrag) and not self._ice.is_renewed:
            await self.restart_ice()
        await self._set_remote(remote)
        if self._ice.is_renewed:  # an end with ICE-lite is controlled, whoever offers (RFC 8445 section 6.1.1)
            self._ice.take_role(controlling=usable_ice(remote_description(self.pc), self._declined).iceLite)
        offered = [section for section in remote.sections if section.mid not in self._declined]
        self._sending.use_offered(offered, wanted, sharing, is_first=not self._order)
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
            self._sending.decline(declined)
        if offer.tag is None:  # native ends take no offer back that was answered
            self._in_doubt |= frozenset(offer.mids) - frozenset(self.mids)
        self._order = tuple(PlannedSection(mid, by_mid.get(mid)) for mid in offer.mids)
        for sending in self._sending:
            if sending.is_sending:
                sending.told = sending.outgoing
        self._applied(remote)
        more = self._sending.lacks(wanted) or self._sending.has_untold_end or self._has_stranded_channel
        return self._as_sent(self.pc.localDescription.sdp), more

    @property
    def _has_stranded_channel(self) -> bool:
        """Whether a data channel waits for a data section."""
        return not self.data_negotiated and any(it.readyState == "connecting" for it in self._channels)

    async def close(self) -> None:
        """Close the connection and end its tracks. Idempotent; takes `CLOSE_TIMEOUT` at the most."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.wait([self._closing], timeout=CLOSE_TIMEOUT)

    async def _close(self) -> None:
        self.pc.remove_all_listeners()
        for sending in self._sending:
            sending.forward.stop()
        self._receiving.end()
        self._candidates.close()
        await tear_down(self.pc, self._local_candidates.gathering, self._connecting, self._logger)
        for channel in tuple(self._channels):
            channel.close()  # aiortc forgets those that never opened

    # --- inside

    async def _set_remote(self, description: RemoteDescription) -> None:
        await self.gather_host()
        self._note_odd_lines(description)
        # With BUNDLE only one section carries candidates, and aiortc would take those of the last one.
        await self._candidates.add_described(description)
        await self.pc.setRemoteDescription(RTCSessionDescription(sdp=description.shown, type=description.kind))
        self._parsed_remote = remote_description(self.pc)
        route_sources(self.pc, self._parsed_remote)
        self._layers.described(description)
        self._forms |= description.forms
        self._decline(description)

    def _note_odd_lines(self, description: RemoteDescription) -> None:
        self.odd_lines += description.odd_lines
        if description.odd_lines:
            lines = {"count": description.odd_lines, "lines": list(description.noted)}
            self._logger.warning("lines of a description left out", lines)

    def _decline(self, description: RemoteDescription) -> None:
        """Stop sending in sections that the remote declined, and report those that this end declines."""
        self._declined = dict(description.declined)
        self._sending.decline(self._declined)
        known, self._unusable = self._unusable, description.unusable
        for mid, reason in description.unusable.items():
            if mid not in known:
                self._observer.section_declined(mid, reason)

    async def _give_up_reused(self, offer: RemoteDescription) -> None:
        """Give up sections whose place the offer uses for others.

        Raises:
            SdpError: it drops or reorders sections in use.
        """
        for section in reused_sections(self._order, offer.sections, self._declined, self._in_doubt):
            assert section.transceiver is not None
            self._former_mids.add(section.mid)
            self._sending.give_up(section.transceiver)
            self._observer.tracks_changed(self._receiving.give_up(section.mid), [])
            await give_up_section(self.pc, section.transceiver)

    def _as_sent(self, text: str) -> str:
        """Return a description of this end in the form in which it is sent."""
        session, versions = self._session
        text = in_form(with_port_zero(text, self._declined), self._forms)
        text = with_origin(self._layers.as_sent(without_idle_sources(text)), session, next(versions))
        return text if self.local_candidates_complete else without_end_of_candidates(text)

    def _applied(self, remote: RemoteDescription) -> None:
        """Start what was negotiated, and report added and removed tracks."""
        for sending in self._sending:
            if sending.negotiated:
                sending.choose_codec()
        self._connecting.request()
        self._candidates.applied(remote.ufrag)
        removed, added = self._receiving.update(remote.sections, self._declined, self._layers)
        if removed or added:
            self._observer.tracks_changed(removed, added)

    def _new_transceivers(self) -> list[RTCRtpTransceiver]:
        """Return the transceivers for which the next offer opens sections."""
        new = [it.transceiver for it in self._sending if it.outgoing is not None and not it.negotiated]
        kept = {section.transceiver for section in self._kept}
        return [transceiver for transceiver in new if transceiver not in kept]

    def _offer_directions(self) -> dict[RTCRtpTransceiver, str]:
        return self._directions()

    def _directions(self) -> dict[RTCRtpTransceiver, str]:
        """Return the direction of each transceiver in the next description."""
        sending = {sending.transceiver for sending in self._sending if sending.outgoing is not None}
        shared = {sending.transceiver for sending in self._sending if sending.is_open}
        directions = {}
        inherited = {section.transceiver for section in self._inherited if section.transceiver is not None}
        for transceiver in {*self.pc.getTransceivers(), *sending, *inherited}:
            # A section that this end adds is sendonly once, unless it is shared from the start. From then on both may
            # send in it: a browser uses it for a track of its own, and if that was lost in a collision it does not
            # negotiate again unless it was offered to send there (W3C WebRTC, check if negotiation is needed).
            receives = transceiver.mid is not None or transceiver in shared or transceiver in inherited
            directions[transceiver] = DIRECTIONS[transceiver in sending, receives]
        return directions

    async def _connect(self) -> bool:
        """Run aiortc's connect. Return whether it succeeded."""
        if self._closing is not None:
            return False
        try:
            if self._ice.is_renewed and self._parsed_remote is not None:
                await self._ice.run(usable_ice(self._parsed_remote, self._declined))
            await connect(self.pc)
        except Exception as error:
            # A failed transport shows in the connection state, which starts the recovery.
            self._logger.warning("connecting failed", {"error": f"{type(error).__name__}: {error}"})
            return False
        if self._parsed_remote is not None:
            route_sources(self.pc, self._parsed_remote)
        return True

    def _on_state(self) -> None:
        self._observer.peer_connection_state_changed(self, self.pc.connectionState)

    def _on_raw_track(self, track: Any) -> None:
        receiver = receiver_of(self.pc, track)
        transceiver = next(it for it in self.pc.getTransceivers() if it.receiver is receiver)
        assert receiver is not None
        self._receiving.add(transceiver.mid or "", receiver)
