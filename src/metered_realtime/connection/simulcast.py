"""The simulcast of a remote on one connection: one layer of each section is asked for and received."""

from __future__ import annotations

from collections.abc import Mapping

from aiortc import RTCPeerConnection

from ..aiortc_compat.rtp_sources import SourceGate
from ..aiortc_compat.transceivers import receive_extensions, remote_description
from ..core.negotiation.simulcast import REPAIRED_STREAM_ID, STREAM_ID, choose_layer, with_layers
from ..log import Logger
from .remote_description import RemoteDescription


class ReceivedLayers:
    """The layers that are received, by mid."""

    def __init__(self, pc: RTCPeerConnection, sources: SourceGate, logger: Logger) -> None:
        self._pc = pc
        self._sources = sources
        self._logger = logger
        self._chosen: Mapping[str, str] = {}

    def get(self, mid: str) -> str | None:
        """Return the rid of the layer that is received in a section, None without simulcast."""
        return self._chosen.get(mid)

    def described(self, description: RemoteDescription) -> None:
        """Choose the layers of a remote description that was just set, and accept the extensions that name them."""
        former = self._chosen
        self._chosen = {mid: choose_layer(it, former.get(mid)) for mid, it in description.layers.items()}
        by_mid = {transceiver.mid: transceiver for transceiver in self._pc.getTransceivers()}
        for media in remote_description(self._pc).media:
            rid, transceiver = self._chosen.get(media.rtp.muxId), by_mid.get(media.rtp.muxId)
            if transceiver is None or (rid is None and media.rtp.muxId not in former):
                continue
            self._sources.select_layer(transceiver.receiver, rid)
            if rid is not None:
                wanted = [it for it in media.rtp.headerExtensions if it.uri in (STREAM_ID, REPAIRED_STREAM_ID)]
                receive_extensions(self._pc, transceiver, wanted)
            if rid != former.get(media.rtp.muxId):
                offered = [layer.rid for layer in description.layers.get(media.rtp.muxId, ())]
                self._logger.info("simulcast", {"mid": media.rtp.muxId, "offered": offered, "received": rid})

    def as_sent(self, sdp: str) -> str:
        """Return a description of this end that asks for the chosen layers."""
        return with_layers(sdp, self._chosen)
