"""The OpenAPI description of the REST API, and whether the server conforms to it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from urllib.parse import unquote

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, assume, settings

from metered_realtime.server import Limits, SignallingServer
from metered_realtime.server.rest.openapi import DESCRIPTION

schema = schemathesis.openapi.from_dict(DESCRIPTION)

PATIENT = Limits(rest_per_second=10_000, rest_burst=10_000, rest_key_per_second=10_000, rest_key_burst=10_000)


@pytest.fixture(scope="module")
def served() -> Iterator[SignallingServer]:
    """A server with its own event loop and thread, since schemathesis is synchronous."""
    server, ready, loop = SignallingServer(limits=PATIENT), threading.Event(), asyncio.new_event_loop()
    done = asyncio.Event()

    async def serve() -> None:
        async with server:
            ready.set()
            await done.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(10)
    yield server
    loop.call_soon_threadsafe(done.set)
    thread.join()
    loop.close()


@pytest.fixture(scope="module")
def session(served: SignallingServer) -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {served.secret_id}:{served.secret}"
        yield session


@schema.parametrize()
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_the_server_does_what_its_description_says(
    case: schemathesis.Case, served: SignallingServer, session: requests.Session
) -> None:
    # schemathesis treats "%ae" in a generated id as an escape, and then uses another id.
    peer_id = unquote((case.path_parameters or {}).get("id", ""))
    assume(peer_id.isascii() and peer_id.isprintable())
    case.call_and_validate(base_url=f"{served.http_url}/v1", session=session)


def test_is_served_to_everybody(served: SignallingServer) -> None:
    answer = requests.get(f"{served.http_url}/v1/openapi.json", timeout=5)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json")
    assert answer.json() == DESCRIPTION
    assert answer.json()["openapi"].startswith("3.1")
