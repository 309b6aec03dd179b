"""Peers over real UDP."""

from tests.support.peer_fixtures import no_socket_left_behind, room

__all__ = ["no_socket_left_behind", "room"]
