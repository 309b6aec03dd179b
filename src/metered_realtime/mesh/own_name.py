"""The name under which a peer shows itself to others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ..core.negotiation.signals import MetadataSignal, name_signal
from ..core.wire.shown_names import shown_name

if TYPE_CHECKING:
    from .remote_peer import RemotePeer


class NameOwner(Protocol):
    """The peer that has the name."""

    @property
    def remote_peers(self) -> list[RemotePeer]: ...
    def _tell_metadata(self, remote: RemotePeer, signal: MetadataSignal) -> None: ...


class OwnName:
    """The name of one peer, which every current and future remote is told, the room page included.

    Raises:
        TypeError: the name is neither str nor None.
        ValueError: nothing of it can be seen.
    """

    def __init__(self, owner: NameOwner, name: str | None) -> None:
        self._owner = owner
        self._name = _checked(name)

    @property
    def value(self) -> str | None:
        """The name, None if there is none."""
        return self._name

    def change(self, name: str | None) -> None:
        """Take another name, and tell everybody. Raises like the constructor."""
        before, self._name = self._name, _checked(name)
        if self._name != before:
            for remote in self._owner.remote_peers:
                self._owner._tell_metadata(remote, name_signal(self._name))

    def tell(self, remote: RemotePeer) -> None:
        """Tell a remote the name, if there is one."""
        if self._name is not None:
            self._owner._tell_metadata(remote, name_signal(self._name))


def _checked(name: str | None) -> str | None:
    if name is None:
        return None
    if not isinstance(name, str):
        raise TypeError(f"name must be a str or None, not {name!r}")
    shown = shown_name(name)
    if shown is None:
        raise ValueError(f"nothing of the name {name[:20]!r} can be seen")
    return shown
