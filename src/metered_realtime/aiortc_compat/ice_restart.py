"""ICE restart (RFC 8445 section 9, RFC 8839 section 4.4.1.1.1): a new path under a connection that stays up.

aiortc has none (aiortc#1367): losing the path ends DTLS, SCTP and all media. Here aioice's connection starts over in
place: with the same sockets, and new ones for addresses that the host has acquired since, under new credentials. DTLS
and everything above it see only a gap. Until there is a new path the previous one is used, unless it is lost.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import aioice.ice
from aioice.utils import random_string
from aiortc import RTCIceTransport, RTCPeerConnection
from aiortc.rtcicetransport import RTCIceParameters

from .dtls import FastDtlsTransport
from .version import Guard, KnownPart

PASSWORD_LENGTH = 22
"""Characters of a password: 128 bits at least (RFC 8839 section 5.4), as aioice has it."""

USERNAME_LENGTH = 8
"""Characters of a user fragment. It has to differ from all earlier ones of the connection."""


COMPONENT = 1
"""RTP and RTCP share the only component (RFC 8834 section 4.5)."""


GUARD = Guard(
    "ICE is not restarted: a lost path costs the connection",
    KnownPart(
        aioice.ice.Connection,
        "5035a2bdc2772df3",
        "__init__",
        "add_remote_candidate",
        "check_complete",
        "check_incoming",
        "check_start",
        "close",
        "connect",
        "gather_candidates",
        "get_component_candidates",
        "request_received",
        "switch_role",
        "_add_remote_candidate",
        "_check_list_maybe_complete",
        "_check_list_maybe_fail",
        "_end_remote_candidates",
        "_pair_remote_candidate",
        "_prune_components",
        "_valid_username",
    ),
    KnownPart(aioice.ice, "d4a54f9a68c39ff1", "get_host_addresses"),
    KnownPart(RTCIceTransport, "d3d11f6af7e5f7dd"),
)


class IceRestarts:
    """Restarts the ICE of one connection: `renew`, exchange descriptions, `run`.

    `is_renewed` from a `renew` until its `run`.
    """

    def __init__(self, pc: RTCPeerConnection) -> None:
        sctp = pc.sctp
        assert sctp is not None
        self._dtls: Any = sctp.transport
        self._ice: Any = sctp.transport.transport
        self._connection: Any = self._ice._connection
        self.is_renewed = False
        self._round = 0

    @property
    def is_possible(self) -> bool:
        """Whether a restart can keep something: DTLS is up, so both ends have found each other before."""
        connection = self._connection
        is_known = hasattr(connection, "checks") and hasattr(connection, "consent_lost") and GUARD.holds()
        if not (is_known and isinstance(self._dtls, FastDtlsTransport)):
            return False
        return bool(self._dtls.state == "connected" and not connection._closing)

    def survive_losses(self) -> None:
        """Keep DTLS and SCTP alive when the path is lost: ICE reads `failed` and waits for a restart."""
        if GUARD.holds():
            self._connection.consent_lost = self._lose

    async def renew(self) -> None:
        """Take new credentials, forget those of the remote with its candidates, and gather new host addresses.

        Running checks end.
        """
        connection = self._connection
        self._round += 1
        self.is_renewed = True
        self._stop_checks()
        self._dtls.pair_sender.former = connection._nominated.pop(COMPONENT, self._dtls.pair_sender.former)
        self._dtls.pair_sender.is_paused = True
        connection._local_username = random_string(USERNAME_LENGTH)
        connection._local_password = random_string(PASSWORD_LENGTH)
        connection._tie_breaker = secrets.randbits(64)
        connection.remote_username = connection.remote_password = None
        connection._remote_candidates.clear()
        connection._remote_candidates_end = self._ice.iceGatherer._remote_candidates_end = False
        connection._early_checks.clear()
        connection._early_checks_done = False
        connection._nominating.clear()
        connection._components = {COMPONENT}  # aioice removes it if no candidates came
        await self._gather_new_addresses()

    def take_role(self, *, controlling: bool) -> None:
        """Take the role of the offerer, or of the answerer (RFC 8445 section 6.1.1)."""
        self._connection.switch_role(controlling)

    async def run(self, remote: RTCIceParameters) -> None:
        """Look for a path to the remote. The outcome is the state of the ICE transport.

        Returns early if `renew` is called meanwhile.
        """
        connection, this_round = self._connection, self._round
        self.is_renewed = False
        connection.remote_username, connection.remote_password = remote.usernameFragment, remote.password
        self._set_state("checking")
        try:
            await connection.connect()
        except ConnectionError:
            outcome = "failed"
        else:
            outcome = "completed"
        if this_round == self._round and not connection._closing:
            self._dtls.pair_sender.former = None
            self._dtls.pair_sender.is_paused = outcome == "failed"
            self._set_state(outcome)

    def _stop_checks(self) -> None:
        connection = self._connection
        if connection._query_consent_task is not None:
            connection._query_consent_task.cancel()
            connection._query_consent_task = None
        connection.checks.pause()
        for pair in connection._check_list:
            if pair.task is not None:
                pair.task.cancel()
        connection._check_list.clear()
        connection._check_list_state.put_nowait(aioice.ice.ICE_FAILED)  # wakes a waiting `run`
        connection._check_list_state = asyncio.Queue()
        connection._check_list_done = False

    async def _gather_new_addresses(self) -> None:
        connection = self._connection
        if connection._transport_policy is not aioice.ice.TransportPolicy.ALL:
            return
        known = {protocol.local_candidate.host for protocol in connection._protocols}
        addresses = aioice.ice.get_host_addresses(use_ipv4=connection._use_ipv4, use_ipv6=connection._use_ipv6)
        new = [address for address in addresses if address not in known]
        connection.stun_server = connection.turn_server = None  # gathering from servers comes later, from others
        connection._local_candidates += await connection.get_component_candidates(component=COMPONENT, addresses=new)

    async def _lose(self) -> None:
        """Handle the loss of consent: nothing may be sent any more (RFC 7675 section 5.1)."""
        self._connection._nominated.clear()
        self._dtls.pair_sender.former = None
        self._dtls.pair_sender.is_paused = True
        self._set_state("failed")

    def _set_state(self, state: str) -> None:
        self._ice._RTCIceTransport__setState(state)
