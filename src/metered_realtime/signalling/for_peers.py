"""What `MeteredPeer` needs of its signalling client beyond the public methods. Programs have no use for it."""

from __future__ import annotations

from msgspec import Raw

from .client import SignallingClient


async def publish_encoded(client: SignallingClient, channel: str, payload: Raw) -> None:
    """Publish a payload that is encoded already. Raises like `SignallingClient.publish`."""
    await client._publish_raw(channel, payload)


async def send_encoded(client: SignallingClient, peer_id: str, payload: Raw) -> None:
    """Send a payload that is encoded already. Raises like `SignallingClient.send`."""
    await client._send_raw(peer_id, payload)


def check_connection(client: SignallingClient) -> None:
    """Find out soon whether the connection is alive: something else that uses the network has failed."""
    client._check_connection()


def leave_warning_to_peer(client: SignallingClient) -> None:
    """Keep a client from warning that it was not closed: the peer that closes it warns."""
    client._leave_warning_to_peer()
