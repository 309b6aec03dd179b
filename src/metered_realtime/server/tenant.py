"""One app while the server runs: its hub, its meter and its open links."""

from __future__ import annotations

from ..events import WsCloseCode
from .hub import Hub
from .keys import App
from .limits import Limits
from .link import Link, seal
from .plan import Meter


class Tenant:
    """What belongs to one app, and to no other."""

    def __init__(self, app: App, limits: Limits) -> None:
        self.id = app.id
        self.meter = Meter(app.plan)
        self.hub = Hub(limits, seal, self.meter)
        self.links: set[Link] = set()

    def reconfigure(self, app: App, limits: Limits) -> None:
        """Go on under other bounds."""
        self.meter.replace_plan(app.plan)
        self.hub.reconfigure(limits)

    def close_peer(self, peer_id: str) -> int:
        """End every connection of a peer by order of its backend. Return how many there were."""
        links = [link for link in self.links if link.peer_id == peer_id and not link.is_ending]
        for link in links:
            link.close(WsCloseCode.ADMIN_DISCONNECT, "disconnected by the backend")
        return len(links)
