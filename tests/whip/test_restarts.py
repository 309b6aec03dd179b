"""A lost path: ICE is restarted by PATCH, or the session ends and says why."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web

from metered_realtime import ConnectionLostError, WhipProtocolError, WhipRequestError, WhipSession, whip_publish
from metered_realtime.core.negotiation.ice_fragment import IceFragment
from metered_realtime.whip import session as sessions
from tests.support.patience import PATIENCE
from tests.support.peers import GreyTrack, eventually, fresh_frames, shows, state_of
from tests.whip.endpoint import FRAGMENT, Endpoint, Handler, replies


async def lose_path(session: WhipSession) -> None:
    """Let the consent of the media server to receive be lost (RFC 7675), as when it does not answer for 6 s."""
    ice: Any = session.connection.pc.sctp.transport.transport  # type: ignore[union-attr]
    await ice._connection.consent_lost()


async def published(endpoint: Endpoint) -> WhipSession:
    endpoint.answer("POST", endpoint.native)
    session = await whip_publish(endpoint.url, [GreyTrack(200)], ice_servers=[], token="hush")
    await shows(endpoint.sessions["s0"].tracks[0], 200)
    return session


def restarts(endpoint: Endpoint) -> Handler:
    """Return a handler that restarts ICE."""

    async def restart(request: web.Request) -> web.StreamResponse:
        answer = await endpoint.sessions["s0"].add_fragment(endpoint.of("PATCH")[-1].body)
        return web.Response(text=answer, content_type=FRAGMENT, headers={"ETag": '"second"'})

    return restart


async def test_ice_is_restarted_when_the_path_is_lost(endpoint: Endpoint) -> None:
    session = await published(endpoint)
    endpoint.answer("PATCH", restarts(endpoint))
    await lose_path(session)
    assert session.state == "reconnecting"
    await state_of(session.connection, "connected")
    await fresh_frames(endpoint.sessions["s0"].tracks[0])
    (patch,) = endpoint.of("PATCH")
    assert (patch.headers["If-Match"], patch.headers["Authorization"]) == ("*", "Bearer hush")
    fragment = IceFragment.parse(patch.body)
    assert fragment.ufrag is not None
    assert f"a=ice-ufrag:{fragment.ufrag}" not in endpoint.of("POST")[0].body
    assert fragment.candidates
    assert "a=ice-options:trickle" in patch.body
    await session.close()
    assert endpoint.ended == ["s0"]


async def test_a_restart_is_tried_again_when_the_endpoint_fails_for_a_moment(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "RESTART_DELAYS", (0.0, 0.05, 0.05))
    session = await published(endpoint)
    endpoint.answer("PATCH", replies(503))
    endpoint.answer("PATCH", replies(204))
    endpoint.answer("PATCH", restarts(endpoint))
    await lose_path(session)
    await eventually(lambda: len(endpoint.of("PATCH")) == 3)
    await state_of(session.connection, "connected")
    await fresh_frames(endpoint.sessions["s0"].tracks[0])
    await session.close()


@pytest.mark.parametrize("status", [404, 405, 422])
async def test_a_session_that_cannot_be_restarted_ends_at_once(endpoint: Endpoint, status: int) -> None:
    session = await published(endpoint)
    endpoint.answer("PATCH", replies(status))
    await lose_path(session)
    with pytest.raises(WhipRequestError) as refused:
        await asyncio.wait_for(session.wait_closed(), PATIENCE)
    assert refused.value.status == status
    assert session.error is refused.value
    assert len(endpoint.of("PATCH")) == 1
    assert endpoint.ended == ([] if status == 404 else ["s0"])  # what is gone need not be deleted


@pytest.mark.parametrize("answer", [b"", b"nonsense", b"a=ice-ufrag:x\r\n", b"a=ice-ufrag:x\r\n" * 9000])
async def test_an_answer_to_a_restart_that_cannot_be_used_is_no_path(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    monkeypatch.setattr(sessions, "RESTART_DELAYS", (0.0, 0.0))
    session = await published(endpoint)
    endpoint.answer("PATCH", replies(200, body=answer, content_type=FRAGMENT), times=2)
    await lose_path(session)
    with pytest.raises((WhipProtocolError, Exception), match=r"fragment"):
        await asyncio.wait_for(session.wait_closed(), PATIENCE)
    assert len(endpoint.of("PATCH")) == 2
    assert endpoint.ended == ["s0"]


async def test_a_path_that_is_not_found_ends_the_session(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "RESTART_DELAYS", (0.0,))
    monkeypatch.setattr(sessions, "RESTART_PATIENCE", 0.2)
    session = await published(endpoint)

    async def elsewhere(request: web.Request) -> web.StreamResponse:
        """Answer with credentials that fit nothing."""
        return web.Response(text="a=ice-ufrag:abcd\r\na=ice-pwd:" + "x" * 22, content_type=FRAGMENT)

    endpoint.answer("PATCH", elsewhere)
    await lose_path(session)
    with pytest.raises(ConnectionLostError, match="path_lost"):
        await asyncio.wait_for(session.wait_closed(), PATIENCE)
    assert endpoint.ended == ["s0"]
