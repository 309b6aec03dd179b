"""WHIP and WHEP clients over real HTTP and UDP."""

from __future__ import annotations

import pytest

from metered_realtime.whip import http_client, resource, session
from tests.support.patience import PATIENCE
from tests.support.peer_fixtures import no_socket_left_behind
from tests.whip.endpoint import endpoint

__all__ = ["endpoint", "no_socket_left_behind"]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up nothing because the machine is busy."""
    monkeypatch.setattr(http_client, "REQUEST_TIMEOUT", PATIENCE)
    monkeypatch.setattr(resource, "DELETE_TIMEOUT", PATIENCE)
    monkeypatch.setattr(resource, "POST_GRACE", PATIENCE)
    monkeypatch.setattr(session, "RESTART_PATIENCE", PATIENCE)
