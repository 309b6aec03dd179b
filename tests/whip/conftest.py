"""WHIP and WHEP clients over real HTTP and UDP."""

from tests.support.peer_fixtures import no_socket_left_behind
from tests.whip.endpoint import endpoint

__all__ = ["endpoint", "no_socket_left_behind"]
