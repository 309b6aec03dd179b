"""Sessions with a foreign endpoint: media both ways, candidates, and how sessions end."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from metered_realtime import (
    ConnectionLostError,
    IceServerConfig,
    MediaStream,
    ToneTrack,
    WhipRequestError,
    whep_play,
    whip_publish,
)
from metered_realtime.core.negotiation import one_shot_lifecycle
from metered_realtime.core.negotiation.sdp import sections
from metered_realtime.whip import resource
from tests.connection.stun_server import stun_server
from tests.support.patience import PATIENCE
from tests.support.peers import GreyTrack, ended, eventually, shows, state_of
from tests.whip.endpoint import Endpoint, hangs, replies

# --- media


async def test_tracks_reach_the_endpoint(endpoint: Endpoint) -> None:
    async with await whip_publish(endpoint.url, [ToneTrack(), GreyTrack(200)], token="hush") as session:
        assert session.state == "connected"
        for track in endpoint.tracks:
            await (shows(track, 200) if track.kind == "video" else track.recv())
        (post,) = endpoint.of("POST")
        assert post.path == "/live/whip"
        assert (post.headers["Content-Type"], post.headers["Authorization"]) == ("application/sdp", "Bearer hush")
        assert session.url == endpoint.url.replace("/live/whip", "/sessions/s0")
        assert {it.kind for it in session.stats().outbound} == {"audio", "video"}
    (delete,) = endpoint.of("DELETE")
    assert (delete.path, delete.headers["Authorization"]) == ("/sessions/s0", "Bearer hush")
    assert endpoint.ended == ["s0"]
    assert session.state == "closed"
    await session.wait_closed()


async def test_an_offer_to_publish_is_as_the_standard_asks(endpoint: Endpoint) -> None:
    async with await whip_publish(endpoint.url, MediaStream([ToneTrack(), GreyTrack()], id="camera")):
        offer = endpoint.of("POST")[0].body
    assert [(it.kind, it.direction, it.stream_ids) for it in sections(offer)] == [
        ("audio", "sendonly", ("camera",)),
        ("video", "sendonly", ("camera",)),
    ]
    assert offer.count("a=rtcp-mux-only\r\n") == offer.count("a=setup:actpass\r\n") == 2
    assert "a=group:BUNDLE 0 1\r\n" in offer
    assert "Authorization" not in endpoint.of("POST")[0].headers


async def test_tracks_come_from_the_endpoint(endpoint: Endpoint) -> None:
    endpoint.sends = [ToneTrack(), GreyTrack(60)]
    async with await whep_play(endpoint.url) as session:
        audio, video = session.tracks
        assert [audio.kind, video.kind] == ["audio", "video"]
        assert [stream.get_tracks() for stream in session.streams] == [[audio, video]]
        await shows(video, 60)
        await audio.recv()
    assert [it.direction for it in sections(endpoint.of("POST")[0].body)] == ["recvonly", "recvonly"]
    await ended(video)
    assert endpoint.ended == ["s0"]


async def test_one_kind_may_be_played(endpoint: Endpoint) -> None:
    endpoint.sends = [GreyTrack(60)]
    async with await whep_play(endpoint.url, kinds=["video"]) as session:
        (track,) = session.tracks
        await shows(track, 60)


async def test_a_track_is_replaced(endpoint: Endpoint) -> None:
    first = GreyTrack(60)
    async with await whip_publish(endpoint.url, [first]) as session:
        await shows(endpoint.tracks[0], 60)
        session.replace_track(first, GreyTrack(200))
        await shows(endpoint.tracks[0], 200)


async def test_what_is_wrong_in_the_program_is_said_before_anything_is_sent(endpoint: Endpoint) -> None:
    for tracks in ([], [GreyTrack(), GreyTrack()]):
        with pytest.raises(ValueError, match="one audio track, one video track"):
            await whip_publish(endpoint.url, tracks)
    with pytest.raises(TypeError, match="MediaStreamTrack"):
        await whip_publish(endpoint.url, ["x"])
    for kinds in ([], "audio", ["audio", "audio"], ["data"]):
        with pytest.raises(ValueError, match="kinds"):
            await whep_play(endpoint.url, kinds=kinds)
    with pytest.raises(TypeError, match="IceServerConfig"):
        await whep_play(endpoint.url, ice_servers=["stun:x"])  # type: ignore[list-item]
    assert endpoint.seen == []


# --- candidates


async def test_servers_that_the_endpoint_names_are_asked_and_their_candidates_sent(endpoint: Endpoint) -> None:
    async with stun_server() as stun_url:
        endpoint.headers = [("Link", f'<{stun_url}>; rel="ice-server"'), ("Link", '<x>; rel="ice-server"')]
        async with await whip_publish(endpoint.url, [GreyTrack()], token="hush"):
            await eventually(lambda: endpoint.of("PATCH"))
    offer, patch = endpoint.of("POST")[0].body, endpoint.of("PATCH")[0]
    assert "a=end-of-candidates" not in offer
    assert (patch.path, patch.headers["If-Match"]) == ("/sessions/s0", '"first"')
    assert (patch.headers["Content-Type"], patch.headers["Authorization"]) == (
        "application/trickle-ice-sdpfrag",
        "Bearer hush",
    )
    lines = patch.body.splitlines()
    assert [line for line in lines if line.startswith("a=ice-ufrag")] == [
        next(line for line in offer.splitlines() if line.startswith("a=ice-ufrag"))
    ]
    assert any("typ srflx" in line for line in lines)
    assert lines[-1] == "a=end-of-candidates"
    assert "a=mid:0" in lines


async def test_servers_of_the_program_replace_those_of_the_endpoint(endpoint: Endpoint) -> None:
    endpoint.headers = [("Link", '<stun:127.0.0.1:9>; rel="ice-server"')]
    async with await whip_publish(endpoint.url, [GreyTrack()], ice_servers=[]):
        assert "a=end-of-candidates" in endpoint.of("POST")[0].body
    assert endpoint.of("PATCH") == []


async def test_an_endpoint_without_patch_is_not_asked_again(endpoint: Endpoint) -> None:
    endpoint.patch_status = 405
    async with stun_server() as stun_url:
        endpoint.headers = [("Link", f'<{stun_url}>; rel="ice-server"')]
        async with await whip_publish(endpoint.url, [GreyTrack(200)]):
            await eventually(lambda: endpoint.of("PATCH"))
            await shows(endpoint.tracks[0], 200)
    assert len(endpoint.of("PATCH")) == 1
    assert endpoint.ended == ["s0"]


async def test_candidates_are_sent_again_when_the_endpoint_fails_for_a_moment(endpoint: Endpoint) -> None:
    endpoint.answer("PATCH", replies(500))
    async with stun_server() as stun_url:
        session = await whip_publish(endpoint.url, [GreyTrack()], ice_servers=[IceServerConfig(stun_url)])
        await eventually(lambda: endpoint.candidates)
        await session.close()
    first, second = endpoint.of("PATCH")
    assert first.body == second.body


async def test_without_trickle_the_servers_are_asked_first(endpoint: Endpoint) -> None:
    async with stun_server() as stun_url:
        endpoint.headers = [("Link", f'<{stun_url}>; rel="ice-server"')]
        async with await whip_publish(endpoint.url, [GreyTrack()], trickle=False, token="hush"):
            pass
    assert [it.method for it in endpoint.seen] == ["OPTIONS", "POST", "DELETE"]
    assert endpoint.seen[0].headers["Authorization"] == "Bearer hush"
    offer = endpoint.of("POST")[0].body
    assert "typ srflx" in offer
    assert "a=end-of-candidates" in offer


async def test_an_endpoint_that_names_no_servers_needs_no_options(endpoint: Endpoint) -> None:
    endpoint.answer("OPTIONS", replies(405))
    async with await whip_publish(endpoint.url, [GreyTrack()], trickle=False):
        assert "a=end-of-candidates" in endpoint.of("POST")[0].body


async def test_where_candidates_are_refused_and_needed_the_offer_has_all_of_them(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one_shot_lifecycle, "CONNECT_TIMEOUT", 1.0)
    endpoint.patch_status = 405

    endpoint.answer("POST", endpoint.unreachable)

    async def second(request: web.Request) -> web.StreamResponse:
        monkeypatch.undo()
        return await endpoint.post(endpoint.of("POST")[-1].body)

    endpoint.answer("POST", second)
    async with stun_server() as stun_url:
        servers = [IceServerConfig(stun_url)]
        async with await whip_publish(endpoint.url, [GreyTrack(200)], ice_servers=servers) as session:
            await shows(endpoint.tracks[-1], 200)
            assert session.url is not None
            assert session.url.endswith("/sessions/s1")
    one, other = (it.body for it in endpoint.of("POST"))
    assert ("typ srflx" in one, "typ srflx" in other) == (False, True)
    assert endpoint.ended == ["s0", "s1"]


# --- the end


async def test_the_end_of_the_endpoint_ends_the_session(endpoint: Endpoint) -> None:
    session = await whip_publish(endpoint.url, [GreyTrack()])
    waiting = asyncio.ensure_future(session.wait_closed())
    await endpoint.close()
    with pytest.raises(ConnectionLostError, match="closed_by_remote"):
        await asyncio.wait_for(waiting, PATIENCE)
    assert isinstance(session.error, ConnectionLostError)
    assert session.state == "closed"


async def test_an_endpoint_that_closes_first_when_it_is_told_to_is_no_failure(endpoint: Endpoint) -> None:
    session = await whip_publish(endpoint.url, [GreyTrack()])

    async def close_and_wait(request: web.Request) -> web.StreamResponse:
        await endpoint.close()
        await state_of(session.connection, "closed")
        return web.Response()

    endpoint.answer("DELETE", close_and_wait)
    await session.close()
    await session.wait_closed()
    assert session.error is None


async def test_a_session_may_be_closed_twice_and_at_once(endpoint: Endpoint) -> None:
    session = await whip_publish(endpoint.url, [GreyTrack()])
    await asyncio.gather(session.close(), session.close())
    await session.close()
    assert len(endpoint.of("DELETE")) == 1


async def test_an_endpoint_that_does_not_answer_delays_the_end_for_a_moment_only(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "DELETE_TIMEOUT", 0.2)
    session = await whip_publish(endpoint.url, [GreyTrack()])
    endpoint.answer("DELETE", hangs(asyncio.Event()))
    async with asyncio.timeout(PATIENCE):
        await session.close()
    assert session.state == "closed"


async def test_a_cancelled_post_leaves_no_session_behind(endpoint: Endpoint) -> None:
    reached, may_answer = asyncio.Event(), asyncio.Event()

    async def late(request: web.Request) -> web.StreamResponse:
        reached.set()
        await may_answer.wait()
        return await endpoint.unreachable(request)

    endpoint.answer("POST", late)
    publishing = asyncio.ensure_future(whip_publish(endpoint.url, [GreyTrack()]))
    await reached.wait()
    publishing.cancel()
    await asyncio.sleep(0)
    may_answer.set()
    with pytest.raises(asyncio.CancelledError):
        await publishing
    assert endpoint.ended == ["s0"]


async def test_cancelled_while_it_connects_it_leaves_no_session_behind(endpoint: Endpoint) -> None:
    endpoint.answer("POST", endpoint.unreachable)
    publishing = asyncio.ensure_future(whip_publish(endpoint.url, [GreyTrack()]))
    await eventually(lambda: endpoint.sessions)
    publishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publishing
    assert endpoint.ended == ["s0"]


async def test_a_session_that_cannot_be_used_is_deleted(endpoint: Endpoint) -> None:
    endpoint.rewrite_answer = lambda sdp: "v=0\r\n"
    endpoint.answer("POST", endpoint.unreachable)
    with pytest.raises(Exception, match="cannot be used"):
        await whip_publish(endpoint.url, [GreyTrack()])
    assert endpoint.ended == ["s0"]


async def test_a_player_is_told_to_come_back_while_nobody_publishes(endpoint: Endpoint) -> None:
    endpoint.answer("POST", replies(409, headers={"Retry-After": "3"}))
    with pytest.raises(WhipRequestError) as refused:
        await whep_play(endpoint.url)
    assert (refused.value.method, refused.value.status, refused.value.retry_after) == ("POST", 409, 3.0)
