"""One virtual connection: `connection.peer_connection.PeerConnection` without aiortc, on the virtual media plane.

It implements the m-sections of JSEP, in descriptions that are short but accepted by every parser here, and refuses the
descriptions that a real connection refuses. It does not encode, decode, or assign payload types.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..connection.interfaces import HeldCandidate, PeerConnectionObserver, TooMuchFn, keep_every_section
from ..connection.layout import Layout
from ..connection.remote_description import admitted
from ..connection.sections import FRESH_SECTIONS, Incoming, Outgoing
from ..connection.stats import PeerConnectionStats
from ..core.negotiation.sdp import Description, Direction, Section
from ..core.negotiation.sharing import Sharing
from ..media.receiving.remote_track import RemoteTrack
from ..options import IceServerConfig
from .virtual_media import MediaPlane, VirtualChannel, VirtualRTCPeerConnection
from .virtual_network import Process

OPERATION = (0.0, 0.03)
"""Seconds that an operation of a connection takes."""

SERVER_GATHERING = (0.02, 0.5)
"""Seconds until a STUN server answers."""

_M_LINES = {
    "application": "m=application 9 UDP/DTLS/SCTP webrtc-datachannel",
    "audio": "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=rtcp-mux\r\na=rtpmap:111 opus/48000/2",
    "video": "m=video 9 UDP/TLS/RTP/SAVPF 96\r\na=rtcp-mux\r\na=rtpmap:96 VP8/90000",
}
_DIRECTIONS: dict[tuple[bool, bool], Direction] = {
    (True, True): "sendrecv",
    (True, False): "sendonly",
    (False, True): "recvonly",
    (False, False): "inactive",
}
_REFLEXIVE = "a=x-virtual-reflexive"


class VirtualRefusalError(Exception):
    """A real connection would have refused the operation."""


class _VirtualSection:
    """A section in which this end may send, negotiated or planned."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.mid: str | None = None
        self.msid = ""
        self.outgoing: Outgoing | None = None
        self.planned: Outgoing | None = None
        self.announced: Outgoing | None = None
        self.is_offered = False
        self.is_open = False

    def assign(self, outgoing: Outgoing | None) -> None:
        if outgoing is not None:
            self.msid = f"{outgoing.stream_id or '-'} {outgoing.track_id}"
        else:
            self.announced = None
        self.outgoing = outgoing

    def replace(self, outgoing: Outgoing) -> None:
        self.announced = outgoing if self.announced == self.outgoing else self.announced
        self.planned = outgoing if self.planned == self.outgoing else self.planned
        self.outgoing = outgoing


@dataclass(frozen=True, slots=True)
class _Line:
    """An m-section of the session. `sending` is None if this end never sends in it."""

    mid: str
    kind: str
    sending: _VirtualSection | None = None


@dataclass(frozen=True, slots=True)
class _Plan:
    sdp: str
    lines: tuple[_Line, ...]

    @property
    def mids(self) -> tuple[str, ...]:
        return tuple(line.mid for line in self.lines)

    def keeps_waiting(self, answer: Iterable[Section]) -> bool:
        """Return False: virtual ends name only tracks that they send."""
        return False


class VirtualPeerConnection:
    """One virtual connection with its sections, candidates and state."""

    def __init__(
        self, plane: MediaPlane, process: Process, observer: PeerConnectionObserver, *, asks_servers: bool
    ) -> None:
        self._observer = observer
        self._random = plane.network.random
        self.pc = VirtualRTCPeerConnection(
            plane, process, state_changed=self._on_state, channel_opened=observer.channel_opened
        )
        plane.add(self.pc)
        self.local_candidates_complete = not asks_servers
        self._server_gathering_due = asks_servers
        self._gathered = False
        self._sections: list[_VirtualSection] = []
        self._lines: tuple[_Line, ...] = ()
        self._incoming: dict[str, Incoming | None] = {}
        self._held_candidates: list[tuple[str | None, str]] = []
        self._busy = False
        self._closing: asyncio.Task[None] | None = None

    @property
    def layout(self) -> Layout:
        """None: all remotes replace their connections when this end does."""
        return Layout()

    def inherit_layout(self, layout: Layout) -> None:
        """Do nothing."""

    @property
    def failure(self) -> None:
        """None: no handshake fails."""
        return None

    @property
    def local_ufrag(self) -> str:
        """The ICE user fragment of this end."""
        return self.pc.ufrag

    @property
    def host_candidates(self) -> tuple[str, ...]:
        """Empty: an end is reached by its user fragment, unless the path is interrupted."""
        return ()

    @property
    def transport_mid(self) -> str:
        """The mid of the section that carries the transport, which is the first one."""
        return self._lines[0].mid if self._lines else "0"

    @property
    def data_negotiated(self) -> bool:
        """Whether data channels open in-band, without negotiation."""
        return any(line.kind == "application" for line in self._lines)

    @property
    def mids(self) -> tuple[str, ...]:
        """The mids of the negotiated sections, in order."""
        return tuple(line.mid for line in self._lines)

    def create_data_channel(self, label: str, options: Mapping[str, Any]) -> VirtualChannel:
        """Create a data channel; it opens once the connection is up."""
        return self.pc.create_channel(label)

    # --- statistics

    def stats(self) -> PeerConnectionStats:
        """Return nothing: no bytes are sent in a simulation."""
        return {}

    def totals(self) -> PeerConnectionStats:
        """Return nothing, like `stats`."""
        return {}

    def data_counters(self) -> None:
        """Return None: messages are not counted in a simulation."""

    # --- candidates

    async def gather_host(self) -> None:
        """Gather the host candidates. Later calls return at once."""
        if not self._gathered:
            await self._take_time()
            self._gathered = True

    def claim_server_gathering(self) -> bool:
        """Return, once, whether the STUN and TURN servers have to be asked."""
        claimed, self._server_gathering_due = self._server_gathering_due, False
        return claimed

    async def gather_rest(self, servers: Sequence[IceServerConfig]) -> list[str]:
        """Ask the servers, and return their candidates."""
        await asyncio.sleep(self._random.uniform(*SERVER_GATHERING))
        self.local_candidates_complete = True
        return [f"candidate:{self.pc.ufrag}"]

    async def add_candidate(self, candidate: str | None, ufrag: str | None) -> None:
        """Add a candidate of the remote. It is held until its description is applied."""
        if candidate is None:
            return
        if self.pc.remote_ufrag is None or (ufrag is not None and ufrag != self.pc.remote_ufrag):
            self._held_candidates.append((ufrag, candidate))
        else:
            self.pc.add_candidate(candidate.removeprefix("candidate:"))

    @property
    def held_candidates(self) -> list[HeldCandidate]:
        """The candidates that wait for their description."""
        return list(self._held_candidates)

    def inherit_candidates(self, held: list[HeldCandidate]) -> None:
        """Hold candidates that were still waiting in the connection before this one."""
        self._held_candidates = held

    # --- recovery

    @property
    def can_restart_ice(self) -> bool:
        """False: both ends are native, and a new connection takes no longer."""
        return False

    async def restart_ice(self) -> None:
        """Fail: `can_restart_ice` is False."""
        raise NotImplementedError

    def outlive_its_path(self) -> None:
        """Do nothing: only remotes that restart ICE need it."""

    async def is_alive(self) -> bool:
        """Return whether the other end answers a STUN check."""
        return await self.pc.check()

    # --- offers and answers

    def plan(self, wanted: Mapping[Any, Outgoing], *, frugal: bool = False, sharing: Sharing = Sharing.NONE) -> _Plan:
        """Plan an offer with a section for everything wanted. The connection stays as it is."""
        self._require_idle()
        self.release(wanted)
        assigned = {sending.outgoing for sending in self._sections}
        for outgoing in wanted.values():
            if outgoing not in assigned:
                self._free_section(outgoing.kind).assign(outgoing)
        lines = list(self._lines)
        if not self.data_negotiated:
            lines.append(_Line(_free_mid(lines), "application"))
        for sending in self._sections:
            sending.planned = sending.outgoing
            sending.is_open = False
            if sending.mid is None and sending.outgoing is not None:
                sending.is_open = not self._lines and sharing.admits(has_metadata=sending.outgoing.has_metadata)
                lines.append(_Line(_free_mid(lines), sending.kind, sending))
        directions = [self._direction(line.sending, is_new=line not in self._lines) for line in lines]
        return _Plan(self._describe(lines, directions, "actpass"), tuple(lines))

    def release(self, wanted: Mapping[Any, Outgoing]) -> None:
        """Stop sending at once everything that is not wanted."""
        keep = set(wanted.values())
        for sending in self._sections:
            if sending.outgoing is not None and sending.outgoing not in keep:
                sending.assign(None)

    def replace(self, old: Outgoing, new: Outgoing) -> bool:
        """Replace a track without negotiation. Return False if the old one is not being sent."""
        for sending in self._sections:
            if sending.outgoing == old:
                sending.replace(new)
                return True
        return False

    def offer_sent(self) -> None:
        """Do nothing: a virtual connection has no roles."""

    def offer_forgotten(self) -> None:
        """Do nothing: a virtual connection has no roles."""

    def offer_text(self, plan: _Plan) -> str:
        """Return the text of a planned offer."""
        return plan.sdp

    async def commit(self, plan: _Plan, offer: str, answer: Description, wanted: Mapping[Any, Outgoing]) -> bool:
        """Commit an offer with its answer. Return whether anything wanted has not been announced yet."""
        self._begin()
        try:
            self._check(answer)
            if answer.mids != plan.mids:
                raise VirtualRefusalError(f"the answer has sections {answer.mids!r}, the offer {plan.mids!r}")
            await self._take_time()
            await self._take_time()
            for line in plan.lines:
                if line.sending is not None:
                    line.sending.mid = line.mid
            self._lines = plan.lines
            for sending in self._sections:
                sending.announced = sending.planned if sending.planned == sending.outgoing else None
            self._applied(answer)
        finally:
            self._busy = False
        return self._unsent(wanted)

    async def answer(
        self,
        offer: Description,
        wanted: Mapping[Any, Outgoing],
        too_much: TooMuchFn = keep_every_section,
        sharing: Sharing = Sharing.NONE,
    ) -> tuple[str, bool]:
        """Answer an offer. Return the answer, and whether anything wanted found no section in it."""
        self._begin()
        try:
            self._check(offer)
            await self._take_time()
            theirs = admitted(offer).sections
            new = tuple(_Line(section.mid, section.kind) for section in theirs[len(self._lines) :])
            lines = (*self._lines, *new)
            if sharing is not Sharing.NONE:
                lines = self._use_offered(lines, theirs, wanted, sharing)
            directions = [_answer_direction(line.sending, their) for line, their in zip(lines, theirs, strict=True)]
            text = self._describe(lines, directions, "active")
            await self._take_time()
            self._lines = lines
            for line, direction in zip(lines, directions, strict=True):
                if line.sending is not None and direction in ("sendrecv", "sendonly"):
                    line.sending.announced = line.sending.outgoing
            self._applied(offer)
        finally:
            self._busy = False
        return text, self._unsent(wanted)

    async def close(self) -> None:
        """Close the connection and end its tracks. Idempotent."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.wait([self._closing])

    # --- internals

    async def _close(self) -> None:
        self._observer = _NO_OBSERVER
        for incoming in self._incoming.values():
            if incoming is not None:
                incoming.track.stop()
        await self._take_time()
        self.pc.close()

    async def _take_time(self) -> None:
        await asyncio.sleep(self._random.uniform(*OPERATION))

    def _require_idle(self) -> None:
        if self._busy:
            raise VirtualRefusalError("an operation is under way")
        if self._closing is not None:
            raise VirtualRefusalError("the connection is closed")

    def _begin(self) -> None:
        self._require_idle()
        self._busy = True

    def _check(self, remote: Description) -> None:
        running = tuple(line.mid for line in self._lines)
        if remote.mids[: len(running)] != running:
            raise VirtualRefusalError(f"the remote has sections {remote.mids!r}, in use are {running!r}")
        if self.pc.remote_ufrag not in (None, remote.ufrag):
            raise VirtualRefusalError("ICE restart is not supported")

    def _applied(self, remote: Description) -> None:
        self.pc.sctp_ready = self.data_negotiated
        if _REFLEXIVE in remote.sdp:
            self.pc.known_candidates.add(remote.ufrag)
        self.pc.connect(remote.ufrag)
        held, self._held_candidates = self._held_candidates, []
        for ufrag, candidate in held:
            if ufrag in (None, remote.ufrag):
                self.pc.add_candidate(candidate.removeprefix("candidate:"))
            else:
                self._held_candidates.append((ufrag, candidate))
        self.pc.open_channels()
        changes = [self._update_incoming(section) for section in admitted(remote).sections]
        removed = [before for before, _ in changes if before is not None]
        added = [after for _, after in changes if after is not None]
        if removed or added:
            self._observer.tracks_changed(removed, added)

    def _update_incoming(self, section: Section) -> tuple[Incoming | None, Incoming | None]:
        if section.mid not in self._incoming and not section.sends:
            return None, None
        ids = (section.stream_ids, section.track_id or section.mid) if section.sends else None
        current = self._incoming.get(section.mid)
        if ids is not None and current is not None and (current.stream_ids, current.track_id) == ids:
            return None, None
        incoming: Incoming | None = None
        if ids is not None:
            incoming = Incoming(section.mid, RemoteTrack(section.kind, ids[1]), ids[1], ids[0])
        self._incoming[section.mid] = incoming
        if current is not None:
            current.track.stop()
        return current, incoming

    def _use_offered(
        self, lines: Sequence[_Line], theirs: Sequence[Section], wanted: Mapping[Any, Outgoing], sharing: Sharing
    ) -> tuple[_Line, ...]:
        """Return the lines, with tracks that waited for a section in those of the remote."""
        used = []
        for line, section in zip(lines, theirs, strict=True):
            admitted = Sharing.ALL if section.direction == "recvonly" and not self._lines else sharing
            tracks = [it for it in wanted.values() if admitted.admits(has_metadata=it.has_metadata)]
            used.append(self._take_offered(line, tracks) if section.receives else line)
        return tuple(used)

    def _take_offered(self, line: _Line, tracks: Sequence[Outgoing]) -> _Line:
        sending = line.sending
        if sending is not None and (not sending.is_offered or sending.outgoing is not None):
            return line
        negotiated = {it.outgoing for it in self._sections if it.mid is not None}
        outgoing = next((it for it in tracks if it.kind == line.kind and it not in negotiated), None)
        if outgoing is None:
            return line
        for planned in self._sections:
            if planned.outgoing == outgoing:
                planned.assign(None)
        if sending is None:
            sending = _VirtualSection(line.kind)
            sending.mid, sending.is_offered = line.mid, True
            self._sections.append(sending)
        sending.assign(outgoing)
        return replace(line, sending=sending)

    def _direction(self, sending: _VirtualSection | None, *, is_new: bool) -> Direction:
        receives = not is_new or (sending is not None and sending.is_open)
        return _DIRECTIONS[sending is not None and sending.outgoing is not None, receives]

    def _describe(self, lines: Sequence[_Line], directions: list[Direction], setup: str) -> str:
        text = [
            "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n"
            f"a=group:BUNDLE {' '.join(line.mid for line in lines)}\r\n"
            f"a=ice-ufrag:{self.pc.ufrag}\r\na=ice-pwd:virtual\r\na=fingerprint:sha-256 00\r\na=setup:{setup}"
        ]
        if self.local_candidates_complete:
            text.append(_REFLEXIVE)
        for line, direction in zip(lines, directions, strict=True):
            text.append(f"{_M_LINES[line.kind]}\r\na=mid:{line.mid}")
            if line.kind != "application":
                text.append(f"a={direction}")
            if line.sending is not None and direction in ("sendrecv", "sendonly"):
                text.append(f"a=msid:{line.sending.msid}")
        return "\r\n".join(text) + "\r\n"

    def _free_section(self, kind: str) -> _VirtualSection:
        same_kind = [sending for sending in self._sections if sending.kind == kind]
        idle = [sending for sending in same_kind if sending.outgoing is None]
        unused = [sending for sending in idle if sending.mid is None]
        if unused:
            return unused[0]
        if idle and len(same_kind) >= FRESH_SECTIONS:
            return idle[0]
        sending = _VirtualSection(kind)
        self._sections.append(sending)
        return sending

    def _unsent(self, wanted: Mapping[Any, Outgoing]) -> bool:
        announced = {sending.announced for sending in self._sections}
        return any(outgoing not in announced for outgoing in wanted.values())

    def _on_state(self) -> None:
        self._observer.peer_connection_state_changed(self, self.pc.connectionState)


class _NoObserver(PeerConnectionObserver):
    """The observer of a closed connection."""

    def peer_connection_state_changed(self, peer_connection: object, state: str) -> None: ...
    def tracks_changed(self, removed: Sequence[Incoming], added: Sequence[Incoming]) -> None: ...
    def section_declined(self, mid: str, reason: str) -> None: ...
    def candidate_refused(self, error: Exception) -> None: ...
    def channel_opened(self, channel: object) -> None: ...


_NO_OBSERVER = _NoObserver()


def _answer_direction(sending: _VirtualSection | None, offered: Section) -> Direction:
    sends = sending is not None and sending.outgoing is not None and offered.direction in ("sendrecv", "recvonly")
    return _DIRECTIONS[sends, offered.direction in ("sendrecv", "sendonly")]


def _free_mid(lines: list[_Line]) -> str:
    used = {line.mid for line in lines}
    return next(mid for mid in map(str, range(len(lines) + 1)) if mid not in used)
