"""Media sections: transceivers that are negotiated without aiortc's offers, and their descriptions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiortc import RTCPeerConnection, RTCRtpTransceiver, rtcpeerconnection
from aiortc.mediastreams import MediaStreamTrack
from aiortc.rtcrtpparameters import RTCRtpReceiveParameters
from aiortc.rtcrtpreceiver import RTCRtpReceiver
from aiortc.rtcrtpsender import RTCRtpSender
from aiortc.sdp import MediaDescription, SessionDescription

from .stats import count_frames
from .transports import dtls_transport, sctp_transport

_PC = "_RTCPeerConnection__"


def new_transceiver(pc: RTCPeerConnection, track: MediaStreamTrack) -> RTCRtpTransceiver:
    """Create a transceiver on the shared transport that is not part of the connection yet.

    It is in no description until `adopt_transceiver`, so that a withdrawn offer leaves no trace.
    """
    transport = dtls_transport(pc)
    sender = RTCRtpSender(track, transport)
    count_frames(sender)
    receiver = RTCRtpReceiver(track.kind, transport)
    receiver._set_rtcp_ssrc(sender._ssrc)
    transceiver = RTCRtpTransceiver(kind=track.kind, sender=sender, receiver=receiver, direction="sendrecv")
    transceiver._bundled = True
    return transceiver


def use_sender(transceiver: RTCRtpTransceiver, track: MediaStreamTrack) -> None:
    """Send a track with a transceiver that aiortc created for a section of the remote, and that has never sent."""
    transceiver.sender.replaceTrack(track)
    count_frames(transceiver.sender)


def adopt_transceiver(pc: RTCPeerConnection, transceiver: RTCRtpTransceiver) -> None:
    """Add a transceiver to the connection. Idempotent."""
    transceivers = getattr(pc, f"{_PC}transceivers")
    if transceiver not in transceivers:
        transceivers.append(transceiver)


def set_sender_identity(transceiver: RTCRtpTransceiver, stream_id: str | None, track_id: str) -> None:
    """Set the msid (RFC 8830) with which a transceiver sends; `-` stands for no stream."""
    transceiver.sender._stream_id = stream_id or "-"
    transceiver.sender._track_id = track_id


def set_section_index(pc: RTCPeerConnection, transceiver: RTCRtpTransceiver | None, index: int) -> None:
    """Set the index of a transceiver, or of the data section (None), in the description to be committed."""
    if transceiver is None:
        setattr(pc, f"{_PC}sctp_mline_index", index)
    else:
        transceiver._set_mline_index(index)


async def give_up_section(pc: RTCPeerConnection, transceiver: RTCRtpTransceiver) -> None:
    """Stop a transceiver and remove it from the connection: the remote reuses its section."""
    getattr(pc, f"{_PC}transceivers").remove(transceiver)
    await transceiver.stop()


def codecs(transceiver: RTCRtpTransceiver) -> list[Any]:
    """Return the codecs negotiated for a transceiver, as RTCRtpCodecParameters."""
    return transceiver._codecs


def header_extensions(transceiver: RTCRtpTransceiver) -> list[Any]:
    """Return the header extensions negotiated for a transceiver, as RTCRtpHeaderExtensionParameters."""
    return transceiver._headerExtensions


def receive_extensions(pc: RTCPeerConnection, transceiver: RTCRtpTransceiver, extensions: Sequence[Any]) -> None:
    """Accept further header extensions of a remote description, which aiortc can read but does not negotiate."""
    known = {extension.uri for extension in transceiver._headerExtensions}
    transceiver._headerExtensions += [extension for extension in extensions if extension.uri not in known]
    parameters = RTCRtpReceiveParameters(headerExtensions=transceiver._headerExtensions)
    dtls_transport(pc)._rtp_header_extensions_map.configure(parameters)


def propose(transceiver: RTCRtpTransceiver, codec_list: list[Any], extension_list: list[Any]) -> None:
    """Set the codecs and header extensions that a new transceiver offers."""
    transceiver._codecs = codec_list
    transceiver._headerExtensions = extension_list


def prefer_codec(transceiver: RTCRtpTransceiver, mime_type: str) -> None:
    """Put a codec with its retransmission first among those that a transceiver negotiates, if it is one of them."""
    chosen = {it.payloadType for it in transceiver._codecs if it.mimeType.lower() == mime_type.lower()}
    transceiver._codecs.sort(key=lambda it: it.parameters.get("apt", it.payloadType) not in chosen)


def describe_media(pc: RTCPeerConnection, transceiver: RTCRtpTransceiver, direction: str, mid: str) -> MediaDescription:
    """Describe a media section."""
    return rtcpeerconnection.create_media_description_for_transceiver(
        transceiver, cname=getattr(pc, f"{_PC}cname"), direction=direction, mid=mid
    )


def describe_data(pc: RTCPeerConnection, mid: str) -> MediaDescription:
    """Describe the data section."""
    return rtcpeerconnection.create_media_description_for_sctp(sctp_transport(pc), legacy=False, mid=mid)


def remote_description(pc: RTCPeerConnection) -> SessionDescription:
    """Return the latest remote description as aiortc has parsed it."""
    description: SessionDescription = getattr(pc, f"{_PC}remoteDescription")()
    return description


def receiver_of(pc: RTCPeerConnection, track: MediaStreamTrack) -> RTCRtpReceiver | None:
    """Return the receiver of one of aiortc's tracks."""
    return next((receiver for receiver in pc.getReceivers() if receiver.track is track), None)
