"""The connections of one peer to all others."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..connection.ice_servers import IceServers
from ..connection.set_ups import SetUps
from ..core.negotiation.signals import Signal
from ..log import Logger
from ..options import DEFAULT_TUNING, Tuning
from .remote_peer import RemotePeer
from .seat import SignallingSeat

if TYPE_CHECKING:
    from ..aiortc_compat.certificate import SharedCertificate
    from ..connection.remote_connection import RemoteConnection


class PeerConnections:
    """Makes connections that signal through a seat.

    They share a certificate: a key takes longer to make than all the rest. `kind` is asked for their class when it is
    needed, for it takes an extra.
    """

    def __init__(
        self,
        kind: Callable[[], type[RemoteConnection]],
        seat: SignallingSeat,
        ice_servers: IceServers,
        logger: Logger,
        tuning: Tuning = DEFAULT_TUNING,
    ) -> None:
        self._kind = kind
        self._seat = seat
        self._ice_servers = ice_servers
        self._logger = logger
        self._tuning = tuning
        self._certificate: SharedCertificate | None = None
        self.set_ups = SetUps()

    def make(self, remote: RemotePeer) -> RemoteConnection:
        """Return a connection to a remote, which hears of all that happens to it.

        Raises:
            ImportError: the extra that it needs is not installed.
        """

        async def send_signal(signal: Signal) -> None:
            await self._seat.send_signal(remote.id, signal)

        def check_signal(signal: Signal) -> None:
            self._seat.check_signal(signal, remote.id)

        kind = self._kind()
        # One for all: whoever is in the channel knows this peer by its id anyway.
        self._certificate = kind.certificate_for_now(self._certificate)
        return kind(
            polite=remote.polite,
            free_to_offer_at=remote._free_to_offer_at,
            offer_held=remote._greet,
            send_signal=send_signal,
            check_signal=check_signal,
            ice_servers=self._ice_servers,
            observer=remote,
            logger=self._logger,
            link_lost=self._seat.doubt,
            certificate=self._certificate,
            set_ups=self.set_ups,
            tuning=self._tuning,
        )

    def forget_certificate(self) -> None:
        """Take a new one from now on: who meets a peer in two channels under two ids cannot tell that it is one."""
        self._certificate = None
