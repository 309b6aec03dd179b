"""The statistics of peers and remotes, compared with what was really sent over UDP."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

from metered_realtime import (
    ConnectionReset,
    DataChannel,
    DataChannelOpened,
    DataStats,
    DCMessage,
    DCOpen,
    InboundTrackStats,
    MediaStream,
    OutboundTrackStats,
    PeerLeft,
    RemotePeer,
    RemoteStats,
)
from metered_realtime.aiortc_compat.transports import ice_transport, path_is_alive, selected_pair
from metered_realtime.media.receiving.remote_track import MAX_WAITING_VIDEO
from metered_realtime.media.sources.testsource import ToneTrack
from tests.support.inside import fail_connection, has_connection
from tests.support.patience import PATIENCE
from tests.support.peers import EventLog, GreyTrack, Pair, Room, eventually, frames, next_event, shows


def sent(remote: RemotePeer) -> OutboundTrackStats:
    """Return the statistics of the only track sent to a remote."""
    (track,) = remote.stats().outbound
    return track


def got(remote: RemotePeer) -> InboundTrackStats:
    """Return the statistics of the only track received from a remote."""
    (track,) = remote.stats().inbound
    return track


def data_of(remote: RemotePeer) -> DataStats:
    """Return the statistics of the data channels of a remote that has a connection."""
    data = remote.stats().data
    assert data is not None
    return data


def check_known(stats: Any, *known: str) -> None:
    """Check that exactly these fields are known."""
    values = {field.name: getattr(stats, field.name) for field in dataclasses.fields(stats)}
    assert {name for name, value in values.items() if value not in (None, ())} == set(known)


async def test_reading_an_idle_remote_makes_no_connection(room: Room) -> None:
    pair = await room.pair()
    stats = pair.to_b.stats()
    check_known(stats, "peer_id", "state", "generation")
    assert (stats.peer_id, stats.state, stats.generation) == ("b", "idle", 0)
    assert not has_connection(pair.to_b)
    assert pair.a.stats().remotes == {"b": stats}


async def test_media_is_counted_at_both_ends(room: Room) -> None:
    pair = await room.pair()
    track, received = await pair.media_to_b()
    await frames(received, 10)
    there = got(pair.to_a)
    here = sent(pair.to_b)
    assert (here.kind, here.codec, here.track_id) == ("video", "video/VP8", track.id)
    assert (there.kind, there.codec, there.track_id) == ("video", "video/VP8", track.id)
    assert there.stream_id == here.stream_id is not None
    assert 10 <= there.frames_decoded <= here.frames_encoded <= track.frames_made
    assert 0.8 * here.bytes_sent < there.bytes_received <= here.bytes_sent
    assert there.packets_received <= here.packets_sent
    assert (there.packets_lost, here.frames_failed) == (0, 0)
    assert here.target_bitrate is not None
    assert there.jitter is not None
    assert 0 <= there.jitter < 0.5
    await frames(received, 3)
    assert got(pair.to_a).frames_decoded > there.frames_decoded
    assert got(pair.to_a).packets_received > there.packets_received


async def test_tracks_are_counted_separately(room: Room) -> None:
    pair = await room.pair()
    video, audio = GreyTrack(), ToneTrack()
    pair.a.add_stream(MediaStream([video, audio], id="camera"))
    await eventually(lambda: len(pair.to_a.stats().inbound) == 2)
    await eventually(lambda: all(track.frames_received for track in pair.to_a.stats().inbound))
    codecs = {(video.id, "camera", "video/VP8"), (audio.id, "camera", "audio/opus")}
    assert {(it.track_id, it.stream_id, it.codec) for it in pair.to_b.stats().outbound} == codecs
    assert {(it.track_id, it.stream_id, it.codec) for it in pair.to_a.stats().inbound} == codecs
    pair.a.remove_track(audio)
    assert [it.track_id for it in pair.to_b.stats().outbound] == [video.id]
    await eventually(lambda: [it.track_id for it in pair.to_a.stats().inbound] == [video.id])


async def test_a_replaced_track_goes_on_with_the_counters_of_its_section(room: Room) -> None:
    pair = await room.pair()
    old, received = await pair.media_to_b(60)
    before, new = sent(pair.to_b), GreyTrack(200)
    await pair.a.replace_track(old, new)
    await shows(received, 200)
    here, there = sent(pair.to_b), got(pair.to_a)
    assert (before.track_id, here.track_id, there.track_id) == (old.id, new.id, old.id)
    assert here.frames_encoded > before.frames_encoded
    assert here.bytes_sent > before.bytes_sent


async def test_what_one_end_sends_the_other_receives(room: Room) -> None:
    pair = await room.pair()
    _, received = await pair.media_to_b()
    channel, _ = await opened(pair)
    await channel.send(b"x" * 200_000)
    await frames(received, 10)
    await eventually(lambda: channel.buffered_amount == 0)
    there, here = pair.to_a.stats(), pair.to_b.stats()
    assert here.bytes_sent is not None
    assert there.bytes_received is not None
    assert 100_000 < 0.95 * here.bytes_sent < there.bytes_received <= here.bytes_sent
    assert here.packets_sent is not None
    assert there.packets_received is not None
    assert 0.8 * here.packets_sent < there.packets_received <= here.packets_sent


def host_addresses(remote: RemotePeer) -> set[tuple[str, int]]:
    """Return the addresses of the sockets that this end has opened for a remote."""
    return {(it.ip, it.port) for it in ice_transport(remote.pc).iceGatherer.getLocalCandidates()}


async def test_the_path_is_that_of_the_sockets_and_its_round_trip_time_is_known_at_once(room: Room) -> None:
    """Without media there is no RTCP: the STUN checks measure it."""
    pair = await room.pair()
    pair.to_b.create_data_channel("x")
    await pair.connected()
    here, there = pair.to_b.stats(), pair.to_a.stats()
    hosts = [host_addresses(pair.to_b), host_addresses(pair.to_a)]
    for stats, (mine, theirs) in ((here, hosts), (there, hosts[::-1])):
        for candidate, known in ((stats.local_candidate, mine), (stats.remote_candidate, theirs)):
            assert candidate is not None
            assert (candidate.type, candidate.protocol) == ("host", "udp")
            assert (candidate.address, candidate.port) in known
    for stats in (here, there):
        assert stats.round_trip_time is not None
        assert 0 < stats.round_trip_time < 0.5
        assert (stats.ice_state, stats.dtls_state, stats.state) == ("completed", "connected", "connected")
        assert stats.connected_for is not None
        assert 0 <= stats.connected_for < PATIENCE


async def test_the_round_trip_time_follows_the_path(room: Room) -> None:
    pair = await room.pair()
    pair.to_b.create_data_channel("x")
    await pair.connected()
    protocol = selected_pair(pair.to_b.pc).protocol
    send_at_once = protocol.send_stun
    loop = asyncio.get_running_loop()
    protocol.send_stun = lambda *packet: loop.call_later(0.1, send_at_once, *packet)
    async with asyncio.timeout(PATIENCE):
        while (pair.to_b.stats().round_trip_time or 0) < 0.1:  # a check that takes too long is not measured
            assert await path_is_alive(pair.to_b.pc)
    assert (pair.to_b.stats().round_trip_time or 0) < 0.5


async def test_an_answer_to_a_repeated_check_measures_no_round_trip_time(room: Room) -> None:
    pair = await room.pair()
    pair.to_b.create_data_channel("x")
    await pair.connected()
    before = pair.to_b.stats().round_trip_time
    protocol = selected_pair(pair.to_b.pc).protocol
    lost: list[Any] = []
    send = protocol.send_stun

    def lose_the_first(*packet: Any) -> None:
        (send if lost else lambda *_: lost.append(packet))(*packet)

    protocol.send_stun = lose_the_first
    assert await path_is_alive(pair.to_b.pc)
    assert lost
    assert pair.to_b.stats().round_trip_time == before


async def test_rtcp_reports_what_the_other_end_missed(room: Room) -> None:
    pair = await room.pair()
    await pair.media_to_b()
    await eventually(lambda: sent(pair.to_b).round_trip_time is not None)
    here = sent(pair.to_b)
    assert here.round_trip_time is not None
    assert 0 <= here.round_trip_time < 0.5
    assert (here.packets_lost, here.fraction_lost) == (0, 0.0)
    drop_some(pair.to_b)
    await eventually(lambda: (got(pair.to_a).packets_lost or 0) > 3)
    await eventually(lambda: (sent(pair.to_b).packets_lost or 0) > 3)
    await eventually(lambda: (sent(pair.to_b).fraction_lost or 0) > 0)
    there, reported = pair.to_a.stats(), pair.to_b.stats()
    (track,) = reported.outbound
    assert track.fraction_lost is not None
    assert 0 < track.fraction_lost < 1
    assert there.bytes_received is not None
    assert reported.bytes_sent is not None
    assert there.bytes_received < reported.bytes_sent


def drop_some(remote: RemotePeer) -> None:
    """Lose every third datagram to a remote, except for STUN."""
    protocol = selected_pair(remote.pc).protocol
    send, count = protocol.send_data, iter(range(1_000_000))

    async def send_or_lose(data: bytes, addr: Any) -> None:
        if next(count) % 3:
            await send(data, addr)

    protocol.send_data = send_or_lose


async def test_bitrates_rise_with_media_and_fall_without(room: Room) -> None:
    pair = await room.pair()
    audio = ToneTrack()
    pair.a.add_track(audio)
    await eventually(lambda: (pair.to_a.stats().bitrate_in or 0) > 20_000)
    await eventually(lambda: (pair.to_a.stats().inbound[0].bitrate or 0) > 10_000)  # the rate of a track takes longer
    here, there = pair.to_b.stats(), pair.to_a.stats()
    assert here.bitrate_out is not None
    assert here.outbound[0].bitrate is not None
    assert here.bitrate_out > here.outbound[0].bitrate > 10_000
    assert there.inbound[0].bitrate is not None
    assert there.inbound[0].bitrate > 10_000
    pair.a.remove_track(audio)
    await eventually(lambda: (pair.to_b.stats().bitrate_out or 0) < 3_000)
    await eventually(lambda: (pair.to_a.stats().bitrate_in or 0) < 3_000)


async def test_frequent_readings_do_not_shorten_the_rate_to_nothing(room: Room) -> None:
    pair = await room.pair()
    pair.a.add_track(ToneTrack())
    await eventually(lambda: (pair.to_b.stats().bitrate_out or 0) > 20_000)
    rates = [pair.to_b.stats().bitrate_out for _ in range(20)]  # no byte is sent in between
    assert all(rate is not None and rate > 10_000 for rate in rates)


async def test_a_track_that_is_not_read_for_a_while_drops_the_oldest_frames(room: Room) -> None:
    pair = await room.pair()
    _, received = await pair.media_to_b()
    before = got(pair.to_a).frames_dropped
    await eventually(lambda: got(pair.to_a).frames_dropped >= before + 3)
    there = got(pair.to_a)
    assert there.queue_length == MAX_WAITING_VIDEO
    assert there.frames_dropped == received.frames_dropped
    assert there.frames_received >= there.frames_decoded >= there.frames_dropped - before + there.queue_length


async def test_a_track_that_nobody_reads_is_counted_and_not_decoded(room: Room) -> None:
    pair = await room.pair()
    pair.a.add_track(GreyTrack())
    await eventually(lambda: pair.to_a.stats().inbound and got(pair.to_a).frames_received >= 10)
    there = got(pair.to_a)
    assert (there.frames_decoded, there.queue_length) == (0, 0)
    assert there.frames_received == there.frames_unread == there.frames_dropped
    assert there.codec == "video/VP8"


async def opened(pair: Pair, label: str = "x", **options: Any) -> tuple[DataChannel, DataChannel]:
    """Open a channel from a to b and return both ends, a's first."""
    count = len(pair.log_b.of(DataChannelOpened))
    mine = DataChannel(pair.to_b.create_data_channel(label, **options))
    theirs = DataChannel((await pair.log_b.until(DataChannelOpened, count + 1)).channel)
    if mine.ready_state != "open":
        await next_event(mine, DCOpen)
    return mine, theirs


async def test_data_is_counted_by_message_and_byte(room: Room) -> None:
    pair = await room.pair()
    mine, theirs = await opened(pair, "chat")
    other, _ = await opened(pair, "other")
    heard, answered = EventLog(theirs), EventLog(mine)
    for message in ("four", "", "é", b"", b"\x00\x01\x02"):
        await mine.send(message)
    await heard.until(DCMessage, 5)
    await theirs.send("pong!")
    await answered.until(DCMessage)
    await other.send(b"1")
    for remote, out, back in ((pair.to_b, (6, 10), (1, 5)), (pair.to_a, (1, 5), (6, 10))):
        await eventually(lambda: data_of(remote).messages_received == back[0])  # noqa: B023
        data = data_of(remote)
        assert (data.messages_sent, data.bytes_sent) == out
        assert (data.messages_received, data.bytes_received) == back
    data = data_of(pair.to_b)
    chat, second = data.channels
    assert (chat.label, chat.id, chat.state, chat.queued_sends) == ("chat", mine._channel.id, "open", 0)
    assert (chat.messages_sent, chat.bytes_sent, chat.messages_received, chat.bytes_received) == (5, 9, 1, 5)
    assert (second.label, second.messages_sent, second.bytes_sent) == ("other", 1, 1)


async def test_queued_sends_and_buffered_bytes_of_a_channel_are_counted(room: Room) -> None:
    pair = await room.pair()
    raw = pair.to_b.create_data_channel("x")
    data = data_of(pair.to_b)
    (connecting,) = data.channels
    assert (connecting.id, connecting.state, connecting.queued_sends) == (None, "connecting", None)
    mine = DataChannel(raw, max_buffered_amount=10_000)
    await next_event(mine, DCOpen)
    await mine.send("-" * 10_000)  # this one SCTP takes, but more than its window
    sends = [asyncio.ensure_future(mine.send("-" * 10_000)) for _ in range(4)]
    await asyncio.sleep(0)
    data = data_of(pair.to_b)
    (channel,) = data.channels
    assert channel.queued_sends == 3
    assert channel.buffered_amount == data.buffered_amount == mine.buffered_amount > 0
    assert channel.bytes_sent == 20_000
    await asyncio.gather(*sends)


async def test_a_channel_that_has_ended_stays_in_the_sum_only(room: Room) -> None:
    pair = await room.pair()
    mine, theirs = await opened(pair)
    heard = EventLog(theirs)
    await mine.send("hello")
    await heard.until(DCMessage)
    mine.close()
    for remote in (pair.to_a, pair.to_b):
        await eventually(lambda: not data_of(remote).channels)  # noqa: B023
    data = data_of(pair.to_b)
    assert (data.messages_sent, data.bytes_sent) == (1, 5)


async def test_a_channel_that_both_ends_agreed_on_is_counted(room: Room) -> None:
    pair = await room.pair()
    ends = [DataChannel(it.create_data_channel("n", negotiated=True, id=7)) for it in (pair.to_a, pair.to_b)]
    heard = EventLog(ends[0])
    await pair.connected()
    await eventually(lambda: ends[1].ready_state == "open" and ends[0].ready_state == "open")
    await ends[1].send("x")
    await heard.until(DCMessage)
    data = data_of(pair.to_a)
    assert [(it.id, it.messages_received) for it in data.channels] == [(7, 1)]


async def test_a_replaced_connection_counts_from_zero(room: Room) -> None:
    pair = await room.pair()
    await pair.media_to_b()
    await eventually(lambda: (pair.to_b.stats().bitrate_out or 0) > 0)
    before = pair.to_b.stats()
    seen: list[RemoteStats] = []
    fail_connection(pair.to_b)
    await pair.log_a.until(ConnectionReset)
    after = pair.to_b.stats()
    assert after.generation == before.generation + 1
    assert (after.bytes_sent, after.bitrate_out, after.connected_for, after.local_candidate) == (0, None, None, None)

    def flowing() -> bool:
        seen.extend((pair.to_b.stats(), pair.to_a.stats()))
        return any(track.frames_received > 5 for track in seen[-1].inbound)

    await eventually(flowing)
    for stats in seen:
        rates = [stats.bitrate_in, stats.bitrate_out]
        rates += [it.bitrate for it in stats.inbound] + [it.bitrate for it in stats.outbound]
        assert all(rate is None or rate >= 0 for rate in rates)
    assert before.connected_for is not None
    assert pair.to_b.stats().connected_for is not None


async def test_a_closed_remote_keeps_its_counters_and_no_current_values(room: Room) -> None:
    pair = await room.pair()
    await pair.media_to_b()
    mine, _ = await opened(pair)
    await mine.send("hello")
    before = pair.to_b.stats()
    told: list[RemoteStats] = []
    pair.a.on(PeerLeft, lambda event: told.append(event.peer.stats()))
    await pair.b.close()
    await eventually(lambda: told)
    assert before.bytes_sent is not None
    for stats in (told[0], pair.to_b.stats()):
        known = ("bytes_sent", "bytes_received", "packets_sent", "packets_received", "packets_refused", "data")
        of_signals = ("description_lines_skipped", "candidates_refused")
        check_known(stats, "peer_id", "state", "generation", *known, *of_signals)
        assert (stats.state, stats.generation) == ("closed", before.generation)
        assert stats.bytes_sent is not None
        assert stats.bytes_sent >= before.bytes_sent
        assert stats.data is not None
        assert (stats.data.messages_sent, stats.data.bytes_sent, stats.data.channels) == (1, 5, ())
    assert pair.a.stats().remotes == {}
    await pair.a.close()
    closed = pair.a.stats()
    assert (closed.state, closed.channel, closed.bytes_sent, closed.bitrate_out) == ("closed", None, 0, 0)


async def test_a_remote_that_left_before_anything_was_sent_is_just_closed(room: Room) -> None:
    pair = await room.pair()
    left = asyncio.ensure_future(next_event(pair.a, PeerLeft))
    await asyncio.sleep(0)
    await pair.b.close()
    await left
    check_known(pair.to_b.stats(), "peer_id", "state", "generation")


async def test_the_totals_of_a_peer_are_the_sums_of_its_remotes(room: Room) -> None:
    peers = [room.peer(name) for name in "abc"]
    await room.join(*peers)
    await eventually(lambda: len(peers[0].remote_peers) == 2)
    peers[0].add_track(ToneTrack())
    await eventually(lambda: all((it.stats().bitrate_out or 0) > 10_000 for it in peers[0].remote_peers))
    stats = peers[0].stats()
    assert (stats.state, stats.peer_id, stats.channel) == ("joined", "a", "room")
    assert (stats.signalling_state, stats.signalling_frames_dropped) == ("connected", 0)
    assert list(stats.remotes) == [remote.id for remote in peers[0].remote_peers]
    for name in ("bytes_sent", "bytes_received", "bitrate_out", "bitrate_in"):
        assert getattr(stats, name) == sum(getattr(it, name) for it in stats.remotes.values()), name
        assert getattr(stats, name) > 0


async def test_a_peer_that_has_not_joined_has_empty_totals(room: Room) -> None:
    stats = room.peer().stats()
    assert (stats.state, stats.peer_id, stats.channel, stats.signalling_state) == ("idle", None, None, "idle")
    assert (stats.bytes_sent, stats.bitrate_out, stats.remotes) == (0, 0.0, {})


async def test_reading_starts_no_task_and_sends_nothing(room: Room) -> None:
    pair = await room.pair()
    await opened(pair)
    await eventually(lambda: (pair.to_b.stats().connected_for or 0) > 0.5)
    tasks, before = asyncio.all_tasks(), pair.to_b.stats().packets_sent
    for _ in range(100):
        pair.a.stats()
        pair.to_b.stats()
    assert asyncio.all_tasks() == tasks
    assert pair.to_b.stats().packets_sent == before
