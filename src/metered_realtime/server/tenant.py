"""One app while the server runs: its hub, its meter and its open links."""

from __future__ import annotations

from ..events import WsCloseCode
from .auth import Admission
from .client_socket import Link, seal
from .hub import Hub
from .keys import App
from .limits import Limits
from .plan import Meter


class Tenant:
    """What belongs to one app, and to no other."""

    def __init__(self, app: App, limits: Limits) -> None:
        self.id = app.id
        self.meter = Meter(app.plan)
        self.hub = Hub(limits, seal, self.meter)
        self.links: set[Link] = set()
        self._links_of: dict[str, set[Link]] = {}

    def reconfigure(self, app: App, limits: Limits) -> None:
        """Go on under other bounds."""
        self.meter.replace_plan(app.plan)
        self.hub.reconfigure(limits)

    def enter(self, link: Link) -> None:
        """Note a link that is being served."""
        self.links.add(link)
        self._links_of.setdefault(link.peer_id, set()).add(link)

    def leave(self, link: Link) -> None:
        """Forget a link."""
        self.links.discard(link)
        links = self._links_of.get(link.peer_id, set())
        links.discard(link)
        if not links:
            self._links_of.pop(link.peer_id, None)

    def replaced_by(self, admission: Admission) -> list[Link]:
        """Return the links that make way for a connection which resumes: its peer's, by the same key."""
        if not admission.resumes:
            return []
        links = self._links_of.get(admission.identity.peer_id, ())
        return [link for link in links if link.admission.is_by_same_key(admission) and not link.has_left]

    def admits(self, admission: Admission) -> bool:
        """Tell whether the plan has room for a connection. One that replaces another takes no more."""
        return self.meter.admits() or bool(self.replaced_by(admission))

    def close_peer(self, peer_id: str) -> int:
        """End every connection of a peer by order of its backend. Return how many there were."""
        links = [link for link in self._links_of.get(peer_id, ()) if not link.is_ending]
        for link in links:
            link.close(WsCloseCode.ADMIN_DISCONNECT, "disconnected by the backend")
        return len(links)
