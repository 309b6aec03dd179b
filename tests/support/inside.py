"""What tests reach below the public API, each in one place.

A test of a behaviour uses these names and the public API. A test whose subject is the inside of a class reads it
itself.
"""

from __future__ import annotations

from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection

from metered_realtime import MeteredPeer, RemotePeer
from metered_realtime.aiortc_compat.transports import ice_transport
from metered_realtime.connection.remote_connection import RemoteConnection
from metered_realtime.core.negotiation.signals import Signal
from metered_realtime.core.session.session import Session
from metered_realtime.files.receiving import FileReceiver
from metered_realtime.files.transfers import FileTransfers
from metered_realtime.server import SignallingServer
from metered_realtime.server.tenant import Tenant
from metered_realtime.signalling import SignallingClient
from metered_realtime.signalling.socket import SignallingSocket
from metered_realtime.streams.reader import StreamReader

# --- a peer


def signalling_client(peer: MeteredPeer) -> SignallingClient:
    """Return the signalling client of a peer."""
    return peer._seat.client


def transfers_of(peer: MeteredPeer) -> FileTransfers:
    """Return the file transfers of a peer."""
    return peer._files


def blink(peer: MeteredPeer) -> None:
    """Have a peer lose the server and find it again, without a lost message."""
    peer._remotes.set_signalling_lost(True)
    peer._remotes.set_signalling_lost(False)


def retry_refused(peer: MeteredPeer) -> None:
    """Have a peer send what the server has refused, as after a change of its rights."""
    peer._remotes.retry()


# --- a remote


def connection_of(remote: RemotePeer) -> RemoteConnection:
    """Return the connection to a remote, which must have one."""
    assert remote._connection is not None
    return remote._connection


def has_connection(remote: RemotePeer) -> bool:
    """Return whether anything was ever negotiated with a remote."""
    return remote._connection is not None


def fail_connection(remote: RemotePeer) -> None:
    """Fail the connection to a remote as if its path was lost."""
    connection_of(remote)._connection.fail("the test says so")


def start_over(remote: RemotePeer) -> None:
    """Replace the connection to a remote at this end, as after a failure."""
    connection_of(remote).start_over(polite=remote.polite)


def is_quiet(remote: RemotePeer) -> bool:
    """Return whether nothing is going on with a remote: no timer is set, and no negotiation runs."""
    connection = connection_of(remote)
    worker = connection._worker
    return not connection._timers and not connection._connection._timers and (worker is None or worker.done())


def channel_entries(remote: RemotePeer) -> dict[str, Any]:
    """Return the managed channels that a remote's registry keeps, by label."""
    return remote._channels._entries


def open_reserved_channel(remote: RemotePeer, label: str) -> Any:
    """Open a channel under a label that is kept for the package."""
    return remote._channels.open_reserved(label)


def receive_signal(remote: RemotePeer, signal: Signal) -> None:
    """Handle a signal as if the remote had sent it."""
    remote._receive_signal(signal)


# --- a signalling client


def session_of(client: SignallingClient) -> Session:
    """Return the pure session of a client."""
    return client._session


def socket_of(client: SignallingClient) -> SignallingSocket:
    """Return the socket of a client that is connected or connecting."""
    assert isinstance(client._socket, SignallingSocket)
    return client._socket


def websocket_of(client: SignallingClient) -> ClientConnection:
    """Return the WebSocket of a connected client, for faults that it does not cause itself."""
    websocket = socket_of(client)._websocket
    assert websocket is not None
    return websocket


# --- a server


def tenant_of(server: SignallingServer) -> Tenant:
    """Return the only tenant of a server."""
    assert server._app is not None
    (tenant,) = server._app._tenants.values()
    return tenant


# --- aioice


def aioice_of(pc: Any) -> Any:
    """Return the aioice connection of an RTCPeerConnection."""
    return ice_transport(pc)._connection


# --- files and streams


def arriving_files(receiver: FileReceiver) -> dict[tuple[str, str], Any]:
    """Return the transfers that a receiver has in hand, by remote and transfer id."""
    return receiver._active


def ignore_answers(monkeypatch: pytest.MonkeyPatch, peer: MeteredPeer) -> None:
    """Ignore what receivers answer to the files that a peer offers."""
    monkeypatch.setattr(transfers_of(peer), "_receive_answer", lambda remote, reader: None)


def unread_chunks(reader: StreamReader) -> list[int]:
    """Return the sizes of the chunks that a reader holds, the oldest first."""
    return [len(chunk) for chunk in reader._chunks]
