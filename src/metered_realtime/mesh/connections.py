"""The connections of one peer to all others."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..connection.ice_servers import IceServers
from ..connection.set_ups import SetUps
from ..log import Logger
from ..options import DEFAULT_TUNING, Tuning
from .remote_peer import RemotePeer
from .seat import SignallingSeat

if TYPE_CHECKING:
    from ..aiortc_compat.certificate import SharedCertificate
    from ..connection.remote_connection import RemoteConnection


class PeerConnections:
    """Makes connections that signal through a seat.

    They share a certificate: a key takes longer to make than everything else. `kind` returns their class; it is called
    when the first one is needed, because the class needs an extra.
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
        """Return a connection to a remote, which observes it.

        Raises:
            ImportError: the extra that it needs is not installed.
        """

        kind = self._kind()
        # One for all: everybody in the channel knows this peer by its id anyway.
        self._certificate = kind.certificate_for_now(self._certificate)
        return kind(
            polite=remote.polite,
            free_to_offer_at=remote._free_to_offer_at,
            is_native=remote._is_native,
            signaller=self._seat.signaller(remote.id),
            ice_servers=self._ice_servers,
            observer=remote._reports,
            logger=self._logger,
            certificate=self._certificate,
            set_ups=self.set_ups,
            tuning=self._tuning,
        )

    def forget_certificate(self) -> None:
        """Use a new certificate from now on, so that two ids in two channels cannot be linked by it."""
        self._certificate = None
