"""What has to hold in a virtual world that has come to rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..connection.sections import Incoming
from ..core.negotiation.attachments import Attachment
from ..mesh.remote_peer import RemotePeer
from .actor import Actor
from .ledger import MESSAGES
from .virtual_media import VirtualChannel
from .world import VirtualWorld


def disagreements(world: VirtualWorld, actors: Sequence[Actor]) -> Iterator[str]:
    """Yield what is not as it should be by the time that everybody has had enough of it."""
    here = [actor for actor in actors if actor.is_wanted]
    for actor in here:
        if actor.peer is None or actor.peer.state != "joined":
            yield f"{actor.host} is {actor.peer.state if actor.peer is not None else 'gone'}, not joined"
            return
    ids = {actor.peer.peer_id: actor for actor in here if actor.peer is not None}
    for own_id, actor in ids.items():
        assert actor.peer is not None
        found = {remote.id for remote in actor.peer.remote_peers}
        if found != ids.keys() - {own_id}:
            yield f"{actor.host} sees {sorted(found)}, there are {sorted(map(str, ids.keys() - {own_id}))}"
            return
    for sender_id, sender in ids.items():
        for receiver in ids.values():
            if receiver is not sender:
                assert receiver.peer is not None
                assert sender.peer is not None
                own_id = receiver.peer.peer_id
                there = next(remote for remote in sender.peer.remote_peers if remote.id == own_id)
                remote = next(remote for remote in receiver.peer.remote_peers if remote.id == sender_id)
                yield from _pair(world, sender, there, receiver, remote)
    for actor in actors:
        yield from _channels(actor, actors)


def _pair(world: VirtualWorld, sender: Actor, there: RemotePeer, receiver: Actor, remote: RemotePeer) -> Iterator[str]:
    """Yield what is wrong between two: `remote` is the sender as the receiver knows it, `there` the other way round."""
    name = f"{sender.host} to {receiver.host}"
    states = {there.state, remote.state}
    needed = sender.book() or receiver.book() or states != {"idle"}
    if needed and states != {"connected"}:
        yield f"{name}: {there.state} at the sender, {remote.state} at the receiver"
        return
    if needed:
        yield from _same_link(name, there, remote)
    is_told = not world.server.lost_metadata & {(there.id, remote.id), (remote.id, there.id)}
    yield from _media(name, sender, remote, is_told=is_told)


def _same_link(name: str, there: RemotePeer, remote: RemotePeer) -> Iterator[str]:
    ends = there._connection, remote._connection
    assert ends[0] is not None
    assert ends[1] is not None
    for end in ends:
        assert end is not None
        if not end._negotiator.settled:
            yield f"{name}: the negotiation is not settled"
    ours, theirs = (
        end.peer_connection.pc if end is not None and end.peer_connection is not None else None for end in ends
    )
    if ours is None or ours.other is not theirs:
        yield f"{name}: the ends belong to different connections"


def _media(name: str, sender: Actor, remote: RemotePeer, *, is_told: bool) -> Iterator[str]:
    arriving = list(remote._media.incoming)
    signalled = [it.track_id for it in arriving]
    for attachment in sender.book():
        match = next((it for it in arriving if _fits(it, attachment, sender)), None)
        if match is None:
            yield f"{name}: {attachment.track_id} of {attachment.stream_id} does not arrive"
            continue
        arriving.remove(match)
        if is_told and match.track_id == attachment.track_id and attachment.metadata is not None:
            known = remote._media._metadata.find(match.track_id, match.track.kind, match.stream_id, signalled)
            if known != attachment.metadata:
                yield f"{name}: {match.track_id} has metadata {known}, which is {attachment.metadata}"
    for incoming in arriving:
        if incoming.track_id not in sender.lingering:
            yield f"{name}: {incoming.track_id} of {incoming.stream_id} arrives, and is not sent"
    listed = {stream.id for stream in remote.streams}
    carried = {stream_id for incoming in remote._media.incoming for stream_id in incoming.stream_ids}
    if listed != carried:
        yield f"{name}: streams {sorted(listed)} are listed, tracks are of {sorted(map(str, carried))}"


def _fits(incoming: Incoming, attachment: Attachment, sender: Actor) -> bool:
    ids = sender.aliases[attachment.track] | {attachment.track_id}
    return (
        incoming.track.kind == attachment.kind
        and incoming.stream_id == attachment.stream_id
        and incoming.track_id in ids
    )


def _channels(actor: Actor, actors: Sequence[Actor]) -> Iterator[str]:
    for ledger in actor.ledgers:
        for channel in ledger.opened:
            yield from _channel(channel, actor, actors)


def _channel(channel: VirtualChannel, actor: Actor, actors: Sequence[Actor]) -> Iterator[str]:
    name = f"channel {channel.label} of {actor.host}"
    if not channel.pc.process.alive or not channel.pc.is_answered:
        return
    if channel.pc.connectionState != "connected":
        if channel.readyState != "closed":
            yield f"{name} is {channel.readyState} on a connection that is {channel.pc.connectionState}"
        return
    if channel.readyState != "open":
        yield f"{name} is {channel.readyState}"
        return
    for other in actors:
        for ledger in other.ledgers:
            if channel.other in ledger.received:
                got = ledger.received[channel.other]
                if got != list(MESSAGES):
                    yield f"{name} has delivered {got}"
                return
    yield f"{name} was never told to the other end"
