"""The real peer with virtual sockets and media paths."""

from __future__ import annotations

from random import Random
from typing import Any, ClassVar, NoReturn

from aiortc import MediaStreamTrack

from ..connection.interfaces import AnyPeerConnection, PeerConnectionObserver
from ..connection.remote_connection import RemoteConnection
from ..core.negotiation.sharing import Sharing
from ..log import Logger
from ..mesh.peer import MeteredPeer
from ..options import SignallingClientOptions
from ..signalling.client import SignallingClient
from .virtual_media import MediaPlane
from .virtual_network import Process
from .virtual_peer_connection import VirtualPeerConnection
from .virtual_server import VirtualServer
from .virtual_socket import Credential, VirtualClient


class VirtualTrack(MediaStreamTrack):
    """A local track that can be attached, but has no frames."""

    def __init__(self, kind: str, track_id: str) -> None:
        super().__init__()
        self.kind = kind
        self._id = track_id

    async def recv(self) -> NoReturn:
        """Fail: nothing is encoded in a virtual world."""
        raise NotImplementedError


class VirtualConnection(RemoteConnection):
    """The real connection to a remote over virtual paths. Each peer has a subclass with its plane and process."""

    plane: ClassVar[MediaPlane]
    process: ClassVar[Process]

    @staticmethod
    def certificate_for_now(previous: Any) -> Any:
        """Return no certificate: nothing is encrypted."""
        return None

    def _make_peer_connection(
        self, observer: PeerConnectionObserver, *, has_servers: bool, relay_only: bool, is_shared: bool
    ) -> AnyPeerConnection:
        return VirtualPeerConnection(self.plane, self.process, observer, asks_servers=has_servers)

    @property
    def _sharing(self) -> Sharing:
        return Sharing.ALL if self.plane.shares_sections else super()._sharing


class VirtualPeer(MeteredPeer):
    """The real `MeteredPeer` on a virtual network, made by `VirtualWorld.start`."""

    def __init__(
        self,
        server: VirtualServer,
        plane: MediaPlane,
        process: Process,
        credential: Credential,
        random: Random,
        logger: Logger,
    ) -> None:
        self.process = process
        self._server = server
        self._connection_type = type("VirtualConnection", (VirtualConnection,), {"plane": plane, "process": process})
        self._credential = credential
        self._random = random
        super().__init__(api_key="virtual", url="ws://localhost", logger=logger)

    def _new_client(self, options: SignallingClientOptions) -> SignallingClient:
        return VirtualClient(self._server, self.process, self._credential, self._random, options.logger)

    def _connection_class(self) -> type[RemoteConnection]:
        return self._connection_type
