"""A network path that is lost under a connection."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def cut(pc: Any) -> Iterator[None]:
    """Let nothing through the sockets of a connection."""
    with pytest.MonkeyPatch.context() as patch:
        for protocol in pc.sctp.transport.transport._connection._protocols:
            patch.setattr(protocol, "datagram_received", lambda data, address: None)
            patch.setattr(protocol, "send_stun", lambda message, address: None)
            patch.setattr(protocol.transport, "sendto", lambda data, address: None)
        yield
